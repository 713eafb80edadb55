//! Migrations: forward only, each remembered with its text and its hash.

use std::collections::BTreeMap;

use crate::args;
use crate::error::{OpenError, StoreError};
use crate::place::Engine;
use crate::room::{Migration, Room, hash_of};
use crate::statement::{Connection, execute, rows};
use crate::store::now;
use crate::value::Row;

/// The store's own tables. They are a room like any other, and come first.
pub(crate) const OWN: Room = Room::new(
    "store",
    &[Migration {
        name: "fences, audit log, drills",
        statements: &[
            "CREATE TABLE store_tokens (resource TEXT PRIMARY KEY NOT NULL, token INTEGER NOT NULL) STRICT",
            "CREATE TABLE store_fences (resource TEXT PRIMARY KEY NOT NULL, token INTEGER NOT NULL) STRICT",
            "CREATE TABLE store_audit (seq INTEGER PRIMARY KEY NOT NULL, at INTEGER NOT NULL, who TEXT NOT NULL, \
         what TEXT NOT NULL, undo TEXT NOT NULL, hash BLOB NOT NULL) STRICT",
            "CREATE TABLE store_drills (at INTEGER PRIMARY KEY NOT NULL, took INTEGER NOT NULL, backup TEXT NOT NULL, \
         records INTEGER NOT NULL, bytes INTEGER NOT NULL, problem TEXT) STRICT",
        ],
    }],
);

/// What must be there before the first migration.
pub(crate) const FOUNDATION: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS store_meta (key TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS store_migrations (room TEXT NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL, \
     hash TEXT NOT NULL, statements TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (room, version)) STRICT",
];

/// A migration that has run, as the store remembers it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Applied {
    pub(crate) room: String,
    pub(crate) version: u32,
    pub(crate) name: String,
    pub(crate) hash: String,
    pub(crate) statements: Vec<String>,
}

impl Applied {
    pub(crate) fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            room: row.get("room")?,
            version: row.get("version")?,
            name: row.get("name")?,
            hash: row.get("hash")?,
            statements: row.json("statements")?,
        })
    }

    /// Whether its text is what its hash says.
    pub(crate) fn is_intact(&self) -> bool {
        hash_of(&self.statements) == self.hash
    }
}

pub(crate) const APPLIED: &str =
    "SELECT room, version, name, hash, statements FROM store_migrations ORDER BY room, version";

/// Compares what has run with what the rooms declare; answers what is left to do. Touches nothing.
fn left_to_do(
    place: &str,
    applied: &[Applied],
    rooms: &[Room],
) -> Result<Vec<(&'static str, u32, Migration)>, OpenError> {
    let mut by_room: BTreeMap<&str, Vec<&Applied>> = BTreeMap::new();
    for entry in applied {
        by_room.entry(&entry.room).or_default().push(entry);
    }
    let mut left = Vec::new();
    for room in rooms {
        let mut done = by_room.remove(room.name).unwrap_or_default();
        done.sort_by_key(|entry| entry.version);
        let known = u32::try_from(room.migrations.len()).unwrap_or(u32::MAX);
        if let Some(newest) = done.last().filter(|newest| newest.version > known) {
            let (room, found) = (room.name.to_owned(), newest.version);
            return Err(OpenError::Newer { place: place.to_owned(), room, found, known });
        }
        for (version, migration) in (1..).zip(room.migrations) {
            match done.iter().find(|entry| entry.version == version) {
                None => left.push((room.name, version, *migration)),
                Some(entry) if entry.hash == migration.hash() && entry.is_intact() => {}
                Some(entry) => {
                    let (room, name) = (room.name.to_owned(), entry.name.clone());
                    return Err(OpenError::Changed { place: place.to_owned(), room, version, name });
                }
            }
        }
    }
    Ok(left)
}

/// The connection that migrations run on: one, whatever the engine.
pub(crate) struct Link<'c>(pub(crate) Connection<'c>);

impl Link<'_> {
    pub(crate) fn again(&mut self) -> Connection<'_> {
        match &mut self.0 {
            Connection::Sqlite(on) => Connection::Sqlite(on),
            Connection::Postgres(on) => Connection::Postgres(on),
        }
    }

    pub(crate) async fn run(&mut self, sql: &str) -> Result<u64, StoreError> {
        execute(self.again(), sql, &[]).await
    }

    pub(crate) fn engine(&self) -> Engine {
        match &self.0 {
            Connection::Sqlite(_) => Engine::Sqlite,
            Connection::Postgres(_) => Engine::Postgres,
        }
    }
}

/// Lays the foundation, checks what has run, and runs what is left, each migration in a transaction of its own. Several
/// processes may do so at once on a server: they take turns.
pub(crate) async fn migrate(on: &mut Link<'_>, place: &str, rooms: &[Room]) -> Result<(), OpenError> {
    let prepare =
        |source: StoreError| OpenError::Prepare { place: place.to_owned(), source: Box::new(source) };
    let in_turn = on.engine() == Engine::Postgres;
    if in_turn {
        on.run("SELECT pg_advisory_lock(7380000001)").await.map_err(prepare)?;
    }
    let result = in_order(on, place, rooms).await;
    if in_turn {
        on.run("SELECT pg_advisory_unlock(7380000001)").await.map_err(prepare)?;
    }
    result
}

async fn in_order(on: &mut Link<'_>, place: &str, rooms: &[Room]) -> Result<(), OpenError> {
    let prepare =
        |source: StoreError| OpenError::Prepare { place: place.to_owned(), source: Box::new(source) };
    lay_foundation(on).await.map_err(prepare)?;
    let found = rows(on.again(), APPLIED, &[]).await.map_err(prepare)?;
    let applied: Vec<Applied> = found.iter().map(Applied::read).collect::<Result<_, _>>().map_err(prepare)?;
    for (room, version, migration) in left_to_do(place, &applied, rooms)? {
        let statements: Vec<String> = migration.statements.iter().map(|text| (*text).to_owned()).collect();
        let entry = Applied {
            room: room.to_owned(),
            version,
            name: migration.name.to_owned(),
            hash: migration.hash(),
            statements,
        };
        apply(on, &entry).await.map_err(|source| OpenError::Migration {
            place: place.to_owned(),
            room: entry.room.clone(),
            version,
            name: entry.name.clone(),
            source: Box::new(source),
        })?;
        tracing::info!(room, version, name = migration.name, "migrated");
    }
    Ok(())
}

/// The tables that migrations are noted in, and the first incarnation.
pub(crate) async fn lay_foundation(on: &mut Link<'_>) -> Result<(), StoreError> {
    on.run("BEGIN").await?;
    foundation_within(on).await?;
    on.run("COMMIT").await.map(|_| ())
}

/// As [`lay_foundation`], within a transaction.
pub(crate) async fn foundation_within(on: &mut Link<'_>) -> Result<(), StoreError> {
    for statement in FOUNDATION {
        on.run(statement).await?;
    }
    let seconds = i64::try_from(now().as_unix_nanos() / 1_000_000_000).unwrap_or(i64::MAX);
    let sql = "INSERT INTO store_meta (key, value) VALUES ('incarnation', ?), ('commits', 0) ON CONFLICT (key) DO NOTHING";
    execute(on.again(), sql, args![seconds]).await.map(|_| ())
}

/// Runs one migration and notes it, in one transaction.
pub(crate) async fn apply(on: &mut Link<'_>, entry: &Applied) -> Result<(), StoreError> {
    on.run("BEGIN").await?;
    let result = match apply_within(on, entry).await {
        Ok(()) => on.run("COMMIT").await.map(|_| ()),
        failed => failed,
    };
    if result.is_err() {
        // Fails when the engine has rolled back by itself.
        let _ = on.run("ROLLBACK").await;
    }
    result
}

/// As [`apply`], within a transaction.
pub(crate) async fn apply_within(on: &mut Link<'_>, entry: &Applied) -> Result<(), StoreError> {
    for statement in &entry.statements {
        on.run(statement).await?;
    }
    let sql =
        "INSERT INTO store_migrations (room, version, name, hash, statements, at) VALUES (?, ?, ?, ?, ?, ?)";
    let statements = crate::Value::json(&entry.statements)?;
    let values = args![&entry.room, entry.version, &entry.name, &entry.hash, statements, now()];
    execute(on.again(), sql, values).await.map(|_| ())
}
