//! Leases while things break: recorded histories are linearizable, and fenced writes never go back.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coord::{
    Claim, Command, Coord, CoordParams, Failure, Guard, LeaseOptions, Refusal, Reply, SessionId, Token,
};
use model::Span;
use testkit::Etcd;

use crate::history::{Operation, Seen, is_linearizable};

const TTL: Duration = Duration::from_secs(2);

/// Something that a lease guards: remembers who wrote, in order.
#[derive(Debug, Default)]
struct Register {
    writes: Vec<Token>,
    fenced: bool,
}

impl Register {
    fn write(&mut self, token: Token) -> bool {
        if self.fenced && self.writes.last().is_some_and(|last| *last > token) {
            return false;
        }
        self.writes.push(token);
        true
    }

    /// Whether no write came after one of a later term.
    fn is_sound(&self) -> bool {
        self.writes.is_sorted()
    }
}

#[derive(Clone)]
struct Recorder {
    begun: Instant,
    operations: Arc<Mutex<Vec<Operation>>>,
}

impl Recorder {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap()
    }

    fn note(&self, start: u64, end: u64, seen: Seen) {
        self.operations.lock().unwrap().push(Operation { start, end, seen });
    }

    /// Takes, uses and gives back the lease, or finds it busy, through plain commands: nothing of the holder's caution is
    /// between the engine and the record.
    async fn turn(&self, coord: &Coord) {
        let ask = |command| coord.engine().call(command);
        let session = SessionId::random();
        let opened = self.now();
        if ask(Command::OpenSession { session, ttl: Span::from(TTL) }).await.is_err() {
            return;
        }
        let claim = Claim::random();
        let name = "cron".to_owned();
        let start = self.now();
        let acquire = Command::Acquire { name: name.clone(), session, claim, value: String::new() };
        let answer = ask(acquire).await;
        let end = self.now();
        match answer {
            Ok(Reply::Acquired { token: Token(token) }) => {
                self.note(start, end, Seen::Acquired(token));
                // Never renewed: it may end by itself one time to live after the session began, and not before.
                let runs_out = opened + u64::try_from(TTL.as_nanos()).unwrap();
                self.note(runs_out, u64::MAX, Seen::MayEnd(token));
                let guard = Some(Guard { name: name.clone(), token: Token(token) });
                let put =
                    Command::Put { key: "state".into(), value: token.to_string(), session: None, guard };
                let _ = ask(put).await;
                let start = self.now();
                match ask(Command::Release { name, claim }).await {
                    Ok(_) => self.note(start, self.now(), Seen::Released(token)),
                    Err(Failure::Refused(_)) => self.note(start, self.now(), Seen::NotHeld(token)),
                    // It may have been given back, and the session is closed below.
                    Err(_) => self.note(start, u64::MAX, Seen::MayEnd(token)),
                }
            }
            Ok(Reply::Busy { token: Token(token), .. }) => self.note(start, end, Seen::Busy(token)),
            Ok(other) => panic!("{other:?}"),
            Err(Failure::Refused(Refusal::NoSession { .. }) | Failure::Unreachable { .. }) => {}
            Err(Failure::Refused(refusal)) => panic!("{refusal}"),
            Err(_) => {
                self.note(start, u64::MAX, Seen::MayHold);
                self.note(start, u64::MAX, Seen::MayEndUnknown);
            }
        }
        let _ = ask(Command::CloseSession { session }).await;
    }
}

fn on(etcd: &Etcd) -> Coord {
    let params =
        CoordParams { etcd: etcd.urls(), timeout: Span::from_millis(1500), ..CoordParams::default() };
    Coord::etcd(&params).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_linearizable_while_members_freeze_die_and_part() {
    let etcd = Arc::new(Mutex::new(Etcd::start(3)));
    let record = Recorder { begun: Instant::now(), operations: Arc::default() };
    let mut clients = Vec::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for _ in 0..3 {
        let (record, coord) = (record.clone(), on(&etcd.lock().unwrap()));
        let stopped = stopped.clone();
        clients.push(tokio::spawn(async move {
            while !*stopped.borrow() {
                record.turn(&coord).await;
            }
        }));
    }
    let faults = tokio::task::spawn_blocking({
        let (etcd, record) = (Arc::clone(&etcd), record.clone());
        move || {
            let reached = |count: usize| {
                testkit::wait_until("clients go on", testkit::wait::PATIENCE, || {
                    record.operations.lock().unwrap().len() > count
                });
            };
            let len = || record.operations.lock().unwrap().len();
            let mut etcd = etcd.lock().unwrap();
            reached(10);
            let leader = etcd.leader();
            etcd.freeze(leader);
            reached(len() + 10);
            etcd.thaw(leader);
            let leader = etcd.leader();
            etcd.isolate(leader);
            reached(len() + 10);
            etcd.heal();
            etcd.wait_ready(leader);
            let leader = etcd.leader();
            etcd.kill(leader);
            reached(len() + 10);
            etcd.restart(leader);
            etcd.wait_ready(leader);
            reached(len() + 10);
        }
    });
    faults.await.unwrap();
    stop.send_replace(true);
    for client in clients {
        client.await.unwrap();
    }
    let mut operations = record.operations.lock().unwrap().clone();
    assert!(operations.len() >= 40);
    // The checker's time grows with every end that is not bounded: it gets the beginning. What was under way when that ends
    // may or may not have taken effect by then.
    operations.sort_by_key(|operation| operation.start);
    if let Some(cut) = operations.get(400).map(|operation| operation.start) {
        operations.truncate(400);
        operations
            .iter_mut()
            .filter(|operation| operation.end > cut)
            .for_each(|operation| operation.end = u64::MAX);
    }
    assert!(is_linearizable(&operations), "not linearizable: {operations:#?}");
}

/// The same pause with and without fencing: what a lease alone promises is not enough, and the check sees it.
#[tokio::test]
async fn trap_31_an_unfenced_write_under_pause_is_caught_and_a_fenced_one_refused() {
    for fenced in [false, true] {
        let coord = Coord::in_memory();
        let mut register = Register { fenced, ..Register::default() };
        // One whose renewals stopped, as those of a paused process do.
        let ask = |command| coord.engine().call(command);
        let session = SessionId::random();
        ask(Command::OpenSession { session, ttl: Span::from_secs(1) }).await.unwrap();
        let name = "cron".to_owned();
        let acquire = Command::Acquire { name, session, claim: Claim::random(), value: String::new() };
        let Ok(Reply::Acquired { token: paused }) = ask(acquire).await else { panic!("free") };
        assert!(register.write(paused));
        // It woke up, looked at nothing, and writes after the next holder did.
        let other = coord.session(Duration::from_secs(60)).await.unwrap();
        let options = LeaseOptions { wait: Some(testkit::wait::PATIENCE), ..LeaseOptions::default() };
        let next = other.acquire("cron", &options).await.unwrap();
        assert!(register.write(next.token()));
        assert_eq!(register.write(paused), !fenced);
        assert_eq!(register.is_sound(), fenced, "the negative control fails, the fenced one does not");
    }
}

/// A holder that is stopped past its time finds out when it looks, before another is let in.
#[tokio::test]
async fn trap_31_a_holder_that_cannot_renew_stops_believing_before_the_next_one_begins() {
    let etcd = Etcd::start(1);
    let holder = on(&etcd);
    let session = holder.session(TTL).await.unwrap();
    let leadership = session.campaign("leader", &LeaseOptions::default()).await.unwrap();
    etcd.cut_clients(0);
    let direct = CoordParams { etcd: vec![format!("http://{}", etcd.addr(0))], ..CoordParams::default() };
    let other = Coord::etcd(&direct).unwrap().session(Duration::from_secs(60)).await.unwrap();
    let options = LeaseOptions { wait: Some(testkit::wait::PATIENCE), ..LeaseOptions::default() };
    let next = other.campaign("leader", &options).await.unwrap();
    assert!(!leadership.is_leader() && next.is_leader());
    assert!(next.token() > leadership.token());
}
