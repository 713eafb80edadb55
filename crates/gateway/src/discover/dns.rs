use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time;

use super::publisher::Publisher;
use super::{Discovered, names};
use crate::config::Dns;

/// For one question, over all its tries and name servers.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Endpoints from A and AAAA records together, or from SRV records.
///
/// The records' time to live says when to ask again, between `refresh_min` and `refresh_max`: a time to live of 0
/// neither drops anything nor asks without pause, and nothing is cached beside the set in use, so nothing lives for
/// ever. Answers are judged one by one: when only the AAAA question fails, only the IPv6 addresses are stale.
#[derive(Debug)]
pub(super) struct DnsSource {
    question: Question,
    servers: Vec<SocketAddr>,
    refresh_min: Duration,
    refresh_max: Duration,
    /// The last good addresses of each host.
    known: HashMap<String, Addresses>,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Question {
    Host { name: String, port: u16 },
    Service(String),
}

/// A host's addresses: IPv4 first, each family in order, so that answers in another order are the same answer.
#[derive(Clone, Debug, Default)]
struct Addresses {
    v4: BTreeSet<IpAddr>,
    v6: BTreeSet<IpAddr>,
}

impl Addresses {
    fn with_port(&self, port: u16) -> Vec<SocketAddr> {
        self.v4.iter().chain(&self.v6).map(|ip| SocketAddr::new(*ip, port)).collect()
    }
}

/// What one round of questions brought.
struct Round {
    set: Vec<Discovered>,
    /// The shortest time to live of what was answered.
    ttl: Duration,
    trouble: Option<String>,
}

/// A good answer to one question; no records when the name or its records of this type do not exist.
struct Answer {
    records: Vec<RData>,
    ttl: Duration,
}

impl fmt::Display for DnsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.question {
            Question::Host { name, port } => write!(f, "dns {name}:{port}"),
            Question::Service(name) => write!(f, "dns srv {name}"),
        }
    }
}

impl DnsSource {
    pub(super) fn new(params: &Dns) -> Self {
        let question = match params {
            Dns { srv: Some(name), .. } => Question::Service(name.clone()),
            Dns { name, port, .. } => {
                Question::Host { name: name.clone().unwrap_or_default(), port: port.unwrap_or(80) }
            }
        };
        let refresh_min = params.refresh_min.map_or(Duration::from_secs(1), Duration::from);
        let refresh_max = params.refresh_max.map_or(Duration::from_secs(30), Duration::from);
        Self {
            question,
            servers: params.servers.clone(),
            refresh_min: refresh_min.max(Duration::from_millis(1)),
            refresh_max: refresh_max.max(refresh_min),
            known: HashMap::new(),
            timeout: TIMEOUT,
        }
    }

    #[cfg(test)]
    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub(super) async fn run(mut self, publisher: &Publisher) {
        let mut failures = 0u32;
        loop {
            let (well, ttl) = match self.ask().await {
                Ok(Round { set, ttl, trouble }) => (publisher.report(set, trouble), ttl),
                Err(trouble) => {
                    publisher.failed(trouble);
                    (false, Duration::ZERO)
                }
            };
            failures = if well { 0 } else { failures.saturating_add(1) };
            time::sleep(self.wait(failures, ttl)).await;
        }
    }

    /// In trouble it asks more and more slowly, but never more slowly than when all is well.
    pub(super) fn wait(&self, failures: u32, ttl: Duration) -> Duration {
        if failures == 0 {
            ttl.clamp(self.refresh_min, self.refresh_max)
        } else {
            self.refresh_min.saturating_mul(1 << (failures - 1).min(16)).min(self.refresh_max)
        }
    }

    async fn ask(&mut self) -> Result<Round, String> {
        let resolver = self.resolver().map_err(|error| format!("the resolver cannot be set up: {error}"))?;
        match self.question.clone() {
            Question::Host { name, port } => Ok(self.host(&resolver, &name, port).await),
            Question::Service(name) => self.service(&resolver, &name).await,
        }
    }

    /// A new one each round, so that a changed `/etc/resolv.conf` counts and connections do not outlive their server.
    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if self.servers.is_empty() {
            TokioResolver::builder(provider)?
        } else {
            let servers = self.servers.iter().map(|server| {
                let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                (udp.port, tcp.port) = (server.port(), server.port());
                NameServerConfig::new(server.ip(), true, vec![udp, tcp])
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            let mut builder = TokioResolver::builder_with_config(config, provider);
            *builder.options_mut() = ResolverOpts::default();
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.timeout = self.timeout / 3;
        options.attempts = 2;
        builder.build()
    }

    async fn host(&mut self, resolver: &TokioResolver, name: &str, port: u16) -> Round {
        let (ttl, trouble) = self.look_up(resolver, name).await;
        let addresses = self.known.get(name).map(|known| known.with_port(port)).unwrap_or_default();
        let endpoint = |address: SocketAddr| Discovered::new(address.to_string(), address, 1);
        Round { set: addresses.into_iter().map(endpoint).collect(), ttl, trouble }
    }

    /// Each SRV record of the lowest priority is one endpoint, called by its target and port. A weight of 0 counts as 1.
    async fn service(&mut self, resolver: &TokioResolver, name: &str) -> Result<Round, String> {
        let Answer { records, mut ttl } = self.question(resolver, name, RecordType::SRV).await?;
        let mut records: Vec<SRV> = records
            .into_iter()
            .filter_map(|data| if let RData::SRV(srv) = data { Some(srv) } else { None })
            .filter(|srv| !srv.target.is_root())
            .collect();
        let lowest = records.iter().map(|srv| srv.priority).min();
        records.retain(|srv| Some(srv.priority) == lowest);
        records.sort_by_key(|srv| (srv.target.to_string(), srv.port));

        let (mut set, mut troubles) = (Vec::new(), Vec::new());
        let mut before = std::mem::take(&mut self.known);
        for SRV { weight, port, target, .. } in records {
            let host = target.to_string();
            if !self.known.contains_key(&host) {
                self.known.extend(before.remove(&host).map(|known| (host.clone(), known)));
                let (host_ttl, trouble) = self.look_up(resolver, &host).await;
                ttl = ttl.min(host_ttl);
                troubles.extend(trouble);
            }
            let addresses = self.known.get(&host).map(|known| known.with_port(port)).unwrap_or_default();
            let name = format!("{}:{port}", host.trim_end_matches('.'));
            let address = names::choose(None, &addresses);
            set.extend(address.map(|address| Discovered::new(name, address, u32::from(weight).max(1))));
        }
        let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
        Ok(Round { set, ttl, trouble })
    }

    /// Brings what is known of `host` up to date. An answer without any address, and a failed one, change nothing.
    async fn look_up(&mut self, resolver: &TokioResolver, host: &str) -> (Duration, Option<String>) {
        let (v4, v6) = tokio::join!(
            self.question(resolver, host, RecordType::A),
            self.question(resolver, host, RecordType::AAAA)
        );
        let known = self.known.entry(host.to_owned()).or_default();
        let mut ttl = Duration::MAX;
        let mut trouble = None;
        let mut take = |answer: Result<Answer, String>, known: &BTreeSet<IpAddr>| match answer {
            Ok(answer) => {
                ttl = ttl.min(answer.ttl);
                answer.records.iter().filter_map(RData::ip_addr).collect()
            }
            Err(reason) => {
                trouble = Some(reason);
                known.clone()
            }
        };
        let now = Addresses { v4: take(v4, &known.v4), v6: take(v6, &known.v6) };
        if now.v4.is_empty() && now.v6.is_empty() {
            trouble.get_or_insert_with(|| format!("`{host}` has no address"));
        } else {
            *known = now;
        }
        (ttl, trouble)
    }

    async fn question(
        &self,
        resolver: &TokioResolver,
        name: &str,
        kind: RecordType,
    ) -> Result<Answer, String> {
        match time::timeout(self.timeout, resolver.lookup(name, kind)).await {
            Ok(Ok(lookup)) => {
                let answers = lookup.answers();
                let ttl = answers.iter().map(|record| record.ttl).min().unwrap_or(0);
                let records = answers.iter().map(|record| record.data.clone()).collect();
                Ok(Answer { records, ttl: Duration::from_secs(ttl.into()) })
            }
            Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => {
                Ok(Answer { records: Vec::new(), ttl: Duration::MAX })
            }
            Ok(Err(error)) => Err(format!("{kind} of `{name}`: {error}")),
            Err(_) => Err(format!("{kind} of `{name}`: no answer within {:?}", self.timeout)),
        }
    }
}
