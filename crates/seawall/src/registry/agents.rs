//! Instances that register over HTTP and say again and again that they are there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coord::Coord;
use coord::registry::{Invalid, Record, Registrar};
use model::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Instances that one process keeps registered; more are refused.
const AGENTS_MAX: usize = 20_000;
/// How often it is looked for instances that went silent.
const SWEEP: Duration = Duration::from_millis(250);
/// How long the engine is waited for when an instance leaves.
const PATIENCE: Duration = Duration::from_secs(2);

/// Keeps each instance registered for as long as it says so in time.
#[derive(Default)]
pub(super) struct Agents {
    all: Mutex<HashMap<(String, String), Agent>>,
}

struct Agent {
    registrar: Registrar,
    ttl: Duration,
    until: Instant,
}

/// Why an instance was not registered.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("this process keeps at most {AGENTS_MAX} instances registered")]
    Full,
}

impl Agents {
    /// Registers an instance, changes what it says, or takes note that it is still there. Answers what hinders the engine
    /// from having it, as far as is known.
    pub(super) fn hear(
        &self,
        coord: &Coord,
        service: &str,
        instance: &str,
        record: Record,
        ttl: Duration,
    ) -> Result<Option<String>, AgentError> {
        let mut all = self.all();
        let until = coord::clock::now().after(ttl);
        let place = (service.to_owned(), instance.to_owned());
        if let Some(agent) = all.get_mut(&place)
            && agent.ttl == ttl
        {
            agent.registrar.say(Some(record))?;
            agent.until = until;
            return Ok(agent.registrar.trouble().map(|trouble| trouble.to_string()));
        }
        if all.len() >= AGENTS_MAX {
            return Err(AgentError::Full);
        }
        let registrar = Registrar::start(coord.clone(), service, instance, ttl, Some(record))?;
        all.insert(place, Agent { registrar, ttl, until });
        Ok(None)
    }

    /// Ends a registration; fine when there is none.
    pub(super) async fn leave(&self, service: &str, instance: &str) {
        let agent = self.all().remove(&(service.to_owned(), instance.to_owned()));
        if let Some(agent) = agent {
            agent.registrar.leave(PATIENCE).await;
        }
    }

    /// Lets go of whoever went silent, until `stop`.
    pub(super) async fn sweep(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
            let now = coord::clock::now();
            let silent: Vec<_> = self.all().extract_if(|_, agent| agent.until <= now).collect();
            for ((service, instance), _) in silent {
                info!(service, instance, "an instance went silent: its registration ends");
            }
        }
    }

    // Each step leaves whole values behind.
    fn all(&self) -> MutexGuard<'_, HashMap<(String, String), Agent>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
