//! A room to test with, and what tests share.

use std::path::Path;
use std::time::Duration;

use model::{Change, Timestamp};
use store::{Check, Deletable, Migration, Room, Store, StoreError, StoreParams, Tier, args};
use testkit::TempDir;

pub(crate) const NOTES: Deletable =
    Deletable { table: "probe_notes", noun: "note", undelete_for: Duration::from_secs(100) };

pub(crate) const ROOM: Room = Room {
    name: "probe",
    migrations: &[
        Migration {
            name: "rows",
            statements: &[
                "CREATE TABLE probe_rows (id INTEGER PRIMARY KEY NOT NULL, body TEXT NOT NULL) STRICT",
            ],
        },
        Migration {
            name: "notes and runs",
            statements: &[
                "CREATE TABLE probe_notes (id TEXT PRIMARY KEY NOT NULL, body TEXT NOT NULL, weight REAL, raw BLOB, \
                 deleted_at INTEGER) STRICT",
                "CREATE TABLE probe_runs (id INTEGER PRIMARY KEY NOT NULL, kind TEXT NOT NULL, ended_at INTEGER) STRICT",
                "CREATE INDEX probe_runs_ended ON probe_runs (ended_at)",
                "INSERT INTO probe_notes (id, body) VALUES ('seed', 'from a migration: 4 < 5?')",
            ],
        },
    ],
    deletable: &[NOTES],
    tiers: &[
        Tier {
            table: "probe_runs",
            at: "ended_at",
            class: Some(("kind", "brief")),
            keep: Duration::from_secs(10),
        },
        Tier { table: "probe_runs", at: "ended_at", class: None, keep: Duration::from_secs(1000) },
    ],
    checks: &[Check {
        name: "bodies",
        rule: "every note says something",
        query: "SELECT id AS broken FROM probe_notes WHERE body = ''",
    }],
};

pub(crate) fn secs(secs: u64) -> Timestamp {
    Timestamp::from_unix_nanos(secs * 1_000_000_000)
}

pub(crate) fn file(dir: &TempDir) -> StoreParams {
    StoreParams::at(dir.path().join("records.db").display().to_string())
}

pub(crate) fn at(path: &Path) -> StoreParams {
    StoreParams::at(path.display().to_string())
}

pub(crate) fn change(what: &str) -> Change {
    Change { at: secs(5), who: "test".to_owned(), what: what.to_owned(), undo: "do not".to_owned() }
}

pub(crate) async fn put(store: &Store, id: i64, body: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO probe_rows (id, body) VALUES (?, ?)";
    store.execute(sql, args![id, body]).await.map(|_| ())
}

pub(crate) async fn count(store: &Store, table: &str) -> i64 {
    let row = store.row(&format!("SELECT count(*) AS n FROM {table}"), &[]).await.unwrap().unwrap();
    row.get("n").unwrap()
}

/// A store with something of every kind in it.
pub(crate) async fn fill(store: &Store) {
    for id in 0..40 {
        put(store, id, &format!("row {id} — ünïcode, 'quotes', ?\n")).await.unwrap();
    }
    let sql = "INSERT INTO probe_notes (id, body, weight, raw, deleted_at) VALUES (?, ?, ?, ?, ?)";
    let notes = [
        args!["B", "capital", 1.5, &[0u8, 255, 7][..], None::<i64>].to_vec(),
        args!["a", "small", None::<f64>, None::<Vec<u8>>, 4_i64].to_vec(),
        args!["ä", "umlaut", -0.25, Vec::<u8>::new(), None::<i64>].to_vec(),
        args!["_", "", f64::MAX, None::<Vec<u8>>, i64::MAX].to_vec(),
    ];
    for note in &notes {
        store.execute(sql, note).await.unwrap();
    }
    for what in ["one", "two", "three"] {
        store
            .write(|mut tx| async move {
                let answer = tx.record(&change(what)).await?;
                tx.commit(answer).await
            })
            .await
            .unwrap();
    }
}
