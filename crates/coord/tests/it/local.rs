//! On the engine inside the process.

use std::time::Duration;

use coord::{AcquireError, Coord, Event, Failure, LeaseOptions, Refusal, Update};

const TTL: Duration = Duration::from_secs(60);

fn patient() -> LeaseOptions {
    LeaseOptions { wait: Some(Duration::from_secs(20)), ..LeaseOptions::default() }
}

#[tokio::test]
async fn a_lease_has_one_holder_and_rising_tokens() {
    let coord = Coord::in_memory();
    let (one, two) = (coord.session(TTL).await.unwrap(), coord.session(TTL).await.unwrap());
    let first = one.acquire("cron", &LeaseOptions { value: "one".into(), ..patient() }).await.unwrap();
    assert!(first.is_held());
    let busy = two.acquire("cron", &LeaseOptions::default()).await.unwrap_err();
    assert_eq!(busy.to_string(), "lease `cron` is held by one");
    let token = first.token();
    let waiting = tokio::spawn(async move { two.acquire("cron", &patient()).await });
    first.release().await.unwrap();
    let second = waiting.await.unwrap().unwrap();
    assert!(second.token() > token);
    assert!(second.is_held());
}

#[tokio::test]
async fn a_second_claim_of_the_same_session_is_another_holder() {
    let coord = Coord::in_memory();
    let session = coord.session(TTL).await.unwrap();
    let held = session.acquire("cron", &LeaseOptions::default()).await.unwrap();
    let again = session.acquire("cron", &LeaseOptions::default()).await.unwrap_err();
    assert!(matches!(again, AcquireError::Busy { .. }), "{again}");
    drop(held);
    session.acquire("cron", &patient()).await.unwrap();
}

#[tokio::test]
async fn a_lease_longer_than_its_session_is_refused() {
    let session = Coord::in_memory().session(TTL).await.unwrap();
    let options = LeaseOptions { ttl: Some(2 * TTL), ..LeaseOptions::default() };
    let refused = session.acquire("cron", &options).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "lease `cron` cannot live 2m in a session that lives 1m: open a longer session or shorten the lease"
    );
}

#[tokio::test]
async fn a_watch_tells_what_there_is_and_then_every_change() {
    let coord = Coord::in_memory();
    let session = coord.session(TTL).await.unwrap();
    coord.put("shop/a", "1", None).await.unwrap();
    let mut watch = coord.watch("shop/");
    let Update::All { entries, .. } = watch.next().await else { panic!("everything comes first") };
    assert_eq!(entries.len(), 1);
    session.put("shop/b", "2", None).await.unwrap();
    coord.put("other", "3", None).await.unwrap();
    session.close().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let Update::Changed(events) = watch.next().await else { panic!("changes follow") };
        seen.extend(events);
    }
    assert!(matches!(&seen[0], Event::Put { entry } if entry.key == "shop/b"), "{seen:?}");
    assert!(matches!(&seen[1], Event::Deleted { key, .. } if key == "shop/b"), "{seen:?}");
}

#[tokio::test]
async fn a_superseded_token_writes_nothing() {
    let coord = Coord::in_memory();
    let session = coord.session(TTL).await.unwrap();
    let old = session.acquire("cron", &LeaseOptions::default()).await.unwrap();
    let guard = old.guard();
    coord.put("state", "old", Some(guard.clone())).await.unwrap();
    coord.break_lease("cron", old.token()).await.unwrap();
    let refused = coord.put("state", "late", Some(guard)).await.unwrap_err();
    assert!(matches!(refused, Failure::Refused(Refusal::Superseded { .. })), "{refused}");
    assert_eq!(coord.list("state").await.unwrap().entries[0].value, "old");
}
