//! Rooms for futures that are needed only while a connection is busy, so that an idle one stays small and a busy one
//! allocates nothing.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Empty rooms of one type of future.
pub(crate) struct Slots<F> {
    free: RefCell<Vec<Room<F>>>,
}

type Room<F> = Pin<Box<Option<F>>>;

/// Rooms that a worker keeps.
const KEPT_MAX: usize = 4096;

impl<F: Future> Slots<F> {
    pub(crate) fn new() -> Self {
        Self { free: RefCell::new(Vec::new()) }
    }

    /// Lets `begin` make a future in a free room, or in a new one. What is answered is small, however large the future is;
    /// inlined, so that the future is made where it stays instead of being moved there.
    #[inline(always)]
    pub(crate) fn run(&self, begin: impl FnOnce() -> F) -> Running<'_, F> {
        let mut room = self.room();
        room.set(Some(begin()));
        Running { slots: self, room: Some(room) }
    }

    fn room(&self) -> Room<F> {
        self.free.borrow_mut().pop().unwrap_or_else(|| Box::pin(None))
    }
}

/// A future in its room.
pub(crate) struct Running<'s, F> {
    slots: &'s Slots<F>,
    /// Given back when the future is done.
    room: Option<Room<F>>,
}

impl<F: Future> Future for Running<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = self.room.as_mut().and_then(|room| room.as_mut().as_pin_mut()) else {
            return Poll::Pending;
        };
        let output = ready!(future.poll(cx));
        if let Some(mut room) = self.room.take() {
            room.set(None);
            let mut free = self.slots.free.borrow_mut();
            if free.len() < KEPT_MAX {
                free.push(room);
            }
        }
        Poll::Ready(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn a_room_is_used_again_and_its_tenant_weighs_nothing_outside() {
        let slots = Slots::new();
        let large = || async {
            let ballast = [7_u8; 4096];
            std::future::ready(()).await;
            ballast[100]
        };
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            let mut running = slots.run(large);
            assert!(size_of_val(&running) <= 32);
            assert_eq!(Pin::new(&mut running).poll(&mut cx), Poll::Ready(7));
        }
        assert_eq!(slots.free.borrow().len(), 1);
    }
}
