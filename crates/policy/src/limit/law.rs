//! The law of the adaptive limit: what one window of samples makes of it. Plain arithmetic.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Places per place that is needed to give all that the service can: room to see that it can do more, and for endpoints
/// that are never used quite evenly. Costs half a base latency of waiting inside the service.
const HEADROOM: f64 = 1.5;
/// What one cut leaves, half a place of the headroom less than is needed: so that a cut too many shows.
const CUT: f64 = 0.5;
/// What one cut leaves at least where the base is known.
const CUT_KNOWN: f64 = 0.25;
/// A rate that falls by less after a cut has held.
const HELD: f64 = 0.85;
/// A rate within this share of the one before the cut is looked at for so many times longer.
const UNCLEAR: core::ops::Range<f64> = 0.65..0.95;
const UNCLEAR_TIMES: f64 = 3.0;
/// A latency that rises by less after a step up has held.
const NO_SLOWER: f64 = 1.25;
/// A latency below so many times the base is as good as can be had while a service is kept busy.
const WELL: f64 = 2.0;
/// One step up.
const GROWTH: f64 = 2.0;
/// A typical latency this many times the usual one, or by which the usual one is as many times higher, is a change.
const CHANGED: f64 = 1.4;
/// While answers take less than the slack, the limit grows until they take this share of it: what is left keeps noise from
/// being taken for slowness.
const FILL: f64 = 0.5;
/// While the limit binds, it is sought anew after so many windows; twice as many each time that nothing had changed.
const HOLD: core::ops::RangeInclusive<u32> = 16..=64;
/// The limit binds when it keeps out one request in so many that are answered.
const BINDS: u64 = 20;
/// A service that drops one request in so many is asked whether fewer at a time would help.
const DROPS: u64 = 10;
/// Samples of a window: twice the limit, within these. Few enough to be quick, enough for a rate.
const SAMPLES: core::ops::RangeInclusive<f64> = 100.0..=500.0;
/// A step up may be mistaken for less: the next one, or a cut, makes it good.
pub(super) const SAMPLES_UP: f64 = 40.0;
/// A window lasts at least this long, in nanoseconds.
const SHORTEST: f64 = 2e6;
/// A window that is not full after this long plus [`STALE_LATENCIES`] is thrown away: its first samples are history.
const STALE: f64 = 60e9;
const STALE_LATENCIES: f64 = 100.0;

/// Those inside have become few enough when they are no more than so many times the limit, and one.
const DRAINED: f64 = 1.5;
/// So many times as many may be inside as those answered were on average, and the window still speaks of them.
const SEEN: f64 = 2.0;
/// Looks whether those inside have become few enough.
const DRAIN_LOOKS: u32 = 16;

/// Places per request that is usually under way at the most, while the limit does not bind: a flood fills them at once.
const ROOM: f64 = 4.0;
/// As many places are left whatever is usual.
const ROOM_MIN: f64 = 100.0;
/// What was usual is forgotten after about this long, in nanoseconds.
const PEAK_FADES: f64 = 1_200e9;

/// While nothing is slow the limit opens up this often at the most, in nanoseconds: long enough to see what the last time
/// has brought where answers are quick.
pub(super) const OPENS_EVERY: u64 = 100_000_000;

/// Where nothing is answered it opens up this often, in nanoseconds.
pub(super) const BLIND_FOR: u64 = 1_000_000_000;

/// No change is waited for longer than this, in nanoseconds.
const SETTLE_MAX: f64 = 10e9;

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

pub(super) fn exp(log: f64) -> f64 {
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
    /// Sum of the latencies of those answered.
    pub(super) nanos: u64,
    /// Those whom the limit kept out, or kept waiting.
    pub(super) kept_out: u64,
    /// Requests under way at its end.
    pub(super) active: u32,
    /// Most that were seen under way in it.
    pub(super) peak: u32,
    /// Nanoseconds.
    pub(super) lasted: u64,
}

impl Window {
    /// Answers per nanosecond.
    fn rate(&self) -> f64 {
        self.answered as f64 / self.lasted.max(1) as f64
    }

    fn bound(&self) -> bool {
        self.kept_out * BINDS >= self.answered + self.dropped
    }
}

/// What the limit keeps to whatever it learns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guards {
    pub(super) min: f64,
    pub(super) max: f64,
    /// Nanoseconds.
    pub(super) slack: f64,
}

/// Whether a window says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not yet; look again after so many nanoseconds.
    Early(u64),
    /// It took so long that its beginning says nothing about now.
    Stale,
    /// The cut does not show yet.
    Draining,
    Enough,
}

/// What the limit is about to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It stays, until something changes or for as many windows as it may bind.
    Hold,
    /// It was cut: does the rate hold?
    Down,
    /// It was raised: does the rate rise?
    Up,
}

/// What is known, and the limit that follows. Latencies in nanoseconds, zero while unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Law {
    limit: f64,
    spared: f64,
    base: f64,
    latency: f64,
    /// How many times the base the mean of all latencies is while the limit does not bind; zero while unknown.
    spread: f64,
    /// Hold: the latency that goes with the limit while it binds; zero until seen. Down, up: the one before.
    usual: f64,
    /// Down, up: the limit to compare with.
    from: f64,
    /// Most that were lately under way while all was well.
    peak: f64,
    /// Hold: the rate of the window before; zero when there is none to compare with. Down, up: the one to compare with.
    rate: f64,
    phase: Phase,
    /// Windows for which the limit may bind before it is sought anew, and how many that were when this began.
    hold: u32,
    held: u32,
}

impl Law {
    pub(super) fn new(initial: u32) -> Self {
        // Sought as soon as it binds: what is seen first may be queueing.
        Self {
            limit: f64::from(initial),
            spared: 0.0,
            base: 0.0,
            latency: 0.0,
            spread: 0.0,
            usual: 0.0,
            from: 0.0,
            peak: 0.0,
            rate: 0.0,
            phase: Phase::Hold,
            hold: 0,
            held: *HOLD.start(),
        }
    }

    pub(super) fn limit(&self) -> u32 {
        (self.limit + 0.5) as u32
    }

    /// The limit for those who are not the reason why it binds: while the effect of a cut is awaited, the one before it.
    pub(super) fn spared(&self) -> u32 {
        (self.spared.max(self.limit) + 0.5) as u32
    }

    pub(super) fn base(&self) -> f64 {
        self.base
    }

    pub(super) fn latency(&self) -> f64 {
        self.latency
    }

    pub(super) fn verdict(&self, window: &Window) -> Verdict {
        let fewest = if self.phase == Phase::Up || self.base == 0.0 { SAMPLES_UP } else { *SAMPLES.start() };
        let times = if self.phase == Phase::Hold && !window.bound() { 2.0 } else { 1.0 };
        let mut wanted = (times * self.inside(window)).clamp(fewest, *SAMPLES.end());
        if self.phase == Phase::Down {
            let held = window.rate() / self.rate;
            if UNCLEAR.contains(&held) {
                wanted *= UNCLEAR_TIMES;
            } else if held < UNCLEAR.start {
                // What is clear already need not cost any more.
                wanted = wanted.min(SAMPLES_UP);
            }
        }
        let shortest = SHORTEST.max(self.latency);
        let lasted = window.lasted as f64;
        if self.phase == Phase::Down && f64::from(window.active) > DRAINED * self.limit + 1.0 {
            // Those who entered before the cut are still inside, and not only those who are spared it.
            Verdict::Draining
        } else if (window.answered + window.dropped) as f64 >= wanted && lasted >= shortest {
            Verdict::Enough
        } else if lasted > STALE + STALE_LATENCIES * self.latency {
            Verdict::Stale
        } else {
            Verdict::Early((shortest / 8.0) as u64)
        }
    }

    /// Learns from a window; answers how many nanoseconds it takes until the new limit shows in what ends.
    pub(super) fn step(&mut self, window: &Window, guards: &Guards) -> u64 {
        let (before, inside) = (self.limit, self.inside(window));
        if window.answered > 0 {
            let first = self.latency == 0.0;
            self.latency = exp(window.logs as f64 / window.answered as f64);
            if first {
                // Of those who began together the quickest end first: this is only how long to wait.
                return (2.0 * inside / window.rate()).min(SETTLE_MAX) as u64;
            }
            if self.base == 0.0 {
                // If it is queueing, a cut shows.
                self.base = self.latency;
                self.hold = 0;
            }
        }
        let cost = self.phase == Phase::Down && window.rate() < HELD * self.rate;
        if window.dropped > window.answered {
            // Nothing to learn from but that it is too much.
            self.limit = CUT * inside;
            self.settle(true);
        } else if self.base > 0.0 {
            match self.phase {
                _ if self.latency < guards.slack && !cost => self.within_slack(window, guards),
                Phase::Hold => self.watch(window, guards),
                Phase::Down => self.after_cut(window, guards),
                Phase::Up => self.after_growth(window, guards),
            }
        }
        self.limit = self.limit.clamp(guards.min, guards.max);
        self.spared = if self.phase == Phase::Down { self.from } else { before };
        let unchanged = (self.limit / before - 1.0).abs() < 0.05;
        // Little's law: what is inside leaves within this time, on average.
        if unchanged || window.answered == 0 || !(window.bound() || self.phase != Phase::Hold) {
            0
        } else {
            (inside.max(self.limit) / window.rate()).min(SETTLE_MAX) as u64
        }
    }

    /// Requests under way under this limit.
    fn inside(&self, window: &Window) -> f64 {
        self.limit.min(f64::from(window.peak.max(1)))
    }

    /// The limit has no part in what is seen: it comes down to a few times what is usual, so that a flood meets it soon.
    fn narrow(&mut self, window: &Window, guards: &Guards) {
        let well = self.latency < guards.slack || self.latency < CHANGED * self.base;
        if well {
            self.peak -= self.peak * (window.lasted as f64 / PEAK_FADES).min(1.0);
            self.peak = self.peak.max(f64::from(window.peak));
            self.limit = self.limit.min((ROOM * self.peak).max(ROOM_MIN));
        }
    }

    /// The limit binds, and nothing is known that speaks for refusing anybody: `latency` is what answers take since the
    /// window began, zero without any. Answers whether the limit grew.
    pub(super) fn open_up(&mut self, latency: f64, guards: &Guards) -> bool {
        let known = self.base > 0.0 || latency == 0.0;
        let quick = known && self.latency.max(latency) * GROWTH <= FILL * guards.slack;
        // Not while what was tried lately still counts.
        let opens = quick && self.phase == Phase::Hold && self.hold == 0 && self.limit < guards.max;
        if opens {
            self.limit = (self.limit * GROWTH).min(guards.max);
            self.spared = self.limit;
        }
        opens
    }

    /// Nobody notices what queueing there is.
    fn within_slack(&mut self, window: &Window, guards: &Guards) {
        self.follow(window);
        let drops = window.dropped * DROPS > window.answered;
        if self.phase != Phase::Hold {
            self.settle(true);
        } else if drops && window.bound() && self.limit > guards.min {
            self.turn_down(window, guards);
            return;
        }
        // Slowness that begins is noticed at once.
        (self.usual, self.rate) = (self.latency, window.rate());
        let due = self.hold == 1;
        self.hold = self.hold.saturating_sub(1);
        let room = FILL * guards.slack / self.latency;
        // By Little's law; many more have only just come, and what they will take is not known yet.
        let seen = SEEN * window.nanos as f64 >= self.inside(window) * window.lasted as f64;
        if !window.bound() {
            self.narrow(window, guards);
        } else if drops || !seen {
            // Nothing speaks for more.
        } else if room > 1.0 {
            self.limit *= room.min(GROWTH);
        } else if due {
            // Too slow to grow for nothing and too quick to be cut: only a try shows whether there is room.
            self.turn(Phase::Up, window, GROWTH);
        } else if self.hold == 0 {
            self.hold = self.held;
        }
    }

    /// The limit has no part in this latency.
    fn follow(&mut self, window: &Window) {
        let share = if self.latency < self.base { 0.3 } else { 0.05 };
        self.base += share * (self.latency - self.base);
        if window.answered > 0 && !window.bound() {
            let spread = window.nanos as f64 / window.answered as f64 / self.latency;
            self.spread += if self.spread == 0.0 { spread } else { 0.1 * (spread - self.spread) };
        }
    }

    /// Waits for those inside to become as few as the cut wants; answers for how many nanoseconds. Requests that take very
    /// long would keep everybody else out meanwhile: after four times what is usual the cut is taken back.
    pub(super) fn drain(&mut self) -> u64 {
        self.hold = self.hold.saturating_sub(1);
        if self.hold == 0 {
            self.limit = self.from;
            self.settle(false);
        }
        (4.0 * self.from / self.rate / f64::from(DRAIN_LOOKS)).clamp(SHORTEST, SETTLE_MAX) as u64
    }

    fn watch(&mut self, window: &Window, guards: &Guards) {
        if !window.bound() {
            self.narrow(window, guards);
            self.follow(window);
            self.held = *HOLD.start();
            return;
        }
        if self.usual == 0.0 {
            self.usual = self.latency;
        }
        let change = self.latency / self.usual;
        self.usual += 0.2 * (self.latency - self.usual);
        let drops = window.dropped * DROPS > window.answered;
        let steady = self.rate == 0.0 || (HELD..1.0 / HELD).contains(&(window.rate() / self.rate));
        self.rate = if steady { window.rate() } else { 0.0 };
        if !steady {
            // Part of the window may be history, and nothing could be compared with it: one more.
        } else if (change > CHANGED || drops || self.hold == 0) && self.limit > guards.min {
            self.turn_down(window, guards);
        } else if change < 1.0 / CHANGED
            || (self.latency < NO_SLOWER * self.base && self.held == *HOLD.start())
        {
            // Nobody queues although the limit binds, and it was not tried lately: there may be room.
            self.turn(Phase::Up, window, GROWTH);
        } else {
            self.hold = self.hold.saturating_sub(1);
        }
    }

    /// Cuts the limit to see what happens: by half, or where the base is known to what this rate needs by Little's law, but
    /// not by more than brings the latency within the slack if all of it is queueing.
    fn turn_down(&mut self, window: &Window, guards: &Guards) {
        let enough = if self.latency > guards.slack { FILL * guards.slack / self.latency } else { 0.0 };
        let needed = HEADROOM * self.base * self.spread * window.rate() / self.limit;
        let cut = if self.spread == 0.0 { CUT } else { needed.clamp(CUT_KNOWN, CUT) };
        self.turn(Phase::Down, window, enough.max(cut));
    }

    /// Changes the limit to see what happens.
    fn turn(&mut self, phase: Phase, window: &Window, times: f64) {
        self.from = self.limit;
        self.rate = window.rate();
        self.usual = self.latency;
        self.phase = phase;
        self.hold = DRAIN_LOOKS;
        self.limit *= times;
    }

    fn settle(&mut self, changed: bool) {
        self.held = if changed { *HOLD.start() } else { (self.held * 2).min(*HOLD.end()) };
        self.hold = self.held;
        self.usual = 0.0;
        self.phase = Phase::Hold;
    }

    /// The limit was cut. While the rate holds, those kept out would only have queued, and it is cut on.
    fn after_cut(&mut self, window: &Window, guards: &Guards) {
        let rate = window.rate();
        if window.bound() && rate >= HELD * self.rate && self.limit > guards.min {
            if self.spread > 0.0 && self.latency < WELL * self.base {
                // Nobody queues for long, as is known without a cut that costs answers.
                self.settle(true);
                return;
            }
            let (usual_rate, from) = ((self.rate + rate) / 2.0, self.from);
            self.turn_down(window, guards);
            (self.rate, self.from) = (usual_rate, from);
            return;
        }
        let agrees = self.latency < CHANGED * self.base && self.base < CHANGED * self.latency;
        self.base = if agrees { (self.base + self.latency) / 2.0 } else { self.latency };
        // Nobody queues now, so as many times more places give as many times more answers, up to what there was.
        let needed = (self.limit * (self.rate / rate).max(1.0)).min(self.from);
        let (from, best, latency) = (self.from, self.rate, self.usual);
        let limit = HEADROOM * needed;
        self.settle((limit / from - 1.0).abs() > 0.3);
        if limit > 1.25 * from {
            // All places were needed: perhaps more are.
            (self.phase, self.from, self.rate, self.usual) = (Phase::Up, from, best, latency);
        }
        self.limit = limit;
    }

    /// The limit was raised. While the rate rises with it, it is raised on.
    fn after_growth(&mut self, window: &Window, guards: &Guards) {
        let (grew, gained) = (self.limit / self.from, window.rate() / self.rate);
        let rose = gained >= 1.0 + (grew - 1.0) / 2.0 || self.latency < NO_SLOWER * self.usual;
        if !window.bound() {
            self.settle(true);
        } else if rose && self.limit < guards.max {
            self.turn(Phase::Up, window, GROWTH);
        } else {
            // What it gained was missing, with its headroom; if nothing, the limit was enough.
            self.limit = self.from * (2.0 * gained - 1.0).clamp(1.0, grew);
            let enough = gained < 1.0 / HELD;
            self.settle(!enough);
            if enough && self.latency < NO_SLOWER * GROWTH * self.base {
                // What was taken for the base is queueing.
                self.hold = 0;
            }
        }
    }
}

/// A [`Law`] that one thread at a time reads and writes through a shared reference.
#[derive(Debug)]
pub(super) struct Cell {
    numbers: [AtomicU64; 9],
    counts: [AtomicU32; 3],
}

impl Cell {
    pub(super) fn new(law: &Law) -> Self {
        let cell = Self { numbers: Default::default(), counts: Default::default() };
        cell.store(law);
        cell
    }

    pub(super) fn load(&self) -> Law {
        let number = |index: usize| f64::from_bits(self.numbers[index].load(Relaxed));
        let count = |index: usize| self.counts[index].load(Relaxed);
        Law {
            limit: number(0),
            base: number(1),
            latency: number(2),
            usual: number(3),
            from: number(4),
            rate: number(5),
            spared: number(6),
            peak: number(7),
            spread: number(8),
            phase: [Phase::Hold, Phase::Down, Phase::Up][count(0) as usize % 3],
            hold: count(1),
            held: count(2),
        }
    }

    pub(super) fn store(&self, law: &Law) {
        let Law { limit, spared, base, latency, spread, usual, from, rate, peak, phase, hold, held } = *law;
        let numbers = [limit, base, latency, usual, from, rate, spared, peak, spread];
        for (cell, number) in self.numbers.iter().zip(numbers) {
            cell.store(number.to_bits(), Relaxed);
        }
        for (cell, count) in self.counts.iter().zip([phase as u32, hold, held]) {
            cell.store(count, Relaxed);
        }
    }
}
