//! `seawall register`: runs a command and keeps it registered while it runs and is healthy.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use coord::registry::{Record, check_instance, check_service};
use model::Span;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::api::Registration;
use crate::cli::Failure;
use crate::http::{Admin, Connection};

/// Failed checks in a row that end a registration.
const UNHEALTHY_AFTER: u32 = 3;
/// How often an instance that was not healthy yet is asked.
const STARTING: Duration = Duration::from_millis(100);
/// Longest wait for one answer of the instance, and of the registry.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How soon a registry that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the registry is waited for at the end: what it has not heard by then runs out by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// What `seawall register` is told.
#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// The service that the command is an instance of.
    service: String,
    /// Where the command listens.
    #[arg(long)]
    port: u16,
    /// This machine's address, as those who send requests reach it.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// What to call the instance. Default: its address and port.
    #[arg(long)]
    name: Option<String>,
    /// Where it stands; gateways prefer endpoints of their own zone.
    #[arg(long)]
    zone: Option<String>,
    /// What it runs.
    #[arg(long)]
    version: Option<String>,
    /// Its share of requests, relative to the other instances.
    #[arg(long, default_value_t = 1)]
    weight: u32,
    /// A path that answers 2xx while the command is healthy. Without one it is healthy while it accepts connections.
    #[arg(long, value_name = "PATH")]
    health: Option<String>,
    /// Time between checks.
    #[arg(long, value_name = "SPAN", default_value = "1s")]
    health_interval: Span,
    /// How long the registration outlives this command if it is killed.
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    ttl: Span,
    /// How long the instance is a lame duck before the command is told to end: time for everybody to turn away.
    #[arg(long, value_name = "SPAN", default_value = "5s")]
    lame_duck: Span,
    /// How long the command may take to end before it is killed.
    #[arg(long, value_name = "SPAN", default_value = "30s")]
    stop_timeout: Span,
    /// Where the admin pages of this machine's Seawall are.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9901")]
    admin: String,
    /// The command.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the command until it ends.
///
/// # Errors
/// What is wrong with the arguments; the command's own failure, as its exit code.
pub fn run(args: &RegisterArgs) -> Result<(), Failure> {
    let admin = Admin::parse(&args.admin)?;
    let address = SocketAddr::new(args.address, args.port);
    let instance = args.name.clone().unwrap_or_else(|| address.to_string());
    let record = Record {
        address,
        weight: args.weight,
        zone: args.zone.clone(),
        version: args.version.clone(),
        lame_duck: false,
    };
    let checked =
        check_service(&args.service).and_then(|()| check_instance(&instance)).and_then(|()| record.check());
    checked.map_err(|problem| Failure::Input(problem.to_string()))?;
    if args.health_interval.is_zero() || !(coord::TTL_MIN..=coord::TTL_MAX).contains(&args.ttl.get()) {
        return Err(Failure::Input(
            "--health-interval must be longer than 0, and --ttl between 1s and 24h".to_owned(),
        ));
    }
    let failed = |problem: std::io::Error| Failure::Runtime(format!("cannot run: {problem}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let target = format!("/api/registry/{}/{instance}", args.service);
    let status = runtime.block_on(supervise(args, Telling { admin, target, record, ttl: args.ttl }))?;
    match status.code().or_else(|| status.signal().map(|signal| 128 + signal)) {
        Some(0) => Ok(()),
        code => Err(Failure::Ended(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
    }
}

/// What the registry is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Absent,
    Serving,
    LameDuck,
}

async fn supervise(args: &RegisterArgs, telling: Telling) -> Result<ExitStatus, Failure> {
    let failed = |problem: std::io::Error| Failure::Runtime(format!("cannot handle signals: {problem}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut asked_to_stop = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let mut child = start(&args.command)?;
    let address = telling.record.address;
    let (presence, wanted) = watch::channel(Presence::Absent);
    let (tell, mut told) = watch::channel(Presence::Absent);
    let teller = tokio::spawn(telling.run(wanted, tell));
    let health = watch_health(args, address, &presence);
    let ended = tokio::select! {
        status = child.wait() => Some(status),
        () = asked_to_stop() => None,
        () = health => unreachable!("health is watched for ever"),
    };
    let status = match ended {
        Some(status) => status,
        None => {
            // Everybody turns away first, then it is told to end. A second signal means at once.
            if *presence.borrow() == Presence::Serving {
                presence.send_replace(Presence::LameDuck);
                info!(lame_duck = %args.lame_duck, "leaving: lame duck first");
                tokio::select! {
                    () = sleep(args.lame_duck.get()) => {}
                    () = asked_to_stop() => {}
                    _ = child.wait() => {}
                }
            }
            presence.send_replace(Presence::Absent);
            let _ = timeout(PATIENCE, told.wait_for(|told| *told == Presence::Absent)).await;
            signal_all(&child, Signal::TERM);
            let kill_at = Instant::now() + args.stop_timeout.get();
            tokio::select! {
                status = child.wait() => status,
                () = sleep_until(kill_at) => {
                    warn!("the command did not end in time and is killed");
                    signal_all(&child, Signal::KILL);
                    child.wait().await
                }
            }
        }
    };
    presence.send_replace(Presence::Absent);
    let _ = timeout(PATIENCE, told.wait_for(|told| *told == Presence::Absent)).await;
    teller.abort();
    status.map_err(|problem| Failure::Runtime(format!("cannot wait for the command: {problem}")))
}

/// Starts the command in a process group of its own, so that a terminal's interrupt reaches it only after it was a lame duck.
fn start(command: &[OsString]) -> Result<Child, Failure> {
    let [program, arguments @ ..] = command else { unreachable!("the command line requires a command") };
    Command::new(program)
        .args(arguments)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|problem| Failure::Input(format!("cannot start `{}`: {problem}", program.to_string_lossy())))
}

/// To the command and all that it started.
fn signal_all(child: &Child, signal: Signal) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(group) = group {
        // Fails only when all of them have ended.
        let _ = kill_process_group(group, signal);
    }
}

/// Keeps `presence` as the checks say, for ever.
async fn watch_health(args: &RegisterArgs, address: SocketAddr, presence: &watch::Sender<Presence>) {
    let mut failures = 0;
    loop {
        let well = timeout(CHECK_TIMEOUT, check(address, args.health.as_deref())).await.unwrap_or(false);
        failures = if well { 0 } else { failures + 1 };
        let now = *presence.borrow();
        if well && now == Presence::Absent {
            info!(%address, "healthy: registering");
            presence.send_replace(Presence::Serving);
        } else if failures >= UNHEALTHY_AFTER && now == Presence::Serving {
            warn!(%address, "not healthy any more: not registered until it is");
            presence.send_replace(Presence::Absent);
        }
        let starting = *presence.borrow() == Presence::Absent;
        let wait = args.health_interval.get();
        sleep(if starting { wait.min(STARTING) } else { wait }).await;
    }
}

async fn check(address: SocketAddr, path: Option<&str>) -> bool {
    let Ok(mut connection) = Connection::open(address, &address.to_string()).await else { return false };
    match path {
        None => true,
        Some(path) => {
            let answer = connection.send("GET", path, "connection: close\r\n").await;
            answer.is_ok_and(|answer| (200..300).contains(&answer.status))
        }
    }
}

/// Tells the registry, and tells it again before it forgets.
struct Telling {
    admin: Admin,
    target: String,
    record: Record,
    ttl: Span,
}

impl Telling {
    async fn run(self, mut wanted: watch::Receiver<Presence>, told: watch::Sender<Presence>) {
        let mut failing = false;
        loop {
            let want = *wanted.borrow_and_update();
            let known = *told.borrow();
            let answer = match want {
                Presence::Absent if known == Presence::Absent && !failing => Ok(()),
                want => self.tell(want).await,
            };
            let wait = match answer {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        info!("the registry hears again");
                    }
                    if known != want {
                        info!(target = self.target, presence = ?want, "told the registry");
                    }
                    told.send_replace(want);
                    self.ttl.get() / 3
                }
                Err(problem) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%problem, "the registry does not hear; the command runs on, trying again");
                    }
                    RETRY.min(self.ttl.get() / 3)
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn tell(&self, presence: Presence) -> Result<(), Failure> {
        let Record { address, weight, zone, version, .. } = self.record.clone();
        let lame_duck = presence == Presence::LameDuck;
        let registration = Registration { address, weight, zone, version, lame_duck, ttl: self.ttl };
        let (method, body) = match presence {
            Presence::Absent => ("DELETE", String::new()),
            _ => ("PUT", serde_json::to_string(&registration).expect("a registration is plain text")),
        };
        self.admin.ask_async(method, &self.target, &body).await.map(drop)
    }
}
