//! Certificates while the gateway runs: watched, told about, counted.

use std::sync::{Arc, Weak};
use std::time::Duration;

use model::Change;

use super::{CHANGES_MAX, Inner};
use crate::metrics::Exporter;
use crate::tls::{ListenerTls, TlsStatus, UpstreamTls};

/// How often files are looked at. A change is taken into use once it has stayed for one interval.
const INTERVAL: Duration = Duration::from_millis(500);

/// Whose TLS it is.
enum Owner {
    Listener(Arc<ListenerTls>),
    Service(Arc<UpstreamTls>),
}

impl Owner {
    fn refresh(&self) -> Option<Result<(), String>> {
        match self {
            Self::Listener(tls) => tls.refresh(),
            Self::Service(tls) => tls.refresh(),
        }
    }

    fn status(&self) -> TlsStatus {
        match self {
            Self::Listener(tls) => tls.status(),
            Self::Service(tls) => tls.status(),
        }
    }
}

impl Inner {
    /// TLS of every listener and service that has it, with a name for people.
    fn secured(&self) -> Vec<(String, Owner)> {
        let state = self.state.lock();
        let listeners = state.listeners.values().filter_map(|open| {
            let listener = open.listener.state.read();
            Some((format!("listener {}", listener.name), Owner::Listener(listener.tls.clone()?)))
        });
        let services = self.services.tls().all().into_iter();
        listeners
            .chain(services.map(|(name, tls)| (format!("service {name}"), Owner::Service(tls))))
            .collect()
    }

    pub(super) fn tls_status(&self) -> Vec<(String, TlsStatus)> {
        self.secured().into_iter().map(|(owner, tls)| (owner, tls.status())).collect()
    }

    pub(super) fn export_tls(&self, out: &mut Exporter) {
        out.certificates(&self.tls_status());
        let services = self.services.tls().all();
        let services: Vec<_> = services.iter().map(|(name, tls)| (name.as_str(), &**tls)).collect();
        out.upstream_tls(&services);
    }

    /// Takes changed files into use, and says so.
    fn refresh_certificates(&self) {
        for (owner, tls) in self.secured() {
            match tls.refresh() {
                None => {}
                Some(Ok(())) => {
                    tracing::info!(of = owner, "changed certificates are in use");
                    let change = Change {
                        at: self.clock.timestamp(),
                        who: "changed file".to_owned(),
                        what: format!("certificates of {owner}"),
                        undo: "put the files back as they were".to_owned(),
                    };
                    let mut state = self.state.lock();
                    if state.changes.len() == CHANGES_MAX {
                        state.changes.remove(0);
                    }
                    state.changes.push(change);
                }
                Some(Err(why)) => {
                    tracing::warn!(of = owner, why, "changed certificates refused, the old ones stay in use");
                }
            }
        }
    }
}

/// Looks at the files of certificates for as long as there is a gateway.
pub(super) async fn watch(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(inner) = inner.upgrade() else { return };
        // Files are small, and this thread serves no requests.
        inner.refresh_certificates();
    }
}
