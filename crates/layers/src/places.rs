//! The places of a bulkhead, and the queue in front of them.

use std::sync::Arc;
use std::time::Duration;

use model::{Deadline, Instant};
use policy::bulkhead::{self as decision, Admission, BulkheadParams};
use tokio::sync::Notify;

use crate::error::InvalidParams;
use crate::hold::Hold;
use crate::{Clock, worker};

/// Places that requests take, shared by all services of a layer.
#[derive(Debug)]
pub(crate) struct Places {
    bulkhead: decision::Bulkhead,
    freed: Notify,
    wait_max: Duration,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
}

impl Hold for Place {}

impl Drop for Place {
    fn drop(&mut self) {
        if self.places.bulkhead.leave(worker::shard()) {
            self.places.freed.notify_one();
        }
    }
}

/// A request in the queue; however it leaves, it leaves once.
struct Waiting {
    places: Option<Arc<Places>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(places) = &self.places {
            places.bulkhead.give_up();
        }
    }
}

/// What asking for a place came to.
pub(crate) enum Asked<W> {
    Entered(Place),
    /// It has a place in the queue; the future says whether it got in.
    Waits(W),
    Full,
}

impl Places {
    pub(crate) fn new(params: &BulkheadParams) -> Result<Arc<Self>, InvalidParams> {
        InvalidParams::check(params.check())?;
        let bulkhead = decision::Bulkhead::new(params, worker::count());
        Ok(Arc::new(Self { bulkhead, freed: Notify::new(), wait_max: params.wait_max.get() }))
    }

    pub(crate) fn bulkhead(&self) -> &decision::Bulkhead {
        &self.bulkhead
    }

    /// Asks for a place. Nobody waits past `deadline`.
    pub(crate) fn ask(
        self: &Arc<Self>,
        deadline: Deadline,
    ) -> Asked<impl Future<Output = Option<Place>> + Send + use<>> {
        match self.bulkhead.try_enter(worker::shard()) {
            Admission::Enter => Asked::Entered(Place { places: Arc::clone(self) }),
            Admission::Refuse => Asked::Full,
            Admission::Wait => {
                let waiting = Waiting { places: Some(Arc::clone(self)) };
                let until = deadline.instant().min(Clock::now().after(self.wait_max));
                Asked::Waits(waiting.wait(until))
            }
        }
    }
}

impl Waiting {
    async fn wait(mut self, until: Instant) -> Option<Place> {
        let places = self.places.clone()?;
        let until = Clock::timer(until);
        loop {
            let mut freed = std::pin::pin!(places.freed.notified());
            // From here on no wake-up is missed.
            freed.as_mut().enable();
            if places.bulkhead.try_enter_waiting(worker::shard()) {
                self.places = None;
                if places.bulkhead.waiting() > 0 {
                    places.freed.notify_one();
                }
                return Some(Place { places: Arc::clone(&places) });
            }
            tokio::time::timeout_at(until, freed).await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Span;
    use tokio::task::JoinSet;

    fn places(active_max: u32, waiting_max: u32) -> Arc<Places> {
        let wait_max = Span::from_millis(100);
        Places::new(&BulkheadParams { active_max, waiting_max, wait_max }).unwrap()
    }

    async fn enter(places: &Arc<Places>, deadline: Deadline) -> Option<Place> {
        match places.ask(deadline) {
            Asked::Entered(place) => Some(place),
            Asked::Waits(wait) => wait.await,
            Asked::Full => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_gets_the_place_that_is_given_back() {
        let places = places(1, 1);
        let first = enter(&places, Deadline::NONE).await.unwrap();
        let mut tasks = JoinSet::new();
        let waits = Arc::clone(&places);
        tasks.spawn(async move { enter(&waits, Deadline::NONE).await.is_some() });
        while places.bulkhead().waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(enter(&places, Deadline::NONE).await.is_none(), "the queue is full");
        drop(first);
        assert!(tasks.join_next().await.unwrap().unwrap());
        assert_eq!((places.bulkhead().active(), places.bulkhead().waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_allowed_nor_past_the_deadline() {
        let places = places(1, 10);
        let _first = enter(&places, Deadline::NONE).await.unwrap();
        let began = Clock::now();
        assert!(enter(&places, Deadline::within(began, Duration::from_millis(30))).await.is_none());
        assert_eq!(Clock::now().since(began).as_millis(), 30);
        assert!(enter(&places, Deadline::NONE).await.is_none());
        assert!((130..=132).contains(&Clock::now().since(began).as_millis()));
        assert_eq!(places.bulkhead().waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_cancelled_no_place_is_lost_and_none_is_made() {
        let places = places(3, 50);
        let mut tasks = JoinSet::new();
        for number in 0..200u64 {
            let places = Arc::clone(&places);
            tasks.spawn(async move {
                let held = enter(&places, Deadline::NONE).await;
                assert!(places.bulkhead().active() <= 3);
                // Some hold their place for a while, some are dropped in the queue.
                tokio::time::timeout(Duration::from_millis(number % 7), std::future::pending::<()>())
                    .await
                    .ok();
                drop(held);
            });
            if number % 3 == 0 {
                tokio::task::yield_now().await;
                tasks.abort_all();
            }
        }
        while tasks.join_next().await.is_some() {}
        assert_eq!((places.bulkhead().active(), places.bulkhead().waiting()), (0, 0));
    }
}
