//! Records that restore: one interface over SQLite (inside the binary) and PostgreSQL (for a fleet).
//!
//! A [`Room`] declares its tables, what people can delete, what ages and how its records are checked. [`Store::open`] runs the
//! migrations that are missing. Rooms read with [`Store::rows`] and write in transactions with [`Store::write`]; a write that a
//! lease guards shows its [`Token`] to [`Tx::fence`] first. Deliberate changes go to the hash-chained [audit log](Tx::record).
//!
//! SQL is written once, in the dialect of SQLite's `STRICT` tables with `?` for arguments. A column holds an integer, a real, a
//! text, a blob or nothing ([`Value`]); documents are JSON in text.
//!
//! ```
//! use store::{Migration, Room, Store, StoreParams, args};
//!
//! const ROOM: Room = Room::new("coord", &[Migration {
//!     name: "jobs",
//!     statements: &["CREATE TABLE coord_jobs (id TEXT PRIMARY KEY NOT NULL, runs INTEGER NOT NULL) STRICT"],
//! }]);
//!
//! async fn count(path: &str) -> Result<i64, Box<dyn std::error::Error>> {
//!     let store = Store::open(&StoreParams::at(path), &[ROOM]).await?;
//!     let runs = store
//!         .write(|mut tx| async move {
//!             let token = tx.next_token("job/nightly").await?;
//!             tx.fence("job/nightly", token).await?;
//!             let sql = "INSERT INTO coord_jobs (id, runs) VALUES (?, 1) \
//!                        ON CONFLICT (id) DO UPDATE SET runs = coord_jobs.runs + 1 RETURNING runs";
//!             let row = tx.row(sql, args!["nightly"]).await?;
//!             let runs = row.map(|row| row.get("runs")).transpose()?.unwrap_or(0);
//!             tx.commit::<i64>(runs).await
//!         })
//!         .await?;
//!     store.close().await?;
//!     Ok(runs)
//! }
//! # let dir = std::env::temp_dir().join(format!("store-doc-{}", std::process::id()));
//! # let path = dir.join("a.db").display().to_string();
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! assert_eq!(count(&path).await.unwrap(), 1);
//! assert_eq!(count(&path).await.unwrap(), 2);
//! # });
//! # std::fs::remove_dir_all(&dir).unwrap();
//! ```
#![forbid(unsafe_code)]

mod audit;
mod backup;
mod clean;
mod dialect;
mod drill;
mod error;
mod fence;
mod migrate;
mod open;
mod owner;
mod params;
mod place;
mod restore;
mod room;
mod rowfile;
mod statement;
mod store;
mod tables;
mod validate;
mod value;
mod writer;

pub use audit::{Chain, Entry};
pub use backup::{BackupError, Manifest, TableEntry, backup, name_now};
pub use clean::{Cleaned, Deleted};
pub use drill::Drill;
pub use error::{OpenError, StoreError};
pub use fence::Token;
pub use params::{BackupParams, StoreParams, URL_DEFAULT};
pub use place::{Engine, Place};
pub use restore::{RestoreError, Restored, examine, restore};
pub use room::{Check, Deletable, Migration, Room, Tier};
pub use store::{Committed, Figures, Store, Tx};
pub use validate::Finding;
pub use value::{FromValue, Row, Value};
