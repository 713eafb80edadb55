//! What the head of an answer says about whoever sent it.

use http::{HeaderMap, Response};
use model::Verdict;
use policy::Report;

use crate::header;

/// HTTP statuses that gRPC statuses stand for, where they are the callee's failure. A gRPC answer that has no body is
/// 200 and carries its status in its head; one with a body shows it only at its end, and counts as a success here.
const GRPC: [(&[u8], u16); 6] = [
    (b"2", 500),  // UNKNOWN
    (b"4", 504),  // DEADLINE_EXCEEDED
    (b"8", 429),  // RESOURCE_EXHAUSTED
    (b"13", 500), // INTERNAL
    (b"14", 503), // UNAVAILABLE
    (b"15", 500), // DATA_LOSS
];

/// What an answer's head says, read once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Signals {
    /// The HTTP status, or the one that the gRPC status stands for.
    pub(crate) status: u16,
    /// What it says about the endpoint.
    pub(crate) verdict: Verdict,
    /// Trying again is unwelcome anywhere.
    pub(crate) dont_retry: bool,
    /// The endpoint asks for no new requests.
    pub(crate) lame_duck: bool,
}

impl Signals {
    pub(crate) fn read<R>(answer: &Response<R>) -> Self {
        let headers = answer.headers();
        let status = grpc_status(headers).unwrap_or(answer.status().as_u16());
        // Seawall itself refused further down: the endpoint in front of it is not to blame.
        let refused_beyond = headers.contains_key(header::REASON);
        let verdict = match status {
            429 | 503 => Verdict::Overloaded,
            500..=599 if refused_beyond => Verdict::Overloaded,
            500..=599 => Verdict::Failure,
            _ => Verdict::Success,
        };
        let says = |name, text: &str| {
            headers.get(name).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(text.as_bytes()))
        };
        Self {
            status,
            verdict,
            dont_retry: says(header::RETRY, "never"),
            lame_duck: says(header::LAME_DUCK, "1"),
        }
    }
}

/// The load report in an answer's head.
pub(crate) fn report(headers: &HeaderMap) -> Option<Report> {
    headers.get(header::LOAD).and_then(|value| Report::parse(value.as_bytes()))
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    let status = headers.get(header::GRPC_STATUS)?.as_bytes();
    GRPC.iter().find(|(code, _)| *code == status).map(|(_, status)| *status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn read(status: u16, fields: &[(HeaderName, &'static str)]) -> Signals {
        let mut answer = Response::builder().status(status);
        for (name, value) in fields {
            answer = answer.header(name, *value);
        }
        Signals::read(&answer.body(()).unwrap())
    }

    #[test]
    fn answers_are_judged_as_the_gateway_judges_them() {
        for (status, verdict) in [
            (200, Verdict::Success),
            (404, Verdict::Success),
            (429, Verdict::Overloaded),
            (500, Verdict::Failure),
            (503, Verdict::Overloaded),
            (504, Verdict::Failure),
        ] {
            assert_eq!(read(status, &[]).verdict, verdict, "{status}");
        }
        assert_eq!(read(504, &[(header::REASON, "deadline_exceeded")]).verdict, Verdict::Overloaded);
        assert!(read(503, &[(header::RETRY, "Never")]).dont_retry);
        assert!(!read(503, &[(header::RETRY, "later")]).dont_retry);
        assert!(read(200, &[(header::LAME_DUCK, "1")]).lame_duck);
    }

    #[test]
    fn a_grpc_status_counts_as_the_http_status_that_it_stands_for() {
        let grpc = |code| read(200, &[(header::GRPC_STATUS, code)]);
        assert_eq!((grpc("0").status, grpc("5").status), (200, 200), "the caller's fault is no failure");
        assert_eq!((grpc("14").status, grpc("14").verdict), (503, Verdict::Overloaded));
        assert_eq!((grpc("13").status, grpc("13").verdict), (500, Verdict::Failure));
    }
}
