//! The registry, its name server and ids in a running process, and the commands that use them.
//!
//! One process of a machine keeps them (`seawall up`); instances register with it over its admin address, whatever engine
//! stands behind it.

mod agents;
pub(crate) mod api;
mod command;
mod ids;
pub(crate) mod metrics;
mod register;

pub use command::{RegistryArgs, run};
pub use ids::{IdArgs, run as id};
pub use register::{RegisterArgs, run as register};

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use coord::registry::Directory;
use coord::{Coord, dns};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::cli::Failure;
use crate::config::Config;
use agents::Agents;

/// What this process keeps for its fleet. Ports are bound, nothing runs yet.
pub(crate) struct Fleet {
    config: Config,
    directory: Directory,
    ids: coord::ids::Ids,
    agents: Agents,
    coord: OnceLock<Coord>,
    dns: Mutex<Option<dns::Server>>,
    dns_address: Option<SocketAddr>,
}

impl Fleet {
    /// Takes the name server's port, if there is to be one.
    pub(crate) fn build(config: &Config) -> Result<Self, Failure> {
        let dns = match &config.dns {
            Some(params) => {
                Some(dns::Server::bind(params).map_err(|problem| Failure::Input(problem.to_string()))?)
            }
            None => None,
        };
        let dns_address = dns.as_ref().map(dns::Server::address);
        Ok(Self {
            directory: Directory::new(&config.registry.clone().unwrap_or_default()),
            ids: coord::ids::Ids::new(),
            agents: Agents::default(),
            coord: OnceLock::new(),
            dns: Mutex::new(dns),
            dns_address,
            config: config.clone(),
        })
    }

    /// Where DNS is answered.
    pub(crate) fn dns_address(&self) -> Option<SocketAddr> {
        self.dns_address
    }

    /// Who is there.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What the gateway asks for registered services.
    pub(crate) fn registry(&self) -> Option<gateway::Registry> {
        let directory = self.directory.clone();
        self.config
            .coordinates()
            .then(|| -> gateway::Registry { Arc::new(move |name| directory.follow(name)) })
    }

    /// What of `after` cannot take effect while running.
    pub(crate) fn needs_restart(&self, after: &Config) -> Option<&'static str> {
        let before = &self.config;
        let changed = [
            ("coord", before.coord != after.coord),
            ("registry", before.registry != after.registry),
            ("dns", before.dns != after.dns),
            ("ids", before.ids != after.ids),
            ("the first service with `registry`", before.coordinates() != after.coordinates()),
        ];
        changed.into_iter().find_map(|(what, changed)| changed.then_some(what))
    }

    /// Runs until `stop`, if there is anything to run.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.config.coordinates() {
            return;
        }
        let coord = match open(&self.config) {
            Ok(coord) => self.coord.get_or_init(|| coord).clone(),
            Err(problem) => {
                error!(problem, "coordination cannot be started; the registry stays silent");
                return;
            }
        };
        let dns = self.dns.lock().unwrap_or_else(PoisonError::into_inner).take();
        let name_server = async {
            if let Some(server) = dns
                && let Err(problem) = server.run(self.directory.clone(), stop.clone()).await
            {
                error!(%problem, "the name server cannot run");
            }
        };
        let ids = async {
            if let Some(params) = &self.config.ids {
                self.ids.clone().run(coord.clone(), params.numbers, stop.clone()).await;
            }
        };
        let directory = self.directory.clone().run(coord.clone(), stop.clone());
        tokio::join!(directory, name_server, ids, self.agents.sweep(stop.clone()));
    }
}

/// The engine that the configuration asks for.
fn open(config: &Config) -> Result<Coord, String> {
    if config.coord.etcd.is_empty() { Ok(Coord::in_memory()) } else { Coord::etcd(&config.coord) }
}
