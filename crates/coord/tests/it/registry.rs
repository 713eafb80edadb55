//! Instances that register, leave and vanish, and what is told of them.

use std::net::SocketAddr;
use std::time::Duration;

use coord::registry::{Directory, HoldParams, Record, Registrar, key};
use coord::{Coord, Entry, Event, Update};
use model::Roster;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const TTL: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

struct Fleet {
    coord: Coord,
    directory: Directory,
    _stop: DropGuard,
}

impl Fleet {
    fn start() -> Self {
        let (coord, directory) = (Coord::in_memory(), Directory::new(&HoldParams::default()));
        let stop = CancellationToken::new();
        tokio::spawn(directory.clone().run(coord.clone(), stop.clone()));
        Self { coord, directory, _stop: stop.drop_guard() }
    }

    fn register(&self, port: u16) -> Registrar {
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        let record = Some(Record::at(address));
        Registrar::start(self.coord.clone(), "cart", &address.to_string(), TTL, record).unwrap()
    }
}

/// Waits until the roster names `wanted` instances with or without trouble.
async fn until(roster: &mut watch::Receiver<Roster>, wanted: usize, trouble: bool) -> Roster {
    let reached = roster.wait_for(|roster| {
        roster.instances.as_ref().is_some_and(|all| all.len() == wanted)
            && roster.trouble.is_some() == trouble
    });
    tokio::time::timeout(PATIENCE, reached).await.expect("the awaited state within 30 s").unwrap().clone()
}

#[tokio::test]
async fn an_instance_is_told_of_from_registration_to_leave() {
    let fleet = Fleet::start();
    let mut roster = fleet.directory.follow("cart");
    let _stays = fleet.register(79);
    let registrar = fleet.register(80);
    until(&mut roster, 2, false).await;
    let record = Record { lame_duck: true, zone: Some("a".into()), ..registrar.wanted().unwrap() };
    registrar.say(Some(record)).unwrap();
    let lame =
        roster.wait_for(|roster| roster.instances.iter().flat_map(|all| all.iter()).any(|one| one.lame_duck));
    tokio::time::timeout(PATIENCE, lame).await.unwrap().unwrap();
    registrar.leave(PATIENCE).await;
    until(&mut roster, 1, false).await;
    assert_eq!(fleet.directory.figures().instances, 1);
}

#[tokio::test]
async fn a_registration_that_was_lost_is_made_again() {
    let fleet = Fleet::start();
    let registrar = fleet.register(80);
    registrar.settled().await;
    let entry = |key: String| {
        let coord = fleet.coord.clone();
        async move { coord.list(&key).await.unwrap().entries.pop() }
    };
    let first = entry(key("cart", "10.0.0.1:80")).await.unwrap();
    // The engine ends the session, as it does when renewals do not reach it.
    let close = coord::Command::CloseSession { session: first.session.unwrap() };
    fleet.coord.engine().call(close).await.unwrap();
    let mut watch = fleet.coord.watch(&key("cart", "10.0.0.1:80"));
    let again = async {
        loop {
            let entries: Vec<Entry> = match watch.next().await {
                Update::All { entries, .. } => entries,
                Update::Changed(events) => {
                    let put = |event| if let Event::Put { entry } = event { Some(entry) } else { None };
                    events.into_iter().filter_map(put).collect()
                }
                Update::Stale(failure) => panic!("{failure}"),
            };
            if entries.iter().any(|entry| entry.session != first.session) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("registered again");
}

/// TRAP 17, row C4: sessions that end together empty nothing.
#[tokio::test]
async fn trap_17_sessions_that_end_together_are_held_and_released_by_an_operator() {
    let fleet = Fleet::start();
    let mut roster = fleet.directory.follow("cart");
    let session = fleet.coord.session(TTL).await.unwrap();
    for port in 1..=10u16 {
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        let value = serde_json::to_string(&Record::at(address)).unwrap();
        session.put(&key("cart", &address.to_string()), &value, None).await.unwrap();
    }
    until(&mut roster, 10, false).await;
    session.close().await.unwrap();
    until(&mut roster, 10, true).await;
    let listed = fleet.directory.list();
    assert_eq!((listed[0].held, listed[0].instances.iter().filter(|one| one.held).count()), (10, 10));
    assert_eq!(fleet.directory.figures().held, 10);
    assert_eq!(fleet.directory.release("cart"), 10);
    until(&mut roster, 0, false).await;
    assert!(fleet.directory.list().is_empty());
}

#[tokio::test]
async fn a_registration_that_makes_no_sense_is_left_out() {
    let fleet = Fleet::start();
    let mut roster = fleet.directory.follow("cart");
    fleet.coord.put(&key("cart", "odd"), "no record", None).await.unwrap();
    let _one = fleet.register(80);
    until(&mut roster, 1, false).await;
    assert_eq!(fleet.directory.figures().refused, 1);
}
