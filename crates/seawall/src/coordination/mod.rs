//! Coordination in a running process: the engine that the configuration asks for, the socket by which other processes of the
//! machine use it, and the command that takes locks.

mod lock;
pub(crate) mod metrics;

pub use lock::{LockArgs, run};

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use axum::Router;
use coord::Coord;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use ::store::{Place, Store, StoreParams};

use crate::config::Config;

/// The engine, and what others of this machine ask it by. Bound, nothing is served yet.
pub(crate) struct Opened {
    pub(crate) coord: Coord,
    pub(crate) local: Option<Local>,
}

/// The socket, and the token for those who come by the admin address instead.
pub(crate) struct Local {
    listener: UnixListener,
    pub(crate) token: String,
}

/// Opens the engine that the configuration asks for. `store`: this process's records.
///
/// # Errors
/// What is wrong, for people.
pub(crate) async fn open(config: &Config, store: Option<Store>) -> Result<Opened, String> {
    match (&config.coord, store) {
        (Some(params), _) if !params.etcd.is_empty() => {
            Ok(Opened { coord: Coord::etcd(params)?, local: None })
        }
        (Some(_), Some(store)) => {
            let local = Local::bind(&config.records())?;
            let coord = Coord::on_store(store).await.map_err(|problem| problem.to_string())?;
            Ok(Opened { coord, local: Some(local) })
        }
        // Registrations renew themselves, and ids take another number: neither needs to outlive the process.
        _ => Ok(Opened { coord: Coord::in_memory(), local: None }),
    }
}

/// Where the engine on the records in `store` is asked.
///
/// # Errors
/// When the records are not in a file.
pub(crate) fn socket_beside(store: &StoreParams) -> Result<PathBuf, String> {
    beside(store, "sock")
}

fn beside(store: &StoreParams, what: &str) -> Result<PathBuf, String> {
    match Place::parse(&store.url).map_err(|problem| problem.to_string())? {
        Place::File(path) => {
            let mut name = path.into_os_string();
            name.push(format!(".{what}"));
            Ok(name.into())
        }
        Place::Server(_) => Err(NEEDS_A_FILE.to_owned()),
    }
}

/// What to say when the engine inside the process is wanted on records elsewhere.
pub(crate) const NEEDS_A_FILE: &str = "the engine `sqlite` keeps leases in records that this process owns alone, in a SQLite \
                                       file; with records in PostgreSQL name the members of an etcd cluster instead";

impl Local {
    /// Takes the socket's place. Whoever owns the records owns it: an older one is a left-over.
    fn bind(records: &StoreParams) -> Result<Self, String> {
        let (socket, token_file) = (socket_beside(records)?, beside(records, "token")?);
        let failed = |what: &Path, problem: std::io::Error| {
            format!("cannot offer coordination at `{}`: {problem}", what.display())
        };
        // Made under another name, so that nobody connects before only its owner may.
        let draft = beside(records, "sock.draft")?;
        let _ = fs::remove_file(&draft);
        let listener = UnixListener::bind(&draft).map_err(|problem| failed(&draft, problem))?;
        fs::set_permissions(&draft, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&draft, &socket))
            .map_err(|problem| failed(&socket, problem))?;
        let token = new_token().map_err(|problem| failed(&token_file, problem))?;
        let _ = fs::remove_file(&token_file);
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&token_file)
            .and_then(|mut file| file.write_all(token.as_bytes()))
            .map_err(|problem| failed(&token_file, problem))?;
        Ok(Self { listener, token })
    }

    /// Serves until `stop`.
    pub(crate) async fn serve(self, coord: Coord, stop: CancellationToken) {
        let served = axum::serve(self.listener, coord::http::routes(coord, None));
        if let Err(problem) = served.with_graceful_shutdown(stop.cancelled_owned()).await {
            warn!(%problem, "coordination is no longer offered to other processes");
        }
    }
}

/// 256 bits that nobody can guess, as text.
fn new_token() -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The same commands for those who come by the admin address with the token.
pub(crate) fn admin_routes(coord: Option<&Coord>, token: Option<&str>) -> Router {
    match (coord, token) {
        (Some(coord), Some(token)) => coord::http::routes(coord.clone(), Some(token.to_owned())),
        _ => Router::new(),
    }
}
