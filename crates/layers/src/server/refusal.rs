//! The answers that server layers give themselves.

use http::{HeaderValue, Response, StatusCode, header as standard};

use crate::header;

/// Why a request was refused before the application saw it, or was given up. The name goes into the `seawall-reason`
/// header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Its deadline has passed.
    DeadlineExceeded,
    /// Too many requests are under way.
    BulkheadFull,
    /// There is too much to do for requests of its class or customer.
    Overloaded,
}

impl Reason {
    /// Its name in the header, the gateway's where the gateway has one.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::BulkheadFull => "bulkhead_full",
            Self::Overloaded => "overloaded",
        }
    }

    /// The status that it is answered with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::BulkheadFull | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer, with an empty body. Its headers tell the caller what to do: not to try again, and when at the
    /// soonest it may ask for something else.
    #[must_use]
    pub fn answer<B: Default>(self) -> Response<B> {
        let mut answer = Response::new(B::default());
        *answer.status_mut() = self.status();
        let headers = answer.headers_mut();
        headers.insert(header::REASON, HeaderValue::from_static(self.name()));
        header::forbid_retry(headers);
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(standard::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_its_reason_and_forbids_retries() {
        for reason in [Reason::DeadlineExceeded, Reason::BulkheadFull, Reason::Overloaded] {
            let answer: Response<()> = reason.answer();
            assert_eq!(answer.headers()[header::REASON], reason.name());
            assert_eq!(answer.headers()[header::RETRY], "never");
            assert_eq!(answer.headers().contains_key("retry-after"), answer.status() == 503);
        }
    }
}
