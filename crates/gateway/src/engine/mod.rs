//! What the road is made of: connections, attempts, bodies, timers, buffers; one worker a core.

mod answer_head;
pub(crate) mod attempt;
pub(crate) mod buffers;
pub(crate) mod classify;
pub(crate) mod conn;
pub(crate) mod download;
pub(crate) mod h2;
mod handshake;
pub(crate) mod pool;
pub(crate) mod probe;
pub(crate) mod relay;
pub(crate) mod slots;
pub(crate) mod stream;
pub(crate) mod tunnel;
pub(crate) mod upload;
pub(crate) mod wheel;
pub(crate) mod worker;
