use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time;

use super::Discovered;
use super::publisher::Publisher;
use crate::config::EndpointParams;

/// How often names are looked up again.
pub(super) const REFRESH: Duration = Duration::from_secs(30);
/// How soon again after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// How long to wait for the system's resolver.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Names looked up at a time.
const CONCURRENCY: usize = 16;

/// Endpoints given as `host:port`. Each entry is one endpoint with one address: the one it had while its name still
/// has that, otherwise its first IPv4 address, otherwise its first. (Where a name stands for many endpoints, `dns`
/// is meant.) Names are looked up the way every other program on the machine does it.
#[derive(Debug)]
pub(super) struct Names {
    entries: Vec<EndpointParams>,
    known: HashMap<String, SocketAddr>,
}

impl Names {
    pub(super) fn new(entries: &[EndpointParams]) -> Self {
        let mut names = Self { entries: Vec::new(), known: HashMap::new() };
        names.replace(entries.to_vec());
        names
    }

    /// Takes over `entries`; what is known about names that stay is kept.
    pub(super) fn replace(&mut self, entries: Vec<EndpointParams>) {
        self.entries = entries;
        let mut before = std::mem::take(&mut self.known);
        for EndpointParams { address: name, .. } in &self.entries {
            let address = name.parse().ok().or_else(|| before.remove(name));
            self.known.extend(address.map(|address| (name.clone(), address)));
        }
    }

    /// The entries whose address is known.
    pub(super) fn set(&self) -> Vec<Discovered> {
        let known = |EndpointParams { address: name, weight }: &EndpointParams| {
            let address = *self.known.get(name)?;
            Some(Discovered::new(name.clone(), address, *weight))
        };
        self.entries.iter().filter_map(known).collect()
    }

    /// Looks every name up. Answers what went wrong; names that failed keep their address.
    pub(super) async fn refresh(&mut self) -> Option<String> {
        let is_name = |entry: &&EndpointParams| entry.address.parse::<SocketAddr>().is_err();
        let mut waiting = self.entries.iter().filter(is_name).map(|entry| entry.address.clone());
        let mut asked = JoinSet::new();
        let mut trouble = Vec::new();
        loop {
            while asked.len() < CONCURRENCY
                && let Some(name) = waiting.next()
            {
                asked.spawn(async move { (look_up(&name).await, name) });
            }
            let Some(answer) = asked.join_next().await else { break };
            match answer {
                Ok((Ok(addresses), name)) => {
                    let now = choose(self.known.get(&name).copied(), &addresses);
                    self.known.extend(now.map(|address| (name, address)));
                }
                Ok((Err(reason), name)) => trouble.push(format!("`{name}`: {reason}")),
                Err(panicked) => trouble.push(panicked.to_string()),
            }
        }
        trouble.sort_unstable();
        (!trouble.is_empty()).then(|| trouble.join("; "))
    }

    /// Whether no entry has to be looked up.
    fn literal(&self) -> bool {
        self.entries.iter().all(|entry| entry.address.parse::<SocketAddr>().is_ok())
    }

    pub(super) async fn run(mut self, publisher: &Publisher) {
        if self.literal() {
            return std::future::pending().await;
        }
        loop {
            let trouble = self.refresh().await;
            let wait = if trouble.is_some() { RETRY } else { REFRESH };
            publisher.report(self.set(), trouble);
            time::sleep(wait).await;
        }
    }
}

async fn look_up(name: &str) -> Result<Vec<SocketAddr>, String> {
    match time::timeout(TIMEOUT, tokio::net::lookup_host(name)).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.collect();
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

/// One of `addresses` for an endpoint that had `before`.
pub(super) fn choose(before: Option<SocketAddr>, addresses: &[SocketAddr]) -> Option<SocketAddr> {
    before
        .filter(|before| addresses.contains(before))
        .or_else(|| addresses.iter().copied().find(SocketAddr::is_ipv4))
        .or_else(|| addresses.first().copied())
}
