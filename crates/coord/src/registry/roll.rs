use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Instant, Ratio, Registered, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When departures are held back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HoldParams {
    /// More than this share of a service's instances, and more than one, vanishing within `window` is held back and
    /// alarmed. An instance that said it was a lame duck before it left does not count.
    pub max_share: Ratio,
    /// Within which time departures count together.
    pub window: Span,
    /// Held departures are believed after this long without another one, if anybody else is left. 0: only when an operator
    /// releases them.
    pub release_after: Span,
}

impl Default for HoldParams {
    fn default() -> Self {
        Self {
            max_share: Ratio::percent(30),
            window: Span::from_secs(10),
            release_after: Span::from_secs(15 * 60),
        }
    }
}

impl HoldParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.window.is_zero() {
            wrong.push((
                "window",
                "must be longer than 0: departures are never at the very same time".to_owned(),
            ));
        }
        if !self.release_after.is_zero() && self.release_after < self.window {
            wrong.push(("release_after", format!("must not be shorter than `window` ({})", self.window)));
        }
        wrong
    }
}

/// A mass departure that is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Since when.
    pub since: Instant,
    /// Instances that vanished and are still told of.
    pub vanished: usize,
    /// Instances that are there.
    pub present: usize,
}

/// The instances of one service: what the engine said in, what is safe to believe out.
///
/// * An instance that said it was a lame duck and then leaves is gone at once, unless it was the last.
/// * One that vanishes without a word is gone at once, too: a crash is ordinary. But when more than
///   [`HoldParams::max_share`] of all, and more than one, vanish within [`HoldParams::window`], all of those **come back**
///   and are held until enough of them return, an operator confirms ([`Roll::release`]), or
///   [`HoldParams::release_after`] has passed and somebody else is left.
/// * The last instance never goes unconfirmed.
///
/// Fails towards the stale set: an endpoint too many costs an attempt and is noticed by health checks and traffic; an empty
/// set is an outage that the registry made. Source: SRE book, ch. 7 (automation that acted on an empty answer); TRAPS 17.
#[derive(Debug)]
pub struct Roll {
    params: HoldParams,
    present: BTreeMap<String, Arc<Registered>>,
    /// Vanished without a word: within the last window, or held.
    vanished: BTreeMap<String, Vanished>,
    holding: Option<Instant>,
}

#[derive(Debug)]
struct Vanished {
    instance: Arc<Registered>,
    at: Instant,
}

impl Roll {
    /// Nobody yet.
    #[must_use]
    pub fn new(params: &HoldParams) -> Self {
        Self { params: params.clone(), present: BTreeMap::new(), vanished: BTreeMap::new(), holding: None }
    }

    /// Everything there is: at the beginning, and after changes were missed. Who is not in it has vanished.
    pub fn on_all(&mut self, all: Vec<Registered>, now: Instant) {
        let before: Vec<String> = self.present.keys().cloned().collect();
        let mut gone: std::collections::BTreeSet<String> = before.into_iter().collect();
        for instance in all {
            gone.remove(&instance.name);
            self.put(instance);
        }
        for name in gone {
            self.remove(&name, now);
        }
        self.review(now);
    }

    /// An instance registered, or says something else of itself now.
    pub fn on_put(&mut self, instance: Registered, now: Instant) {
        self.put(instance);
        self.review(now);
    }

    /// An instance's registration ended, however.
    pub fn on_gone(&mut self, name: &str, now: Instant) {
        self.remove(name, now);
        self.review(now);
    }

    /// An operator confirms that whoever is held has left for good. Answers how many were held.
    pub fn release(&mut self) -> usize {
        if self.holding.take().is_none() {
            return 0;
        }
        let released = self.vanished.len();
        self.vanished.clear();
        released
    }

    /// Does what is due.
    pub fn advance(&mut self, now: Instant) {
        if self.poll_timeout() <= now {
            self.release();
        }
        self.review(now);
    }

    /// When to call [`Roll::advance`] next, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let last = self.vanished.values().map(|gone| gone.at).max();
        match last {
            Some(last)
                if self.holding.is_some()
                    && !self.present.is_empty()
                    && !self.params.release_after.is_zero() =>
            {
                last.after(self.params.release_after.get())
            }
            _ => Instant::NEVER,
        }
    }

    /// Whoever is to be believed to be there, by name.
    #[must_use]
    pub fn instances(&self) -> Arc<[Arc<Registered>]> {
        if self.holding.is_none() {
            return self.present.values().cloned().collect();
        }
        let held = self.vanished.values().map(|gone| &gone.instance);
        let mut all: Vec<_> = self.present.values().chain(held).cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.into()
    }

    /// The mass departure that is held back, if one is.
    #[must_use]
    pub fn held(&self) -> Option<Held> {
        self.holding.map(|since| Held { since, vanished: self.vanished.len(), present: self.present.len() })
    }

    /// Whether the instance called `name` is told of only because its departure is held.
    #[must_use]
    pub fn is_held(&self, name: &str) -> bool {
        self.holding.is_some() && self.vanished.contains_key(name)
    }

    /// Whether nothing is known any more, so that it may be forgotten.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.present.is_empty() && self.holding.is_none()
    }

    fn put(&mut self, instance: Registered) {
        // Whoever has the address now stands for whoever had it: a process that came back under another name.
        self.vanished
            .retain(|name, gone| *name != instance.name && gone.instance.address != instance.address);
        self.present.insert(instance.name.clone(), Arc::new(instance));
    }

    fn remove(&mut self, name: &str, now: Instant) {
        let Some(instance) = self.present.remove(name) else { return };
        let announced = instance.lame_duck && !self.present.is_empty();
        if !announced {
            self.vanished.insert(name.to_owned(), Vanished { instance, at: now });
        }
    }

    /// Whether those who vanished are too many to be believed.
    fn review(&mut self, now: Instant) {
        if self.holding.is_none() {
            let window = self.params.window.get();
            self.vanished.retain(|_, gone| now.since(gone.at) < window);
        }
        let (vanished, all) = (self.vanished.len(), self.vanished.len() + self.present.len());
        let mass = vanished > 1 && vanished as f64 > self.params.max_share.get() * all as f64;
        let last = vanished > 0 && self.present.is_empty();
        if mass || last {
            self.holding.get_or_insert(now);
        } else {
            // What is left of it is ordinary: it is believed, and counts for as long as any departure does.
            self.holding = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn instance(number: u16) -> Registered {
        Registered {
            name: format!("i{number:03}"),
            address: SocketAddr::from(([10, 0, 0, 1], 1_000 + number)),
            weight: 1,
            zone: None,
            version: None,
            lame_duck: false,
        }
    }

    fn lame(number: u16) -> Registered {
        Registered { lame_duck: true, ..instance(number) }
    }

    fn at(secs: u64) -> Instant {
        Instant::from_secs(secs)
    }

    /// Ten instances, at second 0.
    fn ten() -> Roll {
        let mut roll = Roll::new(&HoldParams::default());
        roll.on_all((0..10).map(instance).collect(), at(0));
        roll
    }

    fn told(roll: &Roll) -> BTreeSet<String> {
        roll.instances().iter().map(|instance| instance.name.clone()).collect()
    }

    #[test]
    fn one_that_crashes_is_gone_at_once() {
        let mut roll = ten();
        for number in 0..3 {
            roll.on_gone(&instance(number).name, at(1));
        }
        assert_eq!((told(&roll).len(), roll.held()), (7, None));
    }

    /// TRAP 17, row C4: what vanishes together is held, those who went first included.
    #[test]
    fn trap_17_a_mass_disappearance_is_held_and_alarmed() {
        let mut roll = ten();
        for number in 0..6 {
            roll.on_gone(&instance(number).name, at(1));
        }
        assert_eq!(told(&roll).len(), 10, "those who went before the bound was passed are back");
        assert_eq!(roll.held(), Some(Held { since: at(1), vanished: 6, present: 4 }));
        assert!(roll.is_held("i000") && !roll.is_held("i009"));
        roll.advance(at(800));
        assert_eq!(told(&roll).len(), 10);
        // Most of them return: the rest is ordinary.
        for number in 0..4 {
            roll.on_put(instance(number), at(801));
        }
        assert_eq!((told(&roll).len(), roll.held()), (8, None));
    }

    /// TRAP 17: no session that ends, and nothing else unconfirmed, empties a service.
    #[test]
    fn trap_17_the_last_one_stays_until_an_operator_confirms() {
        let mut roll = ten();
        roll.on_all(Vec::new(), at(1));
        assert_eq!(told(&roll).len(), 10);
        assert_eq!(roll.poll_timeout(), Instant::NEVER, "nobody else is left: time confirms nothing");
        roll.advance(at(1_000_000));
        assert_eq!(told(&roll).len(), 10);
        assert_eq!(roll.release(), 10);
        assert!(told(&roll).is_empty() && roll.is_empty());
    }

    #[test]
    fn what_is_held_is_believed_after_a_while_if_somebody_is_left() {
        let mut roll = ten();
        for number in 0..6 {
            roll.on_gone(&instance(number).name, at(1 + u64::from(number)));
        }
        assert_eq!(roll.poll_timeout(), at(6 + 900), "counted from the last departure");
        roll.advance(at(905));
        assert_eq!(told(&roll).len(), 10);
        roll.advance(at(906));
        assert_eq!((told(&roll).len(), roll.held()), (4, None));
    }

    #[test]
    fn announced_departures_are_obeyed_but_for_the_last() {
        let mut roll = ten();
        for number in 0..10 {
            roll.on_put(lame(number), at(1));
            roll.on_gone(&lame(number).name, at(2));
        }
        assert_eq!(told(&roll), BTreeSet::from(["i009".to_owned()]));
        // The next one to register takes over.
        roll.on_put(instance(20), at(3));
        roll.on_put(instance(21), at(3));
        roll.on_put(instance(22), at(3));
        assert_eq!(told(&roll).len(), 3);
    }

    #[test]
    fn whoever_has_the_address_now_stands_for_whoever_vanished() {
        let mut roll = ten();
        roll.on_all(Vec::new(), at(1));
        let renamed = |number| Registered { name: format!("again-{number}"), ..instance(number) };
        roll.on_all((0..10).map(renamed).collect(), at(2));
        assert_eq!(roll.held(), None);
        assert!(told(&roll).iter().all(|name| name.starts_with("again-")));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u16),
        Lame(u16),
        Gone(u16),
        All(Vec<u16>),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..20u16).prop_map(Step::Put),
            1 => (0..20u16).prop_map(Step::Lame),
            4 => (0..20u16).prop_map(Step::Gone),
            1 => prop::collection::vec(0..20u16, 0..20).prop_map(Step::All),
            2 => (0..30u64).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        /// Whatever happens: a service that had somebody is never told to be empty; whoever is present is told of; and of
        /// all that were told of at any moment of a window, no more vanish unannounced from what is told than the bound
        /// allows (one always may).
        #[test]
        fn departures_are_bounded_whatever_happens(steps in steps(), percent in 0..=100u8) {
            let params = HoldParams { max_share: Ratio::percent(percent), ..HoldParams::default() };
            let mut roll = Roll::new(&params);
            let (mut now, mut had_somebody) = (at(100), false);
            // Who is present by the engine, and when each was last lost unannounced.
            let mut present = BTreeMap::new();
            let mut lost: BTreeMap<String, Instant> = BTreeMap::new();
            for step in steps {
                let lose = |present: &mut BTreeMap<String, bool>, lost: &mut BTreeMap<String, Instant>, name: &str| {
                    if let Some(lame) = present.remove(name) && (!lame || present.is_empty()) {
                        lost.insert(name.to_owned(), now);
                    }
                };
                match step {
                    Step::Put(number) | Step::Lame(number) => {
                        let is_lame = matches!(step, Step::Lame(_));
                        let one = if is_lame { lame(number) } else { instance(number) };
                        lost.remove(&one.name);
                        present.insert(one.name.clone(), is_lame);
                        roll.on_put(one, now);
                    }
                    Step::Gone(number) => {
                        let name = instance(number).name;
                        lose(&mut present, &mut lost, &name);
                        roll.on_gone(&name, now);
                    }
                    Step::All(numbers) => {
                        let all: BTreeMap<_, _> = numbers.iter().map(|n| (instance(*n).name, instance(*n))).collect();
                        let gone: Vec<_> = present.keys().filter(|name| !all.contains_key(*name)).cloned().collect();
                        for name in all.keys() {
                            lost.remove(name);
                            present.insert(name.clone(), false);
                        }
                        for name in gone {
                            lose(&mut present, &mut lost, &name);
                        }
                        roll.on_all(all.into_values().collect(), now);
                    }
                    Step::Wait(secs) => {
                        now = now.after(std::time::Duration::from_secs(secs));
                        roll.advance(now);
                    }
                }
                let told = told(&roll);
                had_somebody |= !told.is_empty();
                prop_assert_eq!(told.is_empty(), !had_somebody);
                prop_assert!(present.keys().all(|name| told.contains(name)), "present but not told of");
                let recent = |name: &&String| lost.get(*name).is_some_and(|at| now.since(*at) < params.window.get());
                let dropped = lost.keys().filter(recent).filter(|name| !told.contains(*name)).count();
                let allowed = (params.max_share.get() * (present.len() + dropped) as f64).max(1.0);
                prop_assert!(dropped as f64 <= allowed, "{} of {} dropped", dropped, present.len() + dropped);
            }
            // Once all is quiet and somebody is there, what is told is what there is.
            roll.on_put(instance(50), now);
            roll.advance(now.after(std::time::Duration::from_secs(20 * 60)));
            roll.advance(now.after(std::time::Duration::from_secs(40 * 60)));
            prop_assert_eq!(told(&roll).len(), roll.present.len());
        }
    }
}
