//! Following keys without gaps.

use std::time::Duration;

use crate::command::{Entry, Event, Position};
use crate::coord::Coord;
use crate::engine::{Changes, Failure};

/// Longest wait before an engine that cannot be reached is asked again.
const RETRY_MAX: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(20);

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Everything there is: at the beginning, and again whenever changes were missed. What is not in it is gone.
    All {
        /// As of when.
        position: Position,
        /// By key.
        entries: Vec<Entry>,
    },
    /// Changes, in order, directly after what was told before. None when an outage ended and nothing had changed.
    Changed(Vec<Event>),
    /// The engine cannot be reached: what was told before is the last that is known, and may be out of date. Told once per
    /// outage; nothing is to be removed because of it. [`Update::All`] or [`Update::Changed`] ends it.
    Stale(Failure),
}

/// Follows the keys with a prefix: first [`Update::All`], then every change, none missing and none twice. One that fell behind
/// gets [`Update::All`] again.
#[derive(Debug)]
pub struct Watch {
    coord: Coord,
    prefix: String,
    position: Option<Position>,
    changes: Option<Changes>,
    stale: bool,
    failures: u32,
}

impl Watch {
    pub(crate) fn new(coord: Coord, prefix: String) -> Self {
        Self { coord, prefix, position: None, changes: None, stale: false, failures: 0 }
    }

    /// The next thing to know. Waits as long as there is none; never ends. Cancel-safe.
    pub async fn next(&mut self) -> Update {
        loop {
            match self.step().await {
                Ok(Some(update)) => {
                    (self.stale, self.failures) = (false, 0);
                    return update;
                }
                Ok(None) => {}
                Err(Failure::Behind { .. }) => (self.position, self.changes) = (None, None),
                Err(failure) => {
                    self.changes = None;
                    if !std::mem::replace(&mut self.stale, true) {
                        return Update::Stale(failure);
                    }
                    self.failures += 1;
                    let most = (RETRY_MIN * 2u32.saturating_pow(self.failures.min(16))).min(RETRY_MAX);
                    tokio::time::sleep(most.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Update>, Failure> {
        let Some(position) = self.position else {
            let listing = self.coord.list(&self.prefix).await?;
            self.position = Some(listing.position);
            return Ok(Some(Update::All { position: listing.position, entries: listing.entries }));
        };
        let changes = match &mut self.changes {
            Some(changes) => changes,
            none => {
                let changes = self.coord.engine().changes(self.prefix.clone(), position).await?;
                // Nothing was missed: what is known is up to date again, although nothing changed.
                if self.stale {
                    self.changes = Some(changes);
                    return Ok(Some(Update::Changed(Vec::new())));
                }
                none.insert(changes)
            }
        };
        let events = changes.next().await?;
        let Some(last) = events.last() else { return Ok(None) };
        self.position = Some(Position { revision: last.revision(), ..position });
        Ok(Some(Update::Changed(events)))
    }
}
