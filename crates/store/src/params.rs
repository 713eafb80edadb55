//! What can be configured.

use std::path::PathBuf;

use model::Span;
use serde::{Deserialize, Serialize};

use crate::place::Place;

/// Where records are kept, and how they are looked after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreParams {
    /// `sqlite:///path/to/file` (or a plain path) on one machine, `postgres://user:password@host/database` for a fleet.
    pub url: String,
    /// Connections for reading with SQLite, connections in all with PostgreSQL.
    pub connections: u32,
    /// Longest wait for a connection or for one's turn to write; then the caller gets an error.
    pub wait_max: Span,
    /// Longest time that one transaction or statement may take; then it is rolled back.
    pub transaction_max: Span,
    /// Back-ups on a schedule, each restored to a temporary place and compared. Absent: none.
    pub backups: Option<BackupParams>,
    /// How often what is old or was deleted is removed.
    pub clean_every: Span,
    /// How often the records are checked out of band.
    pub check_every: Span,
}

/// Back-ups on a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackupParams {
    /// Where they are put, a directory for each. Better on another disk than the records.
    pub directory: PathBuf,
    /// Time between two. Each is restored and compared: only a restore counts.
    pub every: Span,
    /// How many are kept; older ones are removed once a newer one was restored successfully.
    pub keep: u32,
    /// Age of the last successful restore from which on it counts as stale.
    pub stale_after: Span,
    /// Bytes per second that a back-up on a schedule may write, so that it does not take the disk from the records.
    pub rate_max: model::ByteSize,
}

/// Where records are kept when nobody says: in the working directory.
pub const URL_DEFAULT: &str = "sqlite://seawall.db";

impl Default for StoreParams {
    fn default() -> Self {
        Self {
            url: URL_DEFAULT.to_owned(),
            connections: 8,
            wait_max: Span::from_secs(5),
            transaction_max: Span::from_secs(10),
            backups: None,
            clean_every: Span::from_secs(600),
            check_every: Span::from_secs(3600),
        }
    }
}

impl Default for BackupParams {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("seawall-backups"),
            every: Span::from_secs(86_400),
            keep: 7,
            stale_after: Span::from_secs(2 * 86_400),
            rate_max: model::ByteSize::mib(32),
        }
    }
}

impl StoreParams {
    /// A store at `url` with every default.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if let Err(problem) = Place::parse(&self.url) {
            wrong.push(("url", problem.to_string()));
        }
        if self.connections == 0 {
            wrong.push(("connections", "must be at least 1".to_owned()));
        }
        for (name, span) in [
            ("wait_max", self.wait_max),
            ("transaction_max", self.transaction_max),
            ("clean_every", self.clean_every),
            ("check_every", self.check_every),
        ] {
            if span.is_zero() {
                wrong.push((name, "must be longer than 0".to_owned()));
            }
        }
        wrong
    }
}

impl BackupParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.directory.as_os_str().is_empty() {
            wrong.push(("directory", "must name a directory".to_owned()));
        }
        if self.every.is_zero() {
            wrong.push(("every", "must be longer than 0".to_owned()));
        }
        if self.keep == 0 {
            wrong.push(("keep", "must be at least 1".to_owned()));
        }
        if self.stale_after < self.every {
            wrong.push((
                "stale_after",
                format!(
                    "must be at least `every` ({}): else every restore is stale before the next",
                    self.every
                ),
            ));
        }
        if self.rate_max.get() < 1 << 20 {
            wrong.push(("rate_max", "must be at least 1MiB per second".to_owned()));
        }
        wrong
    }
}
