use std::borrow::Cow;
use std::path::{Path, PathBuf};

use model::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// TLS towards clients. Files are looked at twice a second: what changed in them is used for new connections as soon as all
/// of it is sound, and until then what was loaded before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Certificates, each with its key. A client gets the first one that has the name that it asks for, exactly or by
    /// wildcard, and whose key it understands.
    pub certificates: Vec<Certificate>,
    /// What a client gets that asks for a name of no certificate, or for none.
    #[serde(default)]
    pub unmatched: Unmatched,
    /// The oldest version that is spoken.
    #[serde(default)]
    pub minimum: TlsVersion,
    /// A file with the authorities, in PEM, that vouch for clients.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate. Absent: `required` with `client_ca`, `none` without.
    #[serde(default)]
    pub client_auth: Option<ClientAuth>,
    /// A request header that tells services who the client proved to be. Whatever clients send under this name is removed,
    /// on every listener.
    #[serde(default)]
    pub identity_header: Option<String>,
    /// Protocols that are offered, the preferred one first.
    #[serde(default = "alpn_default")]
    pub alpn: Vec<Alpn>,
    /// Whether clients that come back may resume their session, which spares both sides the costly part of the handshake.
    #[serde(default = "resumption_default")]
    pub resumption: bool,
    /// From accepting a connection to the end of its handshake, however slowly the bytes trickle in.
    #[serde(default = "handshake_default")]
    pub handshake_timeout: Span,
    /// Handshakes under way at once, over all workers; a further connection is closed. Bounds what strangers can make this
    /// process compute and hold.
    #[serde(default = "handshakes_max_default")]
    pub handshakes_max: u32,
}

fn alpn_default() -> Vec<Alpn> {
    vec![Alpn::Http2, Alpn::Http11]
}

fn resumption_default() -> bool {
    true
}

fn handshake_default() -> Span {
    Span::from_secs(10)
}

fn handshakes_max_default() -> u32 {
    10_000
}

impl ListenerTls {
    /// One certificate and every default.
    #[must_use]
    pub fn with(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificates: vec![Certificate { cert: cert.into(), key: key.into(), ocsp: None }],
            unmatched: Unmatched::default(),
            minimum: TlsVersion::default(),
            client_ca: None,
            client_auth: None,
            identity_header: None,
            alpn: alpn_default(),
            resumption: resumption_default(),
            handshake_timeout: handshake_default(),
            handshakes_max: handshakes_max_default(),
        }
    }

    /// Whether clients must show a certificate.
    #[must_use]
    pub fn client_auth_in_force(&self) -> ClientAuth {
        self.client_auth.unwrap_or(match self.client_ca {
            Some(_) => ClientAuth::Required,
            None => ClientAuth::None,
        })
    }
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// A file with the certificate and those between it and the authority, in PEM.
    pub cert: PathBuf,
    /// A file with its key, in PEM, without password.
    pub key: PathBuf,
    /// A file with the authority's newest word that the certificate is not revoked (an OCSP response, in DER), which
    /// clients are handed along with it. Whoever keeps it fresh writes the file.
    #[serde(default)]
    pub ocsp: Option<PathBuf>,
}

/// What a client gets that asks for a name of no certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// The first certificate; the client will most likely refuse it.
    #[default]
    First,
    /// A refused handshake.
    Refuse,
}

/// A version of TLS. Older ones are never spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2, with forward secrecy and authenticated ciphers only.
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// They are not asked for one.
    None,
    /// They are asked for one. One that is shown must be good.
    Optional,
    /// Without a good one the handshake fails.
    Required,
}

/// A protocol that TLS agrees on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Alpn {
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http11,
    /// HTTP/2.
    #[serde(rename = "h2")]
    Http2,
}

impl Alpn {
    /// Its name on the wire.
    #[must_use]
    pub fn wire(self) -> &'static [u8] {
        match self {
            Self::Http11 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }

    /// The protocol with this name on the wire.
    #[must_use]
    pub fn of_wire(name: &[u8]) -> Option<Self> {
        [Self::Http11, Self::Http2].into_iter().find(|one| one.wire() == name)
    }
}

/// Where clients of a plain listener are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpsRedirect {
    /// The port of the listener with TLS, as clients see it.
    pub port: u16,
    /// 301, 302, 307 or 308. Only the last two keep the method of a request.
    pub status: u16,
}

impl Default for HttpsRedirect {
    fn default() -> Self {
        Self { port: 443, status: 308 }
    }
}

/// TLS towards a service's endpoints. A connection that cannot be secured as said here fails like one that is refused; nothing
/// is ever sent in the clear instead. Files are looked at twice a second, as those of listeners.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceTls {
    /// The authorities that vouch for endpoints: `system` for those that the system trusts, or a file in PEM.
    pub ca: Authorities,
    /// The name that endpoints must prove to have, and are asked for. Absent: the host that the configuration calls the
    /// endpoint, the name of `dns`, or its address.
    pub server_name: Option<String>,
    /// The certificate that endpoints are shown if they ask for one.
    pub client_certificate: Option<ClientCertificate>,
    /// Whether endpoints must prove who they are. Without it anybody on the way can read and change everything.
    pub verify: bool,
    /// The oldest version that is spoken.
    pub minimum: TlsVersion,
}

impl Default for ServiceTls {
    fn default() -> Self {
        Self {
            ca: Authorities::System,
            server_name: None,
            client_certificate: None,
            verify: true,
            minimum: TlsVersion::default(),
        }
    }
}

/// A certificate to show, with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// A file with the certificate and those between it and the authority, in PEM.
    pub cert: PathBuf,
    /// A file with its key, in PEM, without password.
    pub key: PathBuf,
}

/// Who vouches for endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Those that the system trusts.
    System,
    /// Those in a file.
    File(PathBuf),
}

impl Authorities {
    /// The file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::System => None,
            Self::File(path) => Some(path),
        }
    }
}

impl<'de> Deserialize<'de> for Authorities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(deserializer)?.as_str() {
            "system" => Self::System,
            path => Self::File(path.into()),
        })
    }
}

impl Serialize for Authorities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::System => serializer.serialize_str("system"),
            Self::File(path) => path.serialize(serializer),
        }
    }
}

impl JsonSchema for Authorities {
    fn schema_name() -> Cow<'static, str> {
        "Authorities".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`system` for those that the system trusts, or a file in PEM.",
        })
    }
}
