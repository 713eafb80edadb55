//! Who stands before the back end.

use std::fs;
use std::net::SocketAddr;

use testkit::{TempDir, free_port};

use super::super::proxy::{self, Proxy};
use super::super::{machine, proxy::serve_seawall};
use crate::run::root;

/// One kind of proxy.
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Its configuration in `bench/overload`.
    pub(super) file: &'static str,
    /// The port it listens on there.
    port: &'static str,
    /// What in it had to be set to the back end's capacity by hand.
    pub(super) hand_set: &'static str,
}

/// Every peer, in the order of the report.
pub(super) const PEERS: [Kind; 4] = [
    Kind { name: "haproxy", file: "haproxy.cfg", port: "8021", hand_set: "maxconn, queue per class" },
    Kind { name: "nginx", file: "nginx.conf", port: "8022", hand_set: "limit_conn per class, max_conns" },
    Kind { name: "envoy", file: "envoy.yaml", port: "8023", hand_set: "max_requests per priority" },
    Kind { name: "seawall", file: "seawall.yaml", port: "8024", hand_set: "nothing" },
];

/// The back end's port in the configurations.
const BACKEND_PORT: &str = "9021";

/// A kind that can be started.
pub(super) struct Peer {
    pub(super) kind: &'static Kind,
    /// Program and version, and how it is started.
    pub(super) about: String,
    /// The binary; of Seawall alone.
    seawall: String,
}

/// Those of `names` (all when it is empty) whose program is there or can be had. An optional peer that cannot is
/// left out with a note; that nobody is left is an error.
pub(super) fn prepare(names: &[String]) -> Result<Vec<Peer>, String> {
    let mut peers = Vec::new();
    for kind in &PEERS {
        if !names.is_empty() && !names.iter().any(|name| name == kind.name) {
            continue;
        }
        match find(kind) {
            Ok(peer) => peers.push(peer),
            Err(reason) => eprintln!("{}: left out: {reason}", kind.name),
        }
    }
    if peers.is_empty() { Err("no proxy can be started".to_owned()) } else { Ok(peers) }
}

fn find(kind: &'static Kind) -> Result<Peer, String> {
    if kind.name == "seawall" {
        let seawall = machine::build_seawall("", "")?;
        return Ok(Peer { kind, about: format!("`seawall up {}`", kind.file), seawall });
    }
    let (about, _) = proxy::peer(kind.name, kind.file, &TempDir::new(kind.name))?;
    Ok(Peer { kind, about, seawall: String::new() })
}

impl Peer {
    /// Starts it before `backend`.
    pub(super) fn start(&self, backend: SocketAddr) -> Result<Proxy, String> {
        let Kind { name, file, port, .. } = *self.kind;
        let path = root().join("bench/overload").join(file);
        let text =
            fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let is_seawall = name == "seawall";
        // Seawall says what it listens on; the others must be told.
        let addr = if is_seawall { SocketAddr::from(([127, 0, 0, 1], 0)) } else { free_port() };
        let text = with_ports(&text, &[(port, addr.port()), (BACKEND_PORT, backend.port())])?;
        if is_seawall {
            return serve_seawall(name, &self.seawall, &text, self.about.clone());
        }
        let dir = TempDir::new(name);
        dir.write(file, &text);
        let (about, command) = proxy::peer(name, file, &dir)?;
        proxy::launch(name, addr, about, command, dir)
    }
}

/// Replaces each port, where it ends a word of digits, so that no port is found inside another.
fn with_ports(text: &str, ports: &[(&str, u16)]) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut seen = vec![false; ports.len()];
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        let end = from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len());
        let (digits, after) = from.split_at(end);
        out.push_str(before);
        match ports.iter().position(|(port, _)| *port == digits) {
            Some(index) => {
                seen[index] = true;
                out.push_str(&ports[index].1.to_string());
            }
            None => out.push_str(digits),
        }
        rest = after;
    }
    out.push_str(rest);
    match seen.iter().position(|seen| !seen) {
        None => Ok(out),
        Some(index) => Err(format!("the configuration does not name port {}", ports[index].0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_replaced_only_where_they_stand_alone() {
        let ports = [("8021", 9021), ("9021", 18021)];
        let text = "bind 127.0.0.1:8021 80210 x8021\nserver 127.0.0.1:9021";
        let wanted = "bind 127.0.0.1:9021 80210 x9021\nserver 127.0.0.1:18021";
        assert_eq!(with_ports(text, &ports).as_deref(), Ok(wanted));
        assert!(with_ports("bind :8021", &ports).is_err());
    }

    #[test]
    fn every_peer_has_a_configuration_with_its_ports() {
        for kind in &PEERS {
            let text = fs::read_to_string(root().join("bench/overload").join(kind.file)).unwrap();
            assert!(with_ports(&text, &[(kind.port, 1), (BACKEND_PORT, 2)]).is_ok(), "{}", kind.name);
        }
    }
}
