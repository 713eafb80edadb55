//! What becomes of a failed attempt: another one, or the end.

use model::{ByteSize, Span};
use serde::{Deserialize, Serialize};

use crate::backoff::BackoffParams;

/// What is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicyParams {
    /// Attempts of one request, the first included.
    pub attempts_max: u8,
    /// Bytes of a request's body kept to be sent again. A request with a larger body is not tried again once they went out.
    pub replay_max: ByteSize,
    /// Statuses that are tried again.
    pub statuses: alloc::vec::Vec<u16>,
    /// Whether requests that may have an effect each time (POST, PATCH) are tried again even when the endpoint may have acted.
    pub non_idempotent: bool,
    /// How long to wait before.
    pub backoff: BackoffParams,
    /// Time for one attempt. Absent: the service's `timeouts.attempt`.
    pub attempt_timeout: Option<Span>,
}

impl Default for RetryPolicyParams {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            replay_max: ByteSize::kib(64),
            statuses: alloc::vec![502, 503, 504],
            non_idempotent: false,
            backoff: BackoffParams::default(),
            attempt_timeout: None,
        }
    }
}
