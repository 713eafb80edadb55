//! A process that writes records and says which ones were acknowledged, for tests that kill it.
//!
//! `store-writer PATH FIRST`: four writers at once put rows FIRST, FIRST + 1, … and print each number once it is acknowledged.
//! `store-writer PATH FIRST fill`: one writer puts rows of 64 KiB until the disk refuses, and says so.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use store::{Migration, Room, Store, StoreError, StoreParams, args};

const ROOM: Room = Room::new(
    "probe",
    &[Migration {
        name: "rows",
        statements: &["CREATE TABLE probe_rows (id INTEGER PRIMARY KEY NOT NULL, body TEXT NOT NULL) STRICT"],
    }],
);

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        // The test that reads it is gone.
        std::process::exit(3);
    }
}

async fn put(store: &Store, id: i64, body: &str) -> Result<(), StoreError> {
    store.execute("INSERT INTO probe_rows (id, body) VALUES (?, ?)", args![id, body]).await.map(|_| ())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let (path, first) = (&words[1], words[2].parse().expect("a number"));
    let store = match Store::open(&StoreParams::at(path), &[ROOM]).await {
        Ok(store) => store,
        Err(problem) => {
            say(&format!("refused {problem}"));
            return ExitCode::from(2);
        }
    };
    say("open");
    if words.get(3).is_some_and(|word| word == "fill") {
        let body = "x".repeat(64 << 10);
        for id in first.. {
            match put(&store, id, &body).await {
                Ok(()) => say(&format!("row {id}")),
                Err(problem) => {
                    say(&format!("full {problem}"));
                    return ExitCode::SUCCESS;
                }
            }
        }
    }
    let next = AtomicI64::new(first);
    let writer = async || {
        loop {
            let id = next.fetch_add(1, Relaxed);
            match put(&store, id, "a record").await {
                Ok(()) => say(&format!("row {id}")),
                Err(problem) => say(&format!("failed {problem}")),
            }
        }
    };
    tokio::join!(writer(), writer(), writer(), writer());
    ExitCode::SUCCESS
}
