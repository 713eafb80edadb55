use model::{Ratio, Span};
use policy::balance::HashKey;
use policy::quota::{QuotaParams, WhenUnreachable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What each customer may spend, over all gateways that share it. Routes name it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// What tells customers apart.
    #[serde(default = "by_default")]
    pub by: HashKey,
    /// Cost that each customer may spend in each `per`, in the long run.
    pub limit: f64,
    /// What `limit` is meant for, such as `60s`.
    pub per: Span,
    /// Cost that a customer may save up and spend at once. Absent: `limit`.
    #[serde(default)]
    pub burst: Option<f64>,
    /// What a request costs.
    #[serde(default)]
    pub cost: QuotaCost,
    /// The Redis or Valkey in which gateways share the quota, such as `redis://10.0.0.5:6379`, version 5 or later. Absent:
    /// each gateway grants all of it.
    #[serde(default)]
    pub shared: Option<String>,
    /// The share of `burst` that a gateway takes from the store at a time, and no less than ten requests that cost 1.
    #[serde(default = "slice_default")]
    pub slice: Ratio,
    /// What holds while the store does not answer.
    #[serde(default)]
    pub when_unreachable: WhenUnreachable,
    /// Customers told apart at a time; one that has not asked for a while is forgotten first.
    #[serde(default = "customers_max_default")]
    pub customers_max: u32,
}

/// What a request costs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum QuotaCost {
    /// 1.
    #[default]
    Requests,
    /// What this request header says, believed from trusted clients only; else 1.
    Header(String),
    /// The milliseconds from its admission to the head of its answer, charged at its end.
    UpstreamMs,
    /// The bytes of its body and its answer's, charged at its end.
    Bytes,
}

fn by_default() -> HashKey {
    HashKey::ClientAddress
}

fn slice_default() -> Ratio {
    QuotaParams::default().slice
}

fn customers_max_default() -> u32 {
    QuotaParams::default().customers_max
}

impl Quota {
    /// What the policy needs to know.
    #[must_use]
    pub fn params(&self) -> QuotaParams {
        QuotaParams {
            limit: self.limit,
            per: self.per,
            burst: self.burst.unwrap_or(self.limit.max(1.0)),
            shared: self.shared.is_some(),
            slice: self.slice,
            when_unreachable: self.when_unreachable,
            customers_max: self.customers_max,
        }
    }
}
