use std::collections::BTreeMap;

use model::{ByteSize, Criticality, Span};
use policy::balance::HashKey;
use policy::hedge::HedgeParams;
use policy::rate_limit::RateLimitParams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which requests, and what becomes of them. Exactly one of `service`, `split`, `redirect` and `answer` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// Its name in metrics, logs and `seawall explain`; made from the match when absent.
    pub name: Option<String>,
    /// Which requests it takes. Empty: every request that no more specific route takes.
    #[serde(rename = "match")]
    pub matches: Match,
    /// The service that answers.
    pub service: Option<String>,
    /// Services that answer by weight. A user stays with one of them while the weights stay.
    pub split: Vec<SplitTarget>,
    /// What a user is pinned by in a `split`. Absent: every request is split anew.
    pub split_by: Option<HashKey>,
    /// Answers with a redirect.
    pub redirect: Option<Redirect>,
    /// Answers at once.
    pub answer: Option<FixedAnswer>,
    /// What the service is asked for instead of what the client asked for.
    pub rewrite: Rewrite,
    /// Changes to the request's header.
    pub request_headers: HeaderChanges,
    /// Changes to the answer's header.
    pub response_headers: HeaderChanges,
    /// Time for the whole request, retries included. Absent: the service's.
    pub timeout: Option<Span>,
    /// Its answers may take as long as `timeout` because they wait for news: no attempt is cut before that, and how long one takes
    /// says nothing about the endpoint.
    pub long_poll: bool,
    /// Retries. Absent: the service's.
    pub retry: Option<policy::attempts::RetryPolicyParams>,
    /// A second attempt beside a late first one. Absent: never.
    pub hedge: Option<HedgeParams>,
    /// The class of requests that do not name one (or that come from somebody who is not believed).
    pub criticality: Option<Criticality>,
    /// How much each customer may ask for.
    pub rate_limit: Option<RouteRateLimit>,
    /// The quota that its requests are charged to, by its name under `quotas`.
    pub quota: Option<String>,
    /// Bytes of a request's body. Absent: the listener's limit.
    pub body_max: Option<ByteSize>,
}

/// What a route's requests have in common. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// The host, without port, in any letter case: `shop.example`, or `*.shop.example` for every name below it.
    pub host: Option<String>,
    /// The path: `/cart` is that path alone, `/cart/` is it and everything below, `/users/{id}/orders` has a variable
    /// segment, `/files/{path...}` a variable rest.
    pub path: Option<String>,
    /// One of these methods.
    pub methods: Vec<String>,
    /// Conditions on header fields.
    pub headers: BTreeMap<String, Condition>,
    /// Conditions on query parameters.
    pub query: BTreeMap<String, Condition>,
    /// A condition on the names in the client's TLS certificate: one of them must satisfy it. Holds only for clients whose
    /// certificate a listener's `client_ca` vouches for; `present: false` holds for everybody else.
    pub identity: Option<Condition>,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// The value is this.
    Exact(String),
    /// The value is one of these.
    AnyOf(Vec<String>),
    /// The value begins with this.
    Prefix(String),
    /// The value ends with this.
    Suffix(String),
    /// There is a value (`true`), or there is none (`false`).
    Present(bool),
}

/// One part of a weighted split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitTarget {
    /// The service.
    pub service: String,
    /// Its weight, relative to the others; 0 sends it nothing.
    pub weight: u32,
}

/// Where to redirect to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The new location: absolute (`https://new.example`) or a path. Variables of the match's path may stand in it as
    /// `{name}`; `{path}` is the request's path with its query.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "redirect_status_default")]
    pub status: u16,
}

fn redirect_status_default() -> u16 {
    308
}

/// An answer that needs no service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FixedAnswer {
    /// Its status, 200 to 599.
    pub status: u16,
    /// Its body.
    #[serde(default)]
    pub body: String,
    /// The body's type.
    #[serde(default = "content_type_default")]
    pub content_type: String,
}

fn content_type_default() -> String {
    "text/plain; charset=utf-8".to_owned()
}

/// What the service is asked for instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// The host.
    pub host: Option<String>,
    /// What replaces the part of the path that the match names: with match `/shop/` and prefix `/`, `/shop/cart` becomes `/cart`.
    pub prefix: Option<String>,
    /// The whole path; variables of the match may stand in it as `{name}`. The query is kept.
    pub path: Option<String>,
}

/// Changes to a message's header, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderChanges {
    /// Fields to take out.
    pub remove: Vec<String>,
    /// Fields to replace or put in.
    pub set: BTreeMap<String, String>,
    /// Fields to put in beside those that are there.
    pub add: BTreeMap<String, String>,
}

/// How much each customer of a route may ask for, as the configuration writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimit")]
pub struct RateLimitKeys {
    /// What tells customers apart.
    #[serde(default = "rate_limit_key_default")]
    pub by: HashKey,
    /// Cost per second that each customer is granted in the long run. A request costs 1 unless it says more.
    pub per_sec: f64,
    /// Cost that a customer may save up and spend at once. Absent: what one second grants, and at least 1.
    #[serde(default)]
    pub burst: Option<f64>,
    /// Customers told apart at a time; the least recently seen is forgotten first.
    #[serde(default = "customers_max_default")]
    pub customers_max: u32,
    /// A request header, believed from trusted clients only, that says what the request costs.
    #[serde(default)]
    pub cost_header: Option<String>,
}

fn customers_max_default() -> u32 {
    RateLimitParams::default().customers_max
}

/// How much each customer of a route may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "RateLimitKeys", into = "RateLimitKeys")]
#[schemars(with = "RateLimitKeys")]
pub struct RouteRateLimit {
    /// What tells customers apart.
    pub by: HashKey,
    /// How much each may ask for.
    pub limit: RateLimitParams,
    /// A request header, believed from trusted clients only, that says what the request costs.
    pub cost_header: Option<String>,
}

impl From<RateLimitKeys> for RouteRateLimit {
    fn from(keys: RateLimitKeys) -> Self {
        let RateLimitKeys { by, per_sec, burst, customers_max, cost_header } = keys;
        let limit = RateLimitParams { per_sec, burst: burst.unwrap_or(per_sec.max(1.0)), customers_max };
        Self { by, limit, cost_header }
    }
}

impl From<RouteRateLimit> for RateLimitKeys {
    fn from(limit: RouteRateLimit) -> Self {
        let RouteRateLimit { by, limit: RateLimitParams { per_sec, burst, customers_max }, cost_header } =
            limit;
        Self { by, per_sec, burst: Some(burst), customers_max, cost_header }
    }
}

fn rate_limit_key_default() -> HashKey {
    HashKey::ClientAddress
}

/// What a route does, once checked to be exactly one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action<'a> {
    /// Forward to one service.
    Service(&'a str),
    /// Forward to one of several.
    Split(&'a [SplitTarget]),
    /// Redirect.
    Redirect(&'a Redirect),
    /// Answer at once.
    Answer(&'a FixedAnswer),
}

impl Route {
    /// What the route does; `None` unless it says exactly one thing.
    #[must_use]
    pub fn action(&self) -> Option<Action<'_>> {
        let mut actions = [
            self.service.as_deref().map(Action::Service),
            (!self.split.is_empty()).then_some(Action::Split(&self.split)),
            self.redirect.as_ref().map(Action::Redirect),
            self.answer.as_ref().map(Action::Answer),
        ]
        .into_iter()
        .flatten();
        match (actions.next(), actions.next()) {
            (Some(action), None) => Some(action),
            _ => None,
        }
    }
}
