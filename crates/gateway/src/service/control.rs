use std::sync::Arc;

use parking_lot::Mutex;
use policy::breaker::Force;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::services::Environment;
use super::state::{Due, Moment, State};
use super::{Clock, Event, Notice, Service, ServiceStatus};
use crate::config;
use crate::discover::{Discovery, Registry, Source};
use crate::health::{self, Asked};
use crate::tls::Clients;

/// Notices that wait for the control task; more are lost, and looked for at the next interval.
const NOTICES: usize = 1_024;

/// A service under management: what changes it, and what operators ask of it.
///
/// Everything happens under one short lock, and every step publishes what follows from it before the lock is given
/// back: whoever reconfigures a service or takes an endpoint out finds that done when the call returns. Workers never
/// take the lock; they read views and send notices.
pub struct Control {
    service: Arc<Service>,
    clock: Clock,
    state: Mutex<State>,
    /// Tells the control task that its plans may be out of date.
    wake: Notify,
    stop: CancellationToken,
    /// Stops the present source.
    source: Mutex<CancellationToken>,
    tasks: TaskTracker,
    runtime: Handle,
    tls: Arc<Clients>,
    registry: Option<Registry>,
}

impl Control {
    /// A service at work: its first view holds every endpoint that is known without waiting, and its tasks run on
    /// `runtime`, whether that turns already or not.
    pub(super) fn start(name: &str, index: usize, params: config::Service, env: &Environment) -> Arc<Self> {
        let moment = Moment { now: env.clock.now(), at: env.clock.timestamp() };
        let params = Arc::new(params);
        let mut state = State::new(name.into(), Arc::clone(&params), env.process, env.clock, moment.now);
        let source = Source::new(name, &params, env.registry.as_ref());
        state.set_security(env.tls.of(name, &params));
        state.on_source(source.what());
        state.on_discovery(source.subscribe().borrow().clone(), moment);
        let (sender, notices) = mpsc::channel(NOTICES);
        let service = Service::new(name, index, state.view(moment), sender);
        let control = Arc::new(Self {
            service: Arc::new(service),
            clock: env.clock,
            state: Mutex::new(state),
            wake: Notify::new(),
            stop: CancellationToken::new(),
            source: Mutex::default(),
            tasks: env.tasks.clone(),
            runtime: env.runtime.clone(),
            tls: Arc::clone(&env.tls),
            registry: env.registry.clone(),
        });
        control.follow(source);
        env.tasks.spawn_on(Arc::clone(&control).run(notices), &env.runtime);
        control
    }

    /// What workers hold.
    #[must_use]
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> ServiceStatus {
        self.state.lock().status(&self.service.name, self.clock.now())
    }

    /// Its last state changes, the oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.state.lock().events()
    }

    /// Takes the endpoint called `name` out, or lets it in again, until said otherwise; requests under way finish.
    /// Answers whether there is one.
    pub fn set_disabled(&self, name: &str, disabled: bool) -> bool {
        self.act(|state, moment| state.set_disabled(name, disabled, moment))
    }

    /// Overrides the service's breaker, or that of the endpoint called `endpoint`, until said otherwise. Answers
    /// whether there is one.
    pub fn force_breaker(&self, endpoint: Option<&str>, force: Force) -> bool {
        self.act(|state, moment| state.force(endpoint, Some(force), moment))
    }

    /// Closes the service's breaker, or that of the endpoint called `endpoint`, and makes it forget what it counted.
    /// Answers whether there is one.
    pub fn reset_breaker(&self, endpoint: Option<&str>) -> bool {
        self.act(|state, moment| state.force(endpoint, None, moment))
    }

    /// Takes over other parameters. What they do not touch keeps its state.
    pub(super) fn reconfigure(self: &Arc<Self>, params: &config::Service) {
        let old = Arc::clone(self.state.lock().params());
        if *old == *params {
            return;
        }
        let where_from = |params: &config::Service| {
            (params.endpoints.clone(), params.dns.clone(), params.file.clone(), params.registry.clone())
        };
        let moved = where_from(&old) != where_from(params);
        let source = moved.then(|| {
            // First, so that nothing that the old source says comes after the new one's beginning.
            self.source.lock().cancel();
            Source::new(&self.service.name, params, self.registry.as_ref())
        });
        self.act(|state, moment| {
            state.on_params(Arc::new(params.clone()), moment);
            state.set_security(self.tls.of(&self.service.name, params));
            if let Some(source) = &source {
                state.on_source(source.what());
                state.on_discovery(source.subscribe().borrow().clone(), moment);
            }
        });
        if let Some(source) = source {
            self.follow(source);
        }
    }

    /// Ends its tasks. The last view stays, for requests under way.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Asks `source` from now on.
    fn follow(self: &Arc<Self>, source: Source) {
        let stop = self.stop.child_token();
        *self.source.lock() = stop.clone();
        let mut discovery = source.subscribe();
        let control = Arc::clone(self);
        let stopped = stop.clone();
        let listen = async move {
            while discovery.changed().await.is_ok() {
                let now: Discovery = discovery.borrow_and_update().clone();
                control.act(|state, moment| {
                    // Looked at under the lock: another source may have been put in its place.
                    if !stopped.is_cancelled() {
                        state.on_discovery(now, moment);
                    }
                });
            }
        };
        self.tasks.spawn_on(source.run(stop.clone()), &self.runtime);
        self.tasks.spawn_on(async move { stop.run_until_cancelled(listen).await }, &self.runtime);
    }

    /// One step from outside: the control task looks at its plans again.
    fn act<T>(&self, step: impl FnOnce(&mut State, Moment) -> T) -> T {
        let answer = self.step(step);
        self.wake.notify_one();
        answer
    }

    /// One step, and the view that follows from it if it is due.
    fn step<T>(&self, step: impl FnOnce(&mut State, Moment) -> T) -> T {
        let mut state = self.state.lock();
        let moment = Moment { now: self.clock.now(), at: self.clock.timestamp() };
        let answer = step(&mut state, moment);
        if let Some(view) = state.poll_view(moment) {
            self.service.publish(view);
        }
        answer
    }

    async fn run(self: Arc<Self>, mut notices: mpsc::Receiver<Notice>) {
        let mut checks = JoinSet::new();
        loop {
            let (due, wake_at) = self.step(|state, moment| {
                state.advance(moment);
                let due = state.poll_checks(moment.now);
                (due, state.poll_timeout())
            });
            for Due { target, address, health, name, security, protocol } in due {
                checks.spawn(async move {
                    let asked = Asked { address, name: &name, security: &security, protocol };
                    (target, health::check(&asked, &health.check, health.timing.timeout.get()).await)
                });
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = time::sleep_until(self.clock.timer(wake_at)) => {}
                Some(notice) = notices.recv() => self.step(|state, moment| state.on_notice(notice, moment)),
                Some(Ok((target, answer))) = checks.join_next() => {
                    self.step(|state, moment| state.on_answer(target, &answer, moment));
                }
            }
        }
    }
}
