//! The answers that the gateway gives itself, each with a reason that machines can read.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::sync::Arc;

use model::Timestamp;

use crate::grpc::Code;
use crate::service::Clock;

/// Why the gateway answered itself. The name goes into the `seawall-reason` header and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request is no strict HTTP/1.1.
    Malformed,
    /// Its path cannot be made sense of.
    BadPath,
    /// No route takes it.
    NoRoute,
    /// Routes take this path, but not with this method.
    MethodNotAllowed,
    /// Its head did not arrive in time.
    HeadTimeout,
    /// Its body did not arrive in time.
    BodyTimeout,
    /// Its body is larger than allowed.
    BodyTooLarge,
    /// The customer has used up what it may ask for.
    RateLimited,
    /// The service's breaker is open.
    BreakerOpen,
    /// Too many requests of this service are under way.
    BulkheadFull,
    /// The service has no room for a request of this class and customer now.
    Overloaded,
    /// The service would most likely refuse it.
    Throttled,
    /// No endpoint may be tried.
    NoEndpoint,
    /// Its deadline has passed.
    DeadlineExceeded,
    /// No endpoint could be connected to.
    ConnectFailed,
    /// The endpoint closed the connection without an answer.
    UpstreamReset,
    /// The endpoint did not answer in time.
    UpstreamTimeout,
    /// The endpoint's answer is no strict HTTP/1.1.
    UpstreamMalformed,
    /// Too much memory is held in buffers.
    OutOfBuffers,
    /// The listener has as many connections as it may.
    TooManyConnections,
    /// No file descriptor is left for the client's connection, or for one to an endpoint.
    OutOfDescriptors,
    /// The customer's quota, shared by all gateways, is used up.
    QuotaExceeded,
    /// The service is in a mode in which requests of this class are not served.
    Degraded,
    /// As many batch requests as the listener's fuse lets through are under way, and the line before it is full or too slow.
    FuseFull,
    /// The listener serves nobody, but sends everybody to the same place over TLS.
    HttpsOnly,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 25] = [
        Self::Malformed,
        Self::BadPath,
        Self::NoRoute,
        Self::MethodNotAllowed,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::RateLimited,
        Self::BreakerOpen,
        Self::BulkheadFull,
        Self::Overloaded,
        Self::Throttled,
        Self::NoEndpoint,
        Self::DeadlineExceeded,
        Self::ConnectFailed,
        Self::UpstreamReset,
        Self::UpstreamTimeout,
        Self::UpstreamMalformed,
        Self::OutOfBuffers,
        Self::TooManyConnections,
        Self::OutOfDescriptors,
        Self::QuotaExceeded,
        Self::Degraded,
        Self::FuseFull,
        Self::HttpsOnly,
    ];

    /// Its name in the header and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadPath => "bad_path",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::RateLimited => "rate_limited",
            Self::BreakerOpen => "breaker_open",
            Self::BulkheadFull => "bulkhead_full",
            Self::Overloaded => "overloaded",
            Self::Throttled => "throttled",
            Self::NoEndpoint => "no_endpoint",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamMalformed => "upstream_malformed",
            Self::OutOfBuffers => "out_of_buffers",
            Self::TooManyConnections => "too_many_connections",
            Self::OutOfDescriptors => "out_of_descriptors",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Degraded => "degraded",
            Self::FuseFull => "fuse_full",
            Self::HttpsOnly => "https_only",
        }
    }

    /// The status that it is answered with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::HttpsOnly => 308,
            Self::Malformed | Self::BadPath => 400,
            Self::NoRoute => 404,
            Self::MethodNotAllowed => 405,
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::RateLimited | Self::QuotaExceeded => 429,
            Self::ConnectFailed | Self::UpstreamReset | Self::UpstreamMalformed => 502,
            Self::BreakerOpen
            | Self::BulkheadFull
            | Self::Overloaded
            | Self::Degraded
            | Self::Throttled
            | Self::NoEndpoint
            | Self::OutOfBuffers
            | Self::TooManyConnections
            | Self::OutOfDescriptors
            | Self::FuseFull => 503,
            Self::DeadlineExceeded | Self::UpstreamTimeout => 504,
        }
    }

    /// Whether the caller is told that trying again at once would do harm, unless something is known that speaks for it.
    #[must_use]
    pub fn dont_retry(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::QuotaExceeded
                | Self::BreakerOpen
                | Self::BulkheadFull
                | Self::Overloaded
                | Self::Degraded
                | Self::Throttled
                | Self::FuseFull
                | Self::DeadlineExceeded
        )
    }
}

/// A refusal on its way: the reason, and what its answer adds.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// The status, where the codec knows a better one than the reason's.
    pub(crate) status: u16,
    /// The detail that follows the reason in the body, from a fixed list.
    pub(crate) detail: &'static str,
    /// Whole field lines, such as `allow: GET\r\n`.
    pub(crate) fields: Option<Arc<[u8]>>,
    /// Whether and when the caller may try again.
    pub(crate) again: Again,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        let status = reason.status();
        let again = Again {
            never_now: reason.dont_retry(),
            elsewhere: false,
            after_secs: matches!(status, 429 | 503).then_some(1),
        };
        Self { reason, status, detail: "", fields: None, again }
    }
}

/// Whether and when a refused caller may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    /// Trying at once would do harm, wherever (`seawall-retry: never`).
    pub(crate) never_now: bool,
    /// Another gateway may have room at once (`seawall-retry: elsewhere`).
    pub(crate) elsewhere: bool,
    /// Not before so many seconds (`retry-after`).
    pub(crate) after_secs: Option<u64>,
}

/// What the connection does after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It stays open; an HTTP/1.0 client is told so.
    Keep,
    /// It is closed; the client is told so.
    Close,
    /// It is closed because this process leaves; the client is told so.
    Leave,
}

/// The `date` of the answers that a worker gives itself: who has a clock must say it (RFC 9110, 6.6.1). Put into words once
/// a second.
#[derive(Debug, Default)]
pub(crate) struct Date {
    /// The second, since the Unix epoch, that `line` tells.
    second: Cell<u64>,
    line: RefCell<Vec<u8>>,
}

impl Date {
    fn write(&self, now: Timestamp, out: &mut Vec<u8>) {
        let mut line = self.line.borrow_mut();
        let second = now.as_unix_nanos() / 1_000_000_000;
        if self.second.replace(second) != second || line.is_empty() {
            line.clear();
            let _ = write!(line, "date: {}\r\n", now.http_date());
        }
        out.extend_from_slice(&line);
    }
}

/// Writes the answer of a refusal.
pub(crate) fn refuse(
    out: &mut Vec<u8>,
    refusal: &Refusal,
    to_head: bool,
    after: After,
    http11: bool,
    grpc: bool,
    date: &Date,
) {
    begin_head(out, if grpc { 200 } else { refusal.status }, date);
    let reason = refusal.reason.name();
    let _ = write!(out, "seawall-reason: {reason}\r\n");
    let Again { never_now, elsewhere, after_secs } = refusal.again;
    if never_now {
        out.extend_from_slice(b"seawall-retry: never\r\n");
    } else if elsewhere {
        out.extend_from_slice(b"seawall-retry: elsewhere\r\n");
    }
    if let Some(secs) = after_secs {
        let _ = write!(out, "retry-after: {secs}\r\n");
    }
    if let Some(fields) = &refusal.fields {
        out.extend_from_slice(fields);
    }
    let (colon, detail) = if refusal.detail.is_empty() { ("", "") } else { (": ", refusal.detail) };
    if grpc {
        // Clients of gRPC read neither body nor `retry-after`.
        let code = Code::of_reason(refusal.reason).number();
        let _ = write!(
            out,
            "content-type: application/grpc\r\ngrpc-status: {code}\r\ngrpc-message: {reason}{colon}{detail}\r\n"
        );
        match after_secs {
            Some(secs) => drop(write!(out, "grpc-retry-pushback-ms: {}\r\n", secs * 1000)),
            None if never_now => out.extend_from_slice(b"grpc-retry-pushback-ms: -1\r\n"),
            None => {}
        }
        out.extend_from_slice(b"content-length: 0\r\n");
        return end_head(out, after, http11);
    }
    let length = reason.len() + colon.len() + detail.len() + 1;
    let _ = write!(out, "content-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n");
    end_head(out, after, http11);
    if !to_head {
        let _ = writeln!(out, "{reason}{colon}{detail}");
    }
}

/// Writes `HTTP/1.1 503 Service Unavailable` and the like, and when.
pub(crate) fn begin_head(out: &mut Vec<u8>, status: u16, date: &Date) {
    crate::codec::write_status_line(crate::codec::Version::Http11, status, out);
    date.write(Clock::wall(), out);
}

/// Ends a head; a client of HTTP/1.0 has to be told that its connection stays.
pub(crate) fn end_head(out: &mut Vec<u8>, after: After, http11: bool) {
    out.extend_from_slice(match (after, http11) {
        (After::Close, _) => b"connection: close\r\n\r\n".as_slice(),
        (After::Leave, _) => b"seawall-lame-duck: 1\r\nconnection: close\r\n\r\n".as_slice(),
        (After::Keep, false) => b"connection: keep-alive\r\n\r\n".as_slice(),
        (After::Keep, true) => b"\r\n".as_slice(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_index_and_have_names_of_their_own() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert_eq!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
    }

    #[test]
    fn a_refusal_states_its_length() {
        for (detail, to_head) in [("", false), ("duplicate_length", false), ("", true)] {
            let mut out = Vec::new();
            let refusal = Refusal { detail, ..Refusal::from(Reason::BreakerOpen) };
            refuse(&mut out, &refusal, to_head, After::Close, true, false, &Date::default());
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let stated = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
            assert!(head.contains("seawall-retry: never") && head.contains("connection: close"));
            if to_head {
                assert!(body.is_empty());
            } else {
                assert_eq!(stated.parse::<usize>().unwrap(), body.len());
            }
        }
    }

    #[test]
    fn the_date_keeps_up_with_the_clock() {
        let date = Date::default();
        let at = |millis: u64| {
            let mut out = Vec::new();
            date.write(Timestamp::from_unix_nanos(millis * 1_000_000), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(at(0), "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
        assert_eq!(at(784_111_777_000), "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        assert_eq!(at(784_111_777_999), at(784_111_777_000));
        assert_eq!(at(784_111_778_000), "date: Sun, 06 Nov 1994 08:49:38 GMT\r\n");
        // A clock that was set back.
        assert_eq!(at(784_111_777_000), "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    }
}
