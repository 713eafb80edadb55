//! Records: the rooms that keep some, the commands that look after them, and the keeper that does so on a schedule.

mod command;
mod keeper;
pub(crate) mod metrics;

pub use command::{BackupArgs, RestoreArgs, StoreCommand};
pub(crate) use command::{backup, restore, run};
pub(crate) use keeper::Keeper;

/// Every room that keeps records.
pub(crate) const ROOMS: &[store::Room] = &[coord::engine::ROOM];
