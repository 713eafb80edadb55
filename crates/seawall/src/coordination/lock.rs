//! `seawall lock`: runs a command while a lease is held, lists leases, takes them from their holders.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use clap::{Args, Subcommand};
use coord::{AcquireError, Coord, CoordParams, Failure as Engine, Lease, LeaseOptions, Token};
use model::Span;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::socket_beside;
use crate::cli::{Failure, say};
use crate::config;

/// Where the fencing token stands in the command's environment.
const TOKEN_VARIABLE: &str = "SEAWALL_FENCING_TOKEN";
/// Where the lease's name stands.
const NAME_VARIABLE: &str = "SEAWALL_LOCK_NAME";
/// The lease was not had in time. `EX_TEMPFAIL` of `sysexits.h`: try again later.
const NOT_HAD: u8 = 75;
/// The lease was lost and the command stopped.
const LOST: u8 = 76;

/// Takes leases, and says who holds them.
#[derive(Debug, Args)]
pub struct LockArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a command while holding a lease, and stop it when the lease is lost.
    ///
    /// The command finds the term's fencing token in SEAWALL_FENCING_TOKEN. Whatever it writes to should refuse tokens below
    /// the highest it has seen: no lock can stop a writer that was paused at the wrong moment. Exit code: the command's own;
    /// 75 when the lease was not had in time; 76 when it was lost.
    Run(Run),
    /// Who holds what.
    List {
        #[command(flatten)]
        target: Target,
        /// For scripts.
        #[arg(long)]
        json: bool,
    },
    /// Take a lease from its holder, whose token is superseded at once.
    Release {
        /// The lease.
        name: String,
        /// The holder's token, as `list` shows it: not another holder is hit who came in between. Default: whoever holds it.
        #[arg(long)]
        token: Option<u64>,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The lease.
    name: String,
    /// How long the lease outlives this command if it is killed.
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    ttl: Span,
    /// Longest wait for the lease.
    #[arg(long, value_name = "SPAN", default_value = "30s")]
    wait: Span,
    #[command(flatten)]
    target: Target,
    /// The command.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Which engine.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// The configuration file whose engine is used; with SQLite that of the Seawall that runs on it.
    #[arg(long, value_name = "FILE", default_value = "seawall.yaml", conflicts_with_all = ["etcd", "socket"])]
    file: PathBuf,
    /// The members of an etcd cluster, instead of a file.
    #[arg(long, value_name = "URL,…", value_delimiter = ',', conflicts_with = "socket")]
    etcd: Vec<String>,
    /// The socket of a running Seawall, instead of a file.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Target {
    /// Connects when first asked.
    pub(crate) fn open(&self) -> Result<Coord, Failure> {
        let defaults = CoordParams::default();
        if let Some(socket) = &self.socket {
            return Ok(Coord::at_socket(socket, defaults.timeout.get()));
        }
        if !self.etcd.is_empty() {
            return on_etcd(&CoordParams { etcd: self.etcd.clone(), ..defaults });
        }
        let loaded = config::load(&self.file).map_err(|errors| Failure::Input(errors.to_string()))?;
        let config = loaded.config();
        let coord = config.coord.clone().unwrap_or_default();
        if !coord.etcd.is_empty() {
            return on_etcd(&coord);
        }
        let directory = self.file.parent().unwrap_or_else(|| std::path::Path::new(""));
        let socket = socket_beside(&config.records()).map_err(Failure::Input)?;
        Ok(Coord::at_socket(&directory.join(socket), coord.timeout.get()))
    }
}

fn on_etcd(params: &CoordParams) -> Result<Coord, Failure> {
    Coord::etcd(params).map_err(Failure::Input)
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &LockArgs) -> Result<(), Failure> {
    let failed = |problem: std::io::Error| Failure::Runtime(format!("cannot run: {problem}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        match &args.action {
            Action::Run(run) => hold(run).await,
            Action::List { target, json } => list(&target.open()?, *json).await,
            Action::Release { name, token, target } => release(&target.open()?, name, *token).await,
        }
    })
}

fn engine(problem: &Engine) -> Failure {
    match problem {
        Engine::Refused(_) => Failure::Input(problem.to_string()),
        _ => Failure::Runtime(problem.to_string()),
    }
}

async fn list(coord: &Coord, as_json: bool) -> Result<(), Failure> {
    let leases = coord.leases().await.map_err(|problem| engine(&problem))?;
    if as_json {
        let list: Vec<_> = leases
            .iter()
            .map(|(name, entry)| json!({ "name": name, "token": entry.token, "holder": entry.value }))
            .collect();
        return say(&serde_json::to_string_pretty(&list).expect("plain text and numbers"));
    }
    if leases.is_empty() {
        return say("no lease is held");
    }
    let width = leases.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(4);
    let mut lines = vec![format!("{:width$}  {:16}  HOLDER", "NAME", "TOKEN")];
    for (name, entry) in &leases {
        let token = entry.token.map_or_else(String::new, |token| token.to_string());
        lines.push(format!("{name:width$}  {token:16}  {}", entry.value));
    }
    say(&lines.join("\n"))
}

async fn release(coord: &Coord, name: &str, token: Option<u64>) -> Result<(), Failure> {
    let token = match token {
        Some(token) => Token(token),
        None => {
            let holder = coord.holder(name).await.map_err(|problem| engine(&problem))?;
            let nobody = || Failure::Input(format!("nobody holds lease `{name}`"));
            holder.and_then(|entry| entry.token).ok_or_else(nobody)?
        }
    };
    coord.break_lease(name, token).await.map_err(|problem| engine(&problem))?;
    say(&format!("lease `{name}` taken from its holder; token {token} is superseded"))
}

/// What others read about this holder.
fn holder() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host} pid {}", std::process::id())
}

async fn hold(run: &Run) -> Result<(), Failure> {
    // Before anything is held: a signal that comes in between must not be lost.
    let failed = |problem: std::io::Error| Failure::Runtime(format!("cannot handle signals: {problem}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let coord = run.target.open()?;
    let options = LeaseOptions { wait: Some(run.wait.get()), value: holder(), ..LeaseOptions::default() };
    let session = coord.session(run.ttl.get()).await.map_err(|problem| engine(&problem))?;
    let had = tokio::select! {
        had = session.acquire(&run.name, &options) => had,
        _ = terminate.recv() => return Err(Failure::Ended(143)),
        _ = interrupt.recv() => return Err(Failure::Ended(130)),
    };
    let lease = match had {
        Ok(lease) => lease,
        Err(problem) => {
            let close = session.close().await;
            info!(closed = close.is_ok(), "not had");
            let reason = match &problem {
                AcquireError::Engine { source, .. } => format!("{problem}: {source}"),
                _ => problem.to_string(),
            };
            eprintln!("error: {reason} (waited {})", run.wait);
            return Err(Failure::Ended(NOT_HAD));
        }
    };
    info!(lease = run.name, token = lease.token().0, "lease held");
    let mut child = start(&run.command, &lease)?;
    let group = child.id();
    let outcome = guard(&mut child, &lease, run.ttl.get(), async || {
        tokio::select! {
            _ = terminate.recv() => Signal::TERM,
            _ = interrupt.recv() => Signal::INT,
        }
    })
    .await;
    match outcome {
        Outcome::Ended(status) => {
            // What the command left behind is no longer guarded: it ends with it.
            signal_all(group, Signal::KILL);
            if let Err(problem) = lease.release().await {
                warn!(%problem, "the lease could not be given back; it ends with its time to live");
            }
            let _ = session.close().await;
            pass_on(status)
        }
        Outcome::Lost => {
            eprintln!("error: lease `{}` was lost; the command was stopped", run.name);
            Err(Failure::Ended(LOST))
        }
    }
}

enum Outcome {
    Ended(std::io::Result<ExitStatus>),
    Lost,
}

/// Waits for the command, passes signals on, and stops it when the lease is about to be lost: asked to end while a fifth of
/// the time to live is left by the holder's own clock, killed when nothing is left. The engine's clock runs a tenth longer.
async fn guard(
    child: &mut Child,
    lease: &Lease,
    ttl: Duration,
    mut asked_to_stop: impl AsyncFnMut() -> Signal,
) -> Outcome {
    let group = child.id();
    loop {
        tokio::select! {
            // A command that has ended has ended, also when the lease is lost at the same time.
            biased;
            status = child.wait() => return Outcome::Ended(status),
            () = lease.ends_within(ttl / 5) => break warn!(lease = lease.name(), "the lease is about to be lost: stopping the command"),
            () = lease.broken() => break warn!(lease = lease.name(), "the lease was taken away: stopping the command"),
            signal = asked_to_stop() => signal_all(group, signal),
        }
    }
    signal_all(group, Signal::TERM);
    tokio::select! {
        _ = child.wait() => {}
        () = lease.lost() => {}
        () = tokio::time::sleep(ttl / 5) => {}
    }
    // Also what the command left behind when it ended in time.
    signal_all(group, Signal::KILL);
    // Fails only when it was waited for already.
    let _ = child.wait().await;
    Outcome::Lost
}

/// Starts the command in a process group of its own, so that all of it can be stopped.
fn start(command: &[OsString], lease: &Lease) -> Result<Child, Failure> {
    let [program, arguments @ ..] = command else { unreachable!("the command line requires a command") };
    Command::new(program)
        .args(arguments)
        .env(TOKEN_VARIABLE, lease.token().to_string())
        .env(NAME_VARIABLE, lease.name())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|problem| Failure::Input(format!("cannot start `{}`: {problem}", program.to_string_lossy())))
}

/// To the command and all that it started.
fn signal_all(group: Option<u32>, signal: Signal) {
    let group = group.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(group) = group {
        // Fails only when all of them have ended.
        let _ = kill_process_group(group, signal);
    }
}

fn pass_on(status: std::io::Result<ExitStatus>) -> Result<(), Failure> {
    let status =
        status.map_err(|problem| Failure::Runtime(format!("cannot wait for the command: {problem}")))?;
    match status.code().or_else(|| status.signal().map(|signal| 128 + signal)) {
        Some(0) => Ok(()),
        code => Err(Failure::Ended(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
    }
}
