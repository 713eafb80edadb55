use std::collections::VecDeque;
use std::sync::Arc;

use model::Timestamp;
use serde::{Serialize, Serializer};

/// Events kept per service; the oldest is forgotten first.
const EVENTS_MAX: usize = 256;

/// What happened to a service or to one of its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The endpoint was discovered, or came into this process's subset.
    Joined,
    /// The endpoint is no longer discovered, or left the subset. Requests under way finish.
    Left,
    /// Active checks of the endpoint fail.
    Unhealthy,
    /// Active checks of the endpoint succeed again.
    Healthy,
    /// The endpoint was taken out because of what real requests met there.
    Ejected,
    /// The endpoint's ejection ended.
    Returned,
    /// The endpoint wants no new requests.
    LameDuck,
    /// The endpoint takes new requests again.
    LameDuckEnded,
    /// An operator took the endpoint out.
    Disabled,
    /// An operator let the endpoint in again.
    Enabled,
    /// An operator opened a breaker, closed it, reset it, or left it to itself again.
    BreakerForced,
    /// So few endpoints are available that availability is ignored.
    PanicEntered,
    /// Enough endpoints are available again.
    PanicLeft,
    /// So few endpoints of this gateway's zone are available that all zones share the requests.
    ZoneLeft,
    /// Enough endpoints of this gateway's zone are available again.
    ZoneReturned,
    /// The service does less from now on: a mode of graceful degradation.
    ModeEntered,
    /// The mode is no longer in force.
    ModeLeft,
    /// Everybody who serves is new, so the service's limit is looked for anew.
    Cold,
    /// The configuration of the service changed.
    Reconfigured,
}

impl What {
    /// Its name in the status document.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Unhealthy => "unhealthy",
            Self::Healthy => "healthy",
            Self::Ejected => "ejected",
            Self::Returned => "returned",
            Self::LameDuck => "lame_duck",
            Self::LameDuckEnded => "lame_duck_ended",
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::BreakerForced => "breaker_forced",
            Self::PanicEntered => "panic_entered",
            Self::PanicLeft => "panic_left",
            Self::ZoneLeft => "zone_left",
            Self::ZoneReturned => "zone_returned",
            Self::ModeEntered => "mode_entered",
            Self::ModeLeft => "mode_left",
            Self::Cold => "cold",
            Self::Reconfigured => "reconfigured",
        }
    }
}

/// One change of state, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When.
    #[serde(serialize_with = "as_text")]
    pub at: Timestamp,
    /// Which endpoint; none when it concerns the whole service.
    pub endpoint: Option<String>,
    /// What.
    pub what: What,
    /// Why, in one line.
    pub why: String,
}

fn as_text<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// The last events of a service, the oldest first. Each is logged when it happens.
#[derive(Debug)]
pub(super) struct Events {
    service: Arc<str>,
    ring: VecDeque<Event>,
}

impl Events {
    pub(super) fn new(service: Arc<str>) -> Self {
        Self { service, ring: VecDeque::new() }
    }

    pub(super) fn push(&mut self, event: Event) {
        let Event { endpoint, what, why, .. } = &event;
        tracing::info!(service = %self.service, endpoint = endpoint.as_deref(), what = ?what, why, "service changed");
        if self.ring.len() == EVENTS_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back(event);
    }

    pub(super) fn to_vec(&self) -> Vec<Event> {
        self.ring.iter().cloned().collect()
    }
}
