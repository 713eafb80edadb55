//! x

pub mod codec;
