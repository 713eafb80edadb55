//! What a listener shows its clients, and whom it believes among them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache,
    StoresServerSessions, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::files::{self, Followed, Loaded, Looks};
use super::{TlsStatus, UpstreamTls, provider, versions, wall};
use crate::config::problem::Place;
use crate::config::{self, ClientAuth, Problem, Severity, Unmatched};

/// Sessions of TLS 1.2 clients without tickets that are remembered.
const SESSIONS_MAX: usize = 4096;

/// TLS of one listener. What was loaded from files is swapped whole; handshakes under way keep what they began with.
#[derive(Debug)]
pub(crate) struct ListenerTls {
    pub(crate) params: config::ListenerTls,
    material: Followed<Material>,
}

/// What was loaded.
#[derive(Clone, Debug)]
struct Material {
    config: Arc<ServerConfig>,
    certificates: Arc<[Loaded]>,
    resumption: Resumption,
}

/// What clients resume their sessions by. Shared by every worker, kept over reloads, and given up when other clients are
/// believed: whoever resumes is not asked for a certificate again.
#[derive(Clone, Debug)]
pub(crate) struct Resumption {
    /// Whom the sessions were agreed with.
    believed: (ClientAuth, u64),
    tickets: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Resumption {
    fn new(believed: (ClientAuth, u64)) -> Result<Self, rustls::Error> {
        Ok(Self {
            believed,
            tickets: rustls::crypto::aws_lc_rs::Ticketer::new()?,
            sessions: ServerSessionMemoryCache::new(SESSIONS_MAX),
        })
    }
}

impl ListenerTls {
    /// Loads everything that `params` name. What clients of `before` resume by goes on to be good, if the same are believed.
    pub(crate) fn load(
        params: &config::ListenerTls,
        before: Option<&Resumption>,
        place: &mut Place<'_>,
    ) -> Option<Self> {
        let used = Looks::at(paths(params));
        let material = load(params, before, place)?;
        Some(Self { params: params.clone(), material: Followed::new(material, used) })
    }

    /// What a handshake begins with.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.material.get().config)
    }

    pub(crate) fn resumption(&self) -> Resumption {
        self.material.get().resumption.clone()
    }

    /// Looks at the files. Answers what to tell about it, if they were loaded again or refused.
    pub(crate) fn refresh(&self) -> Option<Result<(), String>> {
        self.material.refresh(
            Looks::at(paths(&self.params)),
            |before, place| load(&self.params, Some(&before.resumption), place),
            |material| material.certificates.iter().find_map(|one| one.untimely(wall())),
        )
    }

    pub(crate) fn status(&self) -> TlsStatus {
        let certificates = self.material.get().certificates.iter().map(Loaded::status).collect();
        self.material.status(certificates)
    }
}

fn paths(params: &config::ListenerTls) -> impl Iterator<Item = &Path> {
    let certificates = params
        .certificates
        .iter()
        .flat_map(|one| [Some(&one.cert), Some(&one.key), one.ocsp.as_ref()].into_iter().flatten());
    certificates.chain(&params.client_ca).map(|path| path.as_path())
}

fn load(
    params: &config::ListenerTls,
    before: Option<&Resumption>,
    place: &mut Place<'_>,
) -> Option<Material> {
    let provider = provider();
    let mut certificates = Vec::with_capacity(params.certificates.len());
    for (index, one) in params.certificates.iter().enumerate() {
        let mut list = place.at("certificates");
        let mut place = list.item(index);
        let loaded = files::certified_key(&one.cert, &one.key, one.ocsp.as_deref(), provider, &mut place);
        if let Some(why) = loaded.as_ref().and_then(|loaded| loaded.untimely(wall())) {
            place.at("cert").warn(why, "have it renewed; clients refuse it");
        }
        certificates.extend(loaded);
    }
    let auth = params.client_auth_in_force();
    let mut believed = (auth, 0);
    let verifier = match (&params.client_ca, auth) {
        (Some(file), ClientAuth::Optional | ClientAuth::Required) => {
            let mut place = place.at("client_ca");
            let roots = files::authorities(file, &mut place)?;
            believed.1 = fingerprint(&roots);
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            let builder =
                if auth == ClientAuth::Optional { builder.allow_unauthenticated() } else { builder };
            match builder.build() {
                Ok(verifier) => verifier,
                Err(error) => {
                    let message = format!("{} cannot be used: {error}", file.display());
                    place.error(message, "name a file that holds certificates of authorities alone");
                    return None;
                }
            }
        }
        _ => WebPkiClientVerifier::no_client_auth(),
    };
    if certificates.len() < params.certificates.len() || certificates.is_empty() {
        return None;
    }
    let resumption = match before.filter(|before| before.believed == believed) {
        Some(before) => before.clone(),
        None => match Resumption::new(believed) {
            Ok(resumption) => resumption,
            Err(error) => {
                place.error(
                    format!("no keys for session tickets: {error}"),
                    "look at the system's randomness",
                );
                return None;
            }
        },
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions(params.minimum))
        .expect("the provider speaks both versions");
    let names = Names::new(&certificates, params.unmatched);
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(names));
    config.alpn_protocols = params.alpn.iter().map(|one| one.wire().to_vec()).collect();
    if params.resumption {
        config.ticketer = Arc::clone(&resumption.tickets);
        config.session_storage = Arc::clone(&resumption.sessions);
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Some(Material { config: Arc::new(config), certificates: certificates.into(), resumption })
}

/// Tells sets of authorities apart, whatever their order.
fn fingerprint(roots: &RootCertStore) -> u64 {
    roots.roots.iter().fold(0, |sum, root| {
        let key = policy::hash(&root.subject_public_key_info);
        sum ^ policy::hash(&[policy::hash(&root.subject).to_le_bytes(), key.to_le_bytes()].concat())
    })
}

/// Finds the certificate for a name.
#[derive(Debug)]
struct Names {
    certificates: Vec<Arc<CertifiedKey>>,
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what follows the `*.`.
    wildcard: HashMap<Box<str>, Vec<usize>>,
    unmatched: Unmatched,
}

impl Names {
    fn new(certificates: &[Loaded], unmatched: Unmatched) -> Self {
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (index, loaded) in certificates.iter().enumerate() {
            let facts = &loaded.facts;
            let common = facts.common_name.as_ref().filter(|_| facts.dns.is_empty());
            for name in facts.dns.iter().chain(common) {
                let name = name.to_ascii_lowercase();
                let (map, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut wildcard, rest),
                    None => (&mut exact, name.as_str()),
                };
                map.entry(name.into()).or_default().push(index);
            }
        }
        let certificates = certificates.iter().map(|loaded| Arc::clone(&loaded.key)).collect();
        Self { certificates, exact, wildcard, unmatched }
    }

    /// The certificates for `name`, those that have it exactly first.
    fn candidates(&self, name: &str) -> impl Iterator<Item = usize> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let exact = self.exact.get(name.as_str());
        let wildcard = name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        exact.into_iter().chain(wildcard).flatten().copied()
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let understood =
            |index: &usize| self.certificates[*index].key.choose_scheme(hello.signature_schemes()).is_some();
        let mut found = None;
        if let Some(name) = hello.server_name() {
            for index in self.candidates(name) {
                if understood(&index) {
                    return Some(Arc::clone(&self.certificates[index]));
                }
                found = Some(index);
            }
        }
        let found = found.or_else(|| {
            let all = || 0..self.certificates.len();
            match self.unmatched {
                Unmatched::First => all().find(understood).or(Some(0)),
                Unmatched::Refuse => None,
            }
        });
        found.map(|index| Arc::clone(&self.certificates[index]))
    }
}

/// TLS of the listeners in `config`, by their addresses. What `before` has with the same parameters stays as it is.
///
/// # Errors
/// Everything that cannot be used.
pub(crate) fn listeners(
    config: &config::Config,
    before: impl Fn(SocketAddr) -> Option<Arc<ListenerTls>>,
) -> Result<HashMap<SocketAddr, Arc<ListenerTls>>, Vec<Problem>> {
    let (mut problems, mut all) = (Vec::new(), HashMap::new());
    for (index, listener) in config.listeners.iter().enumerate() {
        let Some(params) = &listener.tls else { continue };
        let before = before(listener.address);
        let tls = before.clone().filter(|before| before.params == *params).or_else(|| {
            let mut root = Place::root(&mut problems);
            let mut listeners = root.at("listeners");
            let resumption = before.map(|before| before.resumption());
            ListenerTls::load(params, resumption.as_ref(), &mut listeners.item(index).at("tls")).map(Arc::new)
        });
        all.extend(tls.map(|tls| (listener.address, tls)));
    }
    problems.retain(|problem| problem.severity == Severity::Error);
    if problems.is_empty() { Ok(all) } else { Err(problems) }
}

impl config::Config {
    /// What is wrong with the files of certificates, keys and authorities that the configuration names.
    ///
    /// Expired certificates are warned of: refusing to start for one would take down every other name as well.
    #[must_use]
    pub fn problems_in_files(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut root = Place::root(&mut problems);
        for (index, listener) in self.listeners.iter().enumerate() {
            if let Some(tls) = &listener.tls {
                ListenerTls::load(tls, None, &mut root.at("listeners").item(index).at("tls"));
            }
        }
        for (name, service) in &self.services {
            if let Some(tls) = &service.tls {
                UpstreamTls::load(tls, &mut root.at("services").at(name).at("tls"));
            }
        }
        problems
    }
}
