//! How utilised this process and its host are, as one figure.
//!
//! [`Host`] reads the kernel's files; [`Signals`] folds what it read, and what the workers say of themselves, into a
//! [`Utilisation`]. Only `Host` touches anything outside; the rest is arithmetic on what is passed in.

mod linux;
mod parse;

use std::time::Duration;

use model::{Instant, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use linux::Host;

/// Something that runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// CPU time of the process, of what it may use.
    Cpu,
    /// Resident memory of the process, of what it may hold.
    Memory,
    /// Share of time in which something that could run waited for a CPU; where the kernel does not measure that, what
    /// could run, for each CPU of the host.
    RunQueue,
    /// Share of time in which the busiest worker's event loop was busy.
    Busy,
    /// How late timers of the latest worker fire, of what is bearable.
    Lag,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Signal; 5] = [Self::Cpu, Self::Memory, Self::RunQueue, Self::Busy, Self::Lag];

    /// The name used in metrics and on pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::RunQueue => "run_queue",
            Self::Busy => "busy",
            Self::Lag => "lag",
        }
    }
}

/// How readings become a utilisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignalParams {
    /// Span after which half of a change shows, so that one busy moment sheds nobody.
    pub half_life: Span,
    /// Delay of a worker's timers at which the worker counts as fully utilised.
    pub lag_max: Span,
}

impl Default for SignalParams {
    fn default() -> Self {
        Self { half_life: Span::from_secs(1), lag_max: Span::from_millis(100) }
    }
}

impl SignalParams {
    /// What is senseless, field by field. A half-life of zero is not: then nothing is smoothed.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.lag_max.is_zero() {
            wrong.push(("lag_max", "must be longer than 0, such as 100ms".into()));
        }
        wrong
    }
}

/// What the kernel says at one point in time. What it does not say, or not intelligibly, is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Readings {
    /// CPU time that the process has used since it began.
    pub cpu_time: Option<Duration>,
    /// CPUs that it may use at once, in parts where it has a quota.
    pub cpus: Option<f64>,
    /// Bytes that it holds, and that it may hold.
    pub memory: Option<(u64, u64)>,
    /// Time in which something that could run waited for a CPU, since the beginning.
    pub waited: Option<Duration>,
    /// Tasks of the host that could run, for each of its CPUs.
    pub runnable: Option<f64>,
}

/// What the workers say of themselves since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Executor {
    /// Share of time in which the busiest worker's event loop did not wait for events.
    pub busy: Option<f64>,
    /// The longest delay between when a timer was due and when it ran.
    pub lag: Option<Duration>,
}

/// How utilised each signal is: 0 idle, 1 at its limit, more beyond it. A signal without a figure is unknown, which is
/// neither idle nor at its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Utilisation([Option<f64>; Signal::ALL.len()]);

impl Utilisation {
    /// The figure of one signal.
    #[must_use]
    pub fn get(&self, signal: Signal) -> Option<f64> {
        self.0[signal as usize]
    }

    /// The most utilised signal, which decides; `None` when nothing is known.
    #[must_use]
    pub fn most(&self) -> Option<(Signal, f64)> {
        let known = Signal::ALL.into_iter().filter_map(|signal| Some((signal, self.get(signal)?)));
        known.max_by(|(_, one), (_, other)| one.total_cmp(other))
    }
}

/// Folds readings into a smoothed utilisation.
///
/// Each signal moves towards what was read by half of the difference per `half_life`, however often it is read, and so
/// never leaves the range of what was read. CPU time and waiting are differences between two readings, so they
/// are unknown after the first. A signal that is not read is unknown at once, not what it was.
///
/// Fails towards admitting: what is unknown never decides, so that a file that cannot be read sheds nobody. Whoever acts
/// on this should show which signals are unknown.
#[derive(Debug)]
pub struct Signals {
    params: SignalParams,
    before: Option<(Instant, Readings)>,
    smoothed: Utilisation,
}

impl Signals {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(params: &SignalParams) -> Self {
        Self { params: params.clone(), before: None, smoothed: Utilisation::default() }
    }

    /// What was read at `now`; answers the utilisation from then on. A `now` that is not later than the last one
    /// changes nothing.
    pub fn on_readings(&mut self, now: Instant, readings: &Readings, executor: &Executor) -> Utilisation {
        let (elapsed, before) = match self.before {
            Some((at, _)) if now <= at => return self.smoothed,
            Some((at, before)) => (now.since(at), before),
            None => (Duration::ZERO, Readings::default()),
        };
        let share = |then: Option<Duration>, now: Option<Duration>| {
            Some(now?.checked_sub(then?)?.as_secs_f64() / elapsed.as_secs_f64())
        };
        let cpu =
            share(before.cpu_time, readings.cpu_time).zip(readings.cpus).map(|(used, cpus)| used / cpus);
        let memory = readings.memory.map(|(held, max)| held as f64 / max as f64);
        let run_queue = match readings.waited {
            Some(_) => share(before.waited, readings.waited),
            None => readings.runnable,
        };
        let lag = executor.lag.map(|lag| lag.as_secs_f64() / self.params.lag_max.get().as_secs_f64());
        let read = [cpu, memory, run_queue, executor.busy, lag];

        let kept = (-elapsed.as_secs_f64() / self.params.half_life.get().as_secs_f64()).exp2();
        for (smoothed, read) in self.smoothed.0.iter_mut().zip(read) {
            // A limit of zero makes a figure that is no number.
            let read = read.filter(|figure| figure.is_finite() && *figure >= 0.0);
            *smoothed = read.map(|read| match *smoothed {
                Some(before) => read + (before - read) * kept,
                None => read,
            });
        }
        self.before = Some((now, *readings));
        self.smoothed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unsmoothed() -> Signals {
        Signals::new(&SignalParams { half_life: Span::default(), ..SignalParams::default() })
    }

    fn readings(millis: u64) -> Readings {
        let spent = Duration::from_millis(millis);
        Readings {
            cpu_time: Some(spent * 3 / 2),
            cpus: Some(2.5),
            memory: Some((300, 400)),
            waited: Some(spent / 5),
            runnable: Some(9.0),
        }
    }

    const IDLE: Executor = Executor { busy: Some(0.0), lag: Some(Duration::ZERO) };

    #[test]
    fn each_signal_is_measured_against_its_limit() {
        let mut signals = unsmoothed();
        signals.on_readings(Instant::from_secs(10), &readings(10_000), &IDLE);
        let executor = Executor { busy: Some(0.7), lag: Some(Duration::from_millis(50)) };
        let seen = signals.on_readings(Instant::from_secs(12), &readings(12_000), &executor);
        let figures = Signal::ALL.map(|signal| (seen.get(signal).unwrap() * 1e6).round() / 1e6);
        assert_eq!(figures, [0.6, 0.75, 0.2, 0.7, 0.5]);
        assert_eq!(seen.most(), Some((Signal::Memory, 0.75)));
    }

    #[test]
    fn differences_are_unknown_at_first_and_when_a_counter_goes_back() {
        let mut signals = unsmoothed();
        let differences = |seen: Utilisation| (seen.get(Signal::Cpu), seen.get(Signal::RunQueue));
        let first = signals.on_readings(Instant::from_secs(1), &readings(1_000), &IDLE);
        assert_eq!(differences(first), (None, None));
        let back = signals.on_readings(Instant::from_secs(2), &readings(500), &IDLE);
        assert_eq!(differences(back), (None, None));
        assert_eq!(back.get(Signal::Memory), Some(0.75));
    }

    #[test]
    fn what_could_run_stands_in_where_waiting_is_not_measured() {
        let readings = Readings { waited: None, ..readings(0) };
        let seen = unsmoothed().on_readings(Instant::ORIGIN, &readings, &IDLE);
        assert_eq!(seen.most(), Some((Signal::RunQueue, 9.0)));
    }

    #[test]
    fn nothing_known_is_not_idle() {
        let seen = unsmoothed().on_readings(Instant::ORIGIN, &Readings::default(), &Executor::default());
        assert_eq!((seen.most(), seen), (None, Utilisation::default()));
    }

    #[test]
    fn a_limit_of_nothing_is_unknown() {
        let mut signals = unsmoothed();
        for millis in [1_000, 2_000] {
            let readings = Readings { cpus: Some(0.0), memory: Some((0, 0)), ..readings(millis) };
            let executor = Executor { busy: Some(f64::NAN), lag: None };
            let seen = signals.on_readings(Instant::from_millis(millis), &readings, &executor);
            assert_eq!([Signal::Cpu, Signal::Memory, Signal::Busy].map(|signal| seen.get(signal)), [None; 3]);
        }
    }

    proptest! {
        /// However often it is read, and whichever readings fail.
        #[test]
        fn stays_within_what_was_read_and_forgets_what_is_not(
            read in prop::collection::vec((0..3_000u64, prop::option::of(0.0..2.0f64)), 1..60),
        ) {
            let mut signals = Signals::new(&SignalParams::default());
            let (mut millis, mut low, mut high) = (0, f64::MAX, f64::MIN);
            for (gap, busy) in read {
                millis += gap + 1;
                let executor = Executor { busy, lag: None };
                let seen = signals.on_readings(Instant::from_millis(millis), &Readings::default(), &executor);
                match busy {
                    Some(busy) => (low, high) = (low.min(busy), high.max(busy)),
                    None => (low, high) = (f64::MAX, f64::MIN),
                }
                prop_assert_eq!(seen.get(Signal::Busy).is_some(), busy.is_some());
                let within = |(_, figure): (Signal, f64)| (low - 1e-9..=high + 1e-9).contains(&figure);
                prop_assert!(seen.most().is_none_or(within), "{seen:?} outside {low}..{high}");
            }
        }

        #[test]
        fn half_of_a_change_shows_after_a_half_life(steps in 1..50u64) {
            let mut signals = Signals::new(&SignalParams::default());
            signals.on_readings(Instant::from_secs(1), &Readings::default(), &IDLE);
            let executor = Executor { busy: Some(1.0), lag: None };
            let seen = (1..=steps).map(|step| {
                let now = Instant::from_millis(1_000 + 1_000 * step / steps);
                signals.on_readings(now, &Readings::default(), &executor).get(Signal::Busy)
            });
            prop_assert!((seen.last().flatten().unwrap() - 0.5).abs() < 1e-9);
        }
    }

    #[test]
    fn senseless_parameters_are_named() {
        let params = SignalParams { lag_max: Span::default(), ..SignalParams::default() };
        assert_eq!(params.check().len(), 1);
        assert!(SignalParams::default().check().is_empty());
    }
}
