//! Coordination as its users see it.

mod ids;
mod local;
mod registry;
