use model::{Registered, Roster};
use tokio::sync::watch;

use super::publisher::Publisher;
use super::{Discovered, Registry};

/// Endpoints that registered themselves. Whoever keeps the registry decides which departures are to be believed; here only
/// the rule of every source holds, that no answer means nobody.
#[derive(Debug)]
pub(super) struct Registrations {
    /// None when this process has no registry.
    roster: Option<watch::Receiver<Roster>>,
}

impl Registrations {
    pub(super) fn new(name: &str, registry: Option<&Registry>) -> Self {
        Self { roster: registry.map(|registry| registry(name)) }
    }

    /// What is known now.
    pub(super) fn tell(&mut self, publisher: &Publisher) {
        let Some(roster) = &mut self.roster else {
            publisher.failed("this process has no registry: it was started without one".to_owned());
            return;
        };
        let Roster { instances, trouble } = roster.borrow_and_update().clone();
        let trouble = trouble.map(|trouble| (*trouble).to_owned());
        match (instances, trouble) {
            (Some(instances), trouble) => {
                publisher.report(instances.iter().map(|one| discovered(one)).collect(), trouble);
            }
            (None, Some(trouble)) => publisher.failed(trouble),
            // Nothing was heard yet: that is no trouble yet.
            (None, None) => {}
        }
    }

    pub(super) async fn run(mut self, publisher: &Publisher) {
        loop {
            let changed = match &mut self.roster {
                Some(roster) => roster.changed().await,
                None => std::future::pending().await,
            };
            if changed.is_err() {
                publisher.failed("the registry has stopped".to_owned());
                return std::future::pending().await;
            }
            self.tell(publisher);
        }
    }
}

fn discovered(registered: &Registered) -> Discovered {
    let Registered { name, address, weight, zone, lame_duck, version: _ } = registered;
    Discovered {
        name: name.clone(),
        address: *address,
        weight: *weight,
        zone: zone.clone(),
        lame_duck: *lame_duck,
    }
}
