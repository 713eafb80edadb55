//! Bytes passed both ways between two connections, as they are.

use std::task::{Context, Poll, ready};

use super::buffers::Buffer;
use super::conn::poll_flush;
use super::stream::Stream;
use super::worker::Worker;

/// How a relay came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides have said all.
    Closed,
    /// The client broke the connection off.
    ClientGone,
    /// The endpoint broke the connection off.
    UpstreamGone,
    /// Nothing has moved for too long.
    Idle,
    /// The process or the listener leaves.
    Cut,
}

impl End {
    pub(crate) const ALL: [End; 5] =
        [Self::Closed, Self::ClientGone, Self::UpstreamGone, Self::Idle, Self::Cut];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ClientGone => "client_gone",
            Self::UpstreamGone => "upstream_gone",
            Self::Idle => "idle",
            Self::Cut => "cut",
        }
    }
}

/// One direction. What one read brings is written at once; only what the other side does not take is kept, and nothing more is
/// read before that has gone: at most one read waits in each direction.
pub(crate) struct Pipe {
    pending: Option<Buffer>,
    sent: usize,
    /// What was written is not on its way yet.
    staged: bool,
    /// The reading side has said all, and the writing side has been told; or the writing side takes no more.
    over: bool,
    /// Bytes read.
    pub(crate) moved: u64,
}

impl Pipe {
    /// With `pending`, which goes out first.
    pub(crate) fn new(pending: Option<Buffer>) -> Self {
        Self { pending, sent: 0, staged: false, over: false, moved: 0 }
    }

    pub(crate) fn over(&self) -> bool {
        self.over
    }

    /// Moves bytes until one side must be waited for. Ready when this direction is over, or with an error when `from` has broken
    /// its connection off.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        from: &mut Stream,
        to: &mut Stream,
        progress: &mut bool,
    ) -> Poll<Result<(), ()>> {
        while !self.over {
            if let Some(pending) = &mut self.pending {
                let before = self.sent;
                let flushed = poll_flush(to, cx, pending, &mut self.sent);
                *progress |= self.sent != before || flushed.is_ready();
                // Whoever takes nothing more may still have something to say: the other direction finds out.
                self.over = ready!(flushed).is_err();
                self.pending = None;
                continue;
            }
            if self.staged {
                self.over = ready!(to.poll_flush(cx)).is_err();
                self.staged = false;
                continue;
            }
            let mut scratch = worker.scratch.borrow_mut();
            let count = ready!(from.poll_read(cx, &mut scratch)).map_err(|_| ())?;
            *progress = true;
            if count == 0 {
                self.over = true;
                // Half-closed: the other direction may go on.
                to.close_write();
                break;
            }
            self.moved += count as u64;
            let taken = match to.poll_write(cx, &scratch[..count]) {
                Poll::Ready(Ok(taken)) => {
                    self.staged = true;
                    taken
                }
                Poll::Ready(Err(_)) => {
                    self.over = true;
                    break;
                }
                Poll::Pending => 0,
            };
            if taken < count {
                let mut rest = worker.buffers.take();
                rest.extend(&scratch[taken..count]);
                self.pending = Some(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Both directions.
pub(crate) struct Relay {
    /// From the client to the endpoint.
    pub(crate) up: Pipe,
    /// From the endpoint to the client.
    pub(crate) down: Pipe,
    /// The endpoint has said all before the client had.
    pub(crate) upstream_first: bool,
    /// Bytes have moved since the flag was last cleared.
    pub(crate) progress: bool,
}

impl Relay {
    /// `pending` goes up first.
    pub(crate) fn new(pending: Option<Buffer>) -> Self {
        Self { up: Pipe::new(pending), down: Pipe::new(None), upstream_first: false, progress: false }
    }

    /// Moves bytes both ways until both sides must be waited for; ready at the end, which is closed or gone.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        client: &mut Stream,
        upstream: &mut Stream,
    ) -> Poll<End> {
        let Self { up, down, upstream_first, progress } = self;
        // Answers first: an endpoint that says something and closes is heard before it is written to in vain.
        let downward = down.poll(cx, worker, upstream, client, progress);
        *upstream_first |= down.over && !up.over;
        let upward = up.poll(cx, worker, client, upstream, progress);
        match (upward, downward) {
            (_, Poll::Ready(Err(()))) => Poll::Ready(End::UpstreamGone),
            (Poll::Ready(Err(())), _) => Poll::Ready(End::ClientGone),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
            _ => Poll::Pending,
        }
    }

    /// Moves bytes upwards only, while something else goes down.
    pub(crate) fn poll_up(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        client: &mut Stream,
        upstream: &mut Stream,
    ) -> Poll<End> {
        match self.up.poll(cx, worker, client, upstream, &mut self.progress) {
            Poll::Ready(Err(())) => Poll::Ready(End::ClientGone),
            _ => Poll::Pending,
        }
    }
}

/// Makes the end of a relay known to both sides as it is: what was broken off on one side is broken off on the other, so that
/// nobody takes it for whole.
pub(crate) fn part(end: End, client: &mut Stream, upstream: &mut Stream) {
    match end {
        End::ClientGone => upstream.break_off(),
        End::UpstreamGone => client.break_off(),
        End::Closed | End::Idle | End::Cut => {}
    }
}
