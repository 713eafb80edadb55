use model::{ByteSize, Criticality, Ratio, Span};
use policy::degrade::{Exercise, Force, ModeParams, Threshold};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FixedAnswer;

/// A mode in which a service does less, so that it goes on doing something, as the configuration writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Mode")]
pub struct ModeKeys {
    /// `on` and `off` overrule the triggers, until said otherwise; for operators in an incident.
    pub force: Force,
    /// The service's utilisation: the highest of what its endpoints report of themselves and of the share of its admission
    /// limit that is in use. 1 is all there is.
    pub utilization: Option<Threshold>,
    /// The share of the requests of the last seconds that admission shed.
    pub shed: Option<Threshold>,
    /// How many times faster than allowed the error budget burns. Nothing knows that figure until the service has
    /// objectives, which Seawall does not measure yet: until then it enters no mode.
    pub burn: Option<Threshold>,
    /// How long a figure must speak for entering, without a break. Default 5s.
    pub enter_after: Option<Span>,
    /// How long every figure must let leave, without a break. Default 30s.
    pub leave_after: Option<Span>,
    /// Trying the mode out on a few requests, so that it works when it is needed. Absent: never.
    pub exercise: Option<Exercise>,
    /// What is done, each measure at most once. Whatever their order here, a request meets them in this one: `body_max`,
    /// `drop_class`, `answer` or `service`, `no_hedging`, `no_retries`, `log_sample`.
    pub measures: Vec<Measure>,
}

/// A mode in which a service does less, so that it goes on doing something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "ModeKeys", into = "ModeKeys")]
#[schemars(with = "ModeKeys")]
pub struct Mode {
    /// When it is entered and left.
    pub params: ModeParams,
    /// What is done.
    pub measures: Vec<Measure>,
}

impl From<ModeKeys> for Mode {
    fn from(keys: ModeKeys) -> Self {
        let ModeKeys { force, utilization, shed, burn, enter_after, leave_after, exercise, measures } = keys;
        let default = ModeParams::default();
        let params = ModeParams {
            force,
            utilization,
            shed,
            burn,
            enter_after: enter_after.unwrap_or(default.enter_after),
            leave_after: leave_after.unwrap_or(default.leave_after),
            exercise,
        };
        Self { params, measures }
    }
}

impl From<Mode> for ModeKeys {
    fn from(mode: Mode) -> Self {
        let ModeParams { force, utilization, shed, burn, enter_after, leave_after, exercise } = mode.params;
        Self {
            force,
            utilization,
            shed,
            burn,
            enter_after: Some(enter_after),
            leave_after: Some(leave_after),
            exercise,
            measures: mode.measures,
        }
    }
}

/// Something that a mode leaves out. Where several modes in force differ, the stricter one counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Measure {
    /// Every request is answered with this, and none goes to the service.
    Answer(FixedAnswer),
    /// Requests go to this service instead, and through all that guards it; its own modes do not hold for them.
    Service(String),
    /// Requests of this class and of those below it are refused.
    DropClass(Criticality),
    /// No second attempt is sent beside a late first one.
    NoHedging,
    /// No attempt is sent after a failed one.
    NoRetries,
    /// Most bytes of a request's body.
    BodyMax(ByteSize),
    /// The share of successful requests that stay in the access log, of those that it would have.
    LogSample(Ratio),
}

impl Measure {
    /// Its name in the file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Answer(_) => "answer",
            Self::Service(_) => "service",
            Self::DropClass(_) => "drop_class",
            Self::NoHedging => "no_hedging",
            Self::NoRetries => "no_retries",
            Self::BodyMax(_) => "body_max",
            Self::LogSample(_) => "log_sample",
        }
    }

    /// What it does, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Answer(answer) => format!("answers {} by itself", answer.status),
            Self::Service(service) => format!("asks {service} instead"),
            Self::DropClass(class) if *class == Criticality::Sheddable => format!("refuses {class}"),
            Self::DropClass(class) => format!("refuses {class} and below"),
            Self::NoHedging => "does not hedge".to_owned(),
            Self::NoRetries => "does not retry".to_owned(),
            Self::BodyMax(max) => format!("takes bodies up to {max}"),
            Self::LogSample(share) => {
                format!("logs {} % of successes", (share.get() * 1_000.0).round() / 10.0)
            }
        }
    }
}
