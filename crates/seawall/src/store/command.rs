//! `seawall backup`, `seawall restore` and `seawall store`: what people do with records by hand.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use model::{ByteSize, Change};
use store::{Chain, OpenError, Store, StoreParams};

use super::ROOMS;
use crate::cli::{Failure, say};
use crate::config;

/// Which store is meant.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true)))]
pub struct Which {
    /// The configuration file that names it under `store`.
    #[arg(long, value_name = "FILE", group = "which")]
    config: Option<PathBuf>,
    /// Its address: a path, sqlite:///path or postgres://user@host/database.
    #[arg(long, value_name = "URL", group = "which")]
    store: Option<String>,
}

/// What `seawall backup` is told.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The directory to make. It must not exist.
    into: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Bytes per second to write at most, such as 32MiB, so that the store does not wait for the disk.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    rate: ByteSize,
}

/// What `seawall restore` is told.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").required(true)))]
pub struct RestoreArgs {
    /// The directory that `seawall backup` or a drill made.
    backup: PathBuf,
    /// A new place: a file that does not exist, or a database without records.
    #[arg(long, value_name = "URL", group = "where")]
    to: Option<String>,
    /// Only check every file against the manifest.
    #[arg(long, group = "where")]
    check: bool,
}

/// What `seawall store` can do.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Check the records against every rule, the audit log and the file itself. Exit code 1 when one is broken.
    Check {
        /// Which store is meant.
        #[command(flatten)]
        which: Which,
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the newest entries of the audit log, and whether it is what was written.
    Audit {
        /// Which store is meant.
        #[command(flatten)]
        which: Which,
        /// How many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Back up, restore to a temporary place, compare and note how it went. The store must not be in use.
    Drill {
        /// Which store is meant.
        #[command(flatten)]
        which: Which,
        /// Where the back-up is put; replaces what the file says.
        #[arg(long, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
}

impl Which {
    fn params(&self) -> Result<StoreParams, Failure> {
        if let Some(url) = &self.store {
            return Ok(StoreParams::at(url));
        }
        let file = self.config.as_deref().unwrap_or(std::path::Path::new(""));
        let loaded = config::load(file).map_err(|errors| Failure::Input(errors.to_string()))?;
        let named = loaded.config().store.clone();
        named.ok_or_else(|| Failure::Input(format!("{} names no `store`", file.display())))
    }
}

/// What is wrong with the place is the user's to mend; what is wrong with the records is not.
fn opening(problem: OpenError) -> Failure {
    match problem {
        OpenError::Damaged { .. } | OpenError::Lost { .. } | OpenError::Engine { .. } => {
            Failure::Runtime(problem.to_string())
        }
        _ => Failure::Input(problem.to_string()),
    }
}

fn went_wrong(problem: impl std::fmt::Display) -> Failure {
    Failure::Runtime(problem.to_string())
}

fn block_on<T>(job: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|problem| Failure::Runtime(format!("cannot start: {problem}")))?.block_on(job)
}

/// `seawall backup`.
///
/// # Errors
/// Why there is no back-up.
pub(crate) fn backup(args: &BackupArgs) -> Result<(), Failure> {
    let params = args.which.params()?;
    let made = block_on(async {
        store::backup(&params, &args.into, args.rate.get()).await.map_err(|problem| match problem {
            store::BackupError::Open(problem) => opening(problem),
            store::BackupError::Exists { .. } => Failure::Input(problem.to_string()),
            _ => went_wrong(problem),
        })
    })?;
    say(&format!(
        "{}: {} records of {} tables, {} bytes, as of {}\nOnly a restore proves a back-up: `seawall store drill` makes one",
        args.into.display(),
        made.records(),
        made.tables.len(),
        made.bytes(),
        made.made_at
    ))
}

/// `seawall restore`.
///
/// # Errors
/// Why nothing was restored.
pub(crate) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let Some(url) = &args.to else {
        let manifest = store::examine(&args.backup).map_err(went_wrong)?;
        return say(&format!(
            "{}: intact, {} records of {}, incarnation {}",
            args.backup.display(),
            manifest.records(),
            manifest.made_at,
            manifest.incarnation
        ));
    };
    let done = block_on(async {
        store::restore(&args.backup, &StoreParams::at(url)).await.map_err(|problem| match problem {
            store::RestoreError::Open(problem) => opening(problem),
            store::RestoreError::Exists { .. } | store::RestoreError::NotABackup { .. } => {
                Failure::Input(problem.to_string())
            }
            _ => went_wrong(problem),
        })
    })?;
    say(&format!(
        "restored {} records of {} and compared every one; incarnation {} became {}\n\
         Stop what still writes to the old store, then name the new one under `store: {{url: …}}`",
        done.manifest.records(),
        done.manifest.made_at,
        done.manifest.incarnation,
        done.incarnation
    ))
}

/// `seawall store`.
///
/// # Errors
/// What is wrong with the records, or why that cannot be told.
pub(crate) fn run(command: &StoreCommand) -> Result<(), Failure> {
    match command {
        StoreCommand::Check { which, json } => block_on(check(&which.params()?, *json)),
        StoreCommand::Audit { which, limit } => block_on(audit(&which.params()?, *limit)),
        StoreCommand::Drill { which, directory } => {
            let mut params = which.params()?;
            if let Some(directory) = directory {
                params.backups.get_or_insert_default().directory = directory.clone();
            }
            block_on(drill(&params))
        }
    }
}

async fn check(params: &StoreParams, json: bool) -> Result<(), Failure> {
    let store = Store::open_for_reading(params, ROOMS).await.map_err(opening)?;
    let findings = store.validate(now()).await.map_err(went_wrong)?;
    store.close().await.map_err(went_wrong)?;
    if json {
        say(&serde_json::to_string_pretty(&findings).map_err(went_wrong)?)?;
    } else {
        for finding in &findings {
            let verdict = if finding.breaches == 0 { "ok    " } else { "BROKEN" };
            say(&format!("{verdict} {}/{}: {}", finding.room, finding.check, finding.rule))?;
            for broken in &finding.broken {
                say(&format!("         {broken}"))?;
            }
        }
    }
    match findings.iter().filter(|finding| finding.breaches > 0).count() {
        0 => Ok(()),
        broken => Err(Failure::Runtime(format!("{broken} of {} rules are broken", findings.len()))),
    }
}

async fn audit(params: &StoreParams, limit: u32) -> Result<(), Failure> {
    let store = Store::open_for_reading(params, ROOMS).await.map_err(opening)?;
    let (entries, chain) = (store.changes(None, limit).await, store.verify_audit().await);
    let (entries, chain) = (entries.map_err(went_wrong)?, chain.map_err(went_wrong)?);
    store.close().await.map_err(went_wrong)?;
    for store::Entry { seq, change: Change { at, who, what, undo }, .. } in entries.iter().rev() {
        say(&format!("{seq:>6}  {at}  {who}: {what}\n        undo: {undo}"))?;
    }
    match chain {
        Chain::Sound { entries, head } => {
            let head: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
            say(&format!("{entries} entries, each as it was written; head {head}"))
        }
        Chain::Broken { seq, how } => {
            Err(Failure::Runtime(format!("the audit log is broken at entry {seq}: {how}")))
        }
    }
}

async fn drill(params: &StoreParams) -> Result<(), Failure> {
    let Some(backups) = &params.backups else {
        return Err(Failure::Input(
            "the configuration has no `store.backups`; name a --directory".to_owned(),
        ));
    };
    let store = Store::open(params, ROOMS).await.map_err(opening)?;
    let drill = store.drill(backups, now()).await.map_err(went_wrong)?;
    store.close().await.map_err(went_wrong)?;
    match drill.problem {
        None => say(&format!(
            "{}: {} records backed up, restored and compared in {:.1} s",
            drill.backup.display(),
            drill.records,
            drill.took.as_secs_f64()
        )),
        Some(problem) => Err(Failure::Runtime(problem)),
    }
}

fn now() -> model::Timestamp {
    gateway::service::Clock::wall()
}
