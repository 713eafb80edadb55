//! Graceful degradation: named modes in which a service does less, so that it goes on doing something.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;

use model::{Instant, Ratio, Span};
use serde::{Deserialize, Serialize};

use crate::Rng;

/// Most modes of one service: each combination of them has its measures ready.
pub const MODES_MAX: usize = 6;

/// What an operator says about a mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "ModeForce"))]
#[serde(rename_all = "snake_case")]
pub enum Force {
    /// Its triggers decide.
    #[default]
    Auto,
    /// It is in force, whatever its triggers say.
    On,
    /// It is not in force, and is not exercised either.
    Off,
}

/// When a figure speaks for a mode and when no longer; between the two it says neither.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// At this or above it speaks for entering.
    pub enter: f64,
    /// Below this it lets leave. Absent: four fifths of `enter`.
    #[serde(default)]
    pub leave: Option<f64>,
}

impl Threshold {
    fn leave(self) -> f64 {
        self.leave.unwrap_or(self.enter * 0.8)
    }
}

/// When a mode is entered and left, and how it is kept from rusting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ModeParams {
    /// `on` and `off` overrule the triggers, until said otherwise; for operators in an incident.
    pub force: Force,
    /// Utilisation; 1 is all there is.
    pub utilization: Option<Threshold>,
    /// Share of requests that are shed.
    pub shed: Option<Threshold>,
    /// How many times faster than allowed the error budget burns.
    pub burn: Option<Threshold>,
    /// How long a figure must speak for entering, without a break.
    pub enter_after: Span,
    /// How long every figure must let leave, without a break.
    pub leave_after: Span,
    /// Trying the mode out on a few requests, so that it works when it is needed.
    pub exercise: Option<Exercise>,
}

impl Default for ModeParams {
    fn default() -> Self {
        Self {
            force: Force::Auto,
            utilization: None,
            shed: None,
            burn: None,
            enter_after: Span::from_secs(5),
            leave_after: Span::from_secs(30),
            exercise: None,
        }
    }
}

/// A mode tried out on a share of requests, for a while, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Exercise {
    /// The share of requests.
    pub share: Ratio,
    /// From the beginning of one exercise to the beginning of the next.
    pub every: Span,
    /// How long one lasts.
    #[serde(rename = "for")]
    pub lasts: Span,
}

impl ModeParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        for (key, threshold) in self.thresholds() {
            let Some(threshold) = threshold else { continue };
            if !(threshold.enter > 0.0 && threshold.enter.is_finite()) {
                wrong.push((key, alloc::format!("`enter` ({}) must be more than 0", threshold.enter)));
            } else if !(threshold.leave() >= 0.0 && threshold.leave() <= threshold.enter) {
                let why = "`leave` must lie between 0 and `enter`, or the mode is entered and left at once";
                wrong.push((key, why.into()));
            }
        }
        if let Some(exercise) = &self.exercise {
            if exercise.every.is_zero() || exercise.lasts > exercise.every {
                wrong.push(("exercise", "`every` must be longer than 0, and no shorter than `for`".into()));
            }
            if exercise.share > Ratio::percent(10) {
                wrong
                    .push(("exercise", "`share` must be at most 0.1: this is a drill, not an outage".into()));
            }
        }
        wrong
    }

    fn thresholds(&self) -> [(&'static str, Option<Threshold>); 3] {
        [("utilization", self.utilization), ("shed", self.shed), ("burn", self.burn)]
    }
}

/// How a service stands. A figure that is not known speaks neither for a mode nor for staying in it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signals {
    /// Utilisation; 1 is all there is.
    pub utilization: Option<f64>,
    /// Share of requests that were shed of late.
    pub shed: Option<f64>,
    /// How many times faster than allowed the error budget burns.
    pub burn: Option<f64>,
}

/// What spoke for a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// An operator.
    Forced,
    /// Utilisation.
    Utilization,
    /// The share of requests that are shed.
    Shed,
    /// The error budget.
    Burn,
}

impl Trigger {
    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Forced => "forced",
            Self::Utilization => "utilization",
            Self::Shed => "shed",
            Self::Burn => "burn",
        }
    }
}

/// A mode was entered or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Which, by its place in the list.
    pub mode: usize,
    /// Entered, for this reason; or left.
    pub entered: Option<Trigger>,
}

/// What can be done less. Measures of several modes add up: see [`Measures::with`].
pub trait Measures: Clone + Default {
    /// These measures with those of another mode on top: where both say something, the other's word counts.
    #[must_use]
    fn with(&self, other: &Self) -> Self;
}

/// What requests read: one word, written by the control task. The lower half are the modes in force, the upper half
/// those that are being exercised.
#[derive(Debug)]
pub struct Modes<M> {
    word: AtomicU32,
    /// For each set of modes, what is done.
    table: Box<[M]>,
    shares: Box<[f64]>,
}

/// What holds for one request.
#[derive(Debug)]
pub struct Active<'a, M> {
    /// What is done.
    pub measures: &'a M,
    /// The modes, a bit each in the order of the list.
    pub modes: u32,
    /// Those of them that this request only exercises.
    pub exercised: u32,
}

impl<M: Measures> Modes<M> {
    /// None in force. Modes are listed from the mildest to the most severe, with the share of requests that exercise
    /// them; those beyond [`MODES_MAX`] are ignored.
    #[must_use]
    pub fn new(modes: &[(ModeParams, M)]) -> Self {
        let modes = &modes[..modes.len().min(MODES_MAX)];
        let combine = |set: usize| {
            let chosen = modes.iter().enumerate().filter(|(index, _)| set & (1 << index) != 0);
            chosen.fold(M::default(), |sum, (_, (_, measures))| sum.with(measures))
        };
        Self {
            word: AtomicU32::new(0),
            table: (0..1 << modes.len()).map(combine).collect(),
            shares: modes
                .iter()
                .map(|(params, _)| params.exercise.map_or(0.0, |one| one.share.get()))
                .collect(),
        }
    }

    /// What holds for a request: one relaxed load and a look into a table. `None`: nothing is left out.
    pub fn active(&self, rng: &mut Rng) -> Option<Active<'_, M>> {
        let word = self.word.load(Relaxed);
        if word == 0 {
            return None;
        }
        let (in_force, drilled) = (word & 0xffff, word >> 16 & !word);
        let mut exercised = 0;
        for (index, share) in self.shares.iter().enumerate() {
            if drilled & (1 << index) != 0 && rng.f64() < *share {
                exercised |= 1 << index;
            }
        }
        let modes = in_force | exercised;
        (modes != 0).then(|| Active { measures: &self.table[modes as usize], modes, exercised })
    }

    /// What is done in this set of modes, a bit each; those that are not listed do nothing.
    #[must_use]
    pub fn measures(&self, modes: u32) -> &M {
        &self.table[modes as usize & (self.table.len() - 1)]
    }

    /// The modes in force, a bit each.
    #[must_use]
    pub fn in_force(&self) -> u32 {
        self.word.load(Relaxed) & 0xffff
    }

    /// Makes what the governor decided hold for the requests that follow.
    pub fn set(&self, governor: &Governor) {
        self.word.store(governor.word(), Relaxed);
    }
}

/// How a mode stands.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    active: bool,
    /// Since when the figures have asked for the opposite, without a break.
    against: Option<Instant>,
    exercising: bool,
}

/// Decides which modes are in force, from how the service stands.
///
/// A mode is entered when for `enter_after` there has always been a figure at its `enter` or above, and left when all have
/// been below their `leave` for `leave_after`: between the two nothing changes, so a figure that swings there moves
/// nothing, and a mode changes at most once in each `min(enter_after, leave_after)`. A figure that is missing enters
/// no mode and keeps none: it fails towards doing everything. An operator's word holds at once.
#[derive(Clone, Debug)]
pub struct Governor {
    modes: Vec<(ModeParams, Standing)>,
    began: Instant,
}

impl Governor {
    /// With no mode in force.
    #[must_use]
    pub fn new(modes: Vec<ModeParams>, now: Instant) -> Self {
        let modes = modes.into_iter().take(MODES_MAX).map(|params| (params, Standing::default())).collect();
        Self { modes, began: now }
    }

    /// The service stands like this now. Call it often: at least a few times in each span of the parameters.
    pub fn on_signals(&mut self, now: Instant, signals: &Signals) -> Vec<Switch> {
        let mut changes = Vec::new();
        let age = now.since(self.began);
        for (mode, (params, standing)) in self.modes.iter_mut().enumerate() {
            standing.exercising =
                params.force != Force::Off && params.exercise.is_some_and(|one| one.now(age));
            let (wanted, why) = match params.force {
                Force::On => (true, Some(Trigger::Forced)),
                Force::Off => (false, None),
                Force::Auto => {
                    let trigger = params.speaks(signals, standing.active);
                    let wanted = trigger.is_some();
                    if wanted == standing.active {
                        standing.against = None;
                    } else {
                        let since = *standing.against.get_or_insert(now);
                        let hold = if wanted { params.enter_after } else { params.leave_after };
                        if now.since(since) < hold.get() {
                            continue;
                        }
                    }
                    (wanted, trigger)
                }
            };
            if wanted != standing.active {
                standing.active = wanted;
                standing.against = None;
                changes.push(Switch { mode, entered: why.filter(|_| wanted) });
            }
        }
        changes
    }

    /// Takes over other parameters for the same modes; what is in force stays so until the figures say otherwise.
    pub fn on_params(&mut self, modes: Vec<ModeParams>) {
        for ((params, _), new) in self.modes.iter_mut().zip(modes) {
            *params = new;
        }
    }

    fn word(&self) -> u32 {
        let bits = |holds: fn(&Standing) -> bool| {
            let held = self.modes.iter().enumerate().filter(|(_, (_, standing))| holds(standing));
            held.fold(0, |bits, (index, _)| bits | 1 << index)
        };
        bits(|standing| standing.active) | bits(|standing| standing.exercising) << 16
    }
}

impl ModeParams {
    /// Which figure speaks for the mode: for entering it, or for staying in it.
    fn speaks(&self, signals: &Signals, active: bool) -> Option<Trigger> {
        let figures = [
            (self.utilization, signals.utilization, Trigger::Utilization),
            (self.shed, signals.shed, Trigger::Shed),
            (self.burn, signals.burn, Trigger::Burn),
        ];
        figures.into_iter().find_map(|(threshold, figure, trigger)| {
            let (threshold, figure) = (threshold?, figure?);
            let bar = if active { threshold.leave() } else { threshold.enter };
            (figure >= bar).then_some(trigger)
        })
    }
}

impl Exercise {
    /// Whether one takes place at this age; the first begins with the first `every` past.
    fn now(&self, age: Duration) -> bool {
        let every = self.every.get().as_nanos().max(1);
        age.as_nanos() >= every && age.as_nanos() % every < self.lasts.get().as_nanos()
    }
}

#[cfg(test)]
mod tests;
