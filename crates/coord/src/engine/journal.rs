//! The embedded engine's state in the store.

use std::collections::BTreeMap;
use std::time::Duration;

use model::Span;
use serde_json::{Value as Json, json};
use store::{Check, Engine, Migration, Room, Store, StoreError, args};

use super::embedded::Journal;
use super::{Answer, Failure};
use crate::command::{Claim, Entry, Position, SessionId, Token};
use crate::table::{Delta, Row, Saved};

/// Longest wait for one batch to be written; after it, nothing of the batch counts.
const COMMIT_MAX: Duration = Duration::from_secs(8);

/// What coordination keeps in the store.
pub const ROOM: Room = Room {
    checks: &[
        Check {
            name: "leases_have_sessions",
            rule: "what ends with a session ends when the session does",
            query: "SELECT 'key ' || key || ' belongs to a session that is gone' AS broken FROM coord_keys \
                    WHERE session IS NOT NULL AND session NOT IN (SELECT id FROM coord_sessions)",
        },
        Check {
            name: "one_holder_per_term",
            rule: "the token of a held lease is the newest of its name",
            query: "SELECT 'lease ' || name || ' is held with token ' || k.token || ' but the newest is ' || t.token \
                    AS broken FROM coord_tokens t JOIN coord_keys k ON k.key = 'lease/' || t.name \
                    WHERE k.token IS NULL OR k.token <> t.token",
        },
    ],
    ..Room::new(
        "coord",
        &[Migration {
            name: "sessions, leases and keys",
            statements: &[
                "CREATE TABLE coord_keys (key TEXT PRIMARY KEY, value TEXT NOT NULL, session INTEGER, \
                 token INTEGER, claim INTEGER, revision INTEGER NOT NULL) STRICT",
                "CREATE TABLE coord_tokens (name TEXT PRIMARY KEY, token INTEGER NOT NULL) STRICT",
                "CREATE TABLE coord_sessions (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL) STRICT",
                "CREATE TABLE coord_position (id INTEGER PRIMARY KEY, revision INTEGER NOT NULL) STRICT",
            ],
        }],
    )
};

/// Writes the table to a store on SQLite. Its history is the store's incarnation, so that watchers of a restored store start
/// over.
pub(super) struct InStore {
    store: Store,
}

impl InStore {
    pub(super) fn new(store: Store) -> Result<Self, Failure> {
        if store.engine() == Engine::Sqlite {
            return Ok(Self { store });
        }
        Err(Failure::Unreachable {
            problem:
                "the engine `sqlite` needs records in a SQLite file, which one process owns; with records in \
                      PostgreSQL name the members of an etcd cluster: `coord: {etcd: [http://…]}`"
                    .to_owned(),
        })
    }

    async fn read(&self) -> Result<Saved, StoreError> {
        let mut at = self.store.snapshot().await?;
        let revision = at.row("SELECT revision FROM coord_position WHERE id = 1", &[]).await?;
        let revision = revision.map_or(Ok(0), |row| row.get("revision"))?;
        let mut saved =
            Saved { position: Position { history: self.store.incarnation(), revision }, ..Saved::default() };
        at.each("SELECT key, value, session, token, claim, revision FROM coord_keys", &[], |row| {
            let entry = Entry {
                key: row.get("key")?,
                value: row.get("value")?,
                session: row.get::<Option<u64>>("session")?.map(SessionId),
                token: row.get::<Option<u64>>("token")?.map(Token),
                revision: row.get("revision")?,
            };
            saved.rows.push(Row { entry, claim: row.get::<Option<u64>>("claim")?.map(Claim) });
            Ok(())
        })
        .await?;
        at.each("SELECT name, token FROM coord_tokens", &[], |row| {
            saved.tokens.push((row.get("name")?, Token(row.get("token")?)));
            Ok(())
        })
        .await?;
        at.each("SELECT id, ttl_ms FROM coord_sessions", &[], |row| {
            saved.sessions.push((SessionId(row.get("id")?), Duration::from_millis(row.get("ttl_ms")?)));
            Ok(())
        })
        .await?;
        Ok(saved)
    }

    async fn write(&self, position: Position, batch: Batch) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        for (sql, rows) in batch.statements() {
            if !rows.is_empty() {
                tx.execute(sql, args![Json::Array(rows).to_string()]).await?;
            }
        }
        let sql = "INSERT INTO coord_position (id, revision) VALUES (1, ?) \
                   ON CONFLICT (id) DO UPDATE SET revision = excluded.revision";
        tx.execute(sql, args![i64::try_from(position.revision).unwrap_or(i64::MAX)]).await?;
        tx.commit(()).await.map(|done| done.into_inner())
    }
}

impl Journal for InStore {
    fn load(&mut self) -> Answer<'_, Saved> {
        Box::pin(async move {
            self.read().await.map_err(|problem| Failure::Unreachable { problem: problem.to_string() })
        })
    }

    fn commit(&mut self, position: Position, deltas: Vec<Delta>) -> Answer<'_, ()> {
        Box::pin(async move {
            let unanswered = |problem: String| Failure::Unanswered { problem };
            let written = tokio::time::timeout(COMMIT_MAX, self.write(position, Batch::of(deltas))).await;
            let late = |_| unanswered(format!("the records took more than {}", Span::from(COMMIT_MAX)));
            written.map_err(late)?.map_err(|problem| unanswered(problem.to_string()))
        })
    }
}

/// What is left of a batch when only the last word on each key counts: none means gone.
#[derive(Default)]
struct Batch {
    rows: BTreeMap<String, Option<Row>>,
    sessions: BTreeMap<SessionId, Option<Duration>>,
    tokens: BTreeMap<String, Token>,
}

impl Batch {
    fn of(deltas: Vec<Delta>) -> Self {
        let mut batch = Self::default();
        for delta in deltas {
            match delta {
                Delta::Row(row) => drop(batch.rows.insert(row.entry.key.clone(), Some(row))),
                Delta::NoRow(key) => drop(batch.rows.insert(key, None)),
                Delta::Session(id, ttl) => drop(batch.sessions.insert(id, Some(ttl))),
                Delta::NoSession(id) => drop(batch.sessions.insert(id, None)),
                Delta::Token(name, token) => drop(batch.tokens.insert(name, token)),
            }
        }
        batch
    }

    /// One statement for each kind of change, however many there are: each statement costs a trip to the writer's thread.
    fn statements(&self) -> [(&'static str, Vec<Json>); 5] {
        let put_rows = self.rows.values().flatten().map(|Row { entry, claim }| {
            json!([entry.key, entry.value, entry.session, entry.token, claim, entry.revision])
        });
        let gone_rows = self.rows.iter().filter(|(_, row)| row.is_none()).map(|(key, _)| json!(key));
        let begun = self.sessions.iter().filter_map(|(id, ttl)| Some((id, (*ttl)?)));
        let begun = begun.map(|(id, ttl)| json!([id, u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)]));
        let ended = self.sessions.iter().filter(|(_, ttl)| ttl.is_none()).map(|(id, _)| json!(id));
        let tokens = self.tokens.iter().map(|(name, token)| json!([name, token]));
        [
            (
                "INSERT INTO coord_keys (key, value, session, token, claim, revision) \
                 SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 \
                 FROM json_each(?) WHERE true ON CONFLICT (key) DO UPDATE SET value = excluded.value, \
                 session = excluded.session, token = excluded.token, claim = excluded.claim, \
                 revision = excluded.revision",
                put_rows.collect(),
            ),
            ("DELETE FROM coord_keys WHERE key IN (SELECT value FROM json_each(?))", gone_rows.collect()),
            (
                "INSERT INTO coord_sessions (id, ttl_ms) SELECT value ->> 0, value ->> 1 FROM json_each(?) \
                 WHERE true ON CONFLICT (id) DO UPDATE SET ttl_ms = excluded.ttl_ms",
                begun.collect(),
            ),
            ("DELETE FROM coord_sessions WHERE id IN (SELECT value FROM json_each(?))", ended.collect()),
            (
                "INSERT INTO coord_tokens (name, token) SELECT value ->> 0, value ->> 1 FROM json_each(?) \
                 WHERE true ON CONFLICT (name) DO UPDATE SET token = excluded.token",
                tokens.collect(),
            ),
        ]
    }
}
