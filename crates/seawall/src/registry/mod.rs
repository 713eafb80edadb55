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

use coord::consensus::{Consensus, Observer};
use coord::registry::Directory;
use coord::{Coord, dns};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::cli::Failure;
use crate::config::Config;
use crate::coordination::{self, Local, Opened};
use ::store::Store;
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
    /// By which other processes of this machine use the engine.
    local: Mutex<Option<Local>>,
    token: OnceLock<String>,
    observer: Option<Observer>,
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
            local: Mutex::new(None),
            token: OnceLock::new(),
            observer: config.coord.as_ref().and_then(Observer::new),
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

    /// Opens the engine, if there is anything to agree on. `store`: this process's records.
    ///
    /// # Errors
    /// Why it cannot be opened, for people.
    pub(crate) async fn open(&self, store: Option<Store>) -> Result<(), Failure> {
        if !self.config.coordinates() {
            return Ok(());
        }
        let Opened { coord, local } =
            coordination::open(&self.config, store).await.map_err(Failure::Input)?;
        self.coord.get_or_init(|| coord);
        if let Some(local) = &local {
            self.token.get_or_init(|| local.token.clone());
        }
        *self.local.lock().unwrap_or_else(PoisonError::into_inner) = local;
        Ok(())
    }

    /// The same commands as at the socket, for the admin address.
    pub(crate) fn admin_routes(&self) -> axum::Router {
        coordination::admin_routes(self.coord.get(), self.token.get().map(String::as_str))
    }

    /// The etcd cluster beneath, as last seen; none when there is none.
    pub(crate) fn consensus(&self) -> Option<Consensus> {
        self.observer.as_ref().map(Observer::view)
    }

    /// Runs until `stop`, if there is anything to run.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(coord) = self.coord.get().cloned() else { return };
        let local = self.local.lock().unwrap_or_else(PoisonError::into_inner).take();
        let offer = async {
            if let Some(local) = local {
                local.serve(coord.clone(), stop.clone()).await;
            }
        };
        let observe = async {
            if let Some(observer) = &self.observer {
                observer.run(stop.clone()).await;
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
        tokio::join!(directory, name_server, ids, self.agents.sweep(stop.clone()), offer, observe);
    }
}
