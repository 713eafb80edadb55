//! Certificates made on the spot, and a blocking client that speaks TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::{Response, read_response};
use crate::http::Reader;
use crate::temp::TempDir;
use crate::wait::PATIENCE;

/// For how long certificates hold: 90 days and a half.
const VALID: Duration = Duration::from_secs((90 * 24 + 12) * 3600);

/// An authority that vouches for whoever a test names. Its files vanish with it.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The file with the certificate.
    pub cert: PathBuf,
    /// The file with its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let dir = TempDir::new("authority");
        dir.write("ca.pem", &issuer.pem());
        Self { issuer, dir }
    }

    /// The file with its certificate.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Vouches for a server with these names, the first of which names the files too.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Issued {
        let (cert, key) = self.make(names, VALID);
        self.keep(names[0], &cert, &key)
    }

    /// As [`Authority::server`], for a certificate that has expired.
    #[must_use]
    pub fn expired(&self, names: &[&str]) -> Issued {
        let (cert, key) = self.make(names, Duration::ZERO);
        self.keep(&format!("expired-{}", names[0]), &cert, &key)
    }

    /// Vouches for a client that is called by this URI.
    #[must_use]
    pub fn client(&self, uri: &str) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("client");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        self.keep(&uri.replace(|c: char| !c.is_ascii_alphanumeric(), "-"), &cert, &key.serialize_pem())
    }

    /// Puts a new certificate for these names, with a new key, where `issued` is. The key comes first, as most tools have it.
    pub fn renew(&self, issued: &Issued, names: &[&str]) {
        let (cert, key) = self.make(names, VALID);
        replace(&issued.key, &key);
        replace(&issued.cert, &cert);
    }

    fn make(&self, names: &[&str], valid: Duration) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = named("server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
        let at = |since: Duration| rcgen::date_time_ymd(1970, 1, 1) + since;
        params.not_before = at(now - 7 * DAY);
        params.not_after = at(if valid.is_zero() { now - DAY } else { now + valid });
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        (cert.pem(), key.serialize_pem())
    }

    fn keep(&self, name: &str, cert: &str, key: &str) -> Issued {
        let name = name.replace('*', "wildcard");
        let cert = self.dir.write(&format!("{name}.pem"), cert);
        let key = self.dir.write(&format!("{name}.key"), key);
        Issued { cert, key }
    }
}

/// Replaces a file in one step.
fn replace(path: &std::path::Path, content: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, content).and_then(|()| std::fs::rename(&fresh, path)).expect("a writable file");
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// What a client believes and shows. Clients of one trust resume each other's sessions.
#[derive(Clone, Debug)]
pub struct Trust {
    config: Arc<ClientConfig>,
}

impl Trust {
    /// Believes `authority`, and shows `client` if it is given.
    #[must_use]
    pub fn of(authority: &Authority, client: Option<&Issued>) -> Self {
        Self::speaking(authority, client, rustls::ALL_VERSIONS)
    }

    /// Believes `authority` and resumes nothing.
    #[must_use]
    pub fn forgetful(authority: &Authority) -> Self {
        let mut config = (*Self::of(authority, None).config).clone();
        config.resumption = rustls::client::Resumption::disabled();
        Self { config: Arc::new(config) }
    }

    /// As [`Trust::of`], with these versions only.
    #[must_use]
    pub fn speaking(
        authority: &Authority,
        client: Option<&Issued>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(authority.file()).expect("an authority"))
            .expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("known versions")
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(Issued { cert, key }) => {
                let chain = vec![CertificateDer::from_pem_file(cert).expect("a certificate")];
                let key = PrivateKeyDer::from_pem_file(key).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a certificate with its key")
            }
        };
        Self { config: Arc::new(config) }
    }

    /// The configuration itself.
    #[must_use]
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Connects to `addr` and asks for `name`. The handshake is done when this returns.
    pub fn connect(&self, addr: SocketAddr, name: &str) -> io::Result<TlsClient> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        let socket = TcpStream::connect_timeout(&addr, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(TlsClient { reader: Reader::new(Shared(stream)) })
    }
}

/// A stream that can be written to while a [`Reader`] has it.
#[derive(Debug)]
struct Shared(StreamOwned<ClientConnection, TcpStream>);

impl Read for Shared {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

/// One connection over TLS.
#[derive(Debug)]
pub struct TlsClient {
    reader: Reader<Shared>,
}

impl TlsClient {
    /// The session.
    #[must_use]
    pub fn session(&self) -> &ClientConnection {
        &self.reader.stream().0.conn
    }

    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.reader.stream().0.sock
    }

    /// The certificate that the server showed.
    #[must_use]
    pub fn shown(&self) -> CertificateDer<'static> {
        self.session().peer_certificates().expect("a handshake")[0].clone().into_owned()
    }

    /// Sends bytes as they are.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let stream = &mut self.reader.stream_mut().0;
        stream.write_all(bytes.as_ref())?;
        stream.flush()
    }

    /// Sends one request, given in full, and reads its answer.
    pub fn try_request(&mut self, request: impl AsRef<[u8]>) -> io::Result<Response> {
        self.try_send(request)?;
        read_response(&mut self.reader, true)
    }

    /// Sends one request, given in full, and reads its answer; panics when there is none.
    pub fn request(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.try_request(request).expect("an answer")
    }

    /// Sends `GET path` and reads its answer; the connection can be used again.
    pub fn get(&mut self, path: &str) -> Response {
        self.request(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// At least one byte of what comes next; empty when the server has said that no more does.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        self.reader.some()
    }

    /// Exactly `count` bytes, whatever they are.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.reader.exactly(count)
    }
}
