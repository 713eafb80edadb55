//! What an engine is: something that answers commands and tells of changes.

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::command::{Command, Event, Position, Refusal, Reply};

pub mod embedded;
pub mod etcd;
mod journal;
pub mod remote;

pub use journal::ROOM;

/// An engine's answer, which takes its time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// Keeps sessions, leases and keys. Cheap to share; every method may be called from any task.
pub trait Engine: Send + Sync + 'static {
    /// What it is, for people: `sqlite`, `etcd`, `seawall at /run/…`.
    fn name(&self) -> String;

    /// Does what is asked, or says why not. Commands may be asked again after [`Failure::Unanswered`].
    fn call(&self, command: Command) -> Answer<'_, Reply>;

    /// Every change after `from` of a key that begins with `prefix`, in order, none missing and none twice.
    ///
    /// [`Failure::Behind`], now or later, when changes after `from` are no longer known: read everything again.
    fn changes(&self, prefix: String, from: Position) -> Answer<'_, Changes>;
}

/// A running watch. Ends after the first error; also ends when dropped.
#[derive(Debug)]
pub struct Changes {
    pub(crate) receiver: mpsc::Receiver<Result<Vec<Event>, Failure>>,
}

impl Changes {
    /// The next changes. Cancel-safe.
    ///
    /// # Errors
    /// [`Failure::Behind`] when some are missing; [`Failure::Unreachable`] when the connection broke: ask again from the
    /// last position.
    pub async fn next(&mut self) -> Result<Vec<Event>, Failure> {
        match self.receiver.recv().await {
            Some(events) => events,
            None => Err(Failure::Unreachable { problem: "the watch ended".to_owned() }),
        }
    }
}

/// Why there is no answer, or not the one wished for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "failed")]
pub enum Failure {
    /// The engine refused, and nothing happened.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No engine could be asked; nothing happened.
    #[error("the coordination engine cannot be reached: {problem}")]
    Unreachable {
        /// What was tried.
        problem: String,
    },
    /// The engine was asked and did not answer in time: it may have happened or not. Nothing counts as held.
    #[error("no answer from the coordination engine: {problem}; whether it took effect is not known")]
    Unanswered {
        /// What was tried.
        problem: String,
    },
    /// A cluster answers but cannot decide: too few of its members are there.
    #[error("etcd has no quorum: {problem}; nothing new can be held until a majority of its members is back")]
    NoQuorum {
        /// What it said.
        problem: String,
    },
    /// A watcher's position is no longer known.
    #[error("changes after revision {} are no longer known: everything has to be read again", from.revision)]
    Behind {
        /// Where it wanted to go on from.
        from: Position,
    },
}

impl Failure {
    /// Whether the command may have taken effect.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unanswered { .. } | Self::NoQuorum { .. })
    }
}
