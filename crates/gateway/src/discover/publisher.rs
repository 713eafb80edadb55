use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Discovered, Discovery};

/// The one place that decides what becomes of an answer: taken over, or the stale set kept and the alarm raised.
#[derive(Debug)]
pub(super) struct Publisher {
    service: String,
    what: String,
    sender: watch::Sender<Discovery>,
}

impl Publisher {
    pub(super) fn new(service: &str, what: String) -> Self {
        Self { service: service.to_owned(), what, sender: watch::Sender::default() }
    }

    pub(super) fn what(&self) -> &str {
        &self.what
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Discovery> {
        self.sender.subscribe()
    }

    /// What is known before anything was asked: nothing is no trouble yet.
    pub(super) fn begin(&self, set: Vec<Discovered>) {
        if !set.is_empty() {
            self.report(set, None);
        }
    }

    /// The source answered `set`. With `trouble`, the set is complete only thanks to what was known before.
    ///
    /// An empty set is trouble and changes nothing else. Of endpoints with the same name the first one counts.
    /// Answers whether all is well.
    pub(super) fn report(&self, mut set: Vec<Discovered>, trouble: Option<String>) -> bool {
        let mut names = HashSet::new();
        set.retain(|endpoint| names.insert(endpoint.name.clone()));
        let trouble = trouble.or_else(|| set.is_empty().then(|| "the answer names no endpoint".to_owned()));
        let well = trouble.is_none();
        self.sender.send_if_modified(|now| {
            // Failures are counted by whoever listens, too.
            let mut changed = trouble.is_some();
            if !set.is_empty() && now.set.as_deref() != Some(&*set) {
                now.set = Some(set.into());
                changed = true;
            }
            now.failures += u64::from(trouble.is_some());
            if now.trouble.as_deref() != trouble.as_deref() {
                self.log(trouble.as_deref(), now);
                now.trouble = trouble.map(Arc::from);
                changed = true;
            }
            changed
        });
        well
    }

    /// The source could not be asked, or what it said makes no sense.
    pub(super) fn failed(&self, trouble: String) {
        self.report(Vec::new(), Some(trouble));
    }

    fn log(&self, trouble: Option<&str>, now: &Discovery) {
        let (service, source) = (&self.service, &self.what);
        let kept = now.set.as_ref().map_or(0, |set| set.len());
        match trouble {
            Some(reason) => {
                tracing::warn!(
                    service,
                    source,
                    reason,
                    kept,
                    "discovery failed: keeping the last good endpoints"
                );
            }
            None => tracing::info!(service, source, endpoints = kept, "discovery works again"),
        }
    }
}
