//! Restore drills: a back-up counts when it was restored.
//!
//! A drill makes a back-up, restores it to a temporary file next to it, opens that as a store with all its rooms, runs every
//! check, and notes in the store how it went. The back-up stays; what is older than the newest few goes, but only after a
//! success.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::Timestamp;

use crate::args;
use crate::backup::{BackupError, MANIFEST, backup, name_now};
use crate::error::{OpenError, StoreError};
use crate::params::{BackupParams, StoreParams};
use crate::restore::{RestoreError, restore};
use crate::store::Store;
use crate::value::Row;

/// How a drill went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drill {
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// The back-up that it made.
    pub backup: PathBuf,
    /// How many rows were restored and compared.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Why it failed; `None` when everything came back and keeps the rules.
    pub problem: Option<String>,
}

/// Why a drill failed.
#[derive(Debug, thiserror::Error)]
enum DrillError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error("the back-up does not restore: {0}")]
    Restore(#[from] RestoreError),
    #[error("the restored store does not open: {0}")]
    Open(#[from] OpenError),
    #[error("the restored store cannot be read: {0}")]
    Read(#[from] StoreError),
    #[error("the restored records break a rule: {0}")]
    Broken(String),
}

impl Drill {
    fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            at: row.get("at")?,
            took: Duration::from_nanos(row.get("took")?),
            backup: row.get::<String>("backup")?.into(),
            records: row.get("records")?,
            bytes: row.get("bytes")?,
            problem: row.get("problem")?,
        })
    }
}

const COLUMNS: &str = "at, took, backup, records, bytes, problem";

impl Store {
    /// Backs up, restores, compares, checks, and notes how it went at the moment `now`. A failed drill is an answer.
    ///
    /// # Errors
    /// When the result cannot be noted.
    pub async fn drill(&self, params: &BackupParams, now: Timestamp) -> Result<Drill, StoreError> {
        let started = Instant::now();
        let backup = params.directory.join(name_now());
        let result = self.rehearse(&backup, params).await;
        let took = started.elapsed();
        let (records, bytes) = *result.as_ref().unwrap_or(&(0, 0));
        let problem = result.err().map(|problem| problem.to_string());
        let drill = Drill { at: now, took, backup, records, bytes, problem };
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let took = i64::try_from(drill.took.as_nanos()).unwrap_or(i64::MAX);
        let shown = drill.backup.display().to_string();
        let sql = format!(
            "INSERT INTO store_drills ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (at) DO NOTHING"
        );
        let problem = drill.problem.as_deref();
        let values = args![now, took, shown, count(drill.records), count(drill.bytes), problem];
        self.execute(&sql, values).await?;
        if drill.problem.is_none() {
            remove_old(&params.directory, params.keep as usize);
        }
        Ok(drill)
    }

    async fn rehearse(&self, into: &Path, params: &BackupParams) -> Result<(u64, u64), DrillError> {
        let manifest = backup(&self.0.params, into, params.rate_max.get()).await?;
        let name = format!(".drill-{}-{}", std::process::id(), name_now());
        let scratch = Scratch(params.directory.join(name));
        let file = scratch.0.join("restored.db").display().to_string();
        let place = StoreParams { connections: 1, ..StoreParams::at(file) };
        restore(into, &place).await?;
        // The store's own room comes by itself.
        let rooms = self.rooms().get(1..).unwrap_or_default();
        let restored = Store::open(&place, rooms).await?;
        let findings = restored.validate(crate::store::now()).await?;
        restored.close().await?;
        match findings.iter().find(|finding| finding.breaches > 0) {
            Some(finding) => {
                let first = finding.broken.first().map(String::as_str).unwrap_or_default();
                Err(DrillError::Broken(format!("{} ({}): {first}", finding.rule, finding.room)))
            }
            None => Ok((manifest.records(), manifest.bytes())),
        }
    }

    /// The newest drills, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn drills(&self, limit: u32) -> Result<Vec<Drill>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM store_drills ORDER BY at DESC LIMIT ?");
        self.rows(&sql, args![limit]).await?.iter().map(Drill::read).collect()
    }

    /// The newest drill that succeeded. How long ago it was says how far the back-ups can be trusted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_restore(&self) -> Result<Option<Drill>, StoreError> {
        let sql =
            format!("SELECT {COLUMNS} FROM store_drills WHERE problem IS NULL ORDER BY at DESC LIMIT 1");
        self.row(&sql, &[]).await?.as_ref().map(Drill::read).transpose()
    }
}

/// A directory that goes with the drill, however that ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(problem) = fs::remove_dir_all(&self.0)
            && problem.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %problem, "what a restore drill wrote cannot be removed");
        }
    }
}

/// Removes all back-ups but the newest `keep`. Touches nothing that is not a finished back-up named by a drill.
fn remove_old(directory: &Path, keep: usize) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_drilled(path)).collect();
    found.sort();
    let old = found.len().saturating_sub(keep);
    for path in &found[..old] {
        if let Err(problem) = fs::remove_dir_all(path) {
            tracing::warn!(path = %path.display(), %problem, "an old back-up cannot be removed");
        }
    }
}

fn is_drilled(path: &Path) -> bool {
    // As `name_now` writes it: 2026-11-21T06-48-51.120Z
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_moment = name.len() == 24
        && name.ends_with('Z')
        && name.bytes().all(|byte| byte.is_ascii_digit() || b"-T.Z".contains(&byte));
    is_moment && path.join(MANIFEST).is_file()
}
