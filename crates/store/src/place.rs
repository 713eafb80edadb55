//! Where a store is.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::OpenError;

/// A store's address, told apart by engine.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// A file of SQLite.
    File(PathBuf),
    /// A database of PostgreSQL, by its URL.
    Server(String),
}

/// Which engine keeps the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A file on this machine.
    Sqlite,
    /// A server.
    Postgres,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Sqlite => "sqlite",
            Engine::Postgres => "postgres",
        })
    }
}

impl Place {
    /// Reads an address: `sqlite:///absolute`, `sqlite://relative`, a plain path, `postgres://…`.
    ///
    /// # Errors
    /// When it is none of these. The message repeats no password.
    pub fn parse(url: &str) -> Result<Self, OpenError> {
        let wrong = || Err(OpenError::Url { url: without_password(url) });
        match url.split_once("://") {
            Some(("sqlite", path)) if !path.is_empty() && !path.contains('?') => Ok(Self::File(path.into())),
            Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => Ok(Self::Server(url.to_owned())),
            Some(_) => wrong(),
            // `:memory:` keeps nothing, and `sqlite:path` is a typing error.
            None if url.is_empty() || url.contains(':') => wrong(),
            None => Ok(Self::File(url.into())),
        }
    }

    /// Which engine it is of.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        match self {
            Place::File(_) => Engine::Sqlite,
            Place::Server(_) => Engine::Postgres,
        }
    }
}

/// Without the password.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Server(url) => f.write_str(&without_password(url)),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `url` with stars where its password is, in its authority or in its query.
fn without_password(url: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let mut shown = match (base.find("://"), base.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 < at => {
            let user = base[scheme + 3..at].split(':').next().unwrap_or_default();
            let stars = if base[scheme + 3..at].contains(':') { ":***" } else { "" };
            format!("{}{user}{stars}{}", &base[..scheme + 3], &base[at..])
        }
        _ => base.to_owned(),
    };
    for (index, pair) in query.iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if index == 0 { '?' } else { '&' });
        shown.push_str(if pair.starts_with("password=") { "password=***" } else { pair });
    }
    shown
}

/// File systems whose locks and caches SQLite cannot trust, by the number that `statfs` gives. From Linux's
/// `include/uapi/linux/magic.h` and the file systems' own sources.
const NETWORK: [(i64, &str); 14] = [
    (0x6969, "NFS"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x517B, "SMB"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0161_1970, "GFS2"),
    (0x7461_636F, "OCFS2"),
];

/// The network file system of this number, if it is one.
pub(crate) fn network(magic: i64) -> Option<&'static str> {
    // Some architectures sign-extend the 32 bits.
    NETWORK.iter().find(|(known, _)| known & 0xFFFF_FFFF == magic & 0xFFFF_FFFF).map(|(_, name)| *name)
}

/// Refuses directories on network file systems. FUSE too: what stands behind it cannot be told.
pub(crate) fn refuse_network(file: &Path, directory: &Path) -> Result<(), OpenError> {
    let found = rustix::fs::statfs(directory).map_err(|source| OpenError::File {
        doing: "look at the file system of",
        path: file.to_path_buf(),
        source: source.into(),
    })?;
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    match network(found.f_type as i64) {
        Some(kind) => Err(OpenError::NetworkFileSystem { path: file.to_path_buf(), kind }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_engines() {
        let file = |path: &str| Some(Place::File(path.into()));
        assert_eq!(Place::parse("sqlite:///var/lib/a.db").ok(), file("/var/lib/a.db"));
        assert_eq!(Place::parse("sqlite://a.db").ok(), file("a.db"));
        assert_eq!(Place::parse("state/a.db").ok(), file("state/a.db"));
        assert_eq!(Place::parse("postgres://u@h/d").map(|place| place.engine()).ok(), Some(Engine::Postgres));
        for wrong in ["", ":memory:", "sqlite:a.db", "sqlite://", "mysql://h/d", "sqlite://a.db?mode=memory"]
        {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for url in [
            "postgres://u:hunter2@h/d",
            "postgres://u:hunter2@h/d?sslmode=require",
            "postgres://h/d?user=u&password=hunter2",
        ] {
            let shown = Place::parse(url).map(|place| place.to_string()).unwrap_or_default();
            assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
        }
        let refused = Place::parse("mysql://u:hunter2@h/d").map_err(|error| error.to_string());
        assert!(matches!(&refused, Err(message) if !message.contains("hunter2")), "{refused:?}");
        assert_eq!(without_password("postgres://u@h/d"), "postgres://u@h/d");
    }

    #[test]
    fn network_file_systems_are_known_by_number() {
        assert_eq!(network(0x6969), Some("NFS"));
        assert_eq!(network(0xFF53_4D42), Some("CIFS"));
        assert_eq!(network(-11_317_950), Some("CIFS"));
        assert_eq!(network(0xEF53), None); // ext4
        assert_eq!(network(0x0102_1994), None); // tmpfs
    }
}
