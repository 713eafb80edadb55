//! What is known of gRPC: its statuses, and where its messages end.
//!
//! An answer of gRPC is judged by its `grpc-status`, in its head or behind its body, as if it were the answer of HTTP that
//! stands for the same. Source: the gRPC protocol over HTTP/2; `google/rpc/code.proto` for the statuses that codes stand for.

use model::Verdict;

use crate::answer::Reason;
use crate::codec::{Field, FieldId};

/// Whether a content type is gRPC's own, and not gRPC-Web's.
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    let Some((name, rest)) = content_type.split_at_checked(NAME.len()) else { return false };
    name.eq_ignore_ascii_case(NAME) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// A status of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(u8);

impl Code {
    pub(crate) const UNKNOWN: Self = Self(2);
    const DEADLINE_EXCEEDED: Self = Self(4);
    const RESOURCE_EXHAUSTED: Self = Self(8);
    const UNIMPLEMENTED: Self = Self(12);
    const INTERNAL: Self = Self(13);
    const UNAVAILABLE: Self = Self(14);

    /// What the fields of a head or a trailer section say; nonsense is `UNKNOWN`.
    pub(crate) fn find<'b>(mut fields: impl Iterator<Item = Field<'b>>) -> Option<Self> {
        let field = fields.find(|field| field.id == FieldId::GrpcStatus)?;
        let code = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
        Some(code.filter(|code| *code <= 16).map_or(Self::UNKNOWN, Self))
    }

    /// The code of an answer that has none: what its status stands for, as clients of gRPC read it.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            400 => Self::INTERNAL,
            401 => Self(16),
            403 => Self(7),
            404 => Self::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// How a refusal of our own is told.
    pub(crate) fn of_reason(reason: Reason) -> Self {
        match reason {
            Reason::NoRoute | Reason::MethodNotAllowed | Reason::BadPath => Self::UNIMPLEMENTED,
            Reason::Malformed | Reason::UpstreamMalformed => Self::INTERNAL,
            Reason::BodyTooLarge | Reason::RateLimited | Reason::QuotaExceeded => Self::RESOURCE_EXHAUSTED,
            Reason::DeadlineExceeded | Reason::UpstreamTimeout => Self::DEADLINE_EXCEEDED,
            _ => Self::UNAVAILABLE,
        }
    }

    /// Its number on the wire.
    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// The status of HTTP that stands for the same.
    pub(crate) fn status(self) -> u16 {
        match self.0 {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 404,
            14 => 503,
            16 => 401,
            _ => 500,
        }
    }

    /// What it says about the endpoint. One that is out of time or resources has too much to do; one that calls itself
    /// unavailable is no use, whatever the reason.
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Self(1) => Verdict::Unknown,
            Self::DEADLINE_EXCEEDED | Self::RESOURCE_EXHAUSTED => Verdict::Overloaded,
            code if code.status() >= 500 => Verdict::Failure,
            _ => Verdict::Success,
        }
    }
}

/// Finds where messages begin and end, while their bytes pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Messages {
    /// Of a message's head: a flag and a length.
    head: [u8; 5],
    have: usize,
    /// Bytes of the message still to come.
    left: u64,
    length_max: u64,
}

/// A message is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Messages {
    /// Messages of at most so many bytes each.
    pub(crate) fn new(length_max: u64) -> Self {
        Self { head: [0; 5], have: 0, left: 0, length_max }
    }

    /// Takes the next bytes of the body, however they are cut.
    ///
    /// # Errors
    /// At the head of the first message that is too long.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (self.head.len() - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.head.len() {
                let [_, length @ ..] = self.head;
                self.have = 0;
                self.left = u32::from_be_bytes(length).into();
                if self.left > self.length_max {
                    return Err(TooLong);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn gprc_is_told_from_what_looks_like_it() {
        for yes in ["application/grpc", "application/grpc+proto", "Application/GRPC; charset=utf-8"] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in [
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/json",
            "application/grpcx",
            "",
        ] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn codes_are_judged_as_documented() {
        let verdicts: Vec<_> = (0..=16).map(|code| Code(code).verdict()).collect();
        use Verdict::{Failure as F, Overloaded as O, Success as S, Unknown as U};
        assert_eq!(verdicts, [S, U, F, S, O, S, S, S, O, S, S, S, S, F, F, F, S]);
    }

    #[test]
    fn every_refusal_has_a_code_that_is_an_error() {
        for reason in Reason::ALL {
            assert!(Code::of_reason(reason).status() >= 400, "{reason:?}");
        }
    }

    proptest! {
        #[test]
        fn a_message_too_long_is_found_however_the_bytes_are_cut(
            lengths in prop::collection::vec(0usize..60, 1..20),
            cuts in prop::collection::vec(1usize..40, 1..20),
            max in 0u64..60,
        ) {
            let mut bytes = Vec::new();
            for length in &lengths {
                bytes.push(0);
                bytes.extend_from_slice(&(*length as u32).to_be_bytes());
                bytes.resize(bytes.len() + length, 7);
            }
            let mut messages = Messages::new(max);
            let mut rest = &bytes[..];
            let mut found = Ok(());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || found.is_err() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                found = messages.advance(now);
                rest = later;
            }
            prop_assert_eq!(found.is_err(), lengths.iter().any(|length| *length as u64 > max));
        }
    }
}
