//! Tests of the gateway from outside.

mod codec;
