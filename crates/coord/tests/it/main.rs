//! Coordination as its users see it.

mod etcd;
mod faults;
mod history;
mod ids;
mod local;
mod props;
mod registry;
mod remote;
mod stored;
