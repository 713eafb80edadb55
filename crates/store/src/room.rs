//! What a room brings to the store: its tables, what people can delete, what ages, and how its records are checked.
//!
//! Plain data, so that the store knows no room and a back-up can carry it along.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::dialect::is_plain_name;
use crate::error::OpenError;

/// One room's part of the store.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Its name: lower case. Its tables are called `<name>_…`, so that rooms cannot collide.
    pub name: &'static str,
    /// How its tables came to be, oldest first, never changed once released: the store remembers a hash of each.
    pub migrations: &'static [Migration],
    /// Tables whose rows people can delete.
    pub deletable: &'static [Deletable],
    /// What is removed by age.
    pub tiers: &'static [Tier],
    /// How its records are checked out of band.
    pub checks: &'static [Check],
}

impl Room {
    /// A room with tables and nothing else.
    #[must_use]
    pub const fn new(name: &'static str, migrations: &'static [Migration]) -> Self {
        Self { name, migrations, deletable: &[], tiers: &[], checks: &[] }
    }
}

/// One step forward. There are none backward: going back is restoring a back-up.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// What it does, in a few words.
    pub name: &'static str,
    /// The statements, run in one transaction, in the dialect of SQLite's `STRICT` tables (`INTEGER`, `REAL`, `TEXT`, `BLOB`).
    /// Each table has a primary key and no foreign key: rows are deleted with a delay and restored table by table, so what
    /// refers to nothing is found by a [`Check`].
    pub statements: &'static [&'static str],
}

impl Migration {
    /// What the store remembers it by.
    pub(crate) fn hash(&self) -> String {
        hash_of(self.statements)
    }
}

/// SHA-256 over the statements, each with its length before it.
pub(crate) fn hash_of<S: AsRef<str>>(statements: &[S]) -> String {
    let mut hash = Sha256::new();
    for statement in statements {
        let statement = statement.as_ref();
        hash.update((statement.len() as u64).to_be_bytes());
        hash.update(statement.as_bytes());
    }
    hex(&hash.finalize())
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A table whose rows people can delete, and get back for a while. It has a column `id` as its primary key and a column
/// `deleted_at INTEGER` that is null for what is there; the room's own statements leave out what has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletable {
    /// The table.
    pub table: &'static str,
    /// What one row is called, for messages.
    pub noun: &'static str,
    /// How long a deleted row can be had back. Then it is purged.
    pub undelete_for: Duration,
}

/// Rows that are removed when they have become old. The table has a column `id` as its primary key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The table.
    pub table: &'static str,
    /// The column with the moment that age is counted from; rows where it is null stay.
    pub at: &'static str,
    /// The column and value that set this tier apart from others on the same table; without it, all rows.
    pub class: Option<(&'static str, &'static str)>,
    /// How long rows stay.
    pub keep: Duration,
}

/// A check of records, independent of the code that wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, unique within its room: `one_holder_per_term`.
    pub name: &'static str,
    /// What must hold, as a sentence.
    pub rule: &'static str,
    /// A query for whatever breaks the rule. It answers no row when all is well, else a text column `broken` that says what.
    /// When it contains a `?`, that is the present moment.
    pub query: &'static str,
}

impl Room {
    /// Refuses what would collide, could not be backed up, or would be taken for SQL that it is not.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let wrong = |problem: String| Err(OpenError::Room { room: self.name.to_owned(), problem });
        if !is_plain_name(self.name) {
            return wrong("a name consists of lower-case letters, digits and `_`".to_owned());
        }
        let is_ours = |table: &str| {
            is_plain_name(table) && table.strip_prefix(self.name).is_some_and(|rest| rest.starts_with('_'))
        };
        let words = self.migrations.iter().flat_map(|migration| migration.statements);
        if let Some(statement) =
            words.clone().find(|statement| statement.to_uppercase().contains("REFERENCES"))
        {
            return wrong(format!("foreign keys are not used, write a check instead: {statement}"));
        }
        for statement in words {
            let mut words = statement.split_whitespace().map(str::to_uppercase);
            if (words.next().as_deref(), words.next().as_deref()) != (Some("CREATE"), Some("TABLE")) {
                continue;
            }
            let table = statement
                .split(|c: char| c.is_whitespace() || c == '(')
                .filter(|word| !word.is_empty())
                .nth(2);
            if !table.is_some_and(is_ours) {
                return wrong(format!("its tables are called `{}_…`: {statement}", self.name));
            }
            if !statement.contains("PRIMARY KEY") || !statement.contains("STRICT") {
                return wrong(format!("a table has a primary key and is STRICT: {statement}"));
            }
        }
        let tables =
            self.deletable.iter().map(|entry| entry.table).chain(self.tiers.iter().map(|tier| tier.table));
        if let Some(table) = tables.into_iter().find(|table| !is_ours(table)) {
            return wrong(format!("`{table}` is not one of its tables"));
        }
        let columns =
            self.tiers.iter().flat_map(|tier| [Some(tier.at), tier.class.map(|(column, _)| column)]);
        if let Some(column) = columns.flatten().find(|column| !is_plain_name(column)) {
            return wrong(format!("`{column}` is no plain name of a column"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(statement: &'static str) -> Result<(), OpenError> {
        let statements: &'static [&'static str] = Box::leak(Box::new([statement]));
        let migrations: &'static [Migration] = Box::leak(Box::new([Migration { name: "first", statements }]));
        Room::new("coord", migrations).check()
    }

    #[test]
    fn tables_are_named_after_their_room_and_have_a_key() {
        assert!(with("CREATE TABLE coord_leases (name TEXT PRIMARY KEY) STRICT").is_ok());
        assert!(with("CREATE INDEX by_name ON coord_leases (name)").is_ok());
        for wrong in [
            "CREATE TABLE leases (name TEXT PRIMARY KEY) STRICT",
            "CREATE TABLE coordleases (name TEXT PRIMARY KEY) STRICT",
            "CREATE TABLE coord_leases (name TEXT) STRICT",
            "CREATE TABLE coord_leases (name TEXT PRIMARY KEY)",
            "CREATE TABLE coord_leases (name TEXT PRIMARY KEY REFERENCES coord_x (id)) STRICT",
        ] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_ages_belongs_to_the_room() {
        let tier = |table, at| Tier { table, at, class: None, keep: Duration::from_secs(1) };
        let check =
            |tier: Tier| Room { tiers: Box::leak(Box::new([tier])), ..Room::new("coord", &[]) }.check();
        assert!(check(tier("coord_runs", "ended_at")).is_ok());
        assert!(check(tier("respond_incidents", "ended_at")).is_err());
        assert!(check(tier("coord_runs", "ended_at; DROP")).is_err());
    }
}
