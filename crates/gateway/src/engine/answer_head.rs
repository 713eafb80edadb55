//! What the head of an endpoint's answer says to the gateway, and what of it the client gets.

use std::io::Write;

use model::{Instant, Verdict};

use super::attempt::Flight;
use super::classify::Runs;
use crate::codec::{FieldId, ResponseHead};
use crate::config;
use crate::grpc::Code;
use crate::service::Notice;

/// Whether a `content-type` is that of server-sent events.
fn is_event_stream(value: &[u8]) -> bool {
    let kind = value.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Whether a 101 names protocols that were asked for, and only those (RFC 9110, 7.8).
pub(super) fn switches_as_asked(asked: Option<&[u8]>, answered: Option<&[u8]>) -> bool {
    let (Some(asked), Some(answered)) = (asked, answered) else { return false };
    let offered = |one: &[u8]| protocols(asked).any(|other| other.eq_ignore_ascii_case(one));
    protocols(answered).all(offered)
}

/// The protocols that an `Upgrade` field lists.
fn protocols(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Fields that speak about one hop, are written anew, or are meant for the gateway.
pub(super) fn hop_field(id: FieldId) -> bool {
    id.is_hop_by_hop()
        || matches!(id, FieldId::ContentLength | FieldId::EndpointLoadMetrics | FieldId::SeawallLameDuck)
}

/// Copies the fields that are meant for the client.
pub(super) fn copy_end_to_end(bytes: &[u8], head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) {
    let mut runs = Runs::over(bytes);
    for field in head.fields {
        if hop_field(field.id) {
            runs.flush(out);
        } else {
            runs.keep(field.line);
        }
    }
    runs.flush(out);
}

/// Tells the client's browser which endpoint it had.
pub(super) fn write_sticky(sticky: &config::Sticky, cookie: &[u8], out: &mut Vec<u8>) {
    let _ = write!(out, "set-cookie: {}=", sticky.cookie);
    out.extend_from_slice(cookie);
    out.extend_from_slice(b"; Path=/; HttpOnly; SameSite=Lax");
    if let Some(age) = sticky.max_age {
        let _ = write!(out, "; Max-Age={}", age.get().as_secs());
    }
    out.extend_from_slice(b"\r\n");
}

/// What an answer's head tells the gateway about its endpoint.
#[derive(Default)]
pub(super) struct Signals<'b> {
    pub(super) lame_duck: bool,
    pub(super) dont_retry: bool,
    /// Seawall itself refused further down: the endpoint in front of it is not to blame.
    pub(super) refused_beyond: bool,
    pub(super) load: Option<&'b [u8]>,
    /// The body is a stream of events.
    pub(super) events: bool,
}

impl<'b> Signals<'b> {
    pub(super) fn read(head: &ResponseHead<'b, '_>) -> Self {
        let mut signals = Self::default();
        for field in head.fields {
            match field.id {
                FieldId::SeawallLameDuck => signals.lame_duck = field.value == b"1",
                FieldId::SeawallRetry => signals.dont_retry = field.value.eq_ignore_ascii_case(b"never"),
                FieldId::SeawallReason => signals.refused_beyond = true,
                // Push-back: less than nothing means never.
                FieldId::Other if field.name.eq_ignore_ascii_case(b"grpc-retry-pushback-ms") => {
                    signals.dont_retry |= field.value.starts_with(b"-");
                }
                FieldId::EndpointLoadMetrics => signals.load = Some(field.value),
                FieldId::ContentType => {
                    signals.events = is_event_stream(field.value);
                }
                _ => {}
            }
        }
        signals
    }

    /// How a call of gRPC ended, as far as its head tells.
    pub(super) fn grpc_status(&self, head: &ResponseHead<'_, '_>) -> Option<Code> {
        let code = Code::find(head.fields.iter().copied());
        code.or_else(|| (head.status != 200).then(|| Code::of_status(head.status)))
    }

    pub(super) fn verdict(&self, status: u16) -> Verdict {
        match status {
            429 | 503 => Verdict::Overloaded,
            500..=599 if self.refused_beyond => Verdict::Overloaded,
            500..=599 => Verdict::Failure,
            _ => Verdict::Success,
        }
    }

    pub(super) fn tell(&self, flight: &Flight, now: Instant) {
        let target = flight.target();
        if let Some(report) = self.load.and_then(policy::Report::parse) {
            target.endpoint.on_report(now, &report);
            flight.view.balancer.on_probe(flight.index());
        }
        if self.lame_duck && target.endpoint.set_unavailable(policy::Unavailable::LameDuck, true) {
            flight.service().notify(Notice::LameDuck { target: target.id });
        }
    }
}
