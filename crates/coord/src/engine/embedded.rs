//! The engine inside the process: one task owns the table, writes down what changed, then answers.

use std::collections::VecDeque;
use std::time::Duration;

use model::{Instant, Span};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use super::journal::InStore;
use super::{Answer, Changes, Engine, Failure};
use crate::clock;
use crate::command::{Command, Event, Position, Reply};
use crate::table::{Delta, Effects, Saved, Table};

/// Commands that are written down together at most. What waits while one batch is written makes up the next.
const BATCH_MAX: usize = 1024;
/// Commands that may wait; more wait outside.
const WAITING_MAX: usize = 4096;
/// Changes kept for watchers that come back.
const EVENTS_KEPT: usize = 100_000;
/// Batches that a watcher may be behind before it has to ask again.
const WATCHER_MAX: usize = 1024;
/// Timers stand still while the machine is suspended: no wait is longer than this.
const LOOK: Duration = Duration::from_millis(200);
/// Wait before what cannot be read is read again.
const RELOAD: Duration = Duration::from_millis(500);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a table is written down.
pub trait Journal: Send + 'static {
    /// Reads everything.
    fn load(&mut self) -> Answer<'_, Saved>;

    /// Writes the deltas in order, and that the newest change is `position`, all or nothing and durably.
    fn commit(&mut self, position: Position, deltas: Vec<Delta>) -> Answer<'_, ()>;
}

/// Writes nothing down.
#[derive(Debug)]
struct Nowhere;

impl Journal for Nowhere {
    fn load(&mut self) -> Answer<'_, Saved> {
        let position = Position { history: fastrand::u64(1..1 << 53), revision: 0 };
        Box::pin(async move { Ok(Saved { position, ..Saved::default() }) })
    }

    fn commit(&mut self, _: Position, _: Vec<Delta>) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// Keeps sessions, leases and keys in this process.
///
/// Every answer that says that something changed is given after it was written down; whatever waits meanwhile is written
/// together. Renewals are not written: a table that is loaded again gives every session its whole time.
#[derive(Debug)]
pub struct Embedded {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
enum Request {
    Call { command: Command, reply: oneshot::Sender<Result<Reply, Failure>> },
    Watch { prefix: String, from: Position, reply: oneshot::Sender<Result<Changes, Failure>> },
}

struct Watcher {
    prefix: String,
    sender: mpsc::Sender<Result<Vec<Event>, Failure>>,
}

/// What the task owns.
struct Keeper {
    journal: Box<dyn Journal>,
    table: Table,
    watchers: Vec<Watcher>,
    /// The newest changes, all of those after `forgotten`.
    events: VecDeque<Event>,
    forgotten: u64,
}

impl Embedded {
    /// Loads what was written down and starts to serve, on the current runtime.
    ///
    /// # Errors
    /// What the journal says.
    pub async fn start(mut journal: Box<dyn Journal>) -> Result<Self, Failure> {
        let saved = journal.load().await?;
        Ok(Self::serve(journal, saved))
    }

    /// On a store in SQLite, opened with [`super::ROOM`] among its rooms, on the current runtime.
    ///
    /// # Errors
    /// When the store is of another kind or cannot be read.
    pub async fn on_store(store: store::Store) -> Result<Self, Failure> {
        Self::start(Box::new(InStore::new(store)?)).await
    }

    /// An empty one that writes nothing down.
    #[must_use]
    pub fn in_memory() -> Self {
        let position = Position { history: fastrand::u64(1..1 << 53), revision: 0 };
        Self::serve(Box::new(Nowhere), Saved { position, ..Saved::default() })
    }

    fn serve(journal: Box<dyn Journal>, saved: Saved) -> Self {
        let (requests, receiver) = mpsc::channel(WAITING_MAX);
        let table = Table::load(saved, clock::now());
        let forgotten = table.position().revision;
        let keeper = Keeper { journal, table, watchers: Vec::new(), events: VecDeque::new(), forgotten };
        tokio::spawn(keeper.run(receiver));
        Self { requests }
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Failure>>) -> Request,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let stopped = || Failure::Unreachable { problem: "the engine has stopped".to_owned() };
            self.requests.send(request(reply)).await.map_err(|_| stopped())?;
            let unanswered = || Failure::Unanswered { problem: "the engine stopped meanwhile".to_owned() };
            answer.await.unwrap_or_else(|_| Err(unanswered()))
        };
        let late =
            || Failure::Unanswered { problem: format!("nothing written for {}", Span::from(PATIENCE)) };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Engine for Embedded {
    fn name(&self) -> String {
        "sqlite".to_owned()
    }

    fn call(&self, command: Command) -> Answer<'_, Reply> {
        Box::pin(self.ask(|reply| Request::Call { command, reply }))
    }

    fn changes(&self, prefix: String, from: Position) -> Answer<'_, Changes> {
        Box::pin(self.ask(move |reply| Request::Watch { prefix, from, reply }))
    }
}

impl Keeper {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        loop {
            let wait = self.table.next_expiry().unwrap_or(Instant::NEVER).since(clock::now()).min(LOOK);
            match tokio::time::timeout(wait, requests.recv_many(&mut batch, BATCH_MAX)).await {
                // Every handle is gone.
                Ok(0) => return,
                Ok(_) => {}
                Err(_) => self.watchers.retain(|watcher| !watcher.sender.is_closed()),
            }
            self.turn(&mut batch).await;
        }
    }

    /// Does a batch of requests, and ends what has run out.
    async fn turn(&mut self, batch: &mut Vec<Request>) {
        let now = clock::now();
        let mut effects = Effects::default();
        self.table.expire(now, &mut effects);
        let mut answers = Vec::new();
        let mut watches = Vec::new();
        for request in batch.drain(..) {
            match request {
                Request::Call { command, reply } => {
                    let answer = self.table.apply(now, clock::wall(), &command, &mut effects);
                    answers.push((reply, answer.map_err(Failure::Refused)));
                }
                Request::Watch { prefix, from, reply } => watches.push((prefix, from, reply)),
            }
        }
        if !effects.deltas.is_empty()
            && let Err(failure) = self.journal.commit(self.table.position(), effects.deltas).await
        {
            error!(%failure, "coordination changes could not be written down; nothing of them counts");
            let problem = format!("it could not be written down ({failure})");
            for (reply, _) in answers {
                // Whoever asked may have gone.
                let _ = reply.send(Err(Failure::Unanswered { problem: problem.clone() }));
            }
            self.reload().await;
        } else {
            self.tell(effects.events);
            for (reply, answer) in answers {
                let _ = reply.send(answer);
            }
        }
        for (prefix, from, reply) in watches {
            let _ = reply.send(self.watch(prefix, from));
        }
    }

    /// What is written down is the truth; what watchers were told may lack something, so they start over.
    async fn reload(&mut self) {
        loop {
            match self.journal.load().await {
                Ok(saved) => {
                    self.table = Table::load(saved, clock::now());
                    info!("coordination state read again");
                    break;
                }
                Err(failure) => error!(%failure, "coordination state cannot be read; trying again"),
            }
            tokio::time::sleep(RELOAD).await;
        }
        self.events.clear();
        self.forgotten = self.table.position().revision;
        self.watchers.clear();
    }

    fn tell(&mut self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.watchers.retain(|watcher| {
            let theirs: Vec<Event> =
                events.iter().filter(|event| event.key().starts_with(&watcher.prefix)).cloned().collect();
            // A full queue ends the watch: its owner asks again from where it is, and nothing is missed.
            theirs.is_empty() || watcher.sender.try_send(Ok(theirs)).is_ok()
        });
        self.events.extend(events);
        while self.events.len() > EVENTS_KEPT {
            self.forgotten = self.events.pop_front().map_or(self.forgotten, |event| event.revision());
        }
    }

    fn watch(&mut self, prefix: String, from: Position) -> Result<Changes, Failure> {
        let here = self.table.position();
        let known = from.history == here.history && (self.forgotten..=here.revision).contains(&from.revision);
        if !known {
            return Err(Failure::Behind { from });
        }
        let (sender, receiver) = mpsc::channel(WATCHER_MAX);
        let first = self.events.partition_point(|event| event.revision() <= from.revision);
        let missed: Vec<Event> =
            self.events.range(first..).filter(|event| event.key().starts_with(&prefix)).cloned().collect();
        if !missed.is_empty() {
            // The queue is empty.
            let _ = sender.try_send(Ok(missed));
        }
        self.watchers.push(Watcher { prefix, sender });
        Ok(Changes { receiver })
    }
}
