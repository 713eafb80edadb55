//! The places of a bulkhead, and those who wait for one.

use std::ops::Deref;
use std::pin::pin;
use std::task::Poll;

use policy::bulkhead::Bulkhead;
use tokio::sync::Notify;

/// A bulkhead whose waiters are woken in the order in which they came.
#[derive(Debug)]
pub struct Places {
    bulkhead: Bulkhead,
    freed: Notify,
}

impl Deref for Places {
    type Target = Bulkhead;

    fn deref(&self) -> &Bulkhead {
        &self.bulkhead
    }
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
            // Whoever woke this one meant somebody who still wants the place.
            self.places.freed.notify_one();
        }
    }
}

impl Places {
    /// The places of `bulkhead`.
    #[must_use]
    pub fn new(bulkhead: Bulkhead) -> Self {
        Self { bulkhead, freed: Notify::new() }
    }

    /// Gives a place back and wakes who waits longest.
    pub fn release(&self, shard: usize) {
        if self.bulkhead.leave(shard) {
            self.freed.notify_one();
        }
    }

    /// Waits for a place until `until`, after [`Bulkhead::try_enter`] said so. `gone` is ready when nobody wants it any more.
    pub async fn wait(
        &self,
        shard: usize,
        until: tokio::time::Instant,
        mut gone: impl FnMut(&mut std::task::Context<'_>) -> Poll<()>,
    ) -> bool {
        let mut waiting = Waiting { places: self, entered: false };
        let mut timeout = pin!(tokio::time::sleep_until(until));
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.bulkhead.try_enter_waiting(shard) {
                waiting.entered = true;
                return true;
            }
            let woken = std::future::poll_fn(|cx| {
                if freed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                if timeout.as_mut().poll(cx).is_ready() || gone(cx).is_ready() {
                    return Poll::Ready(false);
                }
                Poll::Pending
            })
            .await;
            if !woken {
                return false;
            }
        }
    }
}
