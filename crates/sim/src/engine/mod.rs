//! The run itself: events in virtual time.

use model::Instant;

use crate::report::Recorder;
use crate::{Report, Scenario};

/// Plays a scenario from its beginning until the last request has ended.
///
/// The scenario is taken for checked ([`config::Check`]).
#[must_use]
pub fn run(scenario: &Scenario) -> Report {
    Recorder::new(scenario).finish(Instant::ORIGIN)
}
