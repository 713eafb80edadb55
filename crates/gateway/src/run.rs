//! The gateway as a whole: built, run, reloaded, drained.

mod certificates;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use model::{Change, Timestamp};
use parking_lot::{Mutex, RwLock};
use policy::budget::RetryBudget;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::access_log::AccessLog;
use crate::config::{self, Config};
use crate::discover::Registry;
use crate::engine::worker::{self, Command, Phase, Shared, WorkerParams};
use crate::fuse::FuseStatus;
use crate::listen::{self, Listener, ListenerFigures, ListenerState, Room};
use crate::metrics::{Ending, Exporter, WorkerMetrics};
use crate::pressure::{self, Pressure};
use crate::quota::{Quota, Quotas};
use crate::router::Router;
use crate::service::{Clock, Control, Event, Service, ServiceStatus, Services};
use crate::snapshot::{Snapshot, fuses, identity_headers, route_state};
use crate::tls::{self, ListenerTls, TlsStatus};

/// Commands that may wait for a busy worker.
const COMMANDS_MAX: usize = 64;
/// How long the end waits for the access log.
const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// How long the start waits for every service to find its endpoints.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// How long a reload waits for each new service to find its endpoints, or to fail to.
const RELOAD_PATIENCE: Duration = Duration::from_secs(5);
/// Changes kept for the status page.
const CHANGES_MAX: usize = 128;

/// Why a configuration could not be put to work. Whatever ran before goes on.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration contradicts itself.
    #[error("{}", list(.0))]
    Invalid(Vec<config::Problem>),
    /// Listeners that could not be opened, all of them.
    #[error("{}", list(.0))]
    Listen(Vec<ListenError>),
    /// The control thread cannot be started.
    #[error("cannot start the control thread")]
    Control(#[source] io::Error),
    /// The access log cannot be opened.
    #[error("cannot open the access log; check that the directory exists and may be written to")]
    AccessLog(#[source] io::Error),
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join("\n")
}

/// A listener that could not be opened.
#[derive(Debug)]
pub struct ListenError {
    /// Its address.
    pub address: SocketAddr,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, error } = self;
        write!(f, "cannot listen on {address}: ")?;
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "the port is in use; stop whoever has it (`ss -ltnp 'sport = :{}'`) or choose another",
                    address.port()
                )
            }
            io::ErrorKind::PermissionDenied => {
                write!(f, "not allowed; ports below 1024 need CAP_NET_BIND_SERVICE, others do not")
            }
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "no interface has this address; 0.0.0.0 listens on all")
            }
            _ => write!(f, "{error}"),
        }
    }
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadSummary {
    /// The version that is active now.
    pub version: u64,
    /// What changed, a line each.
    pub changes: Vec<String>,
    /// What changed in the file but needs a restart.
    pub needs_restart: Vec<String>,
}

impl fmt::Display for ReloadSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() && self.needs_restart.is_empty() {
            return f.write_str("nothing changed");
        }
        f.write_str(&self.changes.join("; "))?;
        for key in &self.needs_restart {
            write!(f, "; {key} needs a restart to change")?;
        }
        Ok(())
    }
}

/// The gateway. A cheap handle: clones stand for the same gateway.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    started: Timestamp,
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    metrics: Vec<Arc<WorkerMetrics>>,
    services: Services,
    quotas: Quotas,
    pressure: Pressure,
    control: ControlRuntime,
    state: Mutex<State>,
    /// Held by the reload under way.
    reloading: tokio::sync::Mutex<()>,
    /// Somebody asked to drain.
    drain: CancellationToken,
    /// Somebody asked to stop at once.
    stop: CancellationToken,
    buffer_bytes_max: u64,
    /// Shared by the connections of all listeners.
    room: Arc<Room>,
}

struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    /// What the thread is started with; taken when it starts.
    params: Mutex<Option<WorkerParams>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What a reload changes.
struct State {
    config: Config,
    version: u64,
    loaded: Timestamp,
    listeners: BTreeMap<SocketAddr, Open>,
    /// Listeners that were taken away and whose sockets the workers may not have closed yet.
    closing: Vec<(SocketAddr, Weak<Listener>)>,
    changes: Vec<Change>,
}

impl State {
    /// A listener that is given back just after it was taken away finds its old sockets still open: workers close them
    /// within moments, which are waited for.
    fn wait_for_closing(&self, config: &Config) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let asked_for = |address: &SocketAddr| config.listeners.iter().any(|one| one.address == *address);
        let started = std::time::Instant::now();
        for (_, listener) in self.closing.iter().filter(|(address, _)| asked_for(address)) {
            while listener.strong_count() > 0 && started.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// An open listener.
struct Open {
    listener: Arc<Listener>,
    /// Stops accepting.
    stop: CancellationToken,
    /// Until the workers take them.
    sockets: Vec<std::net::TcpListener>,
}

impl Gateway {
    /// Opens every listener and prepares everything; nothing runs yet.
    ///
    /// # Errors
    /// The first kind of trouble found, all of that kind: nothing is left open.
    pub fn build(config: Config) -> Result<Self, BuildError> {
        Self::build_with(config, None)
    }

    /// As [`Gateway::build`], for a process that knows the instances of registered services.
    ///
    /// # Errors
    /// As [`Gateway::build`].
    pub fn build_with(config: Config, registry: Option<Registry>) -> Result<Self, BuildError> {
        check(&config)?;
        let router = router(&config)?;
        let clock = Clock::new();
        let descriptors = listen::raise_descriptor_limit();
        tracing::debug!(descriptors, "open files allowed");
        let count = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers as usize,
        };
        let room = Arc::new(Room::new(descriptors, count));
        let tls = tls::listeners(&config, |_| None).map_err(BuildError::Invalid)?;
        let listeners = bind_missing(&config, &BTreeMap::new(), count, &room, &tls)?;
        let access_log = AccessLog::open(&config.access_log).map_err(BuildError::AccessLog)?;
        let seed = u64::from(std::process::id()) ^ clock.timestamp().as_unix_nanos();
        let control = control_runtime().map_err(BuildError::Control)?;
        let services =
            Services::new(clock, count, control.handle.clone(), policy::seed(seed, "services"), registry);
        services.tls().replace(services.tls().prepare(&config.services).map_err(BuildError::Invalid)?);
        let running = services.apply(&config.services);
        let quotas = Quotas::new(clock, count, control.handle.clone(), policy::seed(seed, "quotas"));
        let charged = quotas.apply(&config.quotas);
        let snapshot = snapshot(1, &config, router, running, &charged, None, count, clock);
        let buffer_bytes_max = config.limits.buffers.get();
        let shared = Arc::new(Shared::new(clock, snapshot, config.limits.idle_upstream, access_log));
        let metrics: Vec<_> = (0..count).map(|_| WorkerMetrics::new()).collect();
        let workers = (0..count)
            .map(|id| {
                let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
                let params = WorkerParams {
                    id,
                    shared: Arc::clone(&shared),
                    metrics: Arc::clone(&metrics[id]),
                    commands: inbox,
                    seed: policy::seed(seed, &format!("worker {id}")),
                    buffer_bytes_max: buffer_bytes_max / count as u64,
                };
                WorkerHandle { commands, params: Mutex::new(Some(params)), thread: Mutex::new(None) }
            })
            .collect();
        let now = clock.timestamp();
        let change = Change {
            at: now,
            who: "start".to_owned(),
            what: format!("configuration 1: {}", size(&config)),
            undo: String::new(),
        };
        let pressure = config.pressure.clone();
        let state =
            State { config, version: 1, loaded: now, listeners, closing: Vec::new(), changes: vec![change] };
        let inner = Inner {
            clock,
            started: now,
            shared,
            workers,
            metrics: metrics.clone(),
            services,
            quotas,
            pressure: Pressure::new(&pressure, metrics.clone()),
            control,
            state: Mutex::new(state),
            reloading: tokio::sync::Mutex::default(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            buffer_bytes_max,
            room,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Name and real address of every listener.
    #[must_use]
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let state = self.inner.state.lock();
        let open = state.listeners.values().map(|open| {
            let listener = open.listener.state.read();
            (listener.name.clone(), listener.address)
        });
        open.collect()
    }

    /// Serves until drained or stopped.
    ///
    /// # Errors
    /// A thread or a runtime could not be started.
    pub async fn run(&self) -> io::Result<()> {
        let inner = &self.inner;
        for (id, handle) in inner.workers.iter().enumerate() {
            let params = handle.params.lock().take().expect("run is called once");
            let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
                if let Err(error) = worker::run(params) {
                    tracing::error!(worker = id, %error, "worker cannot run");
                }
            })?;
            *handle.thread.lock() = Some(thread);
        }
        inner.control.handle.spawn(watch_pressure(Arc::downgrade(inner)));
        inner.control.handle.spawn(certificates::watch(Arc::downgrade(inner)));
        let services = inner.services.all();
        let lacking = || services.iter().any(|one| one.service().view().targets.is_empty());
        wait_while(lacking, START_PATIENCE).await;
        {
            let mut state = inner.state.lock();
            for open in state.listeners.values_mut() {
                inner.hand_out(open);
            }
        }
        inner.drain.cancelled().await;
        self.leave().await;
        Ok(())
    }

    /// Lame duck, then finishing, then the end.
    async fn leave(&self) {
        let inner = &self.inner;
        let drain = inner.state.lock().config.drain.clone();
        inner.shared.enter(Phase::LameDuck);
        tracing::info!(lame_duck = %drain.lame_duck, "draining: lame duck");
        let lame = tokio::time::sleep(drain.lame_duck.get());
        tokio::select! {
            () = lame => {}
            () = inner.stop.cancelled() => {}
        }
        inner.shared.enter(Phase::Finishing);
        for open in inner.state.lock().listeners.values() {
            open.stop.cancel();
        }
        for handle in &inner.workers {
            let _ = handle.commands.send(Command::Phase).await;
        }
        tracing::info!(connections = inner.room.taken(), finish = %drain.finish, "draining: finishing");
        let finished = async {
            while inner.room.taken() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = finished => {}
            () = tokio::time::sleep(drain.finish.get()) => {
                tracing::warn!(connections = inner.room.taken(), "closing connections that did not finish in time");
            }
            () = inner.stop.cancelled() => {}
        }
        // Tunnels end by themselves once told, so that the log knows of them.
        inner.shared.enter(Phase::Ending);
        for handle in &inner.workers {
            let _ = handle.commands.send(Command::Phase).await;
            let _ = handle.commands.send(Command::Stop).await;
        }
        inner.services.stop().await;
        inner.control.stop.cancel();
        for handle in &inner.workers {
            if let Some(thread) = handle.thread.lock().take() {
                let _ = thread.join();
            }
        }
        inner.shared.access_log.flush(LOG_PATIENCE);
        tracing::info!("drained");
    }

    /// Lame duck first, then finish, then [`Gateway::run`] returns.
    pub fn drain(&self) {
        self.inner.drain.cancel();
    }

    /// Ends at once.
    pub fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.drain.cancel();
    }

    /// `serving`, `lame_duck` or `finishing`.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        self.inner.shared.phase().name()
    }

    /// Opens the access log's file again.
    pub fn reopen_access_log(&self) {
        self.inner.shared.access_log.reopen();
    }

    /// Puts `config` to work in one step: requests under way end as they began, no connection is closed that need not be.
    /// `who` asked for it.
    ///
    /// New services are given a few seconds to find their endpoints first, while the old configuration serves. A name that
    /// cannot be looked up, or not in time, keeps nothing else waiting any longer.
    ///
    /// # Errors
    /// As [`Gateway::build`]; everything goes on as before.
    pub async fn reload(&self, config: Config, who: &str) -> Result<ReloadSummary, BuildError> {
        check(&config)?;
        let inner = &self.inner;
        let _one_at_a_time = inner.reloading.lock().await;
        let workers = inner.workers.len();
        // Whatever can fail comes first.
        let router = router(&config)?;
        let (mut fresh, mut secured) = {
            let state = inner.state.lock();
            if state.config == config {
                return Ok(ReloadSummary { version: state.version, ..ReloadSummary::default() });
            }
            state.wait_for_closing(&config);
            let secured = tls::listeners(&config, |address| {
                state.listeners.get(&address)?.listener.state.read().tls.clone()
            })
            .map_err(BuildError::Invalid)?;
            let ways = inner.services.tls().prepare(&config.services).map_err(BuildError::Invalid)?;
            let fresh = bind_missing(&config, &state.listeners, workers, &inner.room, &secured)?;
            if state.config.access_log != config.access_log {
                inner.shared.access_log.reconfigure(&config.access_log).map_err(BuildError::AccessLog)?;
            }
            inner.services.tls().replace(ways);
            (fresh, secured)
        };
        let begun = inner.services.begin(&config.services);
        let unanswered = |one: &Arc<Control>| {
            one.service().view().targets.is_empty() && one.status().discovery.failures == 0
        };
        wait_while(|| begun.iter().any(unanswered), RELOAD_PATIENCE).await;

        let mut state = inner.state.lock();
        let summary = difference(&state.config, &config, state.version + 1);
        let running = inner.services.apply(&config.services);
        let charged = inner.quotas.apply(&config.quotas);
        inner.pressure.reconfigure(&config.pressure);
        let before = inner.shared.snapshot();
        let next = snapshot(
            summary.version,
            &config,
            router,
            running,
            &charged,
            Some(&before),
            workers,
            inner.clock,
        );
        inner.shared.publish(next);
        inner.shared.set_idle_upstream_max(config.limits.idle_upstream);

        let wanted: HashMap<SocketAddr, &config::Listener> =
            config.listeners.iter().map(|listener| (listener.address, listener)).collect();
        let State { listeners, closing, .. } = &mut *state;
        closing.retain(|(_, listener)| listener.strong_count() > 0);
        listeners.retain(|address, open| {
            let keep = wanted.contains_key(address);
            if !keep {
                open.stop.cancel();
                closing.push((*address, Arc::downgrade(&open.listener)));
            }
            keep
        });
        for (address, open) in &state.listeners {
            if let Some(params) = wanted.get(address) {
                let mut listener = open.listener.state.write();
                *listener = Arc::new(ListenerState {
                    name: listener_name(params, listener.address),
                    address: listener.address,
                    params: (*params).clone(),
                    tls: secured.remove(address),
                    figures: Arc::clone(&listener.figures),
                });
            }
        }
        for open in fresh.values_mut() {
            inner.hand_out(open);
        }
        state.listeners.append(&mut fresh);
        state.version = summary.version;
        state.loaded = inner.clock.timestamp();
        state.config = config;
        let change = Change {
            at: state.loaded,
            who: who.to_owned(),
            what: format!("configuration {}: {}", summary.version, summary.changes.join("; ")),
            undo: "put the file back as it was".to_owned(),
        };
        if state.changes.len() == CHANGES_MAX {
            state.changes.remove(0);
        }
        state.changes.push(change);
        Ok(summary)
    }

    /// All that an operator may want to see.
    #[must_use]
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let snapshot = inner.shared.snapshot();
        let tls = inner.tls_status();
        let state = inner.state.lock();
        let listeners = state.listeners.values().map(|open| {
            let listener = open.listener.state.read();
            let figures = &listener.figures;
            ListenerStatus {
                name: listener.name.clone(),
                address: listener.address,
                connections: figures.open.load(Relaxed),
                connections_max: listener.params.connections_max,
                accepted: figures.accepted.load(Relaxed),
                shed: figures.shed_limit.load(Relaxed) + figures.shed_descriptors.load(Relaxed),
                fuse: snapshot.fuse(listener.params.address).map(|fuse| fuse.status()),
            }
        });
        let routes = snapshot.routes.iter().map(|route| RouteStatus {
            name: Arc::clone(&route.name),
            action: match route.params.action() {
                Some(config::Action::Service(service)) => service.to_owned(),
                Some(config::Action::Split(parts)) => {
                    let parts: Vec<_> =
                        parts.iter().map(|part| format!("{} {}", part.service, part.weight)).collect();
                    parts.join(", ")
                }
                Some(config::Action::Redirect(_)) => "redirect".to_owned(),
                Some(config::Action::Answer(_)) | None => "answer".to_owned(),
            },
            requests: Ending::ALL.iter().map(|ending| ending.name()).zip(route.metrics.endings()).collect(),
        });
        let services = inner.services.all();
        let mut events: Vec<ServiceEvent> = services
            .iter()
            .flat_map(|control| {
                let name = Arc::clone(&control.service().name);
                control
                    .events()
                    .into_iter()
                    .map(move |event| ServiceEvent { service: Arc::clone(&name), event })
            })
            .collect();
        events.sort_by_key(|event| event.event.at);
        let skip = events.len().saturating_sub(CHANGES_MAX);
        Status {
            version: state.version,
            loaded: state.loaded,
            started: inner.started,
            phase: inner.shared.phase().name(),
            workers: inner.workers.len(),
            listeners: listeners.collect(),
            services: services.iter().map(|control| control.status()).collect(),
            routes: routes.collect(),
            tls,
            buffer_bytes: inner.metrics.iter().map(|worker| worker.buffers.load(Relaxed)).sum(),
            buffer_bytes_max: inner.buffer_bytes_max,
            changes: state.changes.clone(),
            events: events.split_off(skip),
        }
    }

    /// Every metric, in the Prometheus text format or in OpenMetrics.
    pub fn export(&self, out: &mut Exporter) {
        let inner = &self.inner;
        let snapshot = inner.shared.snapshot();
        let routes: Vec<_> = snapshot.routes.iter().map(|route| (&*route.name, &*route.metrics)).collect();
        out.routes(&routes);
        out.workers(&inner.metrics, inner.buffer_bytes_max, inner.shared.access_log.lost());
        let state = inner.state.lock();
        let listeners: Vec<_> =
            state.listeners.values().map(|open| Arc::clone(&open.listener.state.read())).collect();
        drop(state);
        out.listeners(&listeners, &inner.room);
        out.passed_on(&listeners);
        inner.export_tls(out);
        let fuses: Vec<_> = listeners
            .iter()
            .filter_map(|listener| Some((&*listener.name, snapshot.fuse(listener.params.address)?.status())))
            .collect();
        out.fuses(&fuses);
        let services: Vec<ServiceStatus> =
            inner.services.all().iter().map(|control| control.status()).collect();
        out.services(&services);
        out.utilisation(&inner.pressure.utilisation());
        out.quotas(&inner.quotas.figures());
    }

    /// The control of the service called `name`, for overrides.
    #[must_use]
    pub fn control(&self, name: &str) -> Option<Arc<Control>> {
        self.inner.services.get(name)
    }
}

impl Inner {
    /// Gives each worker its socket.
    fn hand_out(&self, open: &mut Open) {
        for (handle, socket) in self.workers.iter().zip(open.sockets.drain(..)) {
            let listener = Arc::clone(&open.listener);
            let command = Command::Listen { listener, socket, stop: open.stop.clone() };
            if handle.commands.try_send(command).is_err() {
                tracing::error!(listener = %open.listener.state.read().address, "worker does not take a listener");
            }
        }
    }
}

/// Gives names a moment to be looked up, so that the first requests do not find services without endpoints. A name that
/// nobody answers for does not keep the others waiting for long.
async fn wait_while(lacking: impl Fn() -> bool, patience: Duration) {
    let known = async {
        while lacking() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(patience, known).await.is_err() {
        tracing::warn!("not every service has endpoints yet; serving all the same");
    }
}

/// The runtime of everything that is not a request: discovery, health checks, decisions about endpoints.
struct ControlRuntime {
    handle: tokio::runtime::Handle,
    stop: CancellationToken,
}

impl Drop for ControlRuntime {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Tells services how busy the process is, for as long as there is a gateway.
async fn watch_pressure(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(pressure::INTERVAL).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.pressure.tell(inner.clock.now(), &inner.services.all());
    }
}

fn control_runtime() -> io::Result<ControlRuntime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
    let stopped = stop.clone();
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || runtime.block_on(stopped.cancelled()))?;
    Ok(ControlRuntime { handle, stop })
}

fn check(config: &Config) -> Result<(), BuildError> {
    let problems: Vec<_> =
        config.problems().into_iter().filter(|problem| problem.severity == config::Severity::Error).collect();
    if problems.is_empty() { Ok(()) } else { Err(BuildError::Invalid(problems)) }
}

/// Opens the listeners of `config` that are not open already.
fn bind_missing(
    config: &Config,
    open: &BTreeMap<SocketAddr, Open>,
    workers: usize,
    room: &Arc<Room>,
    tls: &HashMap<SocketAddr, Arc<ListenerTls>>,
) -> Result<BTreeMap<SocketAddr, Open>, BuildError> {
    let mut fresh = BTreeMap::new();
    let mut errors = Vec::new();
    for params in config.listeners.iter().filter(|params| !open.contains_key(&params.address)) {
        match listen::bind(params.address, workers) {
            Ok((address, sockets)) => {
                let state = ListenerState {
                    name: listener_name(params, address),
                    address,
                    params: params.clone(),
                    tls: tls.get(&params.address).cloned(),
                    figures: Arc::new(ListenerFigures::new(room, workers)),
                };
                let listener = Arc::new(Listener { state: RwLock::new(Arc::new(state)) });
                fresh.insert(params.address, Open { listener, stop: CancellationToken::new(), sockets });
            }
            Err(error) => errors.push(ListenError { address: params.address, error }),
        }
    }
    if errors.is_empty() { Ok(fresh) } else { Err(BuildError::Listen(errors)) }
}

fn listener_name(params: &config::Listener, address: SocketAddr) -> String {
    params.name.clone().unwrap_or_else(|| address.to_string())
}

/// Compiles the routes. Services are numbered in the order of their names, as [`Services::apply`] answers them.
fn router(config: &Config) -> Result<Router, BuildError> {
    let numbers: HashMap<&str, usize> =
        config.services.keys().enumerate().map(|(number, name)| (name.as_str(), number)).collect();
    Router::build(&config.routes, |name| numbers.get(name).copied()).map_err(BuildError::Invalid)
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the snapshot")]
fn snapshot(
    version: u64,
    config: &Config,
    router: Router,
    services: Vec<Arc<Service>>,
    quotas: &BTreeMap<String, Arc<Quota>>,
    before: Option<&Snapshot>,
    workers: usize,
    clock: Clock,
) -> Snapshot {
    let known: HashMap<&str, _> = before
        .map(|before| before.routes.iter().map(|route| (&*route.name, route)).collect())
        .unwrap_or_default();
    let now = clock.now();
    let routes = router.routes().iter().zip(&config.routes);
    let routes = routes
        .map(|(compiled, params)| {
            route_state(&compiled.name, params, quotas, known.get(&*compiled.name).copied(), workers, now)
        })
        .collect();
    let retry_budget = before.filter(|before| before.retry_budget_params == config.retry_budget).map_or_else(
        || Arc::new(RetryBudget::new(&config.retry_budget, workers, now)),
        |before| Arc::clone(&before.retry_budget),
    );
    Snapshot {
        version,
        router,
        routes,
        services: services.into(),
        retry_budget,
        retry_budget_params: config.retry_budget.clone(),
        drain_finish: config.drain.finish.get(),
        identity_headers: identity_headers(&config.listeners),
        fuses: fuses(&config.listeners, before, workers),
    }
}

fn size(config: &Config) -> String {
    let Config { listeners, routes, services, .. } = config;
    format!("{} listeners, {} routes, {} services", listeners.len(), routes.len(), services.len())
}

/// What differs, in words.
fn difference(before: &Config, after: &Config, version: u64) -> ReloadSummary {
    let mut summary = ReloadSummary { version, ..ReloadSummary::default() };
    let changes = &mut summary.changes;
    for name in after.services.keys().filter(|name| !before.services.contains_key(*name)) {
        changes.push(format!("service {name} added"));
    }
    for (name, params) in &before.services {
        match after.services.get(name) {
            None => changes.push(format!("service {name} removed")),
            Some(now) if now != params => changes.push(format!("service {name} changed")),
            Some(_) => {}
        }
    }
    if before.routes != after.routes {
        changes.push(format!("routes changed ({} now)", after.routes.len()));
    }
    if before.listeners != after.listeners {
        changes.push(format!("listeners changed ({} now)", after.listeners.len()));
    }
    let rest = [
        ("quotas", before.quotas != after.quotas),
        ("retry_budget", before.retry_budget != after.retry_budget),
        ("limits", before.limits != after.limits),
        ("pressure", before.pressure != after.pressure),
        ("access_log", before.access_log != after.access_log),
        ("drain", before.drain != after.drain),
    ];
    changes
        .extend(rest.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| format!("{name} changed")));
    if before.workers != after.workers {
        summary.needs_restart.push("workers".to_owned());
    }
    if before.limits.buffers != after.limits.buffers {
        summary.needs_restart.push("limits.buffers".to_owned());
    }
    summary
}

/// All that an operator may want to see, at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The version of the active configuration.
    pub version: u64,
    /// When it was loaded.
    pub loaded: Timestamp,
    /// When the process started.
    pub started: Timestamp,
    /// `serving`, `lame_duck` or `finishing`.
    pub phase: &'static str,
    /// Worker threads.
    pub workers: usize,
    /// Where requests come in.
    pub listeners: Vec<ListenerStatus>,
    /// The services.
    pub services: Vec<ServiceStatus>,
    /// The routes, in the order of the file.
    pub routes: Vec<RouteStatus>,
    /// TLS of listeners and services that have it, by whose it is.
    pub tls: Vec<(String, TlsStatus)>,
    /// Bytes in buffers that outlive a moment.
    pub buffer_bytes: u64,
    /// Bytes that they may take.
    pub buffer_bytes_max: u64,
    /// Recent changes of configuration, the oldest first.
    pub changes: Vec<Change>,
    /// Recent events of services, the oldest first.
    pub events: Vec<ServiceEvent>,
}

/// A listener at one moment.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Its real address.
    pub address: SocketAddr,
    /// Connections open.
    pub connections: u32,
    /// Connections that may be open.
    pub connections_max: u32,
    /// Connections accepted since start.
    pub accepted: u64,
    /// Connections closed on arrival.
    pub shed: u64,
    /// Its fuse, if it is for batch jobs.
    pub fuse: Option<FuseStatus>,
}

/// A route at one moment.
#[derive(Clone, Debug)]
pub struct RouteStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What it does: the service, the split, `redirect` or `answer`.
    pub action: String,
    /// Requests finished, by how they ended.
    pub requests: BTreeMap<&'static str, u64>,
}

/// What happened to a service.
#[derive(Clone, Debug)]
pub struct ServiceEvent {
    /// The service.
    pub service: Arc<str>,
    /// The event.
    pub event: Event,
}
