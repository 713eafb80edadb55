//! The answers that the gateway gives itself, each with a reason that machines can read.

use std::io::Write;

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
    /// No file descriptor is left for a connection to an endpoint.
    OutOfDescriptors,
    /// The customer's quota, shared by all gateways, is used up.
    QuotaExceeded,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 20] = [
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
        }
    }

    /// The status that it is answered with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::BadPath => 400,
            Self::NoRoute => 404,
            Self::MethodNotAllowed => 405,
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::RateLimited | Self::QuotaExceeded => 429,
            Self::ConnectFailed | Self::UpstreamReset | Self::UpstreamMalformed => 502,
            Self::BreakerOpen
            | Self::BulkheadFull
            | Self::NoEndpoint
            | Self::OutOfBuffers
            | Self::TooManyConnections
            | Self::OutOfDescriptors => 503,
            Self::DeadlineExceeded | Self::UpstreamTimeout => 504,
        }
    }

    /// Whether the caller is told that trying again at once would do harm.
    #[must_use]
    pub fn dont_retry(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::QuotaExceeded
                | Self::BreakerOpen
                | Self::BulkheadFull
                | Self::DeadlineExceeded
        )
    }

    /// Whether it was the service that gave no usable answer, rather than the gateway that declined.
    #[must_use]
    pub(crate) fn upstream_failed(self) -> bool {
        matches!(
            self,
            Self::ConnectFailed | Self::UpstreamReset | Self::UpstreamTimeout | Self::UpstreamMalformed
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
    /// Seconds after which a client that was refused for load or quota may come back; 0 when it is told nothing.
    pub(crate) retry_after: u64,
    /// Whole field lines, such as `allow: GET\r\n`.
    pub(crate) fields: Option<Box<[u8]>>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, status: reason.status(), detail: "", retry_after: 1, fields: None }
    }
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

/// Writes the answer of a refusal.
pub(crate) fn refuse(out: &mut Vec<u8>, refusal: &Refusal, to_head: bool, after: After, http11: bool) {
    status_line(out, refusal.status);
    let reason = refusal.reason.name();
    let _ = write!(out, "seawall-reason: {reason}\r\n");
    if refusal.reason.dont_retry() {
        out.extend_from_slice(b"seawall-retry: never\r\n");
    }
    if matches!(refusal.status, 429 | 503) && refusal.retry_after > 0 {
        let _ = write!(out, "retry-after: {}\r\n", refusal.retry_after);
    }
    if let Some(fields) = &refusal.fields {
        out.extend_from_slice(fields);
    }
    let (colon, detail) = if refusal.detail.is_empty() { ("", "") } else { (": ", refusal.detail) };
    let length = reason.len() + colon.len() + detail.len() + 1;
    let _ = write!(out, "content-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n");
    end_head(out, after, http11);
    if !to_head {
        let _ = writeln!(out, "{reason}{colon}{detail}");
    }
}

/// Writes `HTTP/1.1 503 Service Unavailable` and the like.
pub(crate) fn status_line(out: &mut Vec<u8>, status: u16) {
    crate::codec::write_status_line(crate::codec::Version::Http11, status, out);
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
            refuse(&mut out, &refusal, to_head, After::Close, true);
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
}
