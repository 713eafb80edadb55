//! On real etcd.

use std::time::Duration;

use coord::{AcquireError, Coord, CoordParams, Event, Failure, LeaseOptions, Refusal, Update};
use model::Span;
use testkit::Etcd;

const TTL: Duration = Duration::from_secs(60);

fn on(etcd: &Etcd) -> Coord {
    let params = CoordParams { etcd: etcd.urls(), ..CoordParams::default() };
    Coord::etcd(&params).unwrap()
}

fn hasty(etcd: &Etcd) -> Coord {
    let timeout = Span::from_millis(1000);
    Coord::etcd(&CoordParams { etcd: etcd.urls(), timeout, ..CoordParams::default() }).unwrap()
}

fn patient() -> LeaseOptions {
    LeaseOptions { wait: Some(Duration::from_secs(20)), ..LeaseOptions::default() }
}

#[tokio::test]
async fn leases_watches_and_guards_are_as_on_one_machine() {
    let etcd = Etcd::start(1);
    let coord = on(&etcd);
    let (one, two) = (coord.session(TTL).await.unwrap(), on(&etcd).session(TTL).await.unwrap());
    let mut watch = coord.watch("shop/");
    assert!(matches!(watch.next().await, Update::All { entries, .. } if entries.is_empty()));

    let first = one.acquire("cron", &LeaseOptions { value: "one".into(), ..patient() }).await.unwrap();
    let busy = two.acquire("cron", &LeaseOptions::default()).await.unwrap_err();
    assert!(matches!(busy, AcquireError::Busy { ref value, .. } if value == "one"), "{busy}");
    let guard = first.guard();
    coord.put("shop/a", "guarded", Some(guard.clone())).await.unwrap();

    let waiting = tokio::spawn(async move { two.acquire("cron", &patient()).await });
    first.release().await.unwrap();
    let second = waiting.await.unwrap().unwrap();
    assert!(second.token() > guard.token);
    let refused = coord.put("shop/a", "late", Some(guard)).await.unwrap_err();
    assert!(matches!(refused, Failure::Refused(Refusal::Superseded { .. })), "{refused}");

    one.put("shop/b", "2", None).await.unwrap();
    one.close().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let Update::Changed(events) = watch.next().await else { panic!("changes follow") };
        seen.extend(events);
    }
    assert!(matches!(&seen[0], Event::Put { entry } if entry.value == "guarded"), "{seen:?}");
    assert!(matches!(&seen[1], Event::Put { entry } if entry.session.is_some()), "{seen:?}");
    assert!(matches!(&seen[2], Event::Deleted { key, .. } if key == "shop/b"), "{seen:?}");

    let (name, entry) = coord.leases().await.unwrap().remove(0);
    assert_eq!((name.as_str(), entry.token), ("cron", Some(second.token())));
    coord.break_lease("cron", second.token()).await.unwrap();
    let gone = second.release().await.unwrap_err();
    assert!(matches!(gone, Failure::Refused(Refusal::NotHeld { .. })), "{gone}");
}

#[tokio::test]
async fn a_frozen_or_killed_member_costs_no_lease() {
    let mut etcd = Etcd::start(3);
    let coord = on(&etcd);
    let session = coord.session(Duration::from_secs(30)).await.unwrap();
    let lease = session.acquire("cron", &patient()).await.unwrap();
    let mut watch = coord.watch("state");
    assert!(matches!(watch.next().await, Update::All { .. }));
    let leader = etcd.leader();
    etcd.freeze(leader);
    tokio::time::timeout(testkit::wait::PATIENCE, async {
        // The election may outlast one question.
        while coord.put("state", "frozen", Some(lease.guard())).await.is_err() {}
    })
    .await
    .expect("two of three members decide");
    etcd.thaw(leader);
    let next = etcd.leader();
    etcd.kill(next);
    tokio::time::timeout(testkit::wait::PATIENCE, async {
        while coord.put("state", "killed", Some(lease.guard())).await.is_err() {}
    })
    .await
    .expect("two of three members decide");
    assert!(lease.is_held());
    let mut seen: Vec<String> = Vec::new();
    while seen.last().is_none_or(|value| value != "killed") {
        match watch.next().await {
            Update::Changed(events) => seen.extend(events.into_iter().map(|event| match event {
                Event::Put { entry } => entry.value,
                Event::Deleted { .. } => panic!("nothing is deleted"),
            })),
            Update::Stale(_) => {}
            Update::All { .. } => panic!("a watch goes on where it was"),
        }
    }
    assert_eq!(seen.first().map(String::as_str), Some("frozen"), "nothing was missed: {seen:?}");
    lease.release().await.unwrap();
}

#[tokio::test]
async fn without_quorum_nothing_is_held() {
    let etcd = Etcd::start(3);
    let coord = hasty(&etcd);
    let session = coord.session(Duration::from_secs(3)).await.unwrap();
    let leadership = session.campaign("leader", &patient()).await.unwrap();
    let lease = session.acquire("cron", &patient()).await.unwrap();
    assert!(leadership.is_leader() && lease.is_held());
    etcd.shatter();
    leadership.over().await;
    assert!(!leadership.is_leader());
    lease.lost().await;
    assert!(!lease.is_held());
    let refused = coord.session(Duration::from_secs(3)).await.unwrap_err();
    assert!(matches!(refused, Failure::NoQuorum { .. } | Failure::Unanswered { .. }), "{refused}");
    etcd.heal();
    (0..3).for_each(|index| etcd.wait_ready(index));
    let session = coord.session(Duration::from_secs(30)).await.unwrap();
    let again = session.acquire("cron", &patient()).await.unwrap();
    assert!(again.token() > lease.token());
}

#[tokio::test]
async fn an_isolated_leader_lets_nobody_in_twice() {
    let etcd = Etcd::start(3);
    let leader = etcd.leader();
    // One client sees the member that will be cut off only; the other sees them all.
    let lonely = CoordParams {
        etcd: vec![etcd.urls()[leader].clone()],
        timeout: Span::from_millis(500),
        ..CoordParams::default()
    };
    let session = Coord::etcd(&lonely).unwrap().session(Duration::from_secs(3)).await.unwrap();
    let old = session.acquire("cron", &patient()).await.unwrap();
    etcd.isolate(leader);
    let others = on(&etcd);
    let session = loop {
        if let Ok(session) = others.session(Duration::from_secs(30)).await {
            break session;
        }
    };
    let new = session.acquire("cron", &patient()).await.unwrap();
    assert!(!old.is_held(), "the first holder knew before the second began");
    assert!(new.token() > old.token());
}

#[tokio::test]
async fn a_cut_network_turns_to_another_member() {
    let etcd = Etcd::start(3);
    let coord = on(&etcd);
    coord.put("a", "1", None).await.unwrap();
    etcd.cut_clients(0);
    etcd.cut_clients(1);
    coord.put("a", "2", None).await.unwrap();
    assert_eq!(coord.list("a").await.unwrap().entries[0].value, "2");
}

#[tokio::test]
async fn what_etcd_has_forgotten_is_read_again() {
    let etcd = Etcd::start(1);
    let coord = on(&etcd);
    let from = coord.put("a", "1", None).await.unwrap();
    coord.put("a", "2", None).await.unwrap();
    let last = coord.put("a", "3", None).await.unwrap();
    let compacted =
        std::process::Command::new(testkit::process::find_program("etcdctl").expect("etcd-client"))
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &etcd.urls()[0], "compact", &last.revision.to_string()])
            .output()
            .unwrap();
    assert!(compacted.status.success(), "{compacted:?}");
    let behind = coord.engine().changes("a".to_owned(), from).await;
    let behind = match behind {
        Ok(mut changes) => changes.next().await.unwrap_err(),
        Err(failure) => failure,
    };
    assert_eq!(behind, Failure::Behind { from });
    let foreign = coord::Position { history: from.history ^ 1, ..last };
    assert!(matches!(coord.engine().changes("a".to_owned(), foreign).await, Err(Failure::Behind { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consensus_is_watched_member_by_member() {
    let mut etcd = Etcd::start(3);
    let params = CoordParams { etcd: etcd.urls(), ..CoordParams::default() };
    let observer = coord::consensus::Observer::new(&params).unwrap();
    let leader = etcd.leader();
    observer.look().await;
    let seen = observer.view();
    assert!(seen.has_quorum());
    assert_eq!((seen.size, seen.answering, seen.leader_changes), (3, 3, 0));
    assert_eq!(seen.leader.as_deref(), Some(etcd.urls()[leader].trim_start_matches("http://")));
    assert!(seen.members.iter().all(|member| member.version.starts_with("3.") && member.applied > 0));
    etcd.kill(leader);
    let next = etcd.leader();
    observer.look().await;
    let seen = observer.view();
    assert_eq!((seen.answering, seen.leader_changes, seen.has_quorum()), (2, 1, true));
    assert!(seen.members[leader].problem.is_some() && seen.members[next].is_leader);
    etcd.kill(next);
    let last = 3 - leader - next;
    testkit::wait_until("the last member knows that it is alone", testkit::wait::PATIENCE, || {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(observer.look()));
        !observer.view().members[last].has_leader
    });
    assert!(!observer.view().has_quorum());
}
