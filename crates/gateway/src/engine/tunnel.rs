//! Two connections that speak a protocol of their own, passed through byte by byte.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::attempt::Flight;
use super::buffers::Buffer;
use super::conn::{Conn, poll_flush};
use super::download::Download;
use super::stream::Stream;
use super::worker::Worker;

/// One direction: bytes read from one side that the other has not taken yet.
struct Pipe {
    pending: Buffer,
    sent: usize,
    /// The reading side has closed; the writing side has been told.
    closed: bool,
    moved: u64,
}

impl Pipe {
    fn new(pending: Buffer) -> Self {
        Self { pending, sent: 0, closed: false, moved: 0 }
    }

    /// Moves bytes until one side must be waited for; ready when this direction has ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        from: &mut Stream,
        to: &mut Stream,
        progress: &mut bool,
    ) -> Poll<Result<(), ()>> {
        loop {
            if !self.pending.is_empty() {
                let before = self.sent;
                let flushed = poll_flush(to, cx, &mut self.pending, &mut self.sent);
                *progress |= self.sent != before || flushed.is_ready();
                ready!(flushed).map_err(|_| ())?;
            }
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            let mut scratch = worker.scratch.borrow_mut();
            match ready!(from.poll_read(cx, &mut scratch)).map_err(|_| ())? {
                0 => {
                    self.closed = true;
                    // Half-closed: the other direction may go on.
                    to.close_write();
                }
                count => {
                    *progress = true;
                    self.moved += count as u64;
                    self.pending.extend(&scratch[..count]);
                }
            }
        }
    }
}

/// Delivers the head that switched protocols, then passes bytes both ways until both sides have closed, one fails, or
/// nothing moves for `idle`. Answers how many bytes went up and down.
pub(crate) async fn run(
    worker: &Rc<Worker>,
    conn: &Conn,
    mut upstream: Stream,
    mut head: Download,
    _flight: Flight,
    idle: Duration,
) -> (u64, u64) {
    let up_pending = conn.carry.borrow_mut().take().unwrap_or_else(|| worker.buffers.take());
    let (mut up, mut down) = (Pipe::new(up_pending), Pipe::new(worker.buffers.take()));
    let mut head_delivered = false;
    worker.wheel.set(&conn.alarm, worker.tell_time().after(idle));
    poll_fn(|cx| {
        conn.alarm.wake_me(cx.waker());
        let mut progress = false;
        if !head_delivered {
            match head.poll(cx, worker, conn, &mut upstream) {
                Poll::Ready(Ok(())) => head_delivered = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        let mut client = conn.stream.borrow_mut();
        let upward = up.poll(cx, worker, &mut client, &mut upstream, &mut progress);
        let downward = if head_delivered {
            down.poll(cx, worker, &mut upstream, &mut client, &mut progress)
        } else {
            Poll::Pending
        };
        match (upward, downward) {
            (Poll::Ready(Err(())), _) | (_, Poll::Ready(Err(()))) => return Poll::Ready(()),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(()),
            _ => {}
        }
        if progress {
            worker.wheel.set(&conn.alarm, worker.tell_time().after(idle));
        } else if conn.alarm.rung() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
    conn.alarm.off();
    (up.moved, down.moved)
}
