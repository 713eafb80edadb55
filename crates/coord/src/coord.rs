//! The way in.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::command::{Command, Entry, Guard, LEASES, Position, Reply, SessionId, Token};
use crate::config::CoordParams;
use crate::engine::embedded::Embedded;
use crate::engine::etcd::Etcd;
use crate::engine::remote::Remote;
use crate::engine::{Engine, Failure};
use crate::session::Session;
use crate::watch::Watch;

/// A handle on the coordination engine. Cheap to clone.
#[derive(Clone)]
pub struct Coord {
    engine: Arc<dyn Engine>,
}

/// The keys with a prefix, at one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// As of when.
    pub position: Position,
    /// By key.
    pub entries: Vec<Entry>,
}

impl std::fmt::Debug for Coord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Coord").field(&self.engine.name()).finish()
    }
}

impl Coord {
    /// On this engine.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }

    /// On an engine of its own that keeps everything in memory and forgets it with the process: for tests.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(Arc::new(Embedded::in_memory()))
    }

    /// On a store in SQLite, opened with [`crate::engine::ROOM`] among its rooms. This process keeps everything; others ask it.
    ///
    /// # Errors
    /// When the store is of another kind or cannot be read.
    pub async fn on_store(store: store::Store) -> Result<Self, Failure> {
        Ok(Self::new(Arc::new(Embedded::on_store(store).await?)))
    }

    /// On the etcd cluster that `params` name. Connects when first asked.
    ///
    /// # Errors
    /// What is wrong with a member's address.
    pub fn etcd(params: &CoordParams) -> Result<Self, String> {
        Ok(Self::new(Arc::new(Etcd::new(params)?)))
    }

    /// On the engine of the process that serves [`crate::http::routes`] at the Unix socket `path`.
    #[must_use]
    pub fn at_socket(path: &Path, timeout: Duration) -> Self {
        Self::new(Arc::new(Remote::new(path, timeout)))
    }

    /// The engine itself.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Opens a session that a task of the current runtime renews until it is closed, dropped or lost. One session carries
    /// any number of leases and keys.
    ///
    /// # Errors
    /// When the engine refuses the time to live or cannot be asked.
    pub async fn session(&self, ttl: Duration) -> Result<Session, Failure> {
        Session::open(self.clone(), ttl).await
    }

    /// Reads every key with a prefix.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn list(&self, prefix: &str) -> Result<Listing, Failure> {
        match self.engine.call(Command::List { prefix: prefix.to_owned() }).await? {
            Reply::Listing { position, entries } => Ok(Listing { position, entries }),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes a key that stays until it is deleted. [`Session::put`] writes one that ends with a session.
    ///
    /// # Errors
    /// [`Failure`]; [`crate::Refusal::Superseded`] when the guard's token is not the newest.
    pub async fn put(&self, key: &str, value: &str, guard: Option<Guard>) -> Result<Position, Failure> {
        self.write(key, value, None, guard).await
    }

    /// Deletes a key; fine when it is not there.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn delete(&self, key: &str, guard: Option<Guard>) -> Result<Position, Failure> {
        let reply = self.engine.call(Command::Delete { key: key.to_owned(), guard }).await?;
        position(&reply)
    }

    /// Follows the keys with a prefix: first all of them, then every change.
    #[must_use]
    pub fn watch(&self, prefix: &str) -> Watch {
        Watch::new(self.clone(), prefix.to_owned())
    }

    /// Every held lease, by name.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn leases(&self) -> Result<Vec<(String, Entry)>, Failure> {
        let entries = self.list(LEASES).await?.entries;
        Ok(entries.into_iter().map(|entry| (entry.key[LEASES.len()..].to_owned(), entry)).collect())
    }

    /// Who holds the lease `name`; none: nobody.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn holder(&self, name: &str) -> Result<Option<Entry>, Failure> {
        let key = format!("{LEASES}{name}");
        Ok(self.list(&key).await?.entries.into_iter().find(|entry| entry.key == key))
    }

    /// Takes a lease from its holder: an operator's means. The holder's token is superseded at once.
    ///
    /// # Errors
    /// [`crate::Refusal::NotHeld`] when that term is over already.
    pub async fn break_lease(&self, name: &str, token: Token) -> Result<(), Failure> {
        self.engine.call(Command::Break { name: name.to_owned(), token }).await.map(drop)
    }

    pub(crate) async fn write(
        &self,
        key: &str,
        value: &str,
        session: Option<SessionId>,
        guard: Option<Guard>,
    ) -> Result<Position, Failure> {
        let command = Command::Put { key: key.to_owned(), value: value.to_owned(), session, guard };
        position(&self.engine.call(command).await?)
    }
}

fn position(reply: &Reply) -> Result<Position, Failure> {
    match reply {
        Reply::Done { position } => Ok(*position),
        other => Err(unexpected(other)),
    }
}

pub(crate) fn unexpected(reply: &Reply) -> Failure {
    Failure::Unanswered { problem: format!("the engine answered something else: {reply:?}") }
}
