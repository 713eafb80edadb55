//! Where a service's endpoints come from: a list, DNS, a Prometheus `file_sd` file, or the registry.
//!
//! Every source produces *complete sets* over a watch channel. All of them fail in the same direction: **keep the stale
//! set, and raise the alarm.** An answer that is missing, wrong or empty never takes endpoints away, because a
//! discovery system that is ill says "nobody" far more often than a service really loses its last endpoint; an
//! endpoint that is truly gone is noticed by health checks and by traffic. The alarm is a WARN when trouble starts or
//! changes, [`Discovery::trouble`] while it lasts, and [`Discovery::failures`] for ever.

mod dns;
mod file;
mod names;
mod publisher;
mod registered;

#[cfg(test)]
mod dns_server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use model::Roster;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config;
use dns::DnsSource;
use file::FileSource;
use names::Names;
use publisher::Publisher;
use registered::Registrations;

/// One endpoint, as a source knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Discovered {
    /// Unique in its set: what the user or the discovery system calls it (`cart-1.internal:8080`), or its address.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// Relative to the other endpoints of the set.
    pub(crate) weight: u32,
    /// Where it stands, if the source knows.
    pub(crate) zone: Option<String>,
    /// Whether the source says that it wants no new requests.
    pub(crate) lame_duck: bool,
}

impl Discovered {
    /// One of which nothing else is known.
    pub(crate) fn new(name: String, address: SocketAddr, weight: u32) -> Self {
        Self { name, address, weight, zone: None, lame_duck: false }
    }
}

/// The registry of the process, whoever keeps it: for a service's name, what is known of its instances, now and whenever that
/// changes.
pub type Registry = Arc<dyn Fn(&str) -> watch::Receiver<Roster> + Send + Sync>;

/// What a source knows now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Discovery {
    /// The last good set; `None` until there was one. Names are unique, and it is never empty.
    pub(crate) set: Option<Arc<[Discovered]>>,
    /// What is wrong with the source, while something is.
    pub(crate) trouble: Option<Arc<str>>,
    /// Look-ups that failed or were refused since start.
    pub(crate) failures: u64,
}

/// A source of endpoints that has not been started.
#[derive(Debug)]
pub(crate) struct Source {
    kind: Kind,
    publisher: Publisher,
}

#[derive(Debug)]
enum Kind {
    List(Names),
    Dns(DnsSource),
    File(FileSource),
    Registry(Registrations),
}

impl Source {
    /// The source that `params` of the service called `service` asks for, with all that is known without waiting for
    /// the network: addresses given as numbers, what the file says, and what was heard from the registry.
    #[must_use]
    pub(crate) fn new(service: &str, params: &config::Service, registry: Option<&Registry>) -> Self {
        let (kind, what) = match params {
            config::Service { registry: Some(name), .. } => {
                (Kind::Registry(Registrations::new(name, registry)), format!("registry {name}"))
            }
            config::Service { dns: Some(dns), .. } => {
                let source = DnsSource::new(dns);
                let what = source.to_string();
                (Kind::Dns(source), what)
            }
            config::Service { file: Some(file), .. } => {
                (Kind::File(FileSource::new(file)), format!("file {}", file.path.display()))
            }
            config::Service { endpoints, .. } => (Kind::List(Names::new(endpoints)), "list".to_owned()),
        };
        let mut source = Self { kind, publisher: Publisher::new(service, what) };
        match &mut source.kind {
            Kind::List(names) => source.publisher.begin(names.set()),
            Kind::File(file) => file.first_look(&source.publisher),
            Kind::Registry(registrations) => registrations.tell(&source.publisher),
            Kind::Dns(_) => {}
        }
        source
    }

    /// What it is, for people: `list`, `dns cart.internal:8080`, `file /etc/seawall/cart.json`, `registry cart`.
    #[must_use]
    pub(crate) fn what(&self) -> &str {
        self.publisher.what()
    }

    /// What it knows, now and whenever that changes.
    #[must_use]
    pub(crate) fn subscribe(&self) -> watch::Receiver<Discovery> {
        self.publisher.subscribe()
    }

    /// Keeps looking until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let Self { kind, publisher } = self;
        let look = async {
            match kind {
                Kind::List(names) => names.run(&publisher).await,
                Kind::Dns(source) => source.run(&publisher).await,
                Kind::File(source) => source.run(&publisher).await,
                Kind::Registry(registrations) => registrations.run(&publisher).await,
            }
        };
        stop.run_until_cancelled(look).await;
    }
}
