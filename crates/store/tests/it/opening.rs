//! What is refused at the door, and with which words.

use std::process::Command;
use std::{fs, process};

use sqlx::Connection as _;
use store::{Migration, OpenError, Room, Store, StoreError, StoreParams};
use testkit::TempDir;

use crate::probe::{ROOM, at, count, file, fill, put};

async fn refusal(params: &StoreParams, rooms: &[Room]) -> String {
    match Store::open(params, rooms).await {
        Ok(_) => panic!("{} was opened", params.url),
        Err(problem) => problem.to_string(),
    }
}

/// Does something to the file behind the store's back.
async fn meddle(params: &StoreParams, sql: &'static str) {
    let mut file = sqlx::SqliteConnection::connect(&format!("sqlite://{}", params.url)).await.unwrap();
    sqlx::query(sql).execute(&mut file).await.unwrap();
    file.close().await.unwrap();
}

#[tokio::test]
async fn a_second_process_on_one_file_is_told_who_has_it() {
    let dir = TempDir::new("second");
    let params = file(&dir);
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    let other = Command::new(env!("CARGO_BIN_EXE_store-writer")).args([&params.url, "0"]).output().unwrap();
    let said = String::from_utf8_lossy(&other.stdout).into_owned();
    assert_eq!(other.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("in use by process {}: a file has one owner", process::id())), "{said}");
    // Also by another name.
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(&params.url, &link).unwrap();
    assert!(refusal(&at(&link), &[ROOM]).await.contains("in use by process"));
    // Reading is possible meanwhile, writing through it is not.
    let reader = Store::open_for_reading(&params, &[ROOM]).await.unwrap();
    put(&store, 1, "seen").await.unwrap();
    assert_eq!(count(&reader, "probe_rows").await, 1);
    assert!(matches!(put(&reader, 2, "x").await, Err(StoreError::ReadOnly)));
    reader.close().await.unwrap();
    store.close().await.unwrap();
    Store::open(&params, &[ROOM]).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_newer_store_is_refused() {
    let dir = TempDir::new("newer");
    let params = file(&dir);
    Store::open(&params, &[ROOM]).await.unwrap().close().await.unwrap();
    let older = Room { migrations: &ROOM.migrations[..1], ..ROOM };
    let said = refusal(&params, &[older]).await;
    assert!(
        said.contains("version 2 of the tables of `probe`, this program knows 1: run the newer program"),
        "{said}"
    );
    // Nothing was touched.
    Store::open(&params, &[ROOM]).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_migration_that_was_changed_after_it_ran_is_refused() {
    const CHANGED: &[Migration] = &[Migration {
        name: "rows",
        statements: &["CREATE TABLE probe_rows (id INTEGER PRIMARY KEY NOT NULL, body BLOB NOT NULL) STRICT"],
    }];
    let dir = TempDir::new("changed");
    let params = file(&dir);
    let first = Room { migrations: &ROOM.migrations[..1], ..ROOM };
    Store::open(&params, &[first]).await.unwrap().close().await.unwrap();
    let said = refusal(&params, &[Room::new("probe", CHANGED)]).await;
    assert!(said.contains("migration 1 of `probe` (`rows`) was changed after it had run"), "{said}");
    // And one that was changed in the store itself.
    meddle(&params, "UPDATE store_migrations SET statements = '[\"x\"]' WHERE room = 'probe'").await;
    let problem = Store::open(&params, &[first]).await.err();
    assert!(matches!(problem, Some(OpenError::Changed { .. } | OpenError::Lost { .. })), "{problem:?}");
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing() {
    const FAILS: &[Migration] = &[Migration {
        name: "half",
        statements: &["CREATE TABLE probe_rows (id INTEGER PRIMARY KEY NOT NULL) STRICT", "CREATE NONSENSE"],
    }];
    let dir = TempDir::new("fails");
    let params = file(&dir);
    let said = refusal(&params, &[Room::new("probe", FAILS)]).await;
    assert!(said.contains("migration 1 of `probe` (`half`) failed"), "{said}");
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    assert_eq!(count(&store, "probe_rows").await, 0);
    store.close().await.unwrap();
}

#[tokio::test]
async fn somebody_elses_database_is_left_alone() {
    let dir = TempDir::new("foreign");
    let params = file(&dir);
    fs::write(&params.url, b"").unwrap();
    meddle(&params, "CREATE TABLE a (b)").await;
    assert!(refusal(&params, &[ROOM]).await.contains("is a database of another program"));
    fs::write(dir.path().join("text.db"), "just a text, and a long one\n".repeat(200)).unwrap();
    let said = refusal(&at(&dir.path().join("text.db")), &[ROOM]).await;
    assert!(said.contains("is damaged: file is not a database"), "{said}");
}

#[tokio::test]
async fn what_is_not_there_is_not_made_by_a_reader() {
    let dir = TempDir::new("absent");
    let problem = Store::open_for_reading(&file(&dir), &[ROOM]).await.err();
    assert!(matches!(problem, Some(OpenError::Absent { .. })), "{problem:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn trap_38_a_copy_without_its_log_is_not_taken_for_the_store() {
    let dir = TempDir::new("copy");
    let params = file(&dir);
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    fill(&store).await;
    // Copied while it is served, without the log: what people do.
    let copy = dir.path().join("copy.db");
    fs::copy(&params.url, &copy).unwrap();
    store.close().await.unwrap();
    fs::copy(&copy, &params.url).unwrap();
    let said = refusal(&params, &[ROOM]).await;
    assert!(said.contains("has lost records that were acknowledged"), "{said}");
    assert!(said.contains("records.db.owner"), "{said}");
}

#[tokio::test]
async fn trap_38_a_store_whose_file_was_replaced_writes_nothing_more() {
    let dir = TempDir::new("replaced");
    let params = file(&dir);
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    put(&store, 1, "before").await.unwrap();
    fs::rename(&params.url, dir.path().join("moved.db")).unwrap();
    let refused = put(&store, 2, "after").await;
    assert!(matches!(refused, Err(StoreError::NotCommitted { .. })), "{refused:?}");
    let refused = put(&store, 3, "later").await;
    assert!(matches!(refused, Err(StoreError::Replaced { .. })), "{refused:?}");
}
