//! Restores: to a new place only, compared with the back-up row by row before anybody can use it.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use model::Change;
use sha2::{Digest, Sha256};
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use crate::args;
use crate::audit::record_on;
use crate::backup::{FORMAT, MANIFEST, Manifest, SUMS, Sink, TableEntry, export, rows_path, sync_directory};
use crate::error::{OpenError, StoreError};
use crate::migrate::{Link, apply_within, foundation_within};
use crate::open::{APPLICATION_ID, prepare_directory, server};
use crate::owner::path_for;
use crate::params::StoreParams;
use crate::place::Place;
use crate::room::hex;
use crate::rowfile::decode;
use crate::statement::{Connection, execute, rows};
use crate::store::now;
use crate::tables::tables;
use crate::value::Value;

/// Why a back-up was not restored. There is nothing at the new place.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It has no manifest: it is none, or was not finished.
    #[error("`{path}` is no back-up: it has no {MANIFEST}")]
    NotABackup {
        /// The directory.
        path: PathBuf,
    },
    /// Its manifest cannot be used.
    #[error("the manifest of `{path}` cannot be used: {problem}")]
    Manifest {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file is not what was written.
    #[error("the back-up is damaged: `{path}` {how}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        how: String,
    },
    /// Something is at the new place.
    #[error("there is something at `{place}` already: a restore replaces nothing, name a new place")]
    Exists {
        /// The place.
        place: String,
    },
    /// The new place cannot be had.
    #[error("cannot restore: {0}")]
    Open(#[from] OpenError),
    /// The records cannot be written.
    #[error("cannot restore: {0}")]
    Load(#[from] StoreError),
    /// A file cannot be read or written.
    #[error("cannot {doing} `{path}`: {source}")]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was written reads differently.
    #[error("table `{table}` was restored, but differs from the back-up: {how}")]
    Differs {
        /// The table.
        table: String,
        /// In what way.
        how: String,
    },
}

/// What a restore has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the back-up says of itself.
    pub manifest: Manifest,
    /// The new life of the records.
    pub incarnation: u64,
}

/// Checks every file of a back-up against its manifest, and the manifest against its hash. Reads it all; restores nothing.
///
/// # Errors
/// [`RestoreError`].
pub fn examine(backup: &Path) -> Result<Manifest, RestoreError> {
    let read = |name: &str| -> Result<Vec<u8>, RestoreError> {
        let path = backup.join(name);
        fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => RestoreError::NotABackup { path: backup.to_path_buf() },
            _ => RestoreError::File { doing: "read", path, source },
        })
    };
    let wrong = |problem: String| RestoreError::Manifest { path: backup.to_path_buf(), problem };
    let text = read(MANIFEST)?;
    let sums = String::from_utf8(read(SUMS)?).map_err(|_| wrong(format!("{SUMS} is no text")))?;
    let noted = |name: &str| {
        let mut lines = sums.lines().filter_map(|line| line.split_once("  "));
        lines.find(|(_, file)| *file == name).map(|(sum, _)| sum)
    };
    if noted(MANIFEST) != Some(hex(&Sha256::digest(&text)).as_str()) {
        return Err(wrong(format!("its hash is not the one in {SUMS}")));
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|problem| wrong(problem.to_string()))?;
    if manifest.format != FORMAT {
        return Err(wrong(format!("its format is {}, this program reads {FORMAT}", manifest.format)));
    }
    if let Some(entry) = manifest.migrations.iter().find(|entry| !entry.is_intact()) {
        return Err(wrong(format!(
            "migration {} of `{}` is not what its hash says",
            entry.version, entry.room
        )));
    }
    for table in &manifest.tables {
        check_file(&backup.join(rows_path(&table.name)), table)?;
    }
    Ok(manifest)
}

fn check_file(path: &Path, table: &TableEntry) -> Result<(), RestoreError> {
    let damaged = |how: String| RestoreError::Damaged { path: path.to_path_buf(), how };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => damaged("is missing".to_owned()),
        _ => RestoreError::File { doing: "read", path: path.to_path_buf(), source },
    };
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            count => {
                hash.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
    if length != table.bytes {
        return Err(damaged(format!("has {length} bytes instead of {}", table.bytes)));
    }
    if hex(&hash.finalize()) != table.sha256 {
        return Err(damaged("has another content than was written (its hash differs)".to_owned()));
    }
    Ok(())
}

/// Restores a back-up to the new place that `params` name: a file that does not exist, or a database without records. Checks the
/// back-up first, and what was written afterwards. Nobody sees the new place half done.
///
/// The restored records begin a new incarnation: fencing tokens of the old one are refused, new ones lie above all that it has
/// given out since, and a process that still has the old store open under the same URL writes nothing more.
///
/// # Errors
/// [`RestoreError`].
pub async fn restore(backup: &Path, params: &StoreParams) -> Result<Restored, RestoreError> {
    let place = Place::parse(&params.url)?;
    if let Place::File(path) = &place {
        refuse_existing(path)?;
    }
    let (source, params) = (backup.to_path_buf(), params.clone());
    let thread = tokio::task::spawn_blocking(move || {
        let failed = |problem| RestoreError::File { doing: "restore", path: source.clone(), source: problem };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let manifest = examine(&source)?;
        runtime.block_on(async {
            match &place {
                Place::File(path) => into_file(&source, manifest, path).await,
                Place::Server(url) => into_server(&source, manifest, url, &place, &params).await,
            }
        })
    });
    thread.await.unwrap_or_else(|problem| {
        let (doing, path) = ("restore", backup.to_path_buf());
        Err(RestoreError::File { doing, path, source: io::Error::other(problem) })
    })
}

fn refuse_existing(path: &Path) -> Result<(), RestoreError> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match [path.to_path_buf(), log.into()].iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(found) => Err(RestoreError::Exists { place: found.display().to_string() }),
        None => Ok(()),
    }
}

/// Writes a file under another name, compares, syncs, then gives it its name.
async fn into_file(backup: &Path, manifest: Manifest, path: &Path) -> Result<Restored, RestoreError> {
    let path = prepare_directory(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}.restoring", std::process::id()));
    let result = async {
        let place = Place::File(path.clone());
        let options = SqliteConnectOptions::new()
            .filename(&draft)
            .create_if_missing(true)
            // Nobody sees it before it is complete, so it needs no journal.
            .journal_mode(SqliteJournalMode::Off)
            .synchronous(SqliteSynchronous::Off)
            .disable_statement_logging();
        let refused = |source| OpenError::Engine { place: place.to_string(), source: Box::new(source) };
        let mut file = options.connect().await.map_err(refused)?;
        let mut link = Link(Connection::Sqlite(&mut file));
        link.run(&format!("PRAGMA application_id = {APPLICATION_ID}")).await?;
        link.run("BEGIN").await?;
        let incarnation = load(&mut link, backup, &manifest).await?;
        link.run("COMMIT").await?;
        file.close().await.map_err(StoreError::from)?;
        let failed = |doing| {
            let path = path.clone();
            move |source: io::Error| match source.kind() {
                io::ErrorKind::AlreadyExists => RestoreError::Exists { place: path.display().to_string() },
                _ => RestoreError::File { doing, path, source },
            }
        };
        File::open(&draft).and_then(|file| file.sync_all()).map_err(failed("sync"))?;
        // Whoever owned the name before must not be taken for the owner of this.
        let _ = fs::remove_file(path_for(&path));
        // Unlike a rename, a link replaces nothing.
        fs::hard_link(&draft, &path).map_err(failed("name"))?;
        sync_directory(path.parent().unwrap_or(Path::new("."))).map_err(failed("sync the directory of"))?;
        Ok(incarnation)
    }
    .await;
    // The name that remains is the file's own; a draft that failed is of no use.
    let _ = fs::remove_file(&draft);
    result.map(|incarnation| Restored { manifest, incarnation })
}

/// Writes everything in one transaction, which commits when it compares equal.
async fn into_server(
    backup: &Path,
    manifest: Manifest,
    url: &str,
    place: &Place,
    params: &StoreParams,
) -> Result<Restored, RestoreError> {
    let refused = |source| OpenError::Engine { place: place.to_string(), source: Box::new(source) };
    let mut server = server(url, params).map_err(refused)?.connect().await.map_err(refused)?;
    let mut link = Link(Connection::Postgres(&mut server));
    link.run("BEGIN").await?;
    link.run("SET LOCAL statement_timeout = 0").await?;
    // As migrations do: two restores into one database must not both find it empty.
    link.run("SELECT pg_advisory_xact_lock(7380000001)").await?;
    let there = rows(link.again(), "SELECT to_regclass('store_meta') IS NOT NULL AS there", &[]).await?;
    if there.first().map(|row| row.get::<bool>("there")).transpose()?.unwrap_or(true) {
        return Err(RestoreError::Exists { place: place.to_string() });
    }
    let incarnation = load(&mut link, backup, &manifest).await?;
    link.run("COMMIT").await?;
    server.close().await.map_err(StoreError::from)?;
    Ok(Restored { manifest, incarnation })
}

/// Makes the tables, fills them, compares them with the back-up, and begins a new incarnation. Within a transaction.
async fn load(on: &mut Link<'_>, backup: &Path, manifest: &Manifest) -> Result<u64, RestoreError> {
    foundation_within(on).await?;
    for entry in &manifest.migrations {
        apply_within(on, entry).await?;
    }
    let made = tables(on).await?;
    for table in &made {
        // Migrations may have put rows in; the back-up has them as they became.
        on.run(&format!("DELETE FROM {}", table.name)).await?;
        let Some(entry) = manifest.tables.iter().find(|entry| entry.name == table.name) else {
            let how = "it is not in the back-up".to_owned();
            return Err(RestoreError::Differs { table: table.name.clone(), how });
        };
        if entry.columns != table.columns {
            let how = format!("its columns are {:?} instead of {:?}", table.columns, entry.columns);
            return Err(RestoreError::Differs { table: table.name.clone(), how });
        }
        let path = backup.join(rows_path(&table.name));
        let failed = |source| RestoreError::File { doing: "read", path: path.clone(), source };
        let mut file = BufReader::with_capacity(1 << 20, File::open(&path).map_err(failed)?);
        let at_once = (900 / table.columns.len()).clamp(1, 100);
        let full = table.insert(at_once);
        let mut values: Vec<Value> = Vec::new();
        let mut count = 0;
        while let Some(row) = decode(table.columns.len(), &mut file).map_err(failed)? {
            values.extend(row);
            count += 1;
            if count == at_once {
                execute(on.again(), &full, &values).await?;
                values.clear();
                count = 0;
            }
        }
        if count > 0 {
            execute(on.again(), &table.insert(count), &values).await?;
        }
    }
    if let Some(lost) =
        manifest.tables.iter().find(|entry| !made.iter().any(|table| table.name == entry.name))
    {
        let how = "no migration makes it".to_owned();
        return Err(RestoreError::Differs { table: lost.name.clone(), how });
    }
    for table in &made {
        let read = export(on, table, Sink::to_nowhere()).await?;
        let found = read.map_err(|problem| StoreError::from(sqlx::Error::Io(problem)))?;
        let expected = manifest.tables.iter().find(|entry| entry.name == table.name);
        if expected != Some(&found) {
            let how = format!("it reads as {} rows with another hash", found.rows);
            return Err(RestoreError::Differs { table: table.name.clone(), how });
        }
    }
    let seconds = now().as_unix_nanos() / 1_000_000_000;
    let incarnation = seconds.max(manifest.incarnation + 1);
    let value = i64::try_from(incarnation).unwrap_or(i64::MAX);
    execute(on.again(), "UPDATE store_meta SET value = ? WHERE key = 'incarnation'", args![value]).await?;
    let change = Change {
        at: now(),
        who: "restore".to_owned(),
        what: format!(
            "restored the back-up of {} from {}; incarnation {} became {incarnation}",
            manifest.made_at, manifest.engine, manifest.incarnation
        ),
        undo: "use the store that was used before".to_owned(),
    };
    record_on(on, &change).await?;
    Ok(incarnation)
}
