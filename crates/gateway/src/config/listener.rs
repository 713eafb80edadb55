use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use model::{ByteSize, Span};
use policy::bulkhead::BulkheadParams;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{HttpsRedirect, ListenerHttp2, ListenerTls};

/// An address where requests come in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port, such as `0.0.0.0:8080` or `[::]:8080`. Port 0 lets the system choose one.
    pub address: SocketAddr,
    /// Its name in metrics and logs; the address when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Who comes in here.
    #[serde(default)]
    pub role: Role,
    /// Passes connections on as they are, whatever they speak, instead of reading requests.
    #[serde(default)]
    pub tcp: Option<Tcp>,
    /// Whether proxies in front say whose connection it is, in the PROXY protocol (version 1 or 2) before anything else. Only
    /// `trusted` peers are believed, and only they may say so.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// How many requests of a `batch` listener go upstream at once, and how many wait; every default when absent.
    #[serde(default)]
    pub fuse: Option<Fuse>,
    /// TLS towards clients. Absent: none.
    #[serde(default)]
    pub tls: Option<ListenerTls>,
    /// Sends every client to the same place over TLS instead of serving it. Only for a listener without TLS.
    #[serde(default)]
    pub https_redirect: Option<HttpsRedirect>,
    /// Networks of proxies whose `Forwarded`, `X-Forwarded-*`, deadline, criticality and attempt headers are believed.
    /// From anybody else these headers are removed.
    #[serde(default)]
    pub trusted: Vec<IpNet>,
    /// Connections open at once, over all workers; a further one is answered 503 and closed.
    #[serde(default = "connections_max_default")]
    pub connections_max: u32,
    /// How long to wait for clients.
    #[serde(default)]
    pub timeouts: ClientTimeouts,
    /// Largest messages that are read.
    #[serde(default)]
    pub limits: MessageLimits,
    /// HTTP/2.
    #[serde(default)]
    pub http2: ListenerHttp2,
}

fn connections_max_default() -> u32 {
    100_000
}

impl Listener {
    /// A listener at `address` with every default.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            name: None,
            role: Role::default(),
            tcp: None,
            proxy_protocol: ProxyProtocol::default(),
            fuse: None,
            tls: None,
            https_redirect: None,
            trusted: Vec::new(),
            connections_max: connections_max_default(),
            timeouts: ClientTimeouts::default(),
            limits: MessageLimits::default(),
            http2: ListenerHttp2::default(),
        }
    }

    /// The fuse in force here, if there is one.
    #[must_use]
    pub fn fuse_in_force(&self) -> Option<Fuse> {
        (self.role == Role::Batch).then(|| self.fuse.clone().unwrap_or_default())
    }
}

/// Who comes in at a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Users, and whoever acts for them while they wait.
    #[default]
    Interactive,
    /// Batch jobs: never above SHEDDABLE_PLUS, and through a fuse.
    Batch,
}

/// Where a listener's connections go that are passed on as they are. Exactly one of `service` and `sni` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tcp {
    /// The service that gets every connection.
    pub service: Option<String>,
    /// The service by the server name in the client's TLS hello: `shop.example`, or `*.shop.example` for every name below it.
    /// TLS is not ended here; what is no TLS is closed.
    pub sni: BTreeMap<String, String>,
    /// The service for TLS that names no server, or one that `sni` does not. Absent: such connections are refused.
    pub default: Option<String>,
}

impl Tcp {
    /// The service that gets a connection whose client asks for `name`, which is in lower case. Exact names come first, then
    /// the longest pattern.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<&str> {
        let service = self.service.as_ref().or_else(|| self.by_name(name?)).or(self.default.as_ref());
        service.map(String::as_str)
    }

    fn by_name(&self, name: &str) -> Option<&String> {
        let above = |name: &str| name.split_once('.').map(|(_, above)| above.to_owned());
        let patterns = std::iter::successors(above(name), |name| above(name));
        let mut patterns = patterns.map(|above| format!("*.{above}"));
        self.sni.get(name).or_else(|| patterns.find_map(|pattern| self.sni.get(&pattern)))
    }

    /// Every service that it names.
    pub fn services(&self) -> impl Iterator<Item = &String> {
        self.service.iter().chain(self.sni.values()).chain(&self.default)
    }
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// Never: such a header is taken for what the client sends.
    #[default]
    Off,
    /// Those of trusted peers may. Their first bytes are waited for as long as for a request's head, so this is not for
    /// protocols in which the server speaks first.
    Optional,
    /// All must, and only trusted peers may connect.
    Required,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// What stands between batch jobs and the services: few connections, and a line before them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fuse {
    /// Connections to endpoints, of all services and all workers together, and so requests under way at once.
    pub connections: u32,
    /// Requests that may wait for one; more are refused at once.
    pub waiting_max: u32,
    /// Longest wait.
    pub wait_max: Span,
}

impl Default for Fuse {
    fn default() -> Self {
        Self { connections: 8, waiting_max: 1000, wait_max: Span::from_secs(30) }
    }
}

impl Fuse {
    /// The bulkhead that bounds what is under way.
    #[must_use]
    pub fn bulkhead(&self) -> BulkheadParams {
        let Self { connections, waiting_max, wait_max } = *self;
        BulkheadParams { active_max: connections, waiting_max, wait_max }
    }
}

/// How long a client may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTimeouts {
    /// From the first byte of a request to the end of its head, however slowly the bytes trickle in.
    pub head: Span,
    /// Between two requests on one connection.
    pub idle: Span,
    /// Between two pieces of a request's body.
    pub body: Span,
    /// For the client to take a piece of the answer.
    pub write: Span,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        Self {
            head: Span::from_secs(10),
            idle: Span::from_secs(60),
            body: Span::from_secs(30),
            write: Span::from_secs(30),
        }
    }
}

/// Largest messages that are read. Larger ones are refused, never cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MessageLimits {
    /// Bytes of a request's head, request line and fields together. At most 64KiB.
    pub head: ByteSize,
    /// Header fields of a request. At most 128.
    pub fields: u32,
    /// Bytes of a request's body; 0 means no limit.
    pub body: ByteSize,
    /// Bytes of one message of a gRPC call's request; 0 means no limit.
    pub grpc_message: ByteSize,
    /// Requests on one connection before it is closed; 0 means no limit.
    pub requests_per_connection: u64,
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self {
            head: ByteSize::kib(32),
            fields: 100,
            body: ByteSize::new(0),
            grpc_message: ByteSize::new(0),
            requests_per_connection: 0,
        }
    }
}

/// A network such as `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// Whether `ip` lies in the network. An IPv4 address that came mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        fn same(a: &[u8], b: &[u8], prefix: u8) -> bool {
            let (whole, rest) = (usize::from(prefix / 8), prefix % 8);
            let mask = !(0xff_u8.checked_shr(rest.into()).unwrap_or(0));
            a[..whole] == b[..whole] && (rest == 0 || (a[whole] ^ b[whole]) & mask == 0)
        }
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => same(&net.octets(), &ip.octets(), self.prefix),
            (IpAddr::V6(net), IpAddr::V6(ip)) => same(&net.octets(), &ip.octets(), self.prefix),
            _ => false,
        }
    }
}

impl FromStr for IpNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted =
            || format!("`{text}` is no network; expected one such as 10.0.0.0/8, fd00::/8 or 127.0.0.1");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wanted())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), str::parse).map_err(|_| wanted())?;
        if prefix > longest {
            return Err(wanted());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for IpNet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IpNet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for IpNet {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IpNet".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A network such as 10.0.0.0/8 or fd00::/8, or one address.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_name_wins() {
        let sni = [("a.example", "a"), ("*.example", "any"), ("*.b.example", "below b")];
        let sni = sni.map(|(name, service)| (name.to_owned(), service.to_owned())).into();
        let mut tcp = Tcp { sni, ..Tcp::default() };
        let cases =
            [("a.example", "a"), ("c.example", "any"), ("x.y.b.example", "below b"), ("b.example", "any")];
        for (name, service) in cases {
            assert_eq!(tcp.find(Some(name)), Some(service), "{name}");
        }
        assert_eq!((tcp.find(Some("example")), tcp.find(None)), (None, None));
        tcp.default = Some("rest".to_owned());
        assert_eq!((tcp.find(Some("example")), tcp.find(None)), (Some("rest"), Some("rest")));
        let all = Tcp { service: Some("db".to_owned()), ..Tcp::default() };
        assert_eq!((all.find(Some("a.example")), all.find(None)), (Some("db"), Some("db")));
    }

    #[test]
    fn networks_contain_what_they_say() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(net("10.0.0.0/8").contains(ip("10.255.0.1")));
        assert!(!net("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(net("192.168.4.0/22").contains(ip("192.168.7.255")));
        assert!(!net("192.168.4.0/22").contains(ip("192.168.8.0")));
        assert!(net("127.0.0.1").contains(ip("::ffff:127.0.0.1")));
        assert!(net("fd00::/8").contains(ip("fdff::1")));
        assert!(net("0.0.0.0/0").contains(ip("8.8.8.8")) && !net("0.0.0.0/0").contains(ip("::1")));
        for bad in ["10.0.0.0/33", "10.0.0/8", "x", "10.0.0.0/-1", ""] {
            assert!(bad.parse::<IpNet>().is_err(), "{bad}");
        }
    }
}
