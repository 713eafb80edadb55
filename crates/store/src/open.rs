//! Opening a store: everything is checked before anything is written.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};

use crate::error::{OpenError, StoreError};
use crate::migrate::{Link, OWN, lay_foundation, migrate};
use crate::owner::{Owner, Witness, path_for};
use crate::params::StoreParams;
use crate::place::{Place, refuse_network};
use crate::room::Room;
use crate::statement::{Connection, rows};
use crate::store::{Backend, Figures, Inner, Store};
use crate::writer::Turns;

/// Marks a file as a store: "SWAL".
pub(crate) const APPLICATION_ID: i64 = 0x5357_414C;

/// SQLite before this can corrupt a file when its log is reset.
const SQLITE_MIN: (u32, u32, u32) = (3, 51, 3);

impl Store {
    /// Opens the store that `params` name, and makes it if nobody has. Creates the file's directory. Runs the migrations of
    /// `rooms` that have not run.
    ///
    /// A SQLite file is refused when it is on a network file system, is owned by another process, is damaged
    /// (`PRAGMA quick_check`), or holds less than was acknowledged. Either engine is refused when its tables are newer than this
    /// program or come from migrations that have changed since.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(params: &StoreParams, rooms: &[Room]) -> Result<Self, OpenError> {
        let mut all = vec![OWN];
        all.extend(rooms);
        for room in rooms {
            room.check()?;
        }
        let place = Place::parse(&params.url)?;
        match &place {
            Place::File(path) => {
                let path = prepare_directory(path)?;
                let (owner, witnessed) = Owner::take(&path)?;
                let mut writer = connect(&path).await?;
                let checked = match check_file(&mut writer, &path, witnessed).await {
                    Ok(witness) => {
                        let mut link = Link(Connection::Sqlite(&mut writer));
                        migrate(&mut link, &place.to_string(), &all).await.map(|()| witness)
                    }
                    refused => refused,
                };
                let witness = match checked {
                    Ok(witness) => witness,
                    Err(problem) => {
                        // Waits until the file is let go: whoever reads the refusal may put another one there.
                        let _ = writer.close().await;
                        return Err(problem);
                    }
                };
                let readers = reading(&path, params).await.map_err(engine(&place))?;
                let (turns, task) = Turns::start(writer, owner, witness).map_err(|source| {
                    OpenError::File { doing: "note the owner in", path: path_for(&path), source }
                })?;
                let backend = Backend::Sqlite { turns: Some((turns, task)), readers };
                Ok(Self::assemble(backend, params, place, all, witness.incarnation))
            }
            Place::Server(url) => {
                let options = server(url, params).map_err(engine(&place))?;
                let limit = params.wait_max.get();
                let mut first = tokio::time::timeout(limit, options.connect())
                    .await
                    .unwrap_or(Err(sqlx::Error::PoolTimedOut))
                    .map_err(engine(&place))?;
                let mut link = Link(Connection::Postgres(&mut first));
                migrate(&mut link, &place.to_string(), &all).await?;
                let incarnation = incarnation(&mut link).await.map_err(prepare(&place))?;
                first.close().await.map_err(engine(&place))?;
                let pool = PgPoolOptions::new()
                    .max_connections(params.connections)
                    .acquire_timeout(limit)
                    .connect_lazy_with(options);
                let backend = Backend::Postgres { pool, read_only: false };
                Ok(Self::assemble(backend, params, place, all, incarnation))
            }
        }
    }

    /// Opens a store for reading only, also while another process owns it. Makes, migrates and repairs
    /// nothing.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Absent`] when there is none.
    pub async fn open_for_reading(params: &StoreParams, rooms: &[Room]) -> Result<Self, OpenError> {
        let place = Place::parse(&params.url)?;
        let absent = || OpenError::Absent { place: place.to_string() };
        let (backend, incarnation) = match &place {
            Place::File(path) => {
                if !path.is_file() {
                    return Err(absent());
                }
                refuse_network(path, path)?;
                let readers = reading(path, params).await.map_err(engine(&place))?;
                let mut first = readers.acquire().await.map_err(engine(&place))?;
                if !is_ours(&mut first).await.map_err(prepare(&place))? {
                    return Err(OpenError::Foreign { place: place.to_string() });
                }
                let mut link = Link(Connection::Sqlite(&mut first));
                let incarnation = incarnation(&mut link).await.map_err(prepare(&place))?;
                drop(first);
                (Backend::Sqlite { turns: None, readers }, incarnation)
            }
            Place::Server(url) => {
                let pool = PgPoolOptions::new()
                    .max_connections(params.connections)
                    .acquire_timeout(params.wait_max.get())
                    .connect_lazy_with(server(url, params).map_err(engine(&place))?);
                let mut first = pool.acquire().await.map_err(engine(&place))?;
                let mut link = Link(Connection::Postgres(&mut first));
                let sql = "SELECT to_regclass('store_meta') IS NOT NULL AS there";
                let found = rows(link.again(), sql, &[]).await.map_err(prepare(&place))?;
                let there = found.first().map(|row| row.get::<bool>("there")).transpose();
                if !there.map_err(prepare(&place))?.unwrap_or(false) {
                    return Err(absent());
                }
                let incarnation = incarnation(&mut link).await.map_err(prepare(&place))?;
                drop(first);
                (Backend::Postgres { pool, read_only: true }, incarnation)
            }
        };
        Ok(Self::assemble(backend, params, place, rooms.to_vec(), incarnation))
    }

    fn assemble(
        backend: Backend,
        params: &StoreParams,
        place: Place,
        rooms: Vec<Room>,
        incarnation: u64,
    ) -> Self {
        let (params, figures) = (params.clone(), Figures::default());
        Self(Arc::new(Inner { backend, params, place, rooms, incarnation, figures }))
    }
}

fn engine(place: &Place) -> impl Fn(sqlx::Error) -> OpenError {
    let place = place.to_string();
    move |source| OpenError::Engine { place: place.clone(), source: Box::new(source) }
}

fn prepare(place: &Place) -> impl Fn(StoreError) -> OpenError {
    let place = place.to_string();
    move |source| OpenError::Prepare { place: place.clone(), source: Box::new(source) }
}

/// Makes the directory and refuses a remote one; answers the path with links resolved, so that one file has one lock.
pub(crate) fn prepare_directory(path: &Path) -> Result<PathBuf, OpenError> {
    let failed =
        |source| OpenError::File { doing: "make the directory of", path: path.to_path_buf(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let resolved = match path.canonicalize() {
        Ok(resolved) => resolved,
        Err(_) => {
            let name = path.file_name().ok_or_else(|| OpenError::Url { url: path.display().to_string() })?;
            directory.canonicalize().map_err(failed)?.join(name)
        }
    };
    refuse_network(&resolved, resolved.parent().unwrap_or(directory))?;
    Ok(resolved)
}

/// What every connection to a file has in common.
fn file_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(5))
        // Schemas are text in the file: functions that they name are not trusted.
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .disable_statement_logging()
}

async fn reading(path: &Path, params: &StoreParams) -> Result<sqlx::SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(params.connections)
        .acquire_timeout(params.wait_max.get())
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(file_options(path).read_only(true))
        .await
}

/// What every connection to a server has in common.
pub(crate) fn server(url: &str, params: &StoreParams) -> Result<PgConnectOptions, sqlx::Error> {
    let limit = params.transaction_max.get().as_millis().to_string();
    Ok(PgConnectOptions::from_str(url)?
        .application_name("seawall")
        .options([
            ("statement_timeout", limit.as_str()),
            ("lock_timeout", limit.as_str()),
            ("idle_in_transaction_session_timeout", limit.as_str()),
            // What was acknowledged is on the disk, whatever the server's default.
            ("synchronous_commit", "on"),
        ])
        .disable_statement_logging())
}

async fn one<T: crate::FromValue>(on: &mut Link<'_>, sql: &str, column: &str) -> Result<T, StoreError> {
    let found = rows(on.again(), sql, &[]).await?;
    found.first().ok_or_else(|| StoreError::from(sqlx::Error::RowNotFound))?.get(column)
}

async fn incarnation(on: &mut Link<'_>) -> Result<u64, StoreError> {
    one(on, "SELECT value FROM store_meta WHERE key = 'incarnation'", "value").await
}

async fn is_ours(file: &mut SqliteConnection) -> Result<bool, StoreError> {
    let mut link = Link(Connection::Sqlite(file));
    Ok(one::<i64>(&mut link, "PRAGMA application_id", "application_id").await? == APPLICATION_ID)
}

/// What SQLite answers when a file is not what it should be.
fn damage(path: &Path) -> impl Fn(sqlx::Error) -> OpenError {
    move |problem| match &problem {
        // SQLITE_CORRUPT and SQLITE_NOTADB, the extended kinds too.
        sqlx::Error::Database(error)
            if error
                .code()
                .and_then(|code| code.parse::<u32>().ok())
                .is_some_and(|code| matches!(code & 0xFF, 11 | 26)) =>
        {
            OpenError::Damaged { path: path.to_path_buf(), finding: error.message().to_owned() }
        }
        _ => engine(&Place::File(path.to_path_buf()))(problem),
    }
}

/// Opens the file for writing, or makes it.
async fn connect(path: &Path) -> Result<SqliteConnection, OpenError> {
    let options = file_options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // What was acknowledged is on the disk: FULL syncs the log at each commit.
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", "67108864");
    options.connect().await.map_err(damage(path))
}

/// Looks whether the file is ours, sound, and holds all that was witnessed. Marks a new one.
async fn check_file(
    file: &mut SqliteConnection,
    path: &Path,
    witnessed: Option<Witness>,
) -> Result<Witness, OpenError> {
    let place = Place::File(path.to_path_buf());
    let prepare = |problem: StoreError| match problem {
        StoreError::Engine { source } => damage(path)(*source),
        other => prepare(&place)(other),
    };
    let mut link = Link(Connection::Sqlite(file));
    let version: String =
        one(&mut link, "SELECT sqlite_version() AS version", "version").await.map_err(prepare)?;
    refuse_old(&version)?;
    let tables: i64 =
        one(&mut link, "SELECT count(*) AS tables FROM sqlite_schema", "tables").await.map_err(prepare)?;
    let id: i64 = one(&mut link, "PRAGMA application_id", "application_id").await.map_err(prepare)?;
    if id != APPLICATION_ID && tables > 0 {
        return Err(OpenError::Foreign { place: place.to_string() });
    }
    let sound = rows(link.again(), "PRAGMA quick_check(1)", &[]).await.map_err(prepare)?;
    let finding = sound.first().map(|row| row.get::<String>("quick_check")).transpose().map_err(prepare)?;
    if finding.as_deref() != Some("ok") {
        let finding = finding.unwrap_or_default();
        return Err(OpenError::Damaged { path: path.to_path_buf(), finding });
    }
    let lost = |found: Witness, before: Witness| OpenError::Lost {
        path: path.to_path_buf(),
        incarnation: found.incarnation,
        found: found.commits,
        expected: format!("commit {} of incarnation {}", before.commits, before.incarnation),
        witness: path_for(path),
    };
    if let (0, Some(before)) = (tables, witnessed) {
        // An empty file where a store was: its log is gone, or it was deleted, or its disk is not mounted.
        return Err(lost(Witness { incarnation: 0, commits: 0 }, before));
    }
    if id != APPLICATION_ID {
        link.run(&format!("PRAGMA application_id = {APPLICATION_ID}")).await.map_err(prepare)?;
    }
    lay_foundation(&mut link).await.map_err(prepare)?;
    let incarnation = incarnation(&mut link).await.map_err(prepare)?;
    let commits = one(&mut link, "SELECT value FROM store_meta WHERE key = 'commits'", "value");
    let found = Witness { incarnation, commits: commits.await.map_err(prepare)? };
    match witnessed {
        Some(before) if has_lost(found, before) => Err(lost(found, before)),
        _ => Ok(found),
    }
}

/// Whether a store holds less than its witness has seen. A later incarnation was restored on purpose.
fn has_lost(found: Witness, before: Witness) -> bool {
    (found.incarnation, found.commits) < (before.incarnation, before.commits)
}

fn refuse_old(version: &str) -> Result<(), OpenError> {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    if (next(), next(), next()) >= SQLITE_MIN {
        return Ok(());
    }
    Err(OpenError::OldSqlite { found: version.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_of_sqlite_are_refused() {
        for old in ["3.51.2", "3.50.9", "3.9.0", "2.99.99", "", "x"] {
            assert!(refuse_old(old).is_err(), "{old}");
        }
        for new in ["3.51.3", "3.52.0", "4.0.0"] {
            assert!(refuse_old(new).is_ok(), "{new}");
        }
    }

    #[test]
    fn less_than_was_witnessed_is_a_loss() {
        let at = |incarnation, commits| Witness { incarnation, commits };
        assert!(has_lost(at(5, 9), at(5, 10)));
        assert!(has_lost(at(4, 99), at(5, 10)));
        assert!(!has_lost(at(5, 10), at(5, 10)));
        // A power cut can leave the witness behind.
        assert!(!has_lost(at(5, 11), at(5, 10)));
        assert!(!has_lost(at(6, 0), at(5, 10)));
    }
}
