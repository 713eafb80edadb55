//! The places of a bulkhead, and those who wait for one.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::pin;
use std::task::{Context, Poll};

use policy::bulkhead::{Admission, Bulkhead};
use tokio::sync::{Mutex, Notify};

/// A bulkhead whose waiters get in in the order in which they came.
#[derive(Debug)]
pub struct Places {
    bulkhead: Bulkhead,
    /// Held by the head of the line. Whoever comes later waits for it, and it is handed on in order: nobody else looks
    /// for a free place.
    head: Mutex<()>,
    /// Wakes the head of the line.
    freed: Notify,
}

impl Deref for Places {
    type Target = Bulkhead;

    fn deref(&self) -> &Bulkhead {
        &self.bulkhead
    }
}

/// Why somebody has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// Neither is there one nor room in the line.
    Full,
    /// None became free in time.
    Late,
    /// Nobody wants it any more.
    Gone,
}

/// Whoever was told to wait gets in or gives up, a cancelled one included.
struct Waiting<'a> {
    places: &'a Places,
    entered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.entered {
            self.places.bulkhead.give_up();
        }
    }
}

impl Places {
    /// The places of `bulkhead`.
    #[must_use]
    pub fn new(bulkhead: Bulkhead) -> Self {
        Self { bulkhead, head: Mutex::default(), freed: Notify::new() }
    }

    /// Gives a place back and wakes who waits longest.
    pub fn release(&self, shard: usize) {
        if self.bulkhead.leave(shard) {
            self.freed.notify_one();
        }
    }

    /// Takes a place, waited for until `until` if need be; answers whether it had to be. `gone` is ready when nobody wants
    /// the place any more.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn enter(
        &self,
        shard: usize,
        until: impl FnOnce() -> tokio::time::Instant,
        gone: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<bool, NoPlace> {
        match self.bulkhead.try_enter(shard) {
            Admission::Enter => Ok(false),
            Admission::Refuse => Err(NoPlace::Full),
            Admission::Wait => self.wait(shard, until(), gone).await.map(|()| true),
        }
    }

    async fn wait(
        &self,
        shard: usize,
        until: tokio::time::Instant,
        mut gone: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<(), NoPlace> {
        let mut waiting = Waiting { places: self, entered: false };
        let mut turn = pin!(async {
            let _head = self.head.lock().await;
            loop {
                let mut freed = pin!(self.freed.notified());
                // A place that becomes free from here on is heard of; one that was free before is found.
                freed.as_mut().enable();
                if self.bulkhead.try_enter_waiting(shard) {
                    return;
                }
                freed.await;
            }
        });
        let mut timeout = pin!(tokio::time::sleep_until(until));
        let found = poll_fn(|cx| {
            if turn.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if timeout.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(NoPlace::Late));
            }
            gone(cx).map(|()| Err(NoPlace::Gone))
        })
        .await;
        waiting.entered = found.is_ok();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::bulkhead::BulkheadParams;
    use std::task::Waker;
    use std::time::Duration;
    use tokio::time::Instant;

    fn places(active_max: u32, waiting_max: u32) -> Places {
        let params = BulkheadParams { active_max, waiting_max, ..BulkheadParams::default() };
        Places::new(Bulkhead::new(&params, 2))
    }

    async fn enter(places: &Places, shard: usize) -> Result<bool, NoPlace> {
        let until = || Instant::now() + Duration::from_secs(1);
        places.enter(shard, until, |_| Poll::Pending).await
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_get_in_in_order() {
        let places = places(2, 8);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!((enter(&places, 0).await, enter(&places, 1).await), (Ok(false), Ok(false)));
        let mut line: Vec<_> = (0..6).map(|n| Box::pin(enter(&places, n % 2))).collect();
        for waits in &mut line {
            assert!(waits.as_mut().poll(&mut cx).is_pending());
        }
        // One in the middle leaves; the others close up.
        drop(line.remove(2));
        for released in 0..2 {
            places.release(released);
        }
        // A newcomer looks first, and does not overtake.
        let mut late = Box::pin(enter(&places, 0));
        assert!(late.as_mut().poll(&mut cx).is_pending());
        // Whoever is asked first: those in front are let in, and nobody else.
        let mut entered = Vec::new();
        for _ in 0..3 {
            for (number, waits) in line.iter_mut().enumerate().rev() {
                if !entered.contains(&number) && waits.as_mut().poll(&mut cx) == Poll::Ready(Ok(true)) {
                    entered.push(number);
                }
            }
        }
        assert_eq!(entered, [0, 1]);
        assert_eq!((places.active(), places.waiting()), (2, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_nor_leaves_anything_behind() {
        let places = places(1, 2);
        let _ = enter(&places, 0).await;
        assert_eq!(enter(&places, 0).await, Err(NoPlace::Late));
        let until = || Instant::now() + Duration::from_secs(1);
        assert_eq!(places.enter(0, until, |_| Poll::Ready(())).await, Err(NoPlace::Gone));
        assert_eq!(places.waiting(), 0);
        let mut cx = Context::from_waker(Waker::noop());
        let mut line: Vec<_> = (0..2).map(|_| Box::pin(enter(&places, 0))).collect();
        for waits in &mut line {
            assert!(waits.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(enter(&places, 0).await, Err(NoPlace::Full));
        // The head of the line leaves at the moment in which it is woken.
        places.release(0);
        drop(line.remove(0));
        assert_eq!(line.pop().unwrap().await, Ok(true));
        assert_eq!((places.active(), places.waiting()), (1, 0));
    }
}
