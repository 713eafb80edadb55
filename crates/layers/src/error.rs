//! Why a call brought no answer, and why parameters were not taken.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use model::{Fault, Party, Retry, Verdict};
use policy::attempts::Condition;

/// Any error, as tower passes them on.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a call through the client layers brought no answer.
///
/// All layers speak of it in this one type, however many are stacked: a layer that meets another layer's error passes
/// it on as it is, and takes any other error for the transport's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody wants the answer any more.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The request as a whole has time left.
    #[error("no answer began within the time-out of one attempt")]
    AttemptTimeout,
    /// The call was not made, because calls fail anyway.
    #[error("the breaker is open")]
    BreakerOpen {
        /// When it may be worth asking again.
        retry_after: Duration,
    },
    /// The call was not made, because the callee refuses most of what it is sent.
    #[error("throttled, because the callee is overloaded")]
    Throttled,
    /// The call was not made, because too many are under way.
    #[error("too many calls are under way")]
    BulkheadFull,
    /// The call was not made: nobody is there to take it.
    #[error("no endpoint may be called")]
    NoEndpoint,
    /// The callee has certainly not seen the request.
    #[error("no connection came about")]
    Connect(#[source] BoxError),
    /// The callee may have acted on the request.
    #[error("the call broke off before its answer began")]
    Reset(#[source] BoxError),
}

impl CallError {
    /// The error of the service below. A [`CallError`] stays what it is; any other error is the transport's, and when
    /// an I/O error among its sources says that no connection came about, the callee has not seen the request. Where a
    /// client knows that better, map its error to [`CallError::Connect`] in front of the layers.
    pub fn of(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<CallError>() {
            Ok(own) => *own,
            Err(foreign) if never_connected(foreign.as_ref()) => Self::Connect(foreign),
            Err(foreign) => Self::Reset(foreign),
        }
    }

    /// Whose fault it is, and whether another attempt could help without doing harm.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let (who, retry) = match self {
            Self::DeadlineExceeded => (Party::Downstream, Retry::Never),
            Self::AttemptTimeout | Self::Reset(_) => (Party::Upstream, Retry::IfIdempotent),
            Self::Connect(_) => (Party::Upstream, Retry::Safe),
            Self::BreakerOpen { .. } | Self::Throttled | Self::BulkheadFull | Self::NoEndpoint => {
                (Party::Ours, Retry::Never)
            }
        };
        Fault { who, retry }
    }

    /// What it says about the callee.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.fault().who {
            Party::Upstream => Verdict::Failure,
            Party::Downstream | Party::Ours => Verdict::Unknown,
        }
    }

    /// The way in which the attempt failed; `None` when none was made, or nobody wants another.
    pub(crate) fn condition(&self) -> Option<Condition> {
        match self {
            Self::Connect(_) => Some(Condition::ConnectFailure),
            Self::Reset(_) => Some(Condition::Reset),
            Self::AttemptTimeout => Some(Condition::Timeout),
            _ => None,
        }
    }
}

/// Whether an I/O error among the sources says so. These kinds only come from connecting.
fn never_connected(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        let Some(io) = error.downcast_ref::<io::Error>() else { continue };
        let kind = io.kind();
        if matches!(
            kind,
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::AddrNotAvailable
        ) {
            return true;
        }
        // An I/O error that wraps another one does not name it as its source.
        next = io.get_ref().map(|inner| inner as &(dyn Error + 'static)).or(next);
    }
    false
}

/// Parameters that make no sense, all at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidParams {
    problems: Vec<(&'static str, String)>,
}

impl InvalidParams {
    /// Nothing if there are no problems.
    pub(crate) fn check(problems: Vec<(&'static str, String)>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }

    /// What is wrong, field by field.
    #[must_use]
    pub fn problems(&self) -> &[(&'static str, String)] {
        &self.problems
    }
}

impl fmt::Display for InvalidParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid parameters")?;
        for (index, (field, why)) in self.problems.iter().enumerate() {
            write!(f, "{} `{field}` {why}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl Error for InvalidParams {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layers_error_stays_what_it_is_and_another_is_the_transports() {
        let own: BoxError = CallError::Throttled.into();
        assert!(matches!(CallError::of(own), CallError::Throttled));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let wrapped = io::Error::other(refused);
        assert!(matches!(CallError::of(wrapped), CallError::Connect(_)));
        let reset = CallError::of(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(matches!(reset, CallError::Reset(_)));
        assert_eq!(reset.to_string(), "the call broke off before its answer began");
        assert_eq!(reset.source().unwrap().to_string(), "connection reset");
    }

    #[test]
    fn trap_9_our_own_refusals_say_nothing_about_the_callee() {
        let ours = [
            CallError::BreakerOpen { retry_after: Duration::ZERO },
            CallError::Throttled,
            CallError::BulkheadFull,
            CallError::NoEndpoint,
        ];
        for error in ours {
            assert_eq!((error.fault().who, error.verdict()), (Party::Ours, Verdict::Unknown), "{error}");
        }
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let params = policy::attempts::RetryPolicyParams {
            attempts_max: 0,
            statuses: [200].into(),
            ..Default::default()
        };
        let invalid = InvalidParams::check(params.check()).unwrap_err();
        assert_eq!(invalid.problems().len(), 2);
        assert!(invalid.to_string().starts_with("invalid parameters: `attempts_max` must be between 1"));
    }
}
