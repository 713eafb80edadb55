//! How endpoints are secured, and what they must prove.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;

use super::files::{self, Followed, Loaded, Looks};
use super::{Failure, TlsStatus, TlsStream, explain, provider, resumed, versions, wall};
use crate::config::problem::Place;
use crate::config::{self, Authorities, Problem, Severity};

/// A service's failures are logged no more often, in seconds.
const LOG_INTERVAL: i64 = 10;

/// TLS towards the endpoints of one service.
#[derive(Debug)]
pub(crate) struct UpstreamTls {
    params: config::ServiceTls,
    material: Followed<Material>,
    failures: [AtomicU64; Failure::ALL.len()],
    full: AtomicU64,
    resumed: AtomicU64,
    /// When a failure was logged last.
    logged: AtomicI64,
}

#[derive(Clone, Debug)]
struct Material {
    config: Arc<ClientConfig>,
    certificate: Option<Loaded>,
}

impl UpstreamTls {
    /// Loads everything that `params` name.
    pub(crate) fn load(params: &config::ServiceTls, place: &mut Place<'_>) -> Option<Self> {
        let used = Looks::at(paths(params));
        let material = load(params, place)?;
        Some(Self {
            params: params.clone(),
            material: Followed::new(material, used),
            failures: Default::default(),
            full: AtomicU64::default(),
            resumed: AtomicU64::default(),
            logged: AtomicI64::new(i64::MIN),
        })
    }

    /// Agrees on a session with the endpoint that the configuration calls `endpoint`, at the other end of `socket`. Takes as
    /// long as the endpoint does; whoever gives up waiting drops it, which counts as a failure too.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        socket: TcpStream,
        endpoint: &str,
        offer: &[config::Alpn],
    ) -> io::Result<TlsStream> {
        let mut under_way = UnderWay { tls: self, endpoint, over: false };
        let result = async {
            let mut stream = self.begin(socket, endpoint, offer)?;
            poll_fn(|cx| stream.poll_handshake(cx)).await?;
            Ok(stream)
        };
        let result = result.await;
        under_way.over = true;
        match &result {
            Ok(stream) => {
                let kind = if resumed(stream.tls()) { &self.resumed } else { &self.full };
                kind.fetch_add(1, Relaxed);
            }
            Err(error) => self.on_failure(endpoint, error),
        }
        result
    }

    fn begin(
        self: &Arc<Self>,
        socket: TcpStream,
        endpoint: &str,
        offer: &[config::Alpn],
    ) -> io::Result<TlsStream> {
        let name = server_name(self.params.server_name.as_deref().unwrap_or_else(|| host(endpoint)));
        let name = match name {
            Some(name) => name,
            // Discovery calls it by something that is no name.
            None => ServerName::IpAddress(socket.peer_addr()?.ip().into()),
        };
        let config = Arc::clone(&self.material.get().config);
        let offer = offer.iter().map(|one| one.wire().to_vec()).collect();
        let tls = ClientConnection::new_with_alpn(config, name, offer).map_err(io::Error::other)?;
        Ok(TlsStream::new(socket, tls.into()).opened_as(self))
    }

    /// A handshake has failed. Told now and then, because whoever must act cannot see it in an answer.
    fn on_failure(&self, endpoint: &str, error: &io::Error) {
        let failure = Failure::of(error);
        self.failures[failure as usize].fetch_add(1, Relaxed);
        let (now, logged) = (wall(), self.logged.load(Relaxed));
        if now.saturating_sub(logged) >= LOG_INTERVAL
            && self.logged.compare_exchange(logged, now, Relaxed, Relaxed).is_ok()
        {
            let (reason, error) = (failure.name(), explain(error));
            tracing::warn!(endpoint, reason, error, "an endpoint cannot be reached over TLS");
        }
    }

    /// As [`ListenerTls::refresh`](super::ListenerTls::refresh).
    pub(crate) fn refresh(&self) -> Option<Result<(), String>> {
        self.material.refresh(
            Looks::at(paths(&self.params)),
            |_, place| load(&self.params, place),
            |material| material.certificate.as_ref().and_then(|one| one.untimely(wall())),
        )
    }

    pub(crate) fn status(&self) -> TlsStatus {
        let certificates = self.material.get().certificate.iter().map(Loaded::status).collect();
        self.material.status(certificates)
    }

    /// Handshakes that succeeded, in full and resumed, and those that failed, by why.
    pub(crate) fn handshakes(&self) -> (u64, u64, impl Iterator<Item = (Failure, u64)>) {
        let failures = Failure::ALL.map(|failure| (failure, self.failures[failure as usize].load(Relaxed)));
        (self.full.load(Relaxed), self.resumed.load(Relaxed), failures.into_iter())
    }
}

/// A handshake that counts as failed unless it is over.
struct UnderWay<'a> {
    tls: &'a UpstreamTls,
    endpoint: &'a str,
    over: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.tls.on_failure(self.endpoint, &io::ErrorKind::TimedOut.into());
        }
    }
}

/// The host in what the configuration calls an endpoint.
fn host(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// `text` as a name that a certificate may prove.
pub(crate) fn server_name(text: &str) -> Option<ServerName<'static>> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(ServerName::IpAddress(ip.into())),
        Err(_) => ServerName::try_from(text.to_owned()).ok(),
    }
}

fn paths(params: &config::ServiceTls) -> impl Iterator<Item = &Path> {
    let shown = params.client_certificate.iter().flat_map(|one| [one.cert.as_path(), one.key.as_path()]);
    shown.chain(params.ca.file())
}

fn load(params: &config::ServiceTls, place: &mut Place<'_>) -> Option<Material> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = if params.verify {
        let roots = match &params.ca {
            Authorities::System => files::system_authorities(&mut place.at("ca"))?,
            Authorities::File(path) => files::authorities(path, &mut place.at("ca"))?,
        };
        match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build() {
            Ok(verifier) => verifier,
            Err(error) => {
                place.at("ca").error(format!("the authorities cannot be used: {error}"), "name others");
                return None;
            }
        }
    } else {
        Arc::new(Unverified(Arc::clone(provider)))
    };
    let certificate = match &params.client_certificate {
        Some(one) => {
            let mut place = place.at("client_certificate");
            let loaded = files::certified_key(&one.cert, &one.key, None, provider, &mut place)?;
            if let Some(why) = loaded.untimely(wall()) {
                place.at("cert").warn(why, "have it renewed; endpoints refuse it");
            }
            Some(loaded)
        }
        None => None,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions(params.minimum))
        .expect("the provider speaks both versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &certificate {
        Some(loaded) => builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
            Arc::clone(&loaded.key),
        ))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![config::Alpn::Http11.wire().to_vec()];
    Some(Material { config: Arc::new(config), certificate })
}

/// Believes everybody, because the configuration says so.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How connections to a service's endpoints are secured.
#[derive(Clone, Debug)]
pub(crate) enum Security {
    /// Not at all, as configured.
    Plain,
    Tls(Arc<UpstreamTls>),
    /// They should be and cannot: none is opened.
    Unusable,
}

impl Security {
    /// Whether a connection that was opened so may be used where `other` is asked for.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain, Self::Plain) => true,
            (Self::Tls(one), Self::Tls(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// What a service's endpoints must prove. Those behind one name of DNS are called by their addresses, but prove to be the name.
fn effective(service: &config::Service) -> Option<config::ServiceTls> {
    let mut tls = service.tls.clone()?;
    if tls.server_name.is_none() {
        let name = service.dns.as_ref().and_then(|dns| dns.name.as_deref());
        tls.server_name = name.map(|name| name.trim_end_matches('.').to_owned());
    }
    Some(tls)
}

/// TLS of every service that has it, by the service's name.
#[derive(Debug, Default)]
pub(crate) struct Clients(RwLock<BTreeMap<String, Arc<UpstreamTls>>>);

impl Clients {
    /// Loads what `services` need beyond what is there, without putting it in use.
    ///
    /// # Errors
    /// Everything that cannot be used.
    pub(crate) fn prepare(
        &self,
        services: &BTreeMap<String, config::Service>,
    ) -> Result<BTreeMap<String, Arc<UpstreamTls>>, Vec<Problem>> {
        let known = self.0.read();
        let (mut problems, mut all) = (Vec::new(), BTreeMap::new());
        for (name, params) in services.iter().filter_map(|(name, one)| Some((name, effective(one)?))) {
            let tls = known.get(name).filter(|known| known.params == params).cloned().or_else(|| {
                let mut root = Place::root(&mut problems);
                let mut services = root.at("services");
                UpstreamTls::load(&params, &mut services.at(name).at("tls")).map(Arc::new)
            });
            all.extend(tls.map(|tls| (name.clone(), tls)));
        }
        problems.retain(|problem| problem.severity == Severity::Error);
        if problems.is_empty() { Ok(all) } else { Err(problems) }
    }

    /// Puts what [`Clients::prepare`] answered in use.
    pub(crate) fn replace(&self, all: BTreeMap<String, Arc<UpstreamTls>>) {
        *self.0.write() = all;
    }

    /// What the service called `name` does.
    pub(crate) fn of(&self, name: &str, params: &config::Service) -> Security {
        match effective(params) {
            None => Security::Plain,
            Some(wanted) => {
                let known = self.0.read().get(name).filter(|known| known.params == wanted).cloned();
                known.map_or(Security::Unusable, Security::Tls)
            }
        }
    }

    /// All of them, by the service's name.
    pub(crate) fn all(&self) -> Vec<(String, Arc<UpstreamTls>)> {
        self.0.read().iter().map(|(name, tls)| (name.clone(), Arc::clone(tls))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_endpoint_is_what_it_must_prove() {
        for (endpoint, expected) in [
            ("cart.internal:8443", "cart.internal"),
            ("10.0.0.1:8443", "10.0.0.1"),
            ("[fd00::1]:8443", "fd00::1"),
        ] {
            assert_eq!(host(endpoint), expected);
            assert!(server_name(host(endpoint)).is_some(), "{endpoint}");
        }
        assert!(server_name("no name").is_none());
    }
}
