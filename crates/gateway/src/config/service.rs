use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use model::{ByteSize, Ratio, Span};
use policy::admission::AdmissionParams;
use policy::attempts::RetryPolicyParams;
use policy::balance::Balance;
use policy::breaker::BreakerParams;
use policy::budget::RetryBudgetParams;
use policy::bulkhead::BulkheadParams;
use policy::callers::RetryAdviceParams;
use policy::ejection::EjectionParams;
use policy::health::HealthParams;
use policy::slow_start::SlowStartParams;
use policy::subset::SubsetParams;
use policy::throttle::ThrottleParams;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Mode, Protocol, ProxyVersion, ServiceTls, UpstreamHttp2};

/// A service: where its endpoints are, and how it is called. Exactly one of `endpoints`, `dns`, `file`
/// and `registry` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// Endpoints, as `host:port` or with a weight.
    pub endpoints: Vec<EndpointParams>,
    /// Endpoints from DNS.
    pub dns: Option<Dns>,
    /// Endpoints from a Prometheus `file_sd` file.
    pub file: Option<FileSd>,
    /// TLS towards endpoints, for requests and health checks alike. Absent: none.
    pub tls: Option<ServiceTls>,
    /// What they are spoken to in.
    pub protocol: Protocol,
    /// HTTP/2, where that is spoken.
    pub http2: UpstreamHttp2,
    /// The name of a registered service, whose instances are the endpoints.
    pub registry: Option<String>,
    /// The zone that this gateway stands in. Registered endpoints of the same zone get all requests while at least half of them
    /// are available; otherwise endpoints of all zones share them.
    pub zone: Option<String>,
    /// Which endpoint gets the next attempt.
    pub balance: Balance,
    /// Sends a client back to the endpoint it had.
    pub sticky: Option<Sticky>,
    /// A bounded share of the endpoints for this gateway.
    pub subset: SubsetParams,
    /// Below this share of available endpoints availability is ignored (fails open); 0 never ignores it (fails closed).
    pub panic_below: Ratio,
    /// Requests that one endpoint may have under way from this process.
    pub active_per_endpoint: u32,
    /// Ramping up newcomers.
    pub slow_start: SlowStartParams,
    /// Asking endpoints for their health. Absent: only traffic tells.
    pub health: Option<Health>,
    /// Taking out endpoints that fail real requests.
    pub ejection: EjectionParams,
    /// Failing at once while the whole service fails.
    pub breaker: BreakerParams,
    /// Failing over at once from one endpoint that fails, without waiting for its ejection.
    pub endpoint_breaker: BreakerParams,
    /// Letting in as many requests as the service can work on, the more important ones first.
    pub admission: AdmissionParams,
    /// Refusing here what the service, overloaded, would most likely refuse.
    pub throttle: ThrottleParams,
    /// When callers are told not to retry what was refused for overload.
    pub retry_advice: RetryAdviceParams,
    /// Ways of doing less, so that it goes on doing something, by name. At most 6; each is entered and left by itself.
    pub modes: BTreeMap<String, Mode>,
    /// Bounded resources for this dependency.
    pub bulkhead: BulkheadParams,
    /// Upgraded connections (WebSocket) open at once. Each takes a place here instead of one in the bulkhead.
    pub tunnels_max: u32,
    /// Tells endpoints of a TCP listener's connections whose they are, in the PROXY protocol.
    pub proxy_protocol: Option<ProxyVersion>,
    /// How long to wait for endpoints.
    pub timeouts: UpstreamTimeouts,
    /// What is tried again.
    pub retry: RetryPolicyParams,
    /// How many retries all requests of this service may add.
    pub retry_budget: RetryBudgetParams,
    /// Whether the `via` header is added to requests and answers.
    pub via: bool,
    /// Largest head of an answer.
    pub response_head_max: ByteSize,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            dns: None,
            file: None,
            tls: None,
            protocol: Protocol::default(),
            http2: UpstreamHttp2::default(),
            registry: None,
            zone: None,
            balance: Balance::default(),
            sticky: None,
            subset: SubsetParams::default(),
            panic_below: super::panic_below_default(),
            active_per_endpoint: 10_000,
            slow_start: SlowStartParams::default(),
            health: None,
            ejection: EjectionParams::default(),
            breaker: BreakerParams::default(),
            endpoint_breaker: BreakerParams::default(),
            admission: AdmissionParams::default(),
            throttle: ThrottleParams::default(),
            retry_advice: RetryAdviceParams::default(),
            modes: BTreeMap::new(),
            bulkhead: BulkheadParams::default(),
            tunnels_max: 10_000,
            proxy_protocol: None,
            timeouts: UpstreamTimeouts::default(),
            retry: RetryPolicyParams::default(),
            retry_budget: RetryBudgetParams::default(),
            via: true,
            response_head_max: ByteSize::kib(32),
        }
    }
}

/// One endpoint: `10.0.0.1:8080`, `cart-1.internal:8080`, or `{address: …, weight: …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointParams {
    /// Host and port. A name is looked up at start and again every 30 s.
    pub address: String,
    /// Its weight, relative to the others.
    pub weight: u32,
}

impl<'de> Deserialize<'de> for EndpointParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            address: String,
            #[serde(default = "weight_default")]
            weight: u32,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = EndpointParams;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`host:port` or a map with `address` and `weight`")
            }

            fn visit_str<E: de::Error>(self, address: &str) -> Result<EndpointParams, E> {
                Ok(EndpointParams { address: address.to_owned(), weight: weight_default() })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<EndpointParams, A::Error> {
                let Long { address, weight } = Long::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(EndpointParams { address, weight })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn weight_default() -> u32 {
    1
}

impl JsonSchema for EndpointParams {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "One endpoint: `host:port`, or a map with `address` and `weight`.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": {
                        "address": { "type": "string", "description": "Host and port." },
                        "weight": {
                            "type": "integer", "format": "uint32", "minimum": 0, "default": 1,
                            "description": "Its weight, relative to the others.",
                        },
                    },
                    "required": ["address"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

/// Endpoints from DNS. Exactly one of `name` and `srv` is given. An empty or failed answer keeps the last good one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// A host name, whose A and AAAA records are the endpoints.
    pub name: Option<String>,
    /// The port of `name`.
    pub port: Option<u16>,
    /// A service name such as `_http._tcp.cart.internal`, whose SRV records are the endpoints.
    pub srv: Option<String>,
    /// Name servers to ask, as `address:port`. Empty: the system's.
    pub servers: Vec<std::net::SocketAddr>,
    /// Asked again no sooner than this, whatever the records' time to live. Default 1s.
    pub refresh_min: Option<Span>,
    /// Asked again no later than this. Default 30s.
    pub refresh_max: Option<Span>,
}

/// Endpoints from a Prometheus `file_sd` file, JSON or YAML, read again when it changes. A file that is gone, empty or
/// wrong keeps the last good endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSd {
    /// The file.
    pub path: PathBuf,
    /// How often it is looked at.
    #[serde(default = "file_refresh_default")]
    pub refresh: Span,
}

fn file_refresh_default() -> Span {
    Span::from_secs(2)
}

/// Sends a client back to the endpoint it had, by a cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// How long the browser keeps it; absent: until it closes.
    #[serde(default)]
    pub max_age: Option<Span>,
}

/// Active health checks, as the configuration writes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Health")]
pub struct HealthKeys {
    /// Asks `GET` of this path, which must be answered 2xx. An answer with header `seawall-lame-duck: 1` means lame duck,
    /// whatever its status. Absent: whether the endpoint accepts a connection.
    pub path: Option<String>,
    /// Asks gRPC's health service (`grpc.health.v1.Health/Check`) about the service of this name, `""` for the endpoint as a
    /// whole; it must be `SERVING`. Instead of `path`, which wins where both are written.
    pub grpc: Option<String>,
    /// Time between checks of one endpoint; jittered so that endpoints are not asked at once.
    pub interval: Span,
    /// An answer later than this is a failure.
    pub timeout: Span,
    /// Failures in a row that make it unhealthy.
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_after: u32,
    /// Share of the interval by which a check may come earlier or later.
    pub jitter: Ratio,
}

impl Default for HealthKeys {
    fn default() -> Self {
        Health::default().into()
    }
}

/// Active health checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "HealthKeys", into = "HealthKeys")]
#[schemars(with = "HealthKeys")]
pub struct Health {
    /// What is asked.
    pub check: HealthCheck,
    /// How often, and how many answers change an opinion.
    pub timing: HealthParams,
}

impl From<HealthKeys> for Health {
    fn from(keys: HealthKeys) -> Self {
        let HealthKeys { path, grpc, interval, timeout, unhealthy_after, healthy_after, jitter } = keys;
        Self {
            check: match (path, grpc) {
                (Some(path), _) => HealthCheck::Http(path),
                (None, Some(service)) => HealthCheck::Grpc(service),
                (None, None) => HealthCheck::Tcp,
            },
            timing: HealthParams { interval, timeout, unhealthy_after, healthy_after, jitter },
        }
    }
}

impl From<Health> for HealthKeys {
    fn from(health: Health) -> Self {
        let HealthParams { interval, timeout, unhealthy_after, healthy_after, jitter } = health.timing;
        let (path, grpc) = match health.check {
            HealthCheck::Tcp => (None, None),
            HealthCheck::Http(path) => (Some(path), None),
            HealthCheck::Grpc(service) => (None, Some(service)),
        };
        Self { path, grpc, interval, timeout, unhealthy_after, healthy_after, jitter }
    }
}

/// What a health check asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HealthCheck {
    /// Whether it accepts a connection.
    #[default]
    Tcp,
    /// Whether GET of this path is answered 2xx. An answer with header `seawall-lame-duck: 1` means lame duck, whatever its
    /// status.
    Http(String),
    /// Whether gRPC's health service says that the service of this name is `SERVING`.
    Grpc(String),
}

/// How long to wait for endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTimeouts {
    /// For a connection, TLS included.
    pub connect: Span,
    /// For the head of an answer, per attempt.
    pub attempt: Span,
    /// For the head of an answer, over all attempts: the deadline that a request gets when the client sets none.
    pub request: Span,
    /// Between two pieces of an answer's body, unless it is a stream of events.
    pub body: Span,
    /// For an unused connection in the pool.
    pub idle: Span,
    /// Without a byte in either direction of an upgraded connection (WebSocket), of a TCP listener's connection, or in a stream
    /// of events (`text/event-stream`).
    pub tunnel: Span,
    /// Taken off the time left that an endpoint is told, for the way back.
    pub deadline_margin: Span,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Span::from_secs(1),
            attempt: Span::from_secs(15),
            request: Span::from_secs(30),
            body: Span::from_secs(60),
            idle: Span::from_secs(50),
            tunnel: Span::from_secs(3600),
            deadline_margin: Span::from_millis(2),
        }
    }
}
