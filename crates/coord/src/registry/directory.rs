use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Instant, Registered, Roster};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Held, HoldParams, PREFIX, Roll, parse, parse_key};
use crate::{Coord, Event, Update, clock};

/// Timers stand still while the machine is suspended: nothing waits longer than this without looking at the clock.
const LOOK: Duration = Duration::from_secs(1);

/// Who is there, for everybody in this process who wants to know. Cheap to clone.
///
/// It follows the engine by one watch, whoever asks for what, and passes a change on at once. Without an engine it keeps
/// telling what it knew last, and says so.
#[derive(Clone, Debug)]
pub struct Directory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    hold: HoldParams,
    state: Mutex<State>,
    /// Counts up with every change.
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<String, Service>,
    /// Whether everything was heard once.
    heard: bool,
    /// Why what is known may be out of date.
    stale: Option<Arc<str>>,
    changes: u64,
    refused: u64,
}

#[derive(Debug)]
struct Service {
    roll: Roll,
    roster: watch::Sender<Roster>,
    /// Whether a mass departure was reported.
    alarmed: bool,
}

/// A service and its instances, as operators see them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub service: String,
    /// By name.
    pub instances: Vec<Listed>,
    /// Instances that vanished together and are held until they return or the departure is confirmed.
    pub held: usize,
}

/// One instance, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: std::net::SocketAddr,
    /// Its weight.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<String>,
    /// What it runs.
    pub version: Option<String>,
    /// Whether it wants no new requests.
    pub lame_duck: bool,
    /// Whether its registration is gone and it is told of only because too many vanished with it.
    pub held: bool,
}

/// What the metrics say of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Services with at least one instance.
    pub services: u64,
    /// Instances, held ones included.
    pub instances: u64,
    /// Instances that are told of only because too many vanished at once.
    pub held: u64,
    /// Whether the engine cannot be reached.
    pub stale: bool,
    /// Registrations and departures seen.
    pub changes: u64,
    /// Registrations that made no sense.
    pub refused: u64,
}

impl Service {
    fn new(hold: &HoldParams) -> Self {
        Self { roll: Roll::new(hold), roster: watch::Sender::default(), alarmed: false }
    }

    /// Tells followers, if there is news.
    fn publish(&mut self, name: &str, heard: bool, stale: Option<&Arc<str>>) {
        let held = self.roll.held();
        match (held, self.alarmed) {
            (Some(Held { vanished, present, .. }), false) => {
                error!(
                    service = name,
                    vanished,
                    present,
                    "many instances vanished at once: held until they return or `seawall registry release` confirms it"
                );
            }
            (None, true) => info!(service = name, "no departure is held any more"),
            _ => {}
        }
        self.alarmed = held.is_some();
        let trouble = stale.cloned().or_else(|| {
            held.map(|Held { vanished, present, .. }| {
                let all = vanished + present;
                format!("{vanished} of {all} instances vanished at once and are held").into()
            })
        });
        let roster = Roster { instances: heard.then(|| self.roll.instances()), trouble };
        self.roster.send_if_modified(|now| {
            let news = *now != roster;
            *now = roster;
            news
        });
    }
}

impl Directory {
    /// Knows nothing until [`Directory::run`] runs.
    #[must_use]
    pub fn new(hold: &HoldParams) -> Self {
        let inner = Inner { hold: hold.clone(), state: Mutex::default(), version: watch::Sender::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// Follows the engine until `stop`.
    pub async fn run(self, coord: Coord, stop: CancellationToken) {
        let mut watch = coord.watch(PREFIX);
        loop {
            let due = self.next_timeout().since(clock::now()).min(LOOK);
            tokio::select! {
                () = stop.cancelled() => return,
                update = watch.next() => self.apply(update, clock::now()),
                () = tokio::time::sleep(due) => self.advance(clock::now()),
            }
        }
    }

    /// What is known of `service`, now and whenever that changes; also of one that nobody has registered yet.
    #[must_use]
    pub fn follow(&self, service: &str) -> watch::Receiver<Roster> {
        let mut state = self.state();
        let State { services, heard, stale, .. } = &mut *state;
        let entry = services.entry(service.to_owned()).or_insert_with(|| {
            let mut entry = Service::new(&self.inner.hold);
            entry.publish(service, *heard, stale.as_ref());
            entry
        });
        entry.roster.subscribe()
    }

    /// What is known of `service` now; none when it was never heard of.
    #[must_use]
    pub fn roster(&self, service: &str) -> Option<Roster> {
        self.state().services.get(service).map(|entry| entry.roster.borrow().clone())
    }

    /// Whether everything was heard once, so that who is unknown is not there.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        self.state().heard
    }

    /// Every service that has instances, by name.
    #[must_use]
    pub fn list(&self) -> Vec<ServiceStatus> {
        let state = self.state();
        let with_instances = state.services.iter().filter(|(_, entry)| !entry.roll.is_empty());
        with_instances.map(|(name, entry)| status(name, &entry.roll)).collect()
    }

    /// Why what is known may be out of date, while it may be.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<str>> {
        let state = self.state();
        state
            .stale
            .clone()
            .or_else(|| (!state.heard).then(|| "nothing was heard from the registry yet".into()))
    }

    /// Counts up with every change of anything.
    #[must_use]
    pub fn version(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    /// An operator confirms that the instances of `service` that are held have left for good. Answers how many were held.
    pub fn release(&self, service: &str) -> usize {
        let mut state = self.state();
        let State { services, heard, stale, .. } = &mut *state;
        let Some(entry) = services.get_mut(service) else { return 0 };
        let released = entry.roll.release();
        entry.publish(service, *heard, stale.as_ref());
        drop(state);
        if released > 0 {
            info!(service, released, "an operator confirmed a departure");
            self.inner.version.send_modify(|version| *version += 1);
        }
        released
    }

    /// What the metrics say.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let state = self.state();
        let mut figures = Figures {
            stale: state.stale.is_some(),
            changes: state.changes,
            refused: state.refused,
            ..Figures::default()
        };
        for entry in state.services.values().filter(|entry| !entry.roll.is_empty()) {
            figures.services += 1;
            figures.instances += entry.roll.instances().len() as u64;
            figures.held += entry.roll.held().map_or(0, |held| held.vanished as u64);
        }
        figures
    }

    /// Takes over what the engine said.
    fn apply(&self, update: Update, now: Instant) {
        let mut state = self.state();
        let all = match update {
            Update::All { entries, .. } => {
                let mut by_service: BTreeMap<String, Vec<Registered>> =
                    state.services.keys().map(|service| (service.clone(), Vec::new())).collect();
                for entry in entries {
                    match parse(&entry.key, &entry.value) {
                        Some((service, instance)) => by_service.entry(service).or_default().push(instance),
                        None => state.refuse(&entry.key),
                    }
                }
                state.changes += 1;
                for (service, instances) in by_service {
                    state.service(service, &self.inner.hold).roll.on_all(instances, now);
                }
                state.heard = true;
                state.stale = None;
                true
            }
            Update::Changed(events) => {
                let mut touched = BTreeSet::new();
                for event in events {
                    state.changes += 1;
                    touched.extend(state.on_event(event, &self.inner.hold, now));
                }
                let recovered = state.stale.take().is_some();
                if !recovered {
                    state.publish(touched.iter().map(String::as_str));
                }
                recovered
            }
            Update::Stale(failure) => {
                warn!(%failure, "the registry cannot be reached: what is known stays in use");
                state.stale = Some(failure.to_string().into());
                true
            }
        };
        if all {
            state.publish_all();
        }
        state.forget();
        drop(state);
        self.inner.version.send_modify(|version| *version += 1);
    }

    fn advance(&self, now: Instant) {
        let mut state = self.state();
        let due = state.services.iter_mut().filter(|(_, entry)| entry.roll.poll_timeout() <= now);
        let due: Vec<String> = due
            .map(|(name, entry)| {
                warn!(service = name, "departures that were held are believed now");
                entry.roll.advance(now);
                name.clone()
            })
            .collect();
        if !due.is_empty() {
            state.publish(due.iter().map(String::as_str));
            state.forget();
            drop(state);
            self.inner.version.send_modify(|version| *version += 1);
        }
    }

    fn next_timeout(&self) -> Instant {
        let state = self.state();
        state.services.values().map(|entry| entry.roll.poll_timeout()).min().unwrap_or(Instant::NEVER)
    }

    // Each step leaves whole values behind.
    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn service(&mut self, name: String, hold: &HoldParams) -> &mut Service {
        self.services.entry(name).or_insert_with(|| Service::new(hold))
    }

    /// Answers the service that it touched.
    fn on_event(&mut self, event: Event, hold: &HoldParams, now: Instant) -> Option<String> {
        match event {
            Event::Put { entry } => {
                let Some((service, instance)) = parse(&entry.key, &entry.value) else {
                    // Whatever it said before still holds.
                    self.refuse(&entry.key);
                    return None;
                };
                self.service(service.clone(), hold).roll.on_put(instance, now);
                Some(service)
            }
            Event::Deleted { key, .. } => {
                let (service, instance) = parse_key(&key)?;
                self.services.get_mut(service)?.roll.on_gone(instance, now);
                Some(service.to_owned())
            }
        }
    }

    fn refuse(&mut self, key: &str) {
        self.refused += 1;
        warn!(key, "a registration that makes no sense is left out");
    }

    fn publish<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let Self { services, heard, stale, .. } = self;
        for name in names {
            if let Some(entry) = services.get_mut(name) {
                entry.publish(name, *heard, stale.as_ref());
            }
        }
    }

    fn publish_all(&mut self) {
        let Self { services, heard, stale, .. } = self;
        for (name, entry) in services {
            entry.publish(name, *heard, stale.as_ref());
        }
    }

    /// Drops services that have nobody and that nobody follows.
    fn forget(&mut self) {
        self.services.retain(|_, entry| !entry.roll.is_empty() || entry.roster.receiver_count() > 0);
    }
}

fn status(service: &str, roll: &Roll) -> ServiceStatus {
    let instances = roll.instances();
    let listed = instances.iter().map(|instance| {
        let Registered { name, address, weight, zone, version, lame_duck } = Registered::clone(instance);
        let held = roll.is_held(&name);
        Listed { name, address, weight, zone, version, lame_duck, held }
    });
    ServiceStatus {
        service: service.to_owned(),
        instances: listed.collect(),
        held: roll.held().map_or(0, |held| held.vanished),
    }
}
