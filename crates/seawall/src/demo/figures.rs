//! How users fared.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::script::SCRIPT;

/// How one user fared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// The phase in which the request was due.
    pub(super) phase: usize,
    pub(super) succeeded: bool,
    pub(super) latency: Duration,
}

/// What is known of a set of users.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    asked: u64,
    /// Microseconds of the successful ones.
    latencies: Vec<u32>,
}

impl Tally {
    fn record(&mut self, sample: Sample) {
        self.asked += 1;
        if sample.succeeded {
            self.latencies.push(u32::try_from(sample.latency.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// How many asked.
    pub(super) fn asked(&self) -> u64 {
        self.asked
    }

    /// Share of those who got what they asked for in time, in percent; `None` when nobody asked.
    pub(super) fn success(&self) -> Option<f64> {
        (self.asked > 0).then(|| self.latencies.len() as f64 / self.asked as f64 * 100.0)
    }

    /// The latency that this share of the successful ones stayed below, in milliseconds.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map(|micros| f64::from(*micros) / 1e3)
    }
}

/// Length of one step of the curve.
const STEP: Duration = Duration::from_millis(500);
/// Steps of the curve that are kept.
pub(super) const STEPS: usize = 48;

/// How the users of one copy of the shop fared so far.
#[derive(Debug)]
pub(super) struct Figures {
    phase: usize,
    phases: Vec<Tally>,
    recent: VecDeque<Tally>,
    newest: Instant,
}

impl Figures {
    pub(super) fn new(now: Instant) -> Self {
        Self { phase: 0, phases: vec![Tally::default(); SCRIPT.len()], recent: VecDeque::new(), newest: now }
    }

    /// The phase that is under way.
    pub(super) fn phase(&self) -> usize {
        self.phase
    }

    pub(super) fn begin(&mut self, phase: usize) {
        self.phase = phase;
    }

    pub(super) fn record(&mut self, sample: Sample) {
        self.record_at(Instant::now(), sample);
    }

    fn record_at(&mut self, now: Instant, sample: Sample) {
        self.phases[sample.phase].record(sample);
        while self.recent.is_empty() || now.saturating_duration_since(self.newest) >= STEP {
            self.newest += if self.recent.is_empty() { Duration::ZERO } else { STEP };
            self.recent.push_back(Tally::default());
            if self.recent.len() > STEPS {
                self.recent.pop_front();
            }
        }
        if let Some(last) = self.recent.back_mut() {
            last.record(sample);
        }
    }

    pub(super) fn of_phase(&self, phase: usize) -> &Tally {
        &self.phases[phase]
    }

    /// The last two seconds.
    pub(super) fn now(&self) -> Tally {
        let mut sum = Tally::default();
        for tally in self.recent.iter().rev().take(4) {
            sum.asked += tally.asked;
            sum.latencies.extend(&tally.latencies);
        }
        sum
    }

    /// The success of the last steps as a curve, oldest first: a full block is everybody, an empty one nobody.
    pub(super) fn curve(&self) -> String {
        const BLOCKS: [char; 9] = ['_', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let block = |tally: &Tally| match tally.success() {
            None => ' ',
            Some(success) => BLOCKS[(success / 100.0 * 8.0) as usize],
        };
        self.recent.iter().map(block).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(phase: usize, succeeded: bool, millis: u64) -> Sample {
        Sample { phase, succeeded, latency: Duration::from_millis(millis) }
    }

    #[test]
    fn quantiles_are_of_the_successful_and_success_is_of_all() {
        let mut tally = Tally::default();
        assert_eq!((tally.success(), tally.quantile(0.99)), (None, None));
        (1..=99).for_each(|millis| tally.record(sample(0, true, millis)));
        tally.record(sample(0, false, 1_000));
        assert_eq!(tally.success(), Some(99.0));
        assert_eq!(
            (tally.quantile(0.5), tally.quantile(0.99), tally.quantile(1.0)),
            (Some(50.0), Some(99.0), Some(99.0))
        );
    }

    #[test]
    fn the_curve_shows_time_and_success() {
        let start = Instant::now();
        let mut figures = Figures::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        figures.record_at(at(10), sample(0, true, 1));
        figures.record_at(at(1_600), sample(1, true, 1));
        figures.record_at(at(1_700), sample(1, false, 1));
        figures.record_at(at(2_000), sample(1, false, 1));
        assert_eq!(figures.curve(), "█  ▄_");
        assert_eq!(figures.of_phase(1).asked(), 3);
        (0..100).for_each(|step| figures.record_at(at(2_000 + 500 * step), sample(2, true, 1)));
        assert_eq!(figures.curve().chars().count(), STEPS);
    }
}
