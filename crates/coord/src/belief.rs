//! What a holder may believe about its session, by its own clock.

use std::time::Duration;

use model::Instant;

/// Shortest and longest wait after a failed renewal before the next is tried.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Where a session stands in its holder's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The last renewal succeeded and its time is not over.
    Sure,
    /// The last renewal failed; the time that the one before bought is not over yet. Not leader.
    Doubtful,
    /// Over, for good.
    Lost,
}

/// A session's life in its holder's eyes.
///
/// The holder counts from the *start* of its last successful renewal and stops a margin before the time to live is over; the
/// engine counts from when it heard of that renewal, which is later. So as long as both clocks run at about the same speed
/// (the margin pays for a tenth of difference) the holder stops believing before the engine lets anybody else in. What is
/// lost stays lost: a renewal that succeeds afterwards changes nothing.
///
/// This holds for a process that runs. A process that is stopped between looking at the clock and acting is beyond any
/// clock: that is what fencing tokens are for (TRAPS 31).
#[derive(Clone, Debug)]
pub struct Belief {
    ttl: Duration,
    renewed: Instant,
    next: Instant,
    doubtful: bool,
    failures: u64,
    lost: bool,
}

/// What a holder does not use of a time to live.
#[must_use]
pub fn margin(ttl: Duration) -> Duration {
    ttl / 10
}

impl Belief {
    /// A session that was opened with a request sent at `started`.
    #[must_use]
    pub fn new(ttl: Duration, started: Instant) -> Self {
        Self {
            ttl,
            renewed: started,
            next: started.after(ttl / 3),
            doubtful: false,
            failures: 0,
            lost: false,
        }
    }

    /// The session's time to live.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Until when something may be believed in that needs renewing every `ttl`; the session's own, or a shorter one.
    #[must_use]
    pub fn deadline(&self, ttl: Duration) -> Instant {
        let ttl = ttl.min(self.ttl);
        if self.lost { Instant::ORIGIN } else { self.renewed.after(ttl - margin(ttl)) }
    }

    /// Where it stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        if now >= self.deadline(self.ttl) {
            Standing::Lost
        } else if self.doubtful {
            Standing::Doubtful
        } else {
            Standing::Sure
        }
    }

    /// When the next renewal is due.
    #[must_use]
    pub fn next_renewal(&self) -> Instant {
        self.next
    }

    /// Renewals that failed so far: who was leader before one of them no longer is.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// A renewal sent at `started` succeeded and its answer was read at `now`.
    pub fn on_renewed(&mut self, started: Instant, now: Instant) {
        if self.settle(now) {
            return;
        }
        self.renewed = self.renewed.max(started);
        self.next = self.renewed.after(self.ttl / 3);
        self.doubtful = false;
    }

    /// A renewal failed, or brought no answer in time.
    pub fn on_failed(&mut self, now: Instant) {
        self.failures += 1;
        self.doubtful = true;
        self.next = now.after((self.ttl / 12).clamp(RETRY.0, RETRY.1));
        self.settle(now);
    }

    /// The engine says that the session has ended, or its holder ends it.
    pub fn on_over(&mut self) {
        self.lost = true;
    }

    /// Makes the loss final once its time has come.
    fn settle(&mut self, now: Instant) -> bool {
        self.lost |= now >= self.deadline(self.ttl);
        self.lost
    }
}
