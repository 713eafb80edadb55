//! Worker numbers that are leased, kept and handed on.

use std::collections::HashSet;
use std::time::Duration;

use coord::Coord;
use coord::ids::{Ids, IdsError};
use tokio_util::sync::CancellationToken;

/// A process that gives out ids.
struct Giver {
    ids: Ids,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Giver {
    async fn start(coord: &Coord, numbers: u16) -> Self {
        let (ids, stop) = (Ids::new(), CancellationToken::new());
        let task = tokio::spawn(ids.clone().run(coord.clone(), numbers, stop.clone()));
        let giver = Self { ids, stop, task };
        giver.until(|_| true).await;
        giver
    }

    /// Waits until it has worker numbers that are `wanted`.
    async fn until(&self, wanted: impl Fn(&[u16]) -> bool) {
        let mut numbers = self.ids.follow();
        let reached = numbers.wait_for(|now| now.as_ref().is_some_and(|now| wanted(now.numbers())));
        tokio::time::timeout(Duration::from_secs(30), reached)
            .await
            .expect("the awaited state within 30 s")
            .expect("it lives");
    }

    fn numbers(&self) -> HashSet<u16> {
        self.ids.generator().expect("leased").numbers().iter().copied().collect()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic");
    }
}

#[tokio::test]
async fn processes_have_numbers_of_their_own_and_share_no_id() {
    let coord = Coord::in_memory();
    let (one, two) = (Giver::start(&coord, 4).await, Giver::start(&coord, 2).await);
    assert!(one.numbers().is_disjoint(&two.numbers()));
    let mut seen = HashSet::new();
    for _ in 0..100 {
        for giver in [&one, &two] {
            assert!(giver.ids.try_batch(1_000).unwrap().all(|id| seen.insert(id)));
            assert!(seen.insert(giver.ids.try_next().unwrap()));
        }
    }
    assert_eq!((one.ids.figures().numbers, one.ids.figures().given), (4, 100_000));
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn whoever_has_a_number_next_begins_where_the_last_holder_ended() {
    let coord = Coord::in_memory();
    let before = Giver::start(&coord, 1).await;
    let number = *before.numbers().iter().next().unwrap();
    let seen: HashSet<_> = before.ids.try_batch(100_000).unwrap().collect();
    let generator = before.ids.generator().unwrap();
    before.stop().await;
    assert!(generator.try_next(coord::clock::wall()).is_err(), "who gave it back gives out nothing");
    let last = seen.iter().max().unwrap().timestamp().as_unix_nanos() / 1_000_000;
    let bound =
        coord.list(&format!("ids/{number:04}")).await.unwrap().entries[0].value.parse::<u64>().unwrap();
    assert_eq!(bound + coord::ids::EPOCH_UNIX_MS, last + 1);
}

/// TRAP 31: a holder that lost its numbers without noticing cannot reserve more.
#[tokio::test]
async fn trap_31_a_superseded_holder_takes_other_numbers() {
    let coord = Coord::in_memory();
    let giver = Giver::start(&coord, 1).await;
    let number = *giver.numbers().iter().next().unwrap();
    let name = format!("ids/{number:04}");
    let token = coord.holder(&name).await.unwrap().unwrap().token.unwrap();
    coord.break_lease(&name, token).await.unwrap();
    let session = coord.session(Duration::from_secs(60)).await.unwrap();
    let _other = session.acquire(&name, &coord::LeaseOptions::default()).await.unwrap();
    giver.until(|numbers| numbers != [number]).await;
    assert!(giver.ids.try_next().is_ok());
    giver.stop().await;
}

#[tokio::test]
async fn without_numbers_there_are_no_ids() {
    let ids = Ids::new();
    assert_eq!(ids.try_next(), Err(IdsError::NoNumber));
    assert!(ids.try_batch(5).is_err() && ids.generator().is_none());
}
