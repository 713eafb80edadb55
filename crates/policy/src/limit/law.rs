//! The law of the adaptive limit: what one window of samples makes of it. Plain arithmetic.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The latency that is sought, in base latencies. The headroom above 1 lets the limit grow, hides that endpoints are
/// never used quite evenly, and costs at most half a base latency of waiting inside the service.
const HEADROOM: f64 = 1.5;
/// What one cut leaves. With [`HEADROOM`] it leads to nine tenths of what the service works on at once.
const CUT: f64 = 0.6;
/// Beyond this, in wanted latencies, it is time to find out why.
const CONGESTED: f64 = 1.25;
/// How far from the base a latency may lie and still agree with it.
const AGREES: core::ops::Range<f64> = 0.85..1.15;
/// While the limit binds, every so many windows the base is looked at anew.
const LOOK_EVERY: u32 = 10;
/// A dropped request is taken for one this many powers of two slower than the base.
const DROPPED_LOG2: u64 = 4;
/// Samples of a window: twice the limit, within these. Few enough to be quick, enough for a mean.
const SAMPLES: core::ops::RangeInclusive<f64> = 50.0..=400.0;
/// A window lasts at least this long, in nanoseconds.
const SHORTEST: f64 = 2e6;
/// A window that is not full after this long plus [`STALE_LATENCIES`] is thrown away: its first samples are history.
const STALE: f64 = 10e9;
const STALE_LATENCIES: f64 = 100.0;

/// Fractional bits of [`log`].
const LOG_BITS: u32 = 16;

/// Binary logarithm in fixed point, linear between powers of two: [`exp`] is its exact inverse, so the mean that the
/// two make is a mean, even where the logarithm is off by a tenth.
pub(super) fn log(nanos: u64) -> u64 {
    let nanos = nanos.max(1);
    let power = nanos.ilog2();
    let fraction = (nanos << (63 - power) << 1) >> (64 - LOG_BITS);
    u64::from(power) << LOG_BITS | fraction
}

fn exp(log: f64) -> f64 {
    let log = (log / f64::from(1u32 << LOG_BITS)).clamp(0.0, 63.0);
    let power = log as u32;
    (1u64 << power) as f64 * (1.0 + log - f64::from(power))
}

/// What was seen under one limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) answered: u64,
    pub(super) dropped: u64,
    /// Sum of the logarithms of the latencies of those answered.
    pub(super) logs: u64,
    /// Whether the limit kept somebody out.
    pub(super) bound: bool,
    /// Nanoseconds.
    pub(super) lasted: u64,
}

impl Window {
    /// Typical latency in nanoseconds, what was dropped included.
    fn latency(&self, base: f64) -> f64 {
        let slow = log(base as u64) + (DROPPED_LOG2 << LOG_BITS);
        let logs = self.logs as f64 + (self.dropped * slow) as f64;
        exp(logs / (self.answered + self.dropped).max(1) as f64)
    }

    fn mostly_dropped(&self) -> bool {
        self.dropped > self.answered
    }
}

/// Whether a window says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not yet; look again after so many nanoseconds.
    Early(u64),
    /// It took so long that its beginning says nothing about now.
    Stale,
    Enough,
}

/// What is known, and the limit that follows. Latencies in nanoseconds, zero while unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Law {
    limit: f64,
    base: f64,
    latency: f64,
    /// Limit and latency before the last cut; zero when not looking.
    cut_from: f64,
    latency_before: f64,
    /// Windows in which the limit bound since the base was looked at.
    since_look: u32,
}

impl Law {
    pub(super) fn new(initial: u32) -> Self {
        // Look at the base as soon as the limit binds: what is seen first may be queueing.
        Self {
            limit: f64::from(initial),
            base: 0.0,
            latency: 0.0,
            cut_from: 0.0,
            latency_before: 0.0,
            since_look: LOOK_EVERY,
        }
    }

    pub(super) fn limit(&self) -> u32 {
        (self.limit + 0.5) as u32
    }

    pub(super) fn base(&self) -> f64 {
        self.base
    }

    pub(super) fn latency(&self) -> f64 {
        self.latency
    }

    pub(super) fn verdict(&self, window: &Window) -> Verdict {
        let wanted = (2.0 * self.limit).clamp(*SAMPLES.start(), *SAMPLES.end());
        let shortest = SHORTEST.max(self.latency);
        let lasted = window.lasted as f64;
        if (window.answered + window.dropped) as f64 >= wanted && lasted >= shortest {
            Verdict::Enough
        } else if lasted > STALE + STALE_LATENCIES * self.latency {
            Verdict::Stale
        } else {
            Verdict::Early((shortest / 8.0) as u64)
        }
    }

    /// Learns from a window; answers how many nanoseconds it takes until the new limit shows in what ends.
    pub(super) fn step(&mut self, window: &Window, min: u32, max: u32) -> u64 {
        let before = self.limit;
        if self.base == 0.0 {
            if window.answered == 0 {
                self.cut(before, 0.0);
                self.cut_from = 0.0;
            } else {
                self.base = exp(window.logs as f64 / window.answered as f64);
            }
        }
        let latency = window.latency(self.base);
        if window.answered > 0 {
            self.latency = exp(window.logs as f64 / window.answered as f64);
        }
        if self.base > 0.0 {
            if window.mostly_dropped() {
                self.cut(before, latency);
                self.cut_from = 0.0;
            } else if self.cut_from > 0.0 {
                self.after_cut(window, latency, min);
            } else if !window.bound {
                self.follow(latency);
            } else {
                self.since_look += 1;
                if latency > CONGESTED * HEADROOM * self.base || self.since_look > LOOK_EVERY {
                    self.cut(before, latency);
                } else {
                    self.limit *= (HEADROOM * self.base / latency).clamp(CUT, HEADROOM);
                }
            }
        }
        self.limit = self.limit.clamp(f64::from(min), f64::from(max));
        if (self.limit / before - 1.0).abs() < 0.05 { 0 } else { self.latency as u64 }
    }

    fn cut(&mut self, from: f64, latency: f64) {
        self.cut_from = from;
        self.latency_before = latency;
        self.limit = from * CUT;
    }

    /// The limit was cut, and this is what it did.
    fn after_cut(&mut self, window: &Window, latency: f64, min: u32) {
        let left = self.limit / self.cut_from;
        let fell = latency < self.latency_before * (1.0 + left) / 2.0;
        if fell && window.bound && !AGREES.contains(&(latency / self.base)) && self.limit > f64::from(min) {
            self.base = self.base.min(latency);
            self.cut(self.limit, latency);
            return;
        }
        // Fewer requests make it no faster: this is what the service takes.
        self.base =
            if AGREES.contains(&(latency / self.base)) { (self.base + latency) / 2.0 } else { latency };
        let growth = if window.bound { HEADROOM } else { 1.0 };
        self.limit = self.cut_from * (HEADROOM * self.base / self.latency_before).clamp(CUT, growth);
        self.cut_from = 0.0;
        self.since_look = 0;
    }

    /// Nobody was kept out, so the limit has no part in the latency, and it stays as it is.
    fn follow(&mut self, latency: f64) {
        let share = if latency < self.base { 0.3 } else { 0.05 };
        self.base += share * (latency - self.base);
    }
}

/// A [`Law`] that one thread at a time reads and writes through a shared reference.
#[derive(Debug)]
pub(super) struct Cell {
    numbers: [AtomicU64; 5],
    since_look: AtomicU32,
}

impl Cell {
    pub(super) fn new(law: Law) -> Self {
        let cell = Self { numbers: Default::default(), since_look: AtomicU32::new(0) };
        cell.store(&law);
        cell
    }

    pub(super) fn load(&self) -> Law {
        let [limit, base, latency, cut_from, latency_before] =
            [0, 1, 2, 3, 4].map(|index: usize| f64::from_bits(self.numbers[index].load(Relaxed)));
        Law { limit, base, latency, cut_from, latency_before, since_look: self.since_look.load(Relaxed) }
    }

    pub(super) fn store(&self, law: &Law) {
        let Law { limit, base, latency, cut_from, latency_before, since_look } = *law;
        for (cell, number) in self.numbers.iter().zip([limit, base, latency, cut_from, latency_before]) {
            cell.store(number.to_bits(), Relaxed);
        }
        self.since_look.store(since_look, Relaxed);
    }
}
