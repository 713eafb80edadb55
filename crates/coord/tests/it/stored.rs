//! On the engine inside the process, written down in a store.

use std::time::Duration;

use coord::{Coord, Failure, LeaseOptions, Refusal};
use store::{Store, StoreParams};
use testkit::TempDir;

const TTL: Duration = Duration::from_secs(60);

async fn open(dir: &TempDir) -> (Store, Coord) {
    let params = StoreParams::at(dir.path().join("records.db").display().to_string());
    let store = Store::open(&params, &[coord::engine::ROOM]).await.unwrap();
    let coord = Coord::on_store(store.clone()).await.unwrap();
    (store, coord)
}

#[tokio::test]
async fn what_was_held_is_held_after_a_restart() {
    let dir = TempDir::new("coord");
    let (store, coord) = open(&dir).await;
    let session = coord.session(TTL).await.unwrap();
    let lease = session.acquire("cron", &LeaseOptions::default()).await.unwrap();
    session.put("node/a", "here", None).await.unwrap();
    let kept = coord.put("state", "1", Some(lease.guard())).await.unwrap();
    // As a killed process leaves it: nothing is closed or given back.
    std::mem::forget((lease, session));
    drop(coord);
    store.close().await.unwrap();

    let (store, coord) = open(&dir).await;
    assert!(store.validate(coord::clock::wall()).await.unwrap().iter().all(|finding| finding.breaches == 0));
    let holder = coord.holder("cron").await.unwrap().expect("still held");
    assert_eq!(coord.list("").await.unwrap().entries.len(), 3);
    assert_eq!(coord.list("").await.unwrap().position, kept);
    let busy = coord.session(TTL).await.unwrap().acquire("cron", &LeaseOptions::default()).await;
    assert!(busy.is_err());
    coord.break_lease("cron", holder.token.unwrap()).await.unwrap();
    let next = coord.session(TTL).await.unwrap().acquire("cron", &LeaseOptions::default()).await.unwrap();
    assert!(next.token() > holder.token.unwrap());
    let missed = coord.engine().changes(String::new(), kept).await;
    assert!(missed.is_ok(), "what happened since the restart is known");
}

/// A holder that was paused past its lease writes after the next one began: the store refuses it, in the same transaction.
#[tokio::test]
async fn trap_31_a_paused_holder_cannot_write() {
    let dir = TempDir::new("coord");
    let (store, coord) = open(&dir).await;
    let session = coord.session(TTL).await.unwrap();
    let paused = session.acquire("cron", &LeaseOptions::default()).await.unwrap();
    coord.break_lease("cron", paused.token()).await.unwrap();
    let next = session.acquire("cron", &LeaseOptions::default()).await.unwrap();
    let write = async |token: coord::Token| {
        let token = store::Token::new(i64::try_from(token.0).unwrap()).unwrap();
        let fenced = store.write(async |mut tx: store::Tx| {
            tx.fence("cron", token).await?;
            tx.commit(()).await
        });
        fenced.await
    };
    write(paused.token()).await.unwrap();
    write(next.token()).await.unwrap();
    assert!(write(paused.token()).await.is_err());
    let late = coord.put("state", "late", Some(paused.guard())).await.unwrap_err();
    assert!(matches!(late, Failure::Refused(Refusal::Superseded { .. })), "{late}");
}
