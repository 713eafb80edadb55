//! A real PostgreSQL: the same promises, killed and restarted under load, and restores from one engine into the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use model::Span;
use store::{OpenError, RestoreError, Store, StoreError, StoreParams, args, backup, restore};
use testkit::{Postgres, TempDir, free_port};

use crate::backups::content;
use crate::probe::{ROOM, at, count, file, fill, put};

const FAST: u64 = 1 << 40;

fn postgres() -> Postgres {
    Postgres::start().expect("PostgreSQL is needed: `cargo xtask test` installs it (Debian: postgresql)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_every_promise() {
    let server = postgres();
    crate::suite::all(&StoreParams::at(server.create("suite"))).await;

    // Restores from one engine into the other and back, byte for byte.
    let dir = TempDir::new("across");
    let origin = file(&dir);
    let store = Store::open(&origin, &[ROOM]).await.unwrap();
    fill(&store).await;
    let expected = content(&store).await;
    store.close().await.unwrap();
    backup(&origin, &dir.path().join("first"), FAST).await.unwrap();
    let there = StoreParams::at(server.create("across"));
    restore(&dir.path().join("first"), &there).await.unwrap();
    let refused = restore(&dir.path().join("first"), &there).await;
    assert!(matches!(refused, Err(RestoreError::Exists { .. })), "{refused:?}");
    let manifest = backup(&there, &dir.path().join("second"), FAST).await.unwrap();
    assert_eq!(manifest.engine, "postgres");
    let back = at(&dir.path().join("back.db"));
    restore(&dir.path().join("second"), &back).await.unwrap();
    let store = Store::open(&back, &[ROOM]).await.unwrap();
    assert_eq!(content(&store).await, expected);
    store.close().await.unwrap();

    // A process that has the store open does not write into one that was restored under the same name.
    let store = Store::open(&there, &[ROOM]).await.unwrap();
    put(&store, 7000, "x").await.unwrap();
    let sql = "UPDATE store_meta SET value = value + 1 WHERE key = 'incarnation'";
    store.execute(sql, &[]).await.unwrap();
    let refused = put(&store, 7001, "x").await;
    assert!(matches!(refused, Err(StoreError::Replaced { .. })), "{refused:?}");
    store.close().await.unwrap();

    // Many open it at once for the first time: migrations run once.
    let fresh = StoreParams::at(server.create("fresh"));
    let mut openers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let fresh = fresh.clone();
        openers.spawn(async move { Store::open(&fresh, &[ROOM]).await.unwrap().close().await.unwrap() });
    }
    while let Some(opened) = openers.join_next().await {
        opened.unwrap();
    }
    let older = store::Room { migrations: &ROOM.migrations[..1], ..ROOM };
    let refused = Store::open(&fresh, &[older]).await.err();
    assert!(matches!(refused, Some(OpenError::Newer { found: 2, known: 1, .. })), "{refused:?}");
    let nowhere =
        StoreParams { wait_max: Span::from_secs(2), ..StoreParams::at(server.url("nobody_made_this")) };
    let refused = Store::open(&nowhere, &[ROOM]).await.err().unwrap().to_string();
    assert!(refused.contains("cannot open") && refused.contains("does not exist"), "{refused}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_in_bounded_time() {
    let url = format!("postgres://seawall:hunter2@{}/records", free_port());
    let params = StoreParams { wait_max: Span::from_millis(500), ..StoreParams::at(url) };
    let refused = Store::open(&params, &[ROOM]).await.err().unwrap().to_string();
    assert!(refused.contains("cannot open `postgres://seawall:***@127.0.0.1"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_acknowledged_and_is_found_again() {
    let mut server = postgres();
    let params = StoreParams { wait_max: Span::from_secs(1), ..StoreParams::at(server.create("killed")) };
    let store = Store::open(&params, &[ROOM]).await.unwrap();
    let (stop, next, acknowledged) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (store, stop, next, counter) = (store.clone(), stop.clone(), next.clone(), acknowledged.clone());
        writers.spawn(async move {
            let mut kept = Vec::new();
            while !stop.load(Relaxed) {
                let id = next.fetch_add(1, Relaxed);
                match put(&store, id, "x").await {
                    Ok(()) => {
                        kept.push(id);
                        counter.fetch_add(1, Relaxed);
                    }
                    Err(problem) => {
                        assert!(problem.is_outage(), "{problem:?}");
                        tokio::task::yield_now().await;
                    }
                }
            }
            kept
        });
    }
    let reach = async |more: i64| {
        let wanted = acknowledged.load(Relaxed) + more;
        let reached = async {
            while acknowledged.load(Relaxed) < wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("writes succeed again");
    };
    for _ in 0..3 {
        reach(50).await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.restart();
        });
    }
    reach(50).await;
    stop.store(true, Relaxed);
    let mut kept = Vec::new();
    while let Some(writer) = writers.join_next().await {
        kept.extend(writer.unwrap());
    }
    for id in &kept {
        let row = store.row("SELECT id FROM probe_rows WHERE id = ?", args![*id]).await.unwrap();
        assert!(row.is_some(), "{id} was acknowledged and is lost");
    }
    assert!(count(&store, "probe_rows").await >= i64::try_from(kept.len()).unwrap());
    store.close().await.unwrap();
}
