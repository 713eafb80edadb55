//! Registered services by name, for programs that know nothing but DNS.
//!
//! With the domain `seawall`:
//!
//! | name | type | answer |
//! |---|---|---|
//! | `cart.seawall` | A, AAAA | addresses of the service's instances |
//! | `cart.seawall`, `_cart._tcp.seawall` | SRV | port, weight and a name for each instance's address; the addresses beside them |
//! | `0a000001.addr.seawall` | A, AAAA | the address that the name spells in hexadecimal: what SRV records point at |
//!
//! Lame ducks and instances of weight 0 are left out while there are others. The order of the addresses is drawn by weight
//! for each answer, so that clients that take the first spread as the weights say.
//!
//! **It never says that a name does not exist because it does not know.** Before the registry was heard the answer is
//! SERVFAIL, which resolvers do not remember; while the registry cannot be reached the last known instances are answered;
//! instances whose mass departure is held are answered (TRAPS 17). Times to live are short and never 0.

mod server;
mod zone;

pub use server::{BindError, Server};
pub use zone::{Known, Over, Zone};

use std::net::{Ipv4Addr, SocketAddr};

use model::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A name server for registered services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DnsParams {
    /// Where it answers, over UDP and TCP; an address of this machine that no other can reach. Port 0 lets the system choose.
    pub address: SocketAddr,
    /// What all names end with.
    pub domain: String,
    /// How long resolvers may remember an answer; whole seconds.
    pub ttl: Span,
}

impl Default for DnsParams {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8653)),
            domain: "seawall".to_owned(),
            ttl: Span::from_secs(1),
        }
    }
}

impl DnsParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if !self.address.ip().is_loopback() {
            let problem =
                "must be a loopback address: a name server that strangers reach is a tool for their attacks";
            wrong.push(("address", problem.to_owned()));
        }
        if Zone::new(self).is_none() {
            wrong.push((
                "domain",
                format!("`{}` is no domain: write labels such as seawall or svc.internal", self.domain),
            ));
        }
        let ttl = self.ttl.get();
        if ttl.as_secs() == 0 || ttl.subsec_nanos() != 0 || ttl.as_secs() > 3600 {
            wrong.push(("ttl", "must be whole seconds, from 1s to 1h".to_owned()));
        }
        wrong
    }
}
