use std::path::PathBuf;

use model::{ByteSize, Ratio, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bounds of the whole process. Each has a metric that says how close it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessLimits {
    /// Bytes held in buffers for partial heads, stalled writes and replayable bodies, over all connections. A request that
    /// would need more is refused with 503.
    pub buffers: ByteSize,
    /// Idle upstream connections kept per worker and endpoint.
    pub idle_upstream: u32,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self { buffers: ByteSize::mib(512), idle_upstream: 256 }
    }
}

/// One line of JSON for each finished request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// Where lines go.
    pub to: AccessLogTarget,
    /// Share of successful requests that are logged. Failures and refusals always are, up to `failures_per_sec`.
    pub sample: Ratio,
    /// Most lines a second about failures and refusals, so that an outage does not fill the disk.
    pub failures_per_sec: u32,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { to: AccessLogTarget::Off, sample: Ratio::ONE, failures_per_sec: 1_000 }
    }
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AccessLogTarget {
    /// Nowhere.
    #[default]
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to, opened again on SIGUSR1. Lines are dropped and counted while it cannot be written.
    File(PathBuf),
}

/// How the process leaves on SIGTERM or Ctrl-C: first as a lame duck, then finishing, then closing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// Lame duck: still accepts, says so in its health answer and closes connections after their next answer, so that
    /// balancers in front have time to notice.
    pub lame_duck: Span,
    /// Then no longer accepts; requests under way may take this long.
    pub finish: Span,
}

impl Default for Drain {
    fn default() -> Self {
        Self { lame_duck: Span::from_secs(5), finish: Span::from_secs(30) }
    }
}
