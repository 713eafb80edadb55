//! Coordination as its users see it.

mod etcd;
mod faults;
mod history;
mod local;
mod props;
mod stored;
