//! Connections that are passed on as they are, whatever they speak:
//! PROXY header → server name → service → admit → connect (another endpoint if that fails) → relay → observe.
//!
//! The same balancers, breakers, bulkheads, budgets and ejection as for requests. What needs to understand requests (admission by
//! class, throttling, hedging, deadlines) has no part in it.

mod hello;
mod proxy;
mod session;

pub use hello::{BadHello, ClientHello, HELLO_MAX, parse_client_hello};
pub use proxy::{BadHeader, Ends, HEADER_MAX, Header, parse_header, write_header};
pub(crate) use session::{receive_header, session};

use crate::engine::relay::End;
use crate::metrics::Count;

/// Why a connection was closed for its PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyRefused {
    /// Its peer may not say whose it is.
    Untrusted,
    /// It breaks a rule.
    Malformed,
    /// There must be one and is none.
    Missing,
    /// It did not come in time.
    Timeout,
}

impl ProxyRefused {
    pub(crate) const ALL: [Self; 4] = [Self::Untrusted, Self::Malformed, Self::Missing, Self::Timeout];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Malformed => "malformed",
            Self::Missing => "missing",
            Self::Timeout => "timeout",
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// After it had been passed on.
    Relayed(End),
    /// No endpoint accepted it.
    Failed,
    /// This gateway declined.
    Refused,
}

impl Outcome {
    const COUNT: usize = End::ALL.len() + 2;

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        End::ALL.into_iter().map(Self::Relayed).chain([Self::Failed, Self::Refused])
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relayed(end) => end.name(),
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Relayed(end) => end as usize,
            Self::Failed => End::ALL.len(),
            Self::Refused => End::ALL.len() + 1,
        }
    }
}

/// One worker's figures of one listener.
#[derive(Debug, Default)]
pub(crate) struct TcpShard {
    /// Bytes passed on to endpoints.
    pub(crate) up: Count,
    /// Bytes passed on to clients.
    pub(crate) down: Count,
    ended: [Count; Outcome::COUNT],
}

impl TcpShard {
    pub(crate) fn end(&self, outcome: Outcome) {
        self.ended[outcome.index()].one();
    }

    pub(crate) fn ended(&self, outcome: Outcome) -> u64 {
        self.ended[outcome.index()].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_places_and_names_of_their_own() {
        for (index, outcome) in Outcome::all().enumerate() {
            assert_eq!(outcome.index(), index);
            assert_eq!(Outcome::all().filter(|other| other.name() == outcome.name()).count(), 1);
        }
        assert_eq!(Outcome::all().count(), Outcome::COUNT);
    }
}
