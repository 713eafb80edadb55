use core::time::Duration;

use crate::Criticality;

/// Who caused a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The caller: malformed request, client gone.
    Downstream,
    /// The endpoint or the way to it.
    Upstream,
    /// This process: a refusal by policy, a limit, a bug.
    Ours,
}

/// Whether trying again could help without doing harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The endpoint has certainly not acted on the request.
    Safe,
    /// It may have acted on it: only a request with one effect may be repeated.
    IfIdempotent,
    /// Trying again is useless or harmful.
    Never,
}

/// What an error answers when asked whose it is and whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Who caused it.
    pub who: Party,
    /// Whether to try again.
    pub retry: Retry,
}

/// What one attempt says about the endpoint that served it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It answered as it should.
    Success,
    /// It answered that it has too much to do: load, not illness.
    Overloaded,
    /// It failed: error answer, reset, time-out.
    Failure,
    /// Nothing about the endpoint can be concluded: our own refusal, the caller went away.
    Unknown,
}

/// What became of one request, as told to every part that learns from traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The status that the caller got; 0 when it got none.
    pub status: u16,
    /// Whose failure it was, if it was one.
    pub fault: Option<Fault>,
    /// From the request's first byte to the answer's last.
    pub latency: Duration,
    /// Attempts made upstream, hedges included.
    pub attempts: u8,
    /// The request's class.
    pub criticality: Criticality,
}
