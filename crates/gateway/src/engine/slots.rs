//! Rooms for futures that are needed only while a connection is busy, so that an idle one stays small and a busy one
//! allocates nothing.

use std::cell::RefCell;
use std::pin::Pin;

/// Empty rooms of one type of future.
pub(crate) struct Slots<F> {
    free: RefCell<Vec<Pin<Box<Option<F>>>>>,
}

/// Rooms that a worker keeps.
const KEPT_MAX: usize = 4096;

impl<F: Future> Slots<F> {
    pub(crate) fn new() -> Self {
        Self { free: RefCell::new(Vec::new()) }
    }

    /// Runs `future` in a free room, or in a new one.
    pub(crate) async fn run(&self, future: F) -> F::Output {
        let mut room = self.free.borrow_mut().pop().unwrap_or_else(|| Box::pin(None));
        room.set(Some(future));
        let output = std::future::poll_fn(|cx| match room.as_mut().as_pin_mut() {
            Some(future) => future.poll(cx),
            None => std::task::Poll::Pending,
        })
        .await;
        room.set(None);
        let mut free = self.free.borrow_mut();
        if free.len() < KEPT_MAX {
            free.push(room);
        }
        output
    }
}
