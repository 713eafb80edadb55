use alloc::string::String;
use alloc::sync::Arc;
use core::net::SocketAddr;

/// One instance of a service, as it registered itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Unique among the service's instances.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Relative to the other instances.
    pub weight: u32,
    /// Where it stands: instances of one zone are near one another and fail together.
    pub zone: Option<String>,
    /// What it runs.
    pub version: Option<String>,
    /// Whether it wants no new requests because it is about to leave.
    pub lame_duck: bool,
}

/// What is known of a service's instances now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// By name; `None` until anything was heard. Instances that vanished together with many others are still in it.
    pub instances: Option<Arc<[Arc<Registered>]>>,
    /// Why it may be wrong, while it may be: the registry cannot be reached, or many instances vanished at once.
    pub trouble: Option<Arc<str>>,
}
