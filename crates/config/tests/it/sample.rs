//! A small configuration that has one of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use config::{Answer, Check, Errors, Lookup, Report, Source};
use model::{ByteSize, Criticality, Ratio, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// A gateway in small.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Root {
    /// Where requests come in.
    pub(crate) listeners: Vec<Listener>,
    /// Which request goes where.
    pub(crate) routes: Vec<Route>,
    /// The services, by name.
    pub(crate) services: BTreeMap<String, Service>,
    /// Labels of this process.
    pub(crate) labels: BTreeMap<u16, String>,
    /// Tags, each once.
    pub(crate) tags: BTreeSet<String>,
}

/// An address where requests come in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// Address and port, such as `0.0.0.0:8080`. Port 0 lets the system choose one.
    pub(crate) address: SocketAddr,
    /// Connections open at once.
    #[serde(default = "connections_default")]
    pub(crate) connections: NonZeroU32,
}

fn connections_default() -> NonZeroU32 {
    const { NonZeroU32::new(1000).unwrap() }
}

/// Which requests, and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Route {
    /// The path.
    pub(crate) path: Option<String>,
    /// The service that answers.
    pub(crate) service: Option<String>,
    /// Conditions on header fields.
    pub(crate) headers: BTreeMap<String, Condition>,
    /// The class of requests that name none.
    pub(crate) criticality: Option<Criticality>,
    /// The policy of this route. Absent: the service's.
    pub(crate) balance: Option<Balance>,
    /// What a user is pinned by.
    pub(crate) pinned: Option<RingHash>,
    /// Answers with this status.
    pub(crate) status: Option<u16>,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Condition {
    /// The value is this.
    Exact(String),
    /// The value is one of these.
    AnyOf(Vec<String>),
    /// There is a value, or there is none.
    Present(bool),
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Service {
    /// Endpoints, as `host:port` or with a weight.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Which endpoint gets the next attempt.
    pub(crate) balance: Balance,
    /// How long to wait.
    pub(crate) timeouts: Timeouts,
    /// Below this share of available endpoints availability is ignored.
    pub(crate) panic_below: Ratio,
    /// Largest head of an answer.
    pub(crate) head_max: ByteSize,
    /// Whether the `via` header is added.
    pub(crate) via: bool,
}

/// How long to wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Timeouts {
    /// For a connection.
    pub(crate) connect: Span,
    /// For the whole request.
    pub(crate) request: Span,
    /// For an unused connection. Absent: for ever.
    pub(crate) idle: Option<Span>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Span::from_secs(1), request: Span::from_secs(30), idle: None }
    }
}

/// The balancing policy of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// At random.
    Random,
    /// A ring hash of a request's key.
    RingHash(RingHash),
}

/// A consistent-hash ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RingHash {
    /// The header that is hashed.
    pub(crate) header: String,
    /// Points on the ring.
    #[serde(default)]
    pub(crate) points: u32,
    /// The bound on an endpoint's load.
    #[serde(default)]
    pub(crate) load_bound: f64,
}

/// One endpoint: `10.0.0.1:8080`, or a map with `address` and `weight`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) weight: u32,
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            address: String,
            #[serde(default)]
            weight: u32,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`host:port` or a map with `address` and `weight`")
            }

            fn visit_str<E: de::Error>(self, address: &str) -> Result<Endpoint, E> {
                let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                port.ok_or_else(|| E::custom(format_args!("`{address}` has no port")))?;
                Ok(Endpoint { address: address.to_owned(), weight: 1 })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let Long { address, weight } = Long::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Endpoint { address, weight })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
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
                        "weight": { "type": "integer", "format": "uint32", "minimum": 0, "default": 1 },
                    },
                    "required": ["address"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

impl Check for Root {
    fn check(&self, report: &mut Report<'_>) {
        let names: Vec<&str> = self.services.keys().map(String::as_str).collect();
        for (index, route) in self.routes.iter().enumerate() {
            if let Some(service) =
                route.service.as_ref().filter(|service| !self.services.contains_key(*service))
            {
                report.at("routes").index(index).key("service").error(
                    format!("no service is called `{service}`"),
                    format!("the services are: {}", names.join(", ")),
                );
            }
        }
        for (name, service) in &self.services {
            service.check(&mut report.at("services").key(name));
        }
    }
}

impl Check for Service {
    fn check(&self, report: &mut Report<'_>) {
        if self.endpoints.is_empty() {
            report.error("it has no endpoints", "give `endpoints`");
        }
        if self.timeouts.connect > self.timeouts.request {
            report.at("timeouts").key("connect").error("it is longer than `request`", "make it shorter");
        }
    }
}

/// A lookup with fixed variables and files.
#[derive(Default)]
pub(crate) struct Fixed {
    pub(crate) variables: Vec<(&'static str, &'static str)>,
    pub(crate) files: Vec<(&'static str, Answer)>,
}

impl Lookup for Fixed {
    fn variable(&self, name: &str) -> Answer {
        let found = self.variables.iter().find(|(known, _)| *known == name);
        found.map_or(Answer::Absent, |(_, value)| Answer::Found((*value).to_owned()))
    }

    fn file(&self, path: &str) -> Answer {
        let found = self.files.iter().find(|(known, _)| *known == path);
        found.map_or(Answer::Absent, |(_, answer)| answer.clone())
    }
}

pub(crate) fn load_with(text: &str, lookup: &dyn Lookup) -> Result<Root, Errors> {
    config::load(&Source::new("seawall.yaml", text), lookup).map(|loaded| loaded.value)
}

pub(crate) fn load(text: &str) -> Result<Root, Errors> {
    load_with(text, &Fixed::default())
}

/// What is said about a text that must be refused.
pub(crate) fn refusal(text: &str) -> String {
    match load(text) {
        Ok(root) => panic!("accepted as {root:?}"),
        Err(errors) => errors.to_string(),
    }
}
