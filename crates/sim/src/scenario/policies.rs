use model::{Ratio, Span};
use policy::admission::AdmissionParams;
use policy::attempts::RetryPolicyParams;
use policy::balance::Balance;
use policy::breaker::BreakerParams;
use policy::budget::RetryBudgetParams;
use policy::bulkhead::BulkheadParams;
use policy::callers::RetryAdviceParams;
use policy::ejection::EjectionParams;
use policy::health::HealthParams;
use policy::hedge::HedgeParams;
use policy::rate_limit::RateLimitParams;
use policy::slow_start::SlowStartParams;
use policy::subset::SubsetParams;
use policy::throttle::ThrottleParams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a service is called: the parameters of `seawall.yaml`, under the same names and with the same defaults.
///
/// Each caller (a gateway, a client where there are none, an endpoint of a service that calls this one) has a state
/// of its own for each service that it calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServicePolicies {
    /// Off: callers only balance, wait, and retry without a budget. To compare with.
    pub enabled: bool,
    /// Which endpoint gets the next attempt.
    pub balance: Balance,
    /// A bounded share of the endpoints for each caller; callers are numbered.
    pub subset: SubsetParams,
    /// Below this share of available endpoints availability is ignored.
    pub panic_below: Ratio,
    /// Requests that one endpoint may have under way from one caller.
    pub active_per_endpoint: u32,
    /// Ramping up newcomers.
    pub slow_start: SlowStartParams,
    /// Asking endpoints for their health. Absent: only traffic tells.
    pub health: Option<HealthParams>,
    /// Taking out endpoints that fail real requests.
    pub ejection: EjectionParams,
    /// Failing at once while the whole service fails.
    pub breaker: BreakerParams,
    /// Failing over at once from one endpoint that fails.
    pub endpoint_breaker: BreakerParams,
    /// One such breaker per endpoint *and* route, for an endpoint that is ill on one route only.
    pub endpoint_breaker_per_route: bool,
    /// Refusing here what the service would refuse there.
    pub throttle: ThrottleParams,
    /// Letting in by class and customer within a limit that finds itself.
    pub admission: AdmissionParams,
    /// When callers of what was refused are told not to try again.
    pub retry_advice: RetryAdviceParams,
    /// Bounded resources for this dependency.
    pub bulkhead: BulkheadParams,
    /// How long to wait for endpoints.
    pub timeouts: Timeouts,
    /// What is tried again.
    pub retry: RetryPolicyParams,
    /// How many retries all requests of this service may add. Absent: no cap.
    pub retry_budget: Option<RetryBudgetParams>,
    /// A second attempt beside a late first one. Absent: never.
    pub hedge: Option<HedgeParams>,
}

impl Default for ServicePolicies {
    fn default() -> Self {
        Self {
            enabled: true,
            balance: Balance::default(),
            subset: SubsetParams::default(),
            panic_below: Ratio::percent(50),
            active_per_endpoint: 10_000,
            slow_start: SlowStartParams::default(),
            health: None,
            ejection: EjectionParams::default(),
            breaker: BreakerParams::default(),
            endpoint_breaker: BreakerParams::default(),
            endpoint_breaker_per_route: false,
            throttle: ThrottleParams::default(),
            admission: AdmissionParams::default(),
            retry_advice: RetryAdviceParams::default(),
            bulkhead: BulkheadParams::default(),
            timeouts: Timeouts::default(),
            retry: RetryPolicyParams::default(),
            retry_budget: Some(RetryBudgetParams::default()),
            hedge: None,
        }
    }
}

/// What a route says of its own; absent, the service's word counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RoutePolicies {
    /// Time for the whole request, retries included.
    pub timeout: Option<Span>,
    /// Retries.
    pub retry: Option<RetryPolicyParams>,
    /// A second attempt beside a late first one.
    pub hedge: Option<HedgeParams>,
    /// How much each customer may ask for.
    pub rate_limit: Option<RateLimitParams>,
}

/// How long to wait for endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For an answer, per attempt.
    pub attempt: Span,
    /// For an answer, over all attempts: the deadline of a request whose caller sets none.
    pub request: Span,
    /// Taken off the time left that an endpoint is told, for the way back.
    pub deadline_margin: Span,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            attempt: Span::from_secs(15),
            request: Span::from_secs(30),
            deadline_margin: Span::from_millis(2),
        }
    }
}
