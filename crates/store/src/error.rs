//! What can go wrong, one type for each operation.

use std::io;
use std::path::PathBuf;

use crate::fence::Token;

/// Why a store is not opened. Nothing was changed, except that migrations that had succeeded stay.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address is neither a path nor of a scheme that is known.
    #[error(
        "`{url}` is no address of a store: expected sqlite:///path/to/file or postgres://user@host/database"
    )]
    Url {
        /// What was given, without its password.
        url: String,
    },
    /// The linked SQLite is one that can corrupt files.
    #[error("SQLite {found} is linked, but older than 3.51.3 it can corrupt a file when its log is reset")]
    OldSqlite {
        /// Its version.
        found: String,
    },
    /// The file is on another machine.
    #[error(
        "`{path}` is on a network file system ({kind}), which does not keep SQLite's promises: use a local disk, or PostgreSQL"
    )]
    NetworkFileSystem {
        /// The file.
        path: PathBuf,
        /// The file system's name.
        kind: &'static str,
    },
    /// Another process has it open.
    #[error("`{path}` is in use by process {owner}: a file has one owner at a time")]
    InUse {
        /// The file.
        path: PathBuf,
        /// The other process.
        owner: String,
    },
    /// A file cannot be had.
    #[error("cannot {doing} `{path}`: {source}")]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody made this store yet, and a reader makes none.
    #[error("there is no store at `{place}`")]
    Absent {
        /// Where.
        place: String,
    },
    /// It holds somebody else's tables.
    #[error("`{place}` is a database of another program")]
    Foreign {
        /// Where.
        place: String,
    },
    /// SQLite's own check found damage.
    #[error(
        "`{path}` is damaged: {finding}; restore a back-up to a new place and point the configuration there"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it found, first.
        finding: String,
    },
    /// What was acknowledged is no longer there.
    #[error(
        "`{path}` has lost records that were acknowledged: it is at commit {found} of incarnation {incarnation}, but was at \
         {expected}. Its `-wal` file was cut or removed, or an older copy was put in its place. Restore a back-up to a new \
         place; or accept the loss by removing `{witness}`"
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// The incarnation it says it has.
        incarnation: u64,
        /// The commits it has.
        found: u64,
        /// What it had: incarnation and commits.
        expected: String,
        /// The file that remembers.
        witness: PathBuf,
    },
    /// A newer Seawall made its tables.
    #[error(
        "`{place}` has version {found} of the tables of `{room}`, this program knows {known}: run the newer program"
    )]
    Newer {
        /// Where.
        place: String,
        /// Whose tables.
        room: String,
        /// Their version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// A migration that has run is not the one that this program has.
    #[error(
        "migration {version} of `{room}` (`{name}`) was changed after it had run on `{place}`: add a new one instead"
    )]
    Changed {
        /// Where.
        place: String,
        /// Whose migration.
        room: String,
        /// Which.
        version: u32,
        /// Its name.
        name: String,
    },
    /// A room's declaration contradicts itself.
    #[error("the declaration of room `{room}` is wrong: {problem}")]
    Room {
        /// Whose.
        room: String,
        /// What is wrong.
        problem: String,
    },
    /// A migration failed; nothing of it remains.
    #[error("migration {version} of `{room}` (`{name}`) failed on `{place}`: {source}")]
    Migration {
        /// Where.
        place: String,
        /// Whose.
        room: String,
        /// Which.
        version: u32,
        /// Its name.
        name: String,
        /// Why.
        source: Box<StoreError>,
    },
    /// The engine cannot be reached or refuses.
    #[error("cannot open `{place}`: {source}")]
    Engine {
        /// Where.
        place: String,
        /// Why.
        source: Box<sqlx::Error>,
    },
    /// The first statements failed.
    #[error("cannot prepare `{place}`: {source}")]
    Prepare {
        /// Where.
        place: String,
        /// Why.
        source: Box<StoreError>,
    },
}

/// Why a statement or a transaction did not happen.
///
/// After any error a transaction can only be dropped: nothing of it remains.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine refused or failed.
    #[error("the store failed: {source}")]
    Engine {
        /// Why.
        #[source]
        source: Box<sqlx::Error>,
    },
    /// The group of transactions that this one was to be committed with could not be: nothing of it remains.
    #[error("not committed: {why}")]
    NotCommitted {
        /// Why.
        why: String,
    },
    /// The connection was lost, or time ran out, while it was being committed. It may have happened.
    #[error("given up while committing: the transaction may or may not have happened")]
    Unknown {
        /// Why.
        #[source]
        source: Box<sqlx::Error>,
    },
    /// An earlier statement of this transaction failed.
    #[error("the transaction has failed already; drop it")]
    Failed,
    /// The store was opened for reading.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// Nothing was free in time.
    #[error("the store is busy: no turn within {waited:?}")]
    Busy {
        /// How long was waited.
        waited: std::time::Duration,
    },
    /// The transaction took too long and was given up.
    #[error("the transaction took longer than {limit:?} and was rolled back")]
    TimedOut {
        /// How long it may take.
        limit: std::time::Duration,
    },
    /// Whoever writes lost its lease: a higher token was seen for the resource.
    #[error("fenced: token {token} for `{resource}` is older than {seen}")]
    Fenced {
        /// What is guarded.
        resource: String,
        /// The token that was shown.
        token: Token,
        /// The highest that was seen.
        seen: Token,
    },
    /// The store under this process was replaced by a restored one, or its file by another.
    #[error(
        "the store was replaced while it was open ({how}): nothing more is written, restart this process"
    )]
    Replaced {
        /// What was noticed.
        how: String,
    },
    /// A column is missing or holds something else than was asked for.
    #[error("column `{name}`: wanted {wanted}, found {found}")]
    Column {
        /// Which.
        name: String,
        /// What was asked for.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A document is no JSON, or not of the expected shape.
    #[error("a document cannot be read or written: {source}")]
    Document {
        /// Why.
        source: serde_json::Error,
    },
    /// The answer has a type that records do not have.
    #[error("column `{name}` has the type {kind}, which records do not have: cast it")]
    Type {
        /// Which.
        name: String,
        /// Its type in the engine's words.
        kind: String,
    },
}

impl StoreError {
    /// Whether another transaction came first, so that the same one may succeed when it is run again. [`Store::write`] does
    /// that by itself.
    ///
    /// [`Store::write`]: crate::Store::write
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        let StoreError::Engine { source } = self else { return false };
        // serialization_failure and deadlock_detected
        matches!(
            source.as_database_error().and_then(|error| error.code()).as_deref(),
            Some("40001" | "40P01")
        )
    }

    /// Whether the store itself was out of reach (not the statement wrong), so that later tries may succeed.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            StoreError::Busy { .. } | StoreError::TimedOut { .. } | StoreError::NotCommitted { .. } => true,
            StoreError::Engine { source } | StoreError::Unknown { source } => match &**source {
                sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => true,
                // Connection exceptions, insufficient resources, operator intervention.
                sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                    ["08", "53", "57"].iter().any(|class| code.len() == 5 && code.starts_with(class))
                }),
                _ => false,
            },
            _ => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(source: sqlx::Error) -> Self {
        StoreError::Engine { source: Box::new(source) }
    }
}
