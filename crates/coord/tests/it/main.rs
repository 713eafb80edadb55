//! Coordination as its users see it.

mod etcd;
mod ids;
mod local;
mod registry;
