//! Back-ups: a directory of rows that belongs to no engine, with a manifest of counts and hashes.
//!
//! ```text
//! 2026-11-21T06-48-51.120Z/
//!   manifest.json            what it is of: migrations with their text, tables with columns, counts and hashes
//!   SHA256SUMS               for `sha256sum --check`
//!   records/<table>.rows     rows in the order of the primary key
//! ```
//!
//! All is read in one snapshot while the store serves. The directory appears under its name when everything is on the disk, so
//! a back-up that is there is complete. The same records give the same bytes on either engine.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{OpenError, StoreError};
use crate::migrate::{APPLIED, Applied, Link};
use crate::params::StoreParams;
use crate::place::Engine;
use crate::room::hex;
use crate::rowfile::encode;
use crate::store::{Store, now};
use crate::tables::{Table, tables};

/// The format that this program writes and reads.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const SUMS: &str = "SHA256SUMS";

/// Bytes between two syncs and two looks at the clock: small, so that no commit waits long behind them.
const CHUNK: usize = 1 << 20;

/// What a back-up says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// When its snapshot was taken, for people.
    pub made_at: String,
    /// The version of Seawall that made it.
    pub made_by: String,
    /// The engine that it was read from.
    pub engine: String,
    /// The life of the records that it was read from.
    pub incarnation: u64,
    /// The audit log's newest hash, in hexadecimal digits; empty when nothing was logged.
    pub audit_head: String,
    /// How the tables came to be.
    pub(crate) migrations: Vec<Applied>,
    /// What it holds.
    pub tables: Vec<TableEntry>,
}

/// One table of a back-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableEntry {
    /// Its name.
    pub name: String,
    /// Its columns in the order of the file.
    pub columns: Vec<String>,
    /// How many rows.
    pub rows: u64,
    /// How many bytes in the file.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// Rows of all tables.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Bytes of all tables.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).sum()
    }
}

/// Why there is no back-up. Nothing is left under its name.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store cannot be opened.
    #[error("cannot back up: {0}")]
    Open(#[from] OpenError),
    /// The store cannot be read.
    #[error("cannot back up: {0}")]
    Read(#[from] StoreError),
    /// There is something under its name.
    #[error("`{path}` exists already: a back-up replaces nothing")]
    Exists {
        /// Its name.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("cannot write `{path}`: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where the bytes of a table go, and what they amount to.
pub(crate) struct Sink<'p> {
    out: Option<BufWriter<File>>,
    pace: Option<&'p mut Pace>,
    hash: Sha256,
    rows: u64,
    bytes: u64,
    since_sync: usize,
    buffer: Vec<u8>,
}

/// Keeps a back-up from taking the disk from the store: so many bytes per second on average, and never ahead of it.
pub(crate) struct Pace {
    started: Instant,
    bytes: u64,
    rate: u64,
}

impl Pace {
    pub(crate) fn new(rate: u64) -> Self {
        Self { started: Instant::now(), bytes: 0, rate: rate.max(1) }
    }

    /// Waits until so many more bytes are due. The back-up has a thread of its own.
    fn spend(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let due = Duration::from_secs_f64(self.bytes as f64 / self.rate as f64);
        let early = due.saturating_sub(self.started.elapsed());
        if !early.is_zero() {
            std::thread::sleep(early);
        }
    }
}

impl<'p> Sink<'p> {
    /// Counts and hashes only.
    pub(crate) fn to_nowhere() -> Self {
        Self::to(None, None)
    }

    fn to(out: Option<File>, pace: Option<&'p mut Pace>) -> Self {
        let out = out.map(|file| BufWriter::with_capacity(CHUNK, file));
        Self { out, pace, hash: Sha256::new(), rows: 0, bytes: 0, since_sync: 0, buffer: Vec::new() }
    }

    fn take(&mut self, row: &[crate::Value]) -> io::Result<()> {
        self.buffer.clear();
        encode(row, &mut self.buffer);
        self.hash.update(&self.buffer);
        self.rows += 1;
        self.bytes += self.buffer.len() as u64;
        let Some(out) = &mut self.out else { return Ok(()) };
        out.write_all(&self.buffer)?;
        self.since_sync += self.buffer.len();
        if self.since_sync >= CHUNK {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(out) = &mut self.out {
            out.flush()?;
            out.get_ref().sync_data()?;
        }
        if let Some(pace) = &mut self.pace {
            pace.spend(self.since_sync);
        }
        self.since_sync = 0;
        Ok(())
    }

    fn finish(mut self, table: &Table) -> io::Result<TableEntry> {
        self.sync()?;
        Ok(TableEntry {
            name: table.name.clone(),
            columns: table.columns.clone(),
            rows: self.rows,
            bytes: self.bytes,
            sha256: hex(&self.hash.finalize()),
        })
    }
}

/// Reads one table into `sink`.
pub(crate) async fn export(
    on: &mut Link<'_>,
    table: &Table,
    mut sink: Sink<'_>,
) -> Result<io::Result<TableEntry>, StoreError> {
    let mut failed = None;
    let take = |row: crate::Row| {
        sink.take(row.values()).map_err(|problem| {
            failed = Some(problem);
            StoreError::Failed
        })
    };
    let read = crate::statement::each(on.again(), &table.select(), &[], take).await;
    match failed {
        Some(problem) => Ok(Err(problem)),
        None => read.map(|()| sink.finish(table)),
    }
}

/// The migrations and tables that a snapshot sees.
async fn survey(on: &mut Link<'_>) -> Result<(Vec<Applied>, Vec<Table>, String), StoreError> {
    let applied = crate::statement::rows(on.again(), APPLIED, &[]).await?;
    let applied = applied.iter().map(Applied::read).collect::<Result<_, _>>()?;
    let newest = "SELECT hash FROM store_audit ORDER BY seq DESC LIMIT 1";
    let head = crate::statement::rows(on.again(), newest, &[]).await?;
    let head: Option<Vec<u8>> = head.first().map(|row| row.get("hash")).transpose()?;
    Ok((applied, tables(on).await?, head.map(|head| hex(&head)).unwrap_or_default()))
}

/// A name for a back-up made now, which sorts by time.
#[must_use]
pub fn name_now() -> String {
    now().to_string().replace(':', "-")
}

/// Backs up the store that `params` name into the new directory `into`, while it serves; also from outside the process that
/// owns it. Writes at most `rate` bytes per second.
///
/// It runs on a thread and a connection of its own. A SQLite file's log is not folded into the file meanwhile and grows by what
/// is written.
///
/// # Errors
/// [`BackupError`].
pub async fn backup(params: &StoreParams, into: &Path, rate: u64) -> Result<Manifest, BackupError> {
    let (params, target) = (StoreParams { connections: 1, ..params.clone() }, into.to_path_buf());
    let failed = |source| BackupError::Write { path: into.to_path_buf(), source };
    let thread = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| BackupError::Write { path: target.clone(), source })?;
        runtime.block_on(publish(&params, &target, rate))
    });
    thread.await.unwrap_or_else(|problem| Err(failed(io::Error::other(problem))))
}

/// Writes under another name, syncs, then renames.
async fn publish(params: &StoreParams, into: &Path, rate: u64) -> Result<Manifest, BackupError> {
    if into.exists() {
        return Err(BackupError::Exists { path: into.to_path_buf() });
    }
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| BackupError::Write { path, source }
    };
    let name = into.file_name().unwrap_or_default().to_string_lossy();
    let draft = into.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    fs::create_dir_all(draft.join("records")).map_err(failed(&draft))?;
    let result = write_all(params, &draft, rate).await;
    let published = result.and_then(|manifest| {
        let parent = draft.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_directory(&draft.join("records")).map_err(failed(&draft))?;
        sync_directory(&draft).map_err(failed(&draft))?;
        // Refuses when something is there: a directory with content cannot be replaced.
        fs::rename(&draft, into).map_err(failed(into))?;
        sync_directory(parent).map_err(failed(parent))?;
        Ok(manifest)
    });
    if published.is_err() {
        // What is left harms nobody: its name says that it is no back-up.
        let _ = fs::remove_dir_all(&draft);
    }
    published
}

pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Where the rows of a table are, within a back-up.
pub(crate) fn rows_path(table: &str) -> String {
    format!("records/{table}.rows")
}

async fn write_all(params: &StoreParams, draft: &Path, rate: u64) -> Result<Manifest, BackupError> {
    let store = Store::open_for_reading(params, &[]).await?;
    let mut tx = store.snapshot().await?;
    let mut link = Link(tx.connection()?);
    if store.engine() == Engine::Postgres {
        // A whole table takes longer than a statement may elsewhere.
        link.run("SET LOCAL statement_timeout = 0").await?;
        link.run("SET LOCAL idle_in_transaction_session_timeout = 0").await?;
    }
    let made_at = now().to_string();
    let (migrations, tables, audit_head) = survey(&mut link).await?;
    let mut pace = Pace::new(rate);
    let mut entries = Vec::new();
    let mut sums = String::new();
    for table in &tables {
        let path = draft.join(rows_path(&table.name));
        let failed = |source| BackupError::Write { path: path.clone(), source };
        let sink = Sink::to(Some(File::create_new(&path).map_err(failed)?), Some(&mut pace));
        let entry = export(&mut link, table, sink).await?.map_err(failed)?;
        sums.push_str(&format!("{}  {}\n", entry.sha256, rows_path(&table.name)));
        entries.push(entry);
    }
    drop(tx);
    let manifest = Manifest {
        format: FORMAT,
        made_at,
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        engine: store.engine().to_string(),
        incarnation: store.incarnation(),
        audit_head,
        migrations,
        tables: entries,
    };
    store.close().await?;
    let mut text = serde_json::to_vec_pretty(&manifest).map_err(|source| StoreError::Document { source })?;
    text.push(b'\n');
    sums.push_str(&format!("{}  {MANIFEST}\n", hex(&Sha256::digest(&text))));
    for (name, bytes) in [(SUMS, sums.as_bytes()), (MANIFEST, &text[..])] {
        let path = draft.join(name);
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|source| BackupError::Write { path, source })?;
    }
    Ok(manifest)
}
