//! Asks a silent peer whether it is still there, while streams wait for it.

use std::task::Context;

use h2::{Ping, PingPong};
use model::{Instant, Span};

pub(crate) struct KeepAlive {
    interval: Span,
    timeout: Span,
    pings: Option<PingPong>,
    /// When the peer is asked, or given up after it was.
    due: Option<Instant>,
    asked: bool,
}

impl KeepAlive {
    /// Asks after `interval` of silence, and gives up after `timeout` more. No interval: never.
    pub(crate) fn new(interval: Span, timeout: Span, pings: Option<PingPong>) -> Self {
        let pings = pings.filter(|_| !interval.get().is_zero());
        Self { interval, timeout, pings, due: None, asked: false }
    }

    /// When to look again; `None` when the peer is gone. `heard`: bytes have come since the last call; `waiting`: somebody
    /// waits for more.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        heard: bool,
        waiting: bool,
    ) -> Option<Instant> {
        let Some(pings) = &mut self.pings else { return Some(Instant::NEVER) };
        if heard || !waiting {
            if self.asked {
                // Makes room for the next one. Whether this one was answered matters no more.
                let _ = pings.poll_pong(cx);
            }
            self.asked = false;
            self.due = None;
        }
        if !waiting {
            return Some(Instant::NEVER);
        }
        let due = *self.due.get_or_insert_with(|| now.after(self.interval.get()));
        if now < due {
            return Some(due);
        }
        if self.asked {
            return None;
        }
        self.asked = true;
        // Fails only while another one is under way, which is as good.
        let _ = pings.send_ping(Ping::opaque());
        cx.waker().wake_by_ref();
        let due = now.after(self.timeout.get());
        self.due = Some(due);
        Some(due)
    }
}
