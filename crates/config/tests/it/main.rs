//! Loading as a whole: what is accepted, what is refused and how that is said.

mod hostile;
mod messages;
mod roundtrip;
mod sample;
mod schema;
mod substitution;
