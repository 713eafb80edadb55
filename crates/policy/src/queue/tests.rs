use super::*;
use model::Deadline;
use proptest::prelude::*;
use std::collections::HashSet;
use std::vec::Vec;

const LATENCY: Duration = Duration::from_millis(20);

fn who(class: Criticality, customer: u64) -> Who {
    Who { class, customer, deadline: Deadline::NONE }
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

/// Who is served next, without anybody being shed.
fn served(queue: &mut Queue<u32>, now: Instant) -> Option<u32> {
    let popped = queue.pop(now, LATENCY, |_| Some(()), &mut |waiter, shed| panic!("{waiter:?} {shed:?}"));
    popped.map(|(waiter, ())| waiter.value)
}

/// So slow that the line's share of the limit decides how many may wait.
const SLOW: Duration = Duration::from_secs(1);

proptest! {
    /// Everybody pushed comes out exactly once; no lower class before a higher one; nobody too late; never too many.
    #[test]
    fn keeps_its_promises(
        ops in prop::collection::vec((0..8u8, 0..4usize, 0..5u64, 0..200u64), 0..500), limit in 0..60u32,
    ) {
        let mut queue = Queue::new(&QueueParams { waiting_max: 20, ..QueueParams::default() });
        let capacity = (limit / 2).clamp(WAITING_MIN, 20) as usize;
        let mut millis = 0;
        let mut inside: Vec<(u32, Who, Id)> = Vec::new();
        let mut out = HashSet::new();
        for (number, (op, class, customer, span)) in ops.into_iter().enumerate() {
            millis += span / 20;
            let now = at(millis);
            let mut gone = Vec::new();
            match op {
                0..=3 => {
                    let deadline = if span > 100 { Deadline::NONE } else { Deadline::at(at(millis + span)) };
                    let who = Who { class: Criticality::ALL[class], customer, deadline };
                    match queue.push(now, limit, SLOW, Waiter { who, value: number as u32 }) {
                        Ok((id, evicted)) => {
                            if let Some(Evicted(evicted)) = evicted {
                                prop_assert!(evicted.who.class >= who.class);
                                gone.push(evicted.value);
                            }
                            inside.push((number as u32, who, id));
                        }
                        Err(Full(waiter)) => {
                            prop_assert_eq!(waiter.value, number as u32);
                            prop_assert!(inside.len() >= capacity);
                            prop_assert!(inside.iter().all(|(_, other, _)| other.class <= who.class));
                        }
                    }
                }
                4 | 5 => {
                    let shed = &mut |waiter: Waiter<u32>, _| gone.push(waiter.value);
                    let popped = queue.pop(now, LATENCY, |_| Some(()), shed);
                    let best = inside.iter().filter(|(value, ..)| !gone.contains(value)).map(|(_, who, _)| who.class).min();
                    prop_assert_eq!(popped.as_ref().map(|(waiter, ())| waiter.who.class), best);
                    if let Some((waiter, ())) = popped {
                        prop_assert!(waiter.who.deadline.left(now) > LATENCY);
                        gone.push(waiter.value);
                    }
                }
                6 => {
                    queue.expire(now, LATENCY, &mut |waiter, _| gone.push(waiter.value));
                    prop_assert!(queue.poll_timeout(LATENCY).is_none_or(|timeout| timeout > now));
                }
                _ => if let Some((value, _, id)) = inside.first().copied() {
                    prop_assert_eq!(queue.remove(id).map(|waiter| waiter.value), Some(value));
                    prop_assert!(queue.remove(id).is_none());
                    gone.push(value);
                },
            }
            for value in gone {
                prop_assert!(out.insert(value), "{value} came out twice");
                inside.retain(|(inside, ..)| *inside != value);
            }
            prop_assert_eq!(queue.len(), inside.len());
            prop_assert!(queue.len() <= capacity);
        }
    }
}

#[test]
fn first_come_first_served_until_the_line_stands() {
    let params = QueueParams { target: Some(Span::from_millis(5)), ..QueueParams::default() };
    let mut queue = Queue::new(&params);
    let push = |queue: &mut Queue<u32>, millis, value| {
        let waiter = Waiter { who: who(Criticality::Critical, 0), value };
        queue.push(at(millis), 100, SLOW, waiter).expect("there is room");
    };
    push(&mut queue, 0, 1);
    push(&mut queue, 1, 2);
    assert_eq!(served(&mut queue, at(2)), Some(1));
    assert!(!queue.under_pressure());
    // Somebody always waits longer than the target of 5 ms.
    for millis in 3..80 {
        push(&mut queue, millis, millis as u32);
        let _ = queue.pop(at(millis), LATENCY, |_| (millis % 2 == 0).then_some(()), &mut |_, _| ());
    }
    assert!(queue.under_pressure());
    push(&mut queue, 90, 1_000);
    push(&mut queue, 91, 1_001);
    let mut timed_out = 0;
    let popped = queue.pop(at(91), LATENCY, |_| Some(()), &mut |_, shed| {
        assert_eq!(shed, Shed::QueueTimeout);
        timed_out += 1;
    });
    assert_eq!((popped.map(|(waiter, ())| waiter.value), timed_out > 0), (Some(1_001), true));
    // The line runs empty: over.
    while queue.pop(at(92), LATENCY, |_| Some(()), &mut |_, _| ()).is_some() {}
    push(&mut queue, 93, 2_000);
    assert!(!queue.under_pressure());
}

#[test]
fn a_full_line_makes_room_for_the_more_important_and_the_less_greedy() {
    let mut queue = Queue::new(&QueueParams::default());
    let mut push = |class, customer, value| {
        queue
            .push(at(0), 8, SLOW, Waiter { who: who(class, customer), value })
            .map(|(_, evicted)| evicted.map(|e| e.0.value))
    };
    for value in 0..3 {
        assert_eq!(push(Criticality::Critical, 7, value), Ok(None));
    }
    assert_eq!(push(Criticality::Sheddable, 1, 3), Ok(None));
    assert_eq!(push(Criticality::CriticalPlus, 7, 4), Ok(Some(3)), "the lowest class goes");
    assert!(push(Criticality::Sheddable, 2, 5).is_err());
    assert!(push(Criticality::Critical, 7, 6).is_err(), "a greedy customer displaces nobody");
    assert_eq!(push(Criticality::Critical, 2, 8), Ok(Some(2)), "the newest of the greedy one goes");
}

#[test]
fn whoever_finds_no_place_stays_where_it_is() {
    let mut queue = Queue::new(&QueueParams::default());
    let waiter = Waiter { who: who(Criticality::Critical, 0), value: 1 };
    queue.push(at(0), 8, SLOW, waiter).expect("there is room");
    assert!(queue.pop(at(1), LATENCY, |_| None::<()>, &mut |_, _| panic!("nobody is shed")).is_none());
    assert_eq!((queue.len(), served(&mut queue, at(1))), (1, Some(1)));
}

#[test]
fn a_line_without_room_refuses_everybody() {
    let mut queue = Queue::new(&QueueParams { waiting_max: 0, ..QueueParams::default() });
    assert!(
        queue.push(at(0), 100, SLOW, Waiter { who: who(Criticality::CriticalPlus, 0), value: 1 }).is_err()
    );
    assert!(queue.is_empty() && queue.poll_timeout(LATENCY).is_none());
}
