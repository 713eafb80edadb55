//! Coordination as its users see it.

mod etcd;
mod local;
