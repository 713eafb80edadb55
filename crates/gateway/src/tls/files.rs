//! Certificates, keys and authorities from files. Messages say which file and what would be right; no content of a file is
//! ever among them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use model::Timestamp;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{CertificateStatus, TlsStatus, x509};
use crate::config::problem::Place;
use crate::config::{Problem, Severity};

/// Larger files hold something else.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a file looks like without reading it. The inode tells swapped symbolic links apart, the time of change what was written
/// in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What a set of files looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Looks(BTreeMap<PathBuf, Option<Look>>);

impl Looks {
    pub(super) fn at<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let look = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            Some(Look {
                device: found.dev(),
                inode: found.ino(),
                size: found.size(),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            })
        };
        Self(paths.into_iter().map(|path| (path.to_owned(), look(path))).collect())
    }
}

/// What was loaded from files, and how these look. Swapped whole when they have changed, settled and are sound; until then what
/// was loaded before stays in use.
#[derive(Debug)]
pub(super) struct Followed<M> {
    material: RwLock<M>,
    watched: Mutex<Watched>,
    reloads: AtomicU64,
    refusals: AtomicU64,
}

/// How the files looked.
#[derive(Debug)]
struct Watched {
    /// When they were last loaded, or refused.
    used: Looks,
    /// At the last look: what still changes is not loaded.
    last: Looks,
    refused: Option<String>,
}

impl<M: Clone> Followed<M> {
    /// `material`, loaded from files that looked like `used` just before.
    pub(super) fn new(material: M, used: Looks) -> Self {
        Self {
            material: RwLock::new(material),
            watched: Mutex::new(Watched { last: used.clone(), used, refused: None }),
            reloads: AtomicU64::default(),
            refusals: AtomicU64::default(),
        }
    }

    /// What is in use.
    pub(super) fn get(&self) -> RwLockReadGuard<'_, M> {
        self.material.read()
    }

    /// Loads the files again that look like `looks` now, if they changed and have settled. Answers what to tell about it, if
    /// that is news.
    pub(super) fn refresh(
        &self,
        looks: Looks,
        load: impl FnOnce(&M, &mut Place<'_>) -> Option<M>,
        untimely: impl FnOnce(&M) -> Option<String>,
    ) -> Option<Result<(), String>> {
        let mut watched = self.watched.lock();
        let settled = std::mem::replace(&mut watched.last, looks.clone()) == looks;
        if !settled || watched.used == looks {
            return None;
        }
        watched.used = looks;
        let mut problems = Vec::new();
        let before = self.get().clone();
        let why = match load(&before, &mut Place::root(&mut problems)) {
            // At the start an expired certificate is better than none; here there is one that is no worse.
            Some(material) => match untimely(&material) {
                None => {
                    *self.material.write() = material;
                    watched.refused = None;
                    self.reloads.fetch_add(1, Relaxed);
                    return Some(Ok(()));
                }
                Some(why) => why,
            },
            None => {
                let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
                errors.map(Problem::to_string).collect::<Vec<_>>().join("; ")
            }
        };
        self.refusals.fetch_add(1, Relaxed);
        watched.refused = Some(why.clone());
        Some(Err(why))
    }

    /// With these certificates shown to the other side.
    pub(super) fn status(&self, certificates: Vec<CertificateStatus>) -> TlsStatus {
        TlsStatus {
            certificates,
            refused: self.watched.lock().refused.clone(),
            reloads: self.reloads.load(Relaxed),
            refusals: self.refusals.load(Relaxed),
        }
    }
}

/// A certificate that was loaded.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) facts: x509::Facts,
}

impl Loaded {
    pub(super) fn status(&self) -> CertificateStatus {
        let facts = &self.facts;
        let names = if facts.dns.is_empty() {
            facts.clone().identity().iter().map(ToString::to_string).collect()
        } else {
            facts.dns.clone()
        };
        CertificateStatus { path: self.path.clone(), names, not_after: facts.not_after }
    }

    /// Why it is not valid at `now`, in seconds since the Unix epoch, if so.
    pub(super) fn untimely(&self, now: i64) -> Option<String> {
        let at = |secs: i64| {
            let secs = u64::try_from(secs).unwrap_or(0);
            Timestamp::from_unix_nanos(secs.saturating_mul(1_000_000_000))
        };
        let (shown, facts) = (self.path.display(), &self.facts);
        if facts.not_after < now {
            return Some(format!("the certificate in {shown} expired at {}", at(facts.not_after)));
        }
        (facts.not_before > now)
            .then(|| format!("the certificate in {shown} is not valid before {}", at(facts.not_before)))
    }
}

/// Reads a small file whole. Reports why it cannot be read.
pub(super) fn read(path: &Path, place: &mut Place<'_>) -> Option<Vec<u8>> {
    let shown = path.display();
    let result = fs::metadata(path).and_then(|found| match found.len() {
        _ if !found.is_file() => Err(io::Error::other("it is no file")),
        length if length > BYTES_MAX => Err(io::Error::other("it is far too large")),
        _ => fs::read(path),
    });
    result
        .map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => {
                    "name a file that exists; paths are relative to where Seawall was started"
                }
                io::ErrorKind::PermissionDenied => {
                    "let the user that Seawall runs as read the file and enter its directories"
                }
                _ => "name a readable file in PEM",
            };
            place.error(format!("cannot read {shown}: {error}"), remedy);
        })
        .ok()
}

/// What a file in PEM holds, by the labels of its sections.
fn labels(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let found: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .filter(|label| {
            label.len() < 40 && label.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b' ')
        })
        .take(4)
        .collect();
    if found.is_empty() { "nothing in PEM".to_owned() } else { found.join(", ") }
}

/// The certificates in a file, at least one.
pub(super) fn certificates(path: &Path, place: &mut Place<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = read(path, place)?;
    let shown = path.display();
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Some(found),
        Ok(_) => {
            let message = format!("{shown} holds no certificate but {}", labels(&bytes));
            place.error(message, "name a file with a section `BEGIN CERTIFICATE`");
            None
        }
        Err(_) => {
            place.error(format!("{shown} is no sound PEM"), "write the file again, whole");
            None
        }
    }
}

fn key(path: &Path, place: &mut Place<'_>) -> Option<PrivateKeyDer<'static>> {
    let bytes = read(path, place)?;
    let shown = path.display();
    if let Ok(key) = PrivateKeyDer::from_pem_slice(&bytes) {
        return Some(key);
    }
    let labels = labels(&bytes);
    let (message, remedy) = if labels.contains("ENCRYPTED") {
        (
            format!("the key in {shown} is locked with a password"),
            "unlock it, such as with `openssl pkey`, and protect the file by its permissions",
        )
    } else {
        (
            format!("{shown} holds no private key but {labels}"),
            "name a file with a section `BEGIN PRIVATE KEY`",
        )
    };
    place.error(message, remedy);
    None
}

/// A certificate with its key, which must belong together.
pub(super) fn certified_key(
    cert: &Path,
    key_file: &Path,
    ocsp: Option<&Path>,
    provider: &CryptoProvider,
    place: &mut Place<'_>,
) -> Option<Loaded> {
    let chain = certificates(cert, &mut place.at("cert"));
    let key = key(key_file, &mut place.at("key"));
    let ocsp_response = match ocsp {
        Some(path) => Some(read(path, &mut place.at("ocsp"))?),
        None => None,
    };
    let (chain, key) = (chain?, key?);
    let Some(facts) = x509::read(&chain[0]) else {
        let message = format!("the first certificate in {} cannot be understood", cert.display());
        place.at("cert").error(message, "write the file again, whole");
        return None;
    };
    let signing = match provider.key_provider.load_private_key(key) {
        Ok(signing) => signing,
        Err(_) => {
            let message = format!("the key in {} is of a kind that is not supported", key_file.display());
            place.at("key").error(message, "use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits");
            return None;
        }
    };
    let mut certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        // Some keys cannot tell; the first handshake will.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => {
            let message = format!(
                "the key in {} is not that of the certificate in {}",
                key_file.display(),
                cert.display()
            );
            let remedy = "name the two that were made together; the holder's certificate comes first in its file, \
                          those of authorities follow";
            place.at("key").error(message, remedy);
            return None;
        }
    }
    certified.ocsp = ocsp_response;
    Some(Loaded { path: cert.to_owned(), key: Arc::new(certified), facts })
}

/// The authorities in a file.
pub(super) fn authorities(path: &Path, place: &mut Place<'_>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path, place)? {
        if roots.add(authority).is_err() {
            let message = format!("a certificate in {} cannot be that of an authority", path.display());
            place.error(message, "name a file that holds certificates of authorities alone");
            return None;
        }
    }
    Some(roots)
}

/// The authorities that the system trusts.
pub(super) fn system_authorities(place: &mut Place<'_>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let remedy = "install the package ca-certificates, or name a file with the authorities";
        place.error("the system trusts no authority", remedy);
        return None;
    }
    Some(roots)
}
