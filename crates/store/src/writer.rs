//! The one connection that writes to a SQLite file, and how many small transactions share one sync of the disk.
//!
//! Whoever writes takes the connection in turn, works within a savepoint, releases it and passes the connection on. One task
//! queues behind those who wait and commits for all that went before it; only then are they answered. So while one group is
//! being synced the next one gathers, whatever its size, and a lone writer waits for nobody.

use std::io;
use std::sync::Arc;

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, Notify, oneshot};
use tracing::error;

use crate::error::StoreError;
use crate::owner::{Owner, Witness};
use crate::statement::{Connection, execute};

/// The connection and what is under way on it.
pub(crate) struct Writer {
    /// `None` once it was closed.
    connection: Option<SqliteConnection>,
    /// Transactions that worked and wait for the group's commit; `None` when no group is open.
    group: Option<Vec<oneshot::Sender<Result<(), StoreError>>>>,
    /// The last holder left without releasing its savepoint.
    dirty: bool,
    /// Whoever began the group left before knowing that it had begun.
    unsure: bool,
    witness: Witness,
    /// Held until the file is closed.
    owner: Option<Owner>,
    identity: (u64, u64),
    /// Why nothing is written any more.
    refused: Option<String>,
}

/// What all writers share.
#[derive(Clone)]
pub(crate) struct Turns {
    pub(crate) writer: Arc<Mutex<Writer>>,
    work: Arc<Notify>,
}

impl Turns {
    /// Starts the task that commits. It ends when the last [`Turns`] does.
    pub(crate) fn start(
        connection: SqliteConnection,
        owner: Owner,
        witness: Witness,
    ) -> io::Result<(Self, tokio::task::JoinHandle<()>)> {
        owner.note(witness)?;
        let identity = owner.identity()?;
        let writer = Writer {
            connection: Some(connection),
            group: None,
            dirty: false,
            unsure: false,
            witness,
            owner: Some(owner),
            identity,
            refused: None,
        };
        let turns = Self { writer: Arc::new(Mutex::new(writer)), work: Arc::new(Notify::new()) };
        // Weakly, so that a store that nobody holds any more gives its file up.
        let (writer, work) = (Arc::downgrade(&turns.writer), Arc::clone(&turns.work));
        let task = tokio::spawn(async move {
            loop {
                work.notified().await;
                // The queue is fair: everybody who waits already goes first and joins the group.
                let Some(writer) = writer.upgrade() else { return };
                writer.lock().await.commit_group().await;
            }
        });
        Ok((turns, task))
    }

    /// Makes sure that a group is committed or cleaned up soon.
    pub(crate) fn wake(&self) {
        self.work.notify_one();
    }
}

impl Writer {
    async fn run(&mut self, sql: &'static str) -> Result<(), StoreError> {
        execute(self.connection()?, sql, &[]).await.map(|_| ())
    }

    /// The connection, for whoever has begun.
    pub(crate) fn connection(&mut self) -> Result<Connection<'_>, StoreError> {
        self.connection.as_mut().map(Connection::Sqlite).ok_or_else(|| sqlx::Error::PoolClosed.into())
    }

    /// Opens a savepoint, in a group of its own if there is none.
    pub(crate) async fn begin(&mut self) -> Result<(), StoreError> {
        self.clean().await;
        if let Some(how) = &self.refused {
            return Err(StoreError::Replaced { how: how.clone() });
        }
        if self.group.is_none() {
            self.unsure = true;
            self.run("BEGIN IMMEDIATE").await?;
            self.unsure = false;
            self.group = Some(Vec::new());
        }
        // Whoever is gone before the savepoint is answered may or may not have left one.
        self.dirty = true;
        self.run("SAVEPOINT turn").await
    }

    /// Keeps what was done since [`Writer::begin`]; answers when the group is committed.
    pub(crate) async fn release(&mut self) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        self.run("RELEASE turn").await?;
        self.dirty = false;
        let (sender, receiver) = oneshot::channel();
        match &mut self.group {
            Some(group) => group.push(sender),
            None => return Err(StoreError::Failed),
        }
        Ok(receiver)
    }

    /// The last holder left its work behind: undo it.
    async fn clean(&mut self) {
        if std::mem::take(&mut self.unsure) {
            // Fails when there is nothing to undo.
            let _ = self.run("ROLLBACK").await;
        }
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        // After some errors (a full disk) SQLite has rolled back everything, and there is no savepoint any more.
        let undone = self.run("ROLLBACK TO turn").await;
        let gone = match undone {
            Ok(()) => self.run("RELEASE turn").await,
            Err(problem) => Err(problem),
        };
        if let Err(problem) = gone {
            let _ = self.run("ROLLBACK").await;
            self.answer(Err(problem));
        }
    }

    fn answer(&mut self, result: Result<(), StoreError>) {
        let group = self.group.take().unwrap_or_default();
        let why = result.err().map(|problem| problem.to_string());
        for waiting in group {
            let answer = why.clone().map_or(Ok(()), |why| Err(StoreError::NotCommitted { why }));
            // Whoever no longer waits does not want to know.
            let _ = waiting.send(answer);
        }
    }

    /// Commits what is open, if anything is, and answers all that took part.
    pub(crate) async fn commit_group(&mut self) {
        self.clean().await;
        let Some(group) = &self.group else { return };
        if group.is_empty() {
            let _ = self.run("ROLLBACK").await;
            self.group = None;
            return;
        }
        let result = self.commit().await;
        if result.is_err() {
            let _ = self.run("ROLLBACK").await;
        }
        self.answer(result);
    }

    async fn commit(&mut self) -> Result<(), StoreError> {
        if let Some(how) = self.replaced() {
            error!(how, "the store's file is not the one that was opened; nothing more is written");
            self.refused = Some(how.clone());
            return Err(StoreError::Replaced { how });
        }
        self.run("UPDATE store_meta SET value = value + 1 WHERE key = 'commits'").await?;
        self.run("COMMIT").await?;
        self.witness.commits += 1;
        // The records are safe; only the check for cut logs is a commit behind, which raises no alarm.
        if let Some(Err(problem)) = self.owner.as_ref().map(|owner| owner.note(self.witness)) {
            tracing::warn!(%problem, "cannot note what was committed");
        }
        Ok(())
    }

    /// Whether the file's name leads to another file now, or to none.
    fn replaced(&self) -> Option<String> {
        let owner = self.owner.as_ref()?;
        let now = match owner.identity() {
            Ok(found) if found == self.identity => return None,
            Ok(_) => "is another file now",
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => "is gone",
            // Not to be told: the engine will say if it matters.
            Err(_) => return None,
        };
        Some(format!("`{}` {now}", owner.store().display()))
    }

    /// Commits what is open and closes the file, so that its log is folded into it.
    pub(crate) async fn close(&mut self) -> Result<(), StoreError> {
        self.commit_group().await;
        let closed = match self.connection.take() {
            Some(connection) => connection.close().await,
            None => Ok(()),
        };
        self.owner = None;
        Ok(closed?)
    }
}
