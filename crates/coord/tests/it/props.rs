//! The decisions over random histories: one holder at a time in everybody's eyes, tokens that only rise, nothing missed.

use std::collections::BTreeMap;
use std::time::Duration;

use coord::belief::{Belief, Standing};
use coord::table::{Delta, Effects, Row, Saved, Table};
use coord::{Claim, Command, Entry, Event, Reply, SessionId, Token};
use model::{Instant, Span, Timestamp};
use proptest::prelude::*;

const TTL: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
enum Op {
    /// Time passes; suspended or not makes no difference to this clock.
    Advance(u16),
    /// A holder sends a renewal; it is heard and answered later, or never.
    Send(usize),
    Hear(usize),
    Answer(usize),
    Fail(usize),
    Acquire(usize),
    Release(usize),
    /// The engine's process ends and another loads what it wrote.
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let client = 0..3usize;
    let op = prop_oneof![
        3 => (1..6000u16).prop_map(Op::Advance),
        3 => client.clone().prop_map(Op::Send),
        3 => client.clone().prop_map(Op::Hear),
        3 => client.clone().prop_map(Op::Answer),
        1 => client.clone().prop_map(Op::Fail),
        3 => client.clone().prop_map(Op::Acquire),
        1 => client.prop_map(Op::Release),
        1 => Just(Op::Restart),
    ];
    proptest::collection::vec(op, 1..120)
}

/// What a store would hold.
#[derive(Clone, Debug, Default)]
struct Disk {
    rows: BTreeMap<String, Row>,
    tokens: BTreeMap<String, Token>,
    sessions: BTreeMap<SessionId, Duration>,
}

impl Disk {
    fn write(&mut self, effects: &Effects) {
        for delta in effects.deltas.clone() {
            match delta {
                Delta::Row(row) => drop(self.rows.insert(row.entry.key.clone(), row)),
                Delta::NoRow(key) => drop(self.rows.remove(&key)),
                Delta::Session(id, ttl) => drop(self.sessions.insert(id, ttl)),
                Delta::NoSession(id) => drop(self.sessions.remove(&id)),
                Delta::Token(name, token) => drop(self.tokens.insert(name, token)),
            }
        }
    }

    fn saved(&self, table: &Table) -> Saved {
        Saved {
            position: table.position(),
            rows: self.rows.values().cloned().collect(),
            tokens: self.tokens.clone().into_iter().collect(),
            sessions: self.sessions.clone().into_iter().collect(),
        }
    }
}

#[derive(Debug, Default)]
struct Client {
    belief: Option<Belief>,
    session: u64,
    sent: Option<Instant>,
    heard: Option<(Instant, bool)>,
    held: Option<(Claim, Token)>,
}

struct World {
    now: Instant,
    table: Table,
    disk: Disk,
    serial: u64,
}

impl World {
    fn new() -> Self {
        Self { now: Instant::from_secs(1), table: Table::default(), disk: Disk::default(), serial: 0 }
    }

    fn ask(&mut self, command: &Command) -> Result<Reply, coord::Refusal> {
        let mut effects = Effects::default();
        let wall = Timestamp::from_unix_nanos(self.now.as_nanos());
        let answer = self.table.apply(self.now, wall, command, &mut effects);
        self.disk.write(&effects);
        answer
    }

    fn open(&mut self) -> SessionId {
        self.serial += 1;
        let session = SessionId(self.serial);
        self.ask(&Command::OpenSession { session, ttl: Span::from(TTL) }).unwrap();
        session
    }

    fn acquire(&mut self, session: SessionId) -> (Claim, Result<Reply, coord::Refusal>) {
        self.serial += 1;
        let claim = Claim(self.serial);
        let command = Command::Acquire { name: "cron".into(), session, claim, value: String::new() };
        (claim, self.ask(&command))
    }
}

proptest! {
    /// Whatever is delayed, lost or restarted, two holders never believe at the same time, and a later term has a higher token.
    #[test]
    fn one_holder_at_a_time_in_everybodys_eyes(ops in ops()) {
        let mut world = World::new();
        let mut clients: Vec<Client> = (0..3).map(|_| Client::default()).collect();
        let mut newest = Token(0);
        for op in ops {
            match op {
                Op::Advance(millis) => {
                    world.now = world.now.after(Duration::from_millis(millis.into()));
                    let mut effects = Effects::default();
                    world.table.expire(world.now, &mut effects);
                    world.disk.write(&effects);
                }
                Op::Send(who) => clients[who].sent = Some(world.now),
                Op::Hear(who) => {
                    let client = &mut clients[who];
                    if let (Some(sent), Some(_)) = (client.sent.take(), &client.belief) {
                        let renew = Command::Renew { session: SessionId(client.session) };
                        client.heard = Some((sent, world.ask(&renew).is_ok()));
                    }
                }
                Op::Answer(who) => {
                    let client = &mut clients[who];
                    if let (Some((sent, fine)), Some(belief)) = (client.heard.take(), &mut client.belief) {
                        if fine { belief.on_renewed(sent, world.now) } else { belief.on_over() }
                    }
                }
                Op::Fail(who) => {
                    if let Some(belief) = &mut clients[who].belief { belief.on_failed(world.now) }
                }
                Op::Acquire(who) => {
                    let client = &mut clients[who];
                    let lost = client.belief.as_ref().is_none_or(|belief| belief.standing(world.now) == Standing::Lost);
                    if lost {
                        let SessionId(session) = world.open();
                        *client = Client { belief: Some(Belief::new(TTL, world.now)), session, ..Client::default() };
                    }
                    if client.held.is_none()
                        && let (claim, Ok(Reply::Acquired { token })) = world.acquire(SessionId(client.session))
                    {
                        prop_assert!(token > newest);
                        newest = token;
                        client.held = Some((claim, token));
                    }
                }
                Op::Release(who) => {
                    if let Some((claim, _)) = clients[who].held.take() {
                        let _ = world.ask(&Command::Release { name: "cron".into(), claim });
                    }
                }
                Op::Restart => {
                    let saved = world.disk.saved(&world.table);
                    world.table = Table::load(saved, world.now);
                }
            }
            let believers = clients.iter().filter(|client| {
                client.held.is_some()
                    && client.belief.as_ref().is_some_and(|belief| world.now < belief.deadline(TTL))
            });
            prop_assert!(believers.count() <= 1, "{clients:?}");
        }
    }

    /// A listing and the events after it amount to a later listing: nothing is missed, nothing told twice.
    #[test]
    fn a_listing_and_what_follows_is_a_later_listing(steps in proptest::collection::vec((0..6u8, 0..4u8), 1..60), at in 0..60usize) {
        let mut world = World::new();
        let session = world.open();
        let mut known: Option<BTreeMap<String, Entry>> = None;
        let mut last = 0;
        for (index, (kind, key)) in steps.iter().enumerate() {
            if index == at.min(steps.len() - 1) {
                let Ok(Reply::Listing { entries, position }) = world.ask(&Command::List { prefix: String::new() }) else { unreachable!() };
                last = position.revision;
                known = Some(entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect());
            }
            let key = format!("k{key}");
            let command = match kind {
                0 | 1 => Command::Put { key, value: index.to_string(), session: None, guard: None },
                2 => Command::Put { key, value: index.to_string(), session: Some(session), guard: None },
                3 => Command::Delete { key, guard: None },
                4 => Command::Acquire { name: key, session, claim: Claim(index as u64 + 1), value: String::new() },
                _ => Command::Renew { session },
            };
            world.now = world.now.after(Duration::from_millis(if *kind == 3 { 4000 } else { 0 }));
            let mut effects = Effects::default();
            let wall = Timestamp::from_unix_nanos(world.now.as_nanos());
            let _ = world.table.apply(world.now, wall, &command, &mut effects);
            if let Some(known) = &mut known {
                for event in effects.events {
                    prop_assert_eq!(event.revision(), last + 1);
                    last += 1;
                    match event {
                        Event::Put { entry } => drop(known.insert(entry.key.clone(), entry)),
                        Event::Deleted { key, .. } => prop_assert!(known.remove(&key).is_some()),
                    }
                }
            }
        }
        let Ok(Reply::Listing { entries, .. }) = world.ask(&Command::List { prefix: String::new() }) else { unreachable!() };
        prop_assert_eq!(entries, known.unwrap().into_values().collect::<Vec<_>>());
    }

    /// A table that was restored from an old state gives no token a second time, as long as the wall clock went on.
    #[test]
    fn tokens_rise_also_over_a_restore(before in 1..20u32, after in 1..20u32, gap in 1..1_000_000u64) {
        let mut world = World::new();
        let session = world.open();
        let saved = world.disk.saved(&world.table);
        let mut newest = Token(0);
        let mut terms = |world: &mut World, session, count| {
            for _ in 0..count {
                let (claim, answer) = world.acquire(session);
                let Ok(Reply::Acquired { token }) = answer else { panic!("free: {answer:?}") };
                assert!(token > newest);
                newest = token;
                world.now = world.now.after(Duration::from_micros(2));
                world.ask(&Command::Release { name: "cron".into(), claim }).unwrap();
            }
        };
        terms(&mut world, session, before);
        world.now = world.now.after(Duration::from_micros(gap));
        world.table = Table::load(saved, world.now);
        terms(&mut world, session, after);
    }
}

/// A failed renewal means not leader at once, although the time that the one before bought is not over.
#[test]
fn trap_31_a_failed_renewal_is_doubt_at_once() {
    let mut belief = Belief::new(TTL, Instant::from_secs(100));
    assert_eq!(belief.standing(Instant::from_secs(105)), Standing::Sure);
    belief.on_failed(Instant::from_secs(105));
    assert_eq!(belief.standing(Instant::from_secs(105)), Standing::Doubtful);
    belief.on_renewed(Instant::from_secs(106), Instant::from_secs(107));
    assert_eq!((belief.standing(Instant::from_secs(107)), belief.failures()), (Standing::Sure, 1));
}

/// The clock counts suspension: after a night with the lid closed the lease has run out, and a late answer revives nothing.
#[test]
fn trap_31_time_that_was_slept_through_counts() {
    let mut belief = Belief::new(TTL, Instant::from_secs(100));
    let morning = Instant::from_secs(100 + 8 * 3600);
    assert_eq!(belief.standing(morning), Standing::Lost);
    belief.on_renewed(Instant::from_secs(101), morning);
    assert_eq!(belief.standing(morning), Standing::Lost);
    assert!(belief.deadline(TTL) <= Instant::from_secs(110));
}
