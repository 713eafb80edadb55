//! The running process: build, run, reload, drain.
//!
//! Everything that reaches the gateway from outside (a changed file, a signal, an admin page) comes through here.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gateway::metrics::Exporter;
use gateway::service::Clock;
use gateway::{Gateway, ReloadSummary};
use model::{Change, Timestamp};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::{AdminFlag, Failure, Up, say};
use crate::config::{self, Config, Loaded};
use crate::registry::Fleet;
use crate::status::{self, Status};
use crate::store::Keeper;
use crate::watch::Watch;
use crate::{admin, parent};

/// A built gateway with all that surrounds it. Ports are bound, nothing runs yet.
pub struct App {
    shared: Arc<Shared>,
    admin: Option<TcpListener>,
}

/// What the admin pages, the watcher and the signal handler share.
pub struct Shared {
    gateway: Gateway,
    fleet: Arc<Fleet>,
    source: Source,
    state: Mutex<State>,
    /// The records, when the configuration names a store.
    keeper: OnceLock<Arc<Keeper>>,
}

/// Where the configuration comes from, and what the command line lays over it.
#[derive(Clone, Debug)]
struct Source {
    file: Option<PathBuf>,
    to: Vec<String>,
    listen: Option<SocketAddr>,
    admin: Option<AdminFlag>,
    workers: Option<u32>,
}

#[derive(Debug)]
struct State {
    in_force: Loaded,
    version: u64,
    since: Timestamp,
    refused: u64,
    refusal: Option<String>,
}

/// What the metrics page says of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigFigures {
    /// Counts the configurations that took effect, from 1.
    pub version: u64,
    /// When the newest one did, in seconds since the Unix epoch.
    pub since: u64,
    /// Times that a changed file was refused.
    pub refused: u64,
    /// Whether the newest file is the one in force.
    pub current: bool,
}

impl Source {
    fn load(&self) -> Result<Loaded, String> {
        let mut loaded = match &self.file {
            Some(file) => config::load(file).map_err(|errors| errors.to_string())?,
            None => Loaded::from_flags(Config::forward_to(&self.to))?,
        };
        loaded.lay_over(|config| {
            if let Some(address) = self.listen {
                config.listeners = vec![gateway::config::Listener::at(address)];
            }
            match self.admin {
                Some(AdminFlag::Off) => config.admin.enabled = false,
                Some(AdminFlag::At(address)) => {
                    config.admin = config::Admin { address, enabled: true, ..config.admin.clone() }
                }
                None => {}
            }
            if let Some(workers) = self.workers {
                config.workers = workers;
            }
        });
        for warning in loaded.config().warnings() {
            warn!(source = self.name(), warning, "accepted, but look at it");
        }
        Ok(loaded)
    }

    fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "the command line".to_owned(), |file| file.display().to_string())
    }
}

impl App {
    /// Reads the configuration and takes every port. Nothing is started: on error nothing is left behind.
    ///
    /// # Errors
    /// What is wrong with the file or which port cannot be had, for people.
    pub fn build(up: &Up) -> Result<Self, Failure> {
        let source = Source {
            file: up.file.clone(),
            to: up.to.clone(),
            listen: up.listen,
            admin: up.admin,
            workers: up.workers,
        };
        let in_force = source.load().map_err(Failure::Input)?;
        let config = in_force.config();
        let admin = if config.admin.enabled { Some(bind_admin(config.admin.address)?) } else { None };
        let fleet = Arc::new(Fleet::build(config)?);
        let gateway = Gateway::build_with(config.gateway(), fleet.registry())
            .map_err(|problem| Failure::Input(problem.to_string()))?;
        let state = State { in_force, version: 1, since: Clock::wall(), refused: 0, refusal: None };
        let keeper = OnceLock::new();
        Ok(Self {
            shared: Arc::new(Shared { gateway, fleet, source, state: Mutex::new(state), keeper }),
            admin,
        })
    }

    /// Opens the store that the configuration names, if it names one, and notes what begins.
    ///
    /// # Errors
    /// Why it cannot be opened, for people.
    async fn open_store(&self) -> Result<(), Failure> {
        let config = self.shared.state().in_force.config().clone();
        if config.store.is_none() && !config.keeps_leases() {
            return self.shared.fleet.open(None).await;
        }
        let params = config.records();
        let keeper = Keeper::open(&params).await.map_err(|problem| Failure::Input(problem.to_string()))?;
        let what = format!("started with {}", self.shared.source.name());
        keeper.record(&change("seawall up", what, "stop it")).await;
        let store = keeper.store().clone();
        let _ = self.shared.keeper.set(keeper);
        self.shared.fleet.open(Some(store)).await
    }

    /// Where it listens, with real ports: listeners first, then the name server, then the admin pages.
    ///
    /// # Errors
    /// When the system does not tell the admin pages' port.
    pub fn announce(&self) -> std::io::Result<Vec<String>> {
        let mut lines: Vec<String> = self
            .shared
            .gateway
            .listeners()
            .iter()
            .map(|(_, address)| format!("listening on {address}"))
            .collect();
        if let Some(address) = self.shared.fleet.dns_address() {
            lines.push(format!("dns on {address}"));
        }
        if let Some(admin) = &self.admin {
            lines.push(format!("admin on http://{}", admin.local_addr()?));
        }
        Ok(lines)
    }

    /// Runs until a signal ends it.
    ///
    /// # Errors
    /// When the gateway or the admin pages cannot be started.
    async fn run(self, signals: Signals) -> std::io::Result<()> {
        let shared = self.shared;
        let mut tasks = JoinSet::new();
        if let Some(listener) = self.admin {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(admin::serve(listener, Arc::clone(&shared)));
        }
        tasks.spawn(Arc::clone(&shared.fleet).run(CancellationToken::new()));
        let Signals { hangup, reopen, terminate, interrupt } = signals;
        tasks.spawn(obey_signals(terminate, interrupt, reopen, Arc::clone(&shared)));
        let loaded = shared.state().in_force.hash();
        let watch = shared.source.file.clone().map(|file| Watch::new(file, loaded));
        tasks.spawn(follow(watch, hangup, Arc::clone(&shared)));
        if let Some(keeper) = shared.keeper() {
            tasks.spawn(Arc::clone(keeper).run());
        }
        let ran = shared.gateway.run().await;
        tasks.shutdown().await;
        if let Some(keeper) = shared.keeper()
            && let Err(problem) = keeper.store().clone().close().await
        {
            warn!(%problem, "the store's log was not folded into its file; the next start does that");
        }
        ran
    }
}

impl Shared {
    /// Reads the configuration again and puts it in force. When anything is wrong with it the old one stays; a process that
    /// leaves takes no new one.
    pub async fn reload(&self, who: &str) {
        if self.phase() != "serving" {
            warn!(who, "not reloaded: the process is leaving");
            return;
        }
        let outcome = self.load_and_apply(who).await;
        if let (Ok((_, summary)), Some(keeper)) = (&outcome, self.keeper())
            && summary.version != self.state().version
        {
            let what = format!("configuration {} from {}: {summary}", summary.version, self.source.name());
            keeper.record(&change(who, what, "put the file back as it was")).await;
        }
        let mut state = self.state();
        match outcome {
            Ok((loaded, summary)) => {
                state.in_force = loaded;
                state.version = summary.version;
                state.since = Clock::wall();
                state.refusal = None;
                let summary = summary.to_string();
                info!(version = state.version, who, summary, "configuration reloaded");
            }
            Err(problem) => {
                state.refused += 1;
                warn!(
                    file = self.source.name(),
                    who, "changed configuration refused, the old one stays in force:\n{problem}"
                );
                state.refusal = Some(problem);
            }
        }
    }

    async fn load_and_apply(&self, who: &str) -> Result<(Loaded, ReloadSummary), String> {
        let loaded = self.source.load()?;
        self.refuse_what_needs_a_restart(&loaded)?;
        let config = loaded.config().gateway();
        let summary = self.gateway.reload(config, who).await.map_err(|problem| problem.to_string())?;
        Ok((loaded, summary))
    }

    /// What needs a restart. The admin pages keep their address, because whoever reads them would lose them without a word.
    fn refuse_what_needs_a_restart(&self, loaded: &Loaded) -> Result<(), String> {
        if self.state().in_force.config().store != loaded.config().store {
            return Err(format!(
                "{}: `store` cannot change while running; put it back or restart Seawall",
                self.source.name()
            ));
        }
        let (before, after) = (self.state().in_force.config().admin.clone(), &loaded.config().admin);
        if let Some(what) = self.fleet.needs_restart(loaded.config()) {
            return Err(format!(
                "{}: {what} cannot change while running; put it back or restart Seawall",
                self.source.name()
            ));
        }
        if before.enabled == after.enabled && before.address == after.address {
            return Ok(());
        }
        Err(format!(
            "{}: admin.address and admin.enabled cannot change while running; put them back ({}) or restart Seawall",
            self.source.name(),
            if before.enabled { before.address.to_string() } else { "enabled: false".to_owned() },
        ))
    }

    /// Everything at one moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = status::gather(&self.gateway.status(), Clock::wall());
        status.consensus = self.fleet.consensus();
        let state = self.state();
        status.config = status::Config {
            source: self.source.name(),
            version: state.version,
            hash: format!("{:016x}", state.in_force.hash()),
            since: state.since.to_string(),
            refused: state.refused,
            refusal: state.refusal.clone(),
        };
        status
    }

    /// What this process keeps for its fleet.
    pub(crate) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Whether only this machine reaches the admin pages.
    #[must_use]
    pub fn admin_is_local(&self) -> bool {
        self.state().in_force.config().admin.address.ip().is_loopback()
    }

    /// Writes the gateway's metrics, without those of the process around it.
    pub fn export(&self, out: &mut Exporter) {
        self.gateway.export(out);
    }

    /// What the metrics page says of the configuration.
    #[must_use]
    pub fn config_figures(&self) -> ConfigFigures {
        let state = self.state();
        ConfigFigures {
            version: state.version,
            since: state.since.as_unix_nanos() / 1_000_000_000,
            refused: state.refused,
            current: state.refusal.is_none(),
        }
    }

    /// The configuration in force as it may be shown: what came from the environment or a secret's file is left out.
    #[must_use]
    pub fn shown_config(&self) -> serde_json::Value {
        self.state().in_force.shown()
    }

    /// Host names by which the admin pages may be asked for.
    #[must_use]
    pub fn admin_hosts(&self) -> Vec<String> {
        self.state().in_force.config().admin.hosts.clone()
    }

    /// `serving`, `lame_duck`, `finishing` or `stopped`.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        self.gateway.phase()
    }

    /// The records, when there are any.
    pub(crate) fn keeper(&self) -> Option<&Arc<Keeper>> {
        self.keeper.get()
    }

    // A panic while the lock was held left whole values behind: each field is replaced in one step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change that takes effect now.
fn change(who: &str, what: String, undo: &str) -> Change {
    Change { at: Clock::wall(), who: who.to_owned(), what, undo: undo.to_owned() }
}

fn bind_admin(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|problem| {
        Failure::Input(format!(
            "cannot serve the admin pages at {address}: {problem}; choose another address with --admin or \
             `admin: {{address: …}}`, or turn them off with --admin off"
        ))
    })
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }
}

async fn obey_signals(mut terminate: Signal, mut interrupt: Signal, mut reopen: Signal, shared: Arc<Shared>) {
    let mut draining = false;
    loop {
        tokio::select! {
            _ = reopen.recv() => {
                shared.gateway.reopen_access_log();
                info!("access log opened again");
                continue;
            }
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if draining {
            warn!("second signal: stopping at once");
            shared.gateway.stop();
        } else {
            info!("draining; a second signal stops at once");
            draining = true;
            shared.gateway.drain();
        }
    }
}

/// Reloads when the file changes or a signal asks for it, one after the other. Apart from the other signals, which are not to
/// wait for a reload.
async fn follow(mut watch: Option<Watch>, mut hangup: Signal, shared: Arc<Shared>) {
    loop {
        let changed = async {
            match &mut watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        let who = tokio::select! {
            _ = hangup.recv() => "SIGHUP",
            () = changed => "changed file",
        };
        shared.reload(who).await;
    }
}

/// `seawall up`.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn up(up: &Up) -> Result<(), Failure> {
    let app = App::build(up)?;
    let failed = |problem: std::io::Error| Failure::Runtime(format!("cannot run: {problem}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        // Before it says that it is there: whoever reads that may send a signal at once.
        let signals = Signals::new().map_err(failed)?;
        app.open_store().await?;
        for line in app.announce().map_err(failed)? {
            say(&line)?;
        }
        if up.exit_with_parent {
            parent::exit_with_parent();
        }
        app.run(signals).await.map_err(failed)
    })
}
