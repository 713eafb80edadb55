//! A cluster's members: which one is asked, and what is made of their refusals.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::Span;
use prost::Message;

use super::rpc::{CallError, Connection};
use crate::config::Member;
use crate::engine::Failure;

/// gRPC's codes that matter here.
pub(super) mod code {
    pub(crate) const DEADLINE_EXCEEDED: u32 = 4;
    pub(crate) const NOT_FOUND: u32 = 5;
    pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(crate) const FAILED_PRECONDITION: u32 = 9;
    pub(crate) const OUT_OF_RANGE: u32 = 11;
    pub(crate) const INTERNAL: u32 = 13;
    pub(crate) const UNAVAILABLE: u32 = 14;
}

/// Longest wait for one member before the next is asked.
const MEMBER_PATIENCE: Duration = Duration::from_secs(1);

/// The members, and the connection to the one that answered last.
#[derive(Debug)]
pub(super) struct Cluster {
    members: Vec<Member>,
    timeout: Duration,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    index: usize,
    /// Tells connections apart, so that only the one that failed is given up.
    generation: u64,
    connection: Option<Connection>,
}

/// What came of asking the members in turn.
#[derive(Debug)]
pub(super) struct Asked<A> {
    pub(super) answer: A,
    /// Whether an earlier try in the same call may have taken effect too.
    pub(super) repeated: bool,
}

/// What went wrong at one member, from the least to the most that may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worst {
    NotSent,
    NoQuorum,
    Unanswered,
}

impl Cluster {
    pub(super) fn new(members: Vec<Member>, timeout: Duration) -> Self {
        let index = fastrand::usize(..members.len().max(1));
        Self { members, timeout, current: Mutex::new(Current { index, ..Current::default() }) }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn patience(&self) -> Duration {
        (self.timeout / u32::try_from(self.members.len().clamp(1, 8)).unwrap_or(1)).min(MEMBER_PATIENCE)
    }

    /// Asks members in turn, beginning with the one that answered last, until one answers or the time is over.
    ///
    /// A refusal that every member would repeat is [`CallError::Status`] and an answer here.
    pub(super) async fn ask<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<Asked<Result<A, CallError>>, Failure> {
        let until = Instant::now() + self.timeout;
        let mut worst: Option<(Worst, String)> = None;
        let mut tries = 0;
        loop {
            let repeated = worst.as_ref().is_some_and(|(worst, _)| *worst > Worst::NotSent);
            match self.try_one(path, request).await {
                Ok(answer) => return Ok(Asked { answer: Ok(answer), repeated }),
                Err(error) => {
                    let Some(found) = judge(&error) else {
                        return Ok(Asked { answer: Err(error), repeated });
                    };
                    let (CallError::NotSent(text) | CallError::Broken(text) | CallError::Status(_, text)) =
                        error;
                    if worst.as_ref().is_none_or(|(worst, _)| *worst <= found) {
                        worst = Some((found, text));
                    }
                }
            }
            tries += 1;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if tries % self.members.len().max(1) == 0 {
                // Everybody was asked: an election may be under way.
                tokio::time::sleep(left.min(Duration::from_millis(50 + fastrand::u64(..100)))).await;
            }
        }
        Err(match worst {
            Some((Worst::NotSent, problem)) => Failure::Unreachable { problem },
            Some((Worst::NoQuorum, problem)) => Failure::NoQuorum { problem },
            Some((Worst::Unanswered, problem)) => Failure::Unanswered { problem },
            None => Failure::Unreachable { problem: "no member is configured".to_owned() },
        })
    }

    async fn try_one<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, CallError> {
        let (generation, connection) = self.connection().await?;
        let patience = self.patience();
        let answer = match tokio::time::timeout(patience, connection.unary(path, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Broken(format!("no answer within {}", Span::from(patience)))),
        };
        if answer.as_ref().err().is_some_and(|error| judge(error).is_some()) {
            self.give_up(generation);
        }
        answer
    }

    /// The connection to the current member, opened if there is none. A member that cannot be connected to is passed over.
    pub(super) async fn connection(&self) -> Result<(u64, Connection), CallError> {
        let (generation, index) = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(connection) = &current.connection {
                return Ok((current.generation, connection.clone()));
            }
            (current.generation, current.index)
        };
        let Some(member) = self.members.get(index) else {
            return Err(CallError::NotSent("no member is configured".to_owned()));
        };
        match Connection::open(member, self.patience()).await {
            Ok(connection) => {
                let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                // Somebody else was faster: one connection is enough, unless theirs is to another member that failed.
                if current.generation == generation {
                    let connection = current.connection.get_or_insert(connection).clone();
                    return Ok((generation, connection));
                }
                drop(current);
                Ok((generation, connection))
            }
            Err(error) => {
                self.give_up(generation);
                Err(error)
            }
        }
    }

    /// Turns to the next member, unless somebody else did so already.
    pub(super) fn give_up(&self, generation: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.generation == generation {
            current.generation += 1;
            current.index = (current.index + 1) % self.members.len().max(1);
            current.connection = None;
        }
    }
}

/// What an error says about whether the request took effect; none when another member would say the same.
fn judge(error: &CallError) -> Option<Worst> {
    match error {
        CallError::NotSent(_) => Some(Worst::NotSent),
        CallError::Broken(_) => Some(Worst::Unanswered),
        CallError::Status(code::UNAVAILABLE | code::DEADLINE_EXCEEDED, _) => Some(Worst::NoQuorum),
        CallError::Status(code::INTERNAL, _) => Some(Worst::Unanswered),
        CallError::Status(..) => None,
    }
}
