//! TLS on both sides: who the gateway is, whom it believes, and sessions over sockets.
//!
//! The protocol and its ciphers are rustls'. Here stands what surrounds it: which certificate a name gets, files that change
//! while they are used, what is told about failures. Everything fails closed: what cannot be secured as configured is not
//! connected at all.

mod client;
mod files;
mod server;
mod stream;
pub(crate) mod x509;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::{AlertDescription, CertificateError, Connection, HandshakeKind};

use crate::config::{Alpn, TlsVersion};

pub(crate) use client::{Clients, Security, UpstreamTls, server_name};
pub(crate) use server::{ListenerTls, listeners};
pub(crate) use stream::{Session, TlsStream};

/// The ciphers and algorithms in use, decided in one place.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// The versions that are spoken from `minimum` on.
fn versions(minimum: TlsVersion) -> &'static [&'static rustls::SupportedProtocolVersion] {
    static NEWEST_FIRST: [&rustls::SupportedProtocolVersion; 2] =
        [&rustls::version::TLS13, &rustls::version::TLS12];
    match minimum {
        TlsVersion::V12 => &NEWEST_FIRST,
        TlsVersion::V13 => &NEWEST_FIRST[..1],
    }
}

/// Now, in seconds since the Unix epoch: certificates are good by the calendar.
fn wall() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// The names by which the certificate `der` identifies its holder, the most telling first; `None` if it is none.
#[must_use]
pub fn certificate_names(der: &[u8]) -> Option<Box<[Box<str>]>> {
    x509::read(der).map(x509::Facts::identity)
}

/// A loaded certificate, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateStatus {
    /// Its file.
    pub path: PathBuf,
    /// The names it is good for.
    pub names: Vec<String>,
    /// When it expires, in seconds since the Unix epoch.
    pub not_after: i64,
}

/// TLS of a listener or of a service at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsStatus {
    /// Certificates that are shown to the other side.
    pub certificates: Vec<CertificateStatus>,
    /// Why what its files hold now is not in use, while that is so.
    pub refused: Option<String>,
    /// Times that changed files were taken into use.
    pub reloads: u64,
    /// Times that changed files were refused.
    pub refusals: u64,
}

/// Who a client proved to be: the names in its certificate, the most telling first.
#[derive(Debug)]
pub(crate) struct Identity {
    names: Box<[Box<str>]>,
}

impl Identity {
    /// Every name; none is empty.
    pub(crate) fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// The name that stands for it.
    pub(crate) fn name(&self) -> &str {
        &self.names[0]
    }
}

/// What a client and the gateway agreed on.
#[derive(Debug)]
pub(crate) struct Agreed {
    /// The protocol above TLS; `None` for a client that named none, which speaks HTTP/1.1.
    pub(crate) alpn: Option<Alpn>,
    /// Who the client proved to be, if it did.
    pub(crate) identity: Option<Identity>,
}

impl Agreed {
    pub(crate) fn of(tls: &Connection) -> Self {
        let identity = tls.peer_certificates().and_then(|chain| {
            let names = x509::read(chain.first()?)?.identity();
            (!names.is_empty()).then_some(Identity { names })
        });
        Self { alpn: tls.alpn_protocol().and_then(Alpn::of_wire), identity }
    }
}

/// Whether a session was resumed.
pub(crate) fn resumed(tls: &Connection) -> bool {
    tls.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// Why a handshake failed, as a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The other side closed the connection.
    Closed,
    /// It took too long.
    Timeout,
    /// The other side's certificate comes from no authority that is believed.
    Authority,
    /// Its certificate is for another name.
    Name,
    /// Its certificate has expired, or is not valid yet.
    Expired,
    /// Its certificate is no good for another reason, or it has none.
    Certificate,
    /// It refused ours, or what we offer.
    Refused,
    /// No version, cipher or protocol is spoken by both.
    Incompatible,
    /// It asked for a name that no certificate has.
    Unmatched,
    /// What it sent is not TLS.
    Malformed,
    /// Our own certificates or authorities cannot be used.
    Unusable,
}

impl Failure {
    pub(crate) const ALL: [Failure; 11] = [
        Self::Closed,
        Self::Timeout,
        Self::Authority,
        Self::Name,
        Self::Expired,
        Self::Certificate,
        Self::Refused,
        Self::Incompatible,
        Self::Unmatched,
        Self::Malformed,
        Self::Unusable,
    ];

    pub(crate) fn name(self) -> &'static str {
        &self.detail()["tls_".len()..]
    }

    /// What a client is told about an endpoint that cannot be reached.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Self::Closed => "tls_closed",
            Self::Timeout => "tls_timeout",
            Self::Authority => "tls_authority",
            Self::Name => "tls_name",
            Self::Expired => "tls_expired",
            Self::Certificate => "tls_certificate",
            Self::Refused => "tls_refused",
            Self::Incompatible => "tls_incompatible",
            Self::Unmatched => "tls_unmatched",
            Self::Malformed => "tls_malformed",
            Self::Unusable => "tls_unusable",
        }
    }

    /// What `error` of a handshake comes to.
    pub(crate) fn of(error: &io::Error) -> Self {
        use rustls::Error;
        if error.kind() == io::ErrorKind::TimedOut {
            return Self::Timeout;
        }
        let Some(error) = error.get_ref() else { return Self::Closed };
        let Some(error) = error.downcast_ref::<Error>() else { return Self::Unusable };
        match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => Self::Authority,
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Self::Name,
            Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => Self::Expired,
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Self::Certificate,
            Error::AlertReceived(AlertDescription::UserCanceled | AlertDescription::CloseNotify) => {
                Self::Closed
            }
            Error::AlertReceived(_) => Self::Refused,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible,
            // What rustls says when the resolver finds none.
            Error::General(_) => Self::Unmatched,
            _ => Self::Malformed,
        }
    }
}

/// What is wrong, to the last cause.
pub(crate) fn explain(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.get_ref().and_then(|inner| inner.source());
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
