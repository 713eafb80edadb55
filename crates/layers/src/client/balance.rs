//! Spreads calls over the endpoints of a service.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use model::{Instant, Ratio, Verdict};
use parking_lot::{Mutex, RwLock};
use pin_project_lite::pin_project;
use policy::balance::{self as decision, Balancer, HashKey, Pick};
use policy::breaker::{self, BreakerParams, Permit};
use policy::slow_start::SlowStartParams;
use policy::{Ended, Endpoint, Fleet, Unavailable};
use tower_service::Service;

use super::discover::{Discover, Target};
use super::tried::Tried;
use crate::error::InvalidParams;
use crate::hold::{Held, Hold};
use crate::signals::{self, Signals};
use crate::{BoxError, CallError, Clock, worker};

/// How long an endpoint that said it is a lame duck is left alone: a restart takes less.
const LAME_DUCK_LAPSE: Duration = Duration::from_secs(30);

/// When nobody is available, those that asked for no new calls get them all the same.
const PANIC_BELOW: Ratio = Ratio::percent(1);

/// How calls are spread over endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct BalanceParams {
    /// Which endpoint a call goes to. Prequal and weights by load learn from the reports on ordinary answers
    /// ([`LoadReportLayer`](crate::server::LoadReportLayer) sends them); nobody is probed.
    pub balance: decision::Balance,
    /// How an endpoint that joins is ramped up.
    pub slow_start: SlowStartParams,
    /// A breaker for each endpoint; while one is open, the others get its calls. Absent: only the balancer's preference
    /// for endpoints without errors keeps calls away from a failing one.
    pub breaker: Option<BreakerParams>,
}

impl Default for BalanceParams {
    fn default() -> Self {
        Self {
            balance: decision::Balance::default(),
            slow_start: SlowStartParams::default(),
            breaker: Some(BreakerParams::default()),
        }
    }
}

/// The hash of what a call is placed by, for balancers that hash: put it into the request's extensions. Without it the
/// header or path that the balancer's [`HashKey`] names is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceBy(pub u64);

/// Sends each call to one of the endpoints that [`Discover`] knows.
///
/// Every endpoint has a service of its own, made when it joins, and kept with all that was learnt about it while it
/// stays. Clones share everything. It is always ready: an endpoint's service becomes ready as part of the call, so a
/// bound on calls under way belongs above ([`BulkheadLayer`](super::BulkheadLayer)) or into [`Target::active_max`].
///
/// A call that is repeated or hedged by a layer above goes to another endpoint, as long as there is one. An endpoint that
/// answers with `seawall-lame-duck: 1` gets no new calls for 30 s, unless all endpoints say so. A call counts as under way until its answer's body has
/// ended. With no endpoint that may be called it fails with [`CallError::NoEndpoint`].
pub struct Balance<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Balance<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S> fmt::Debug for Balance<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = self.shared.view.read();
        f.debug_struct("Balance").field("fleet", &view.fleet).finish_non_exhaustive()
    }
}

type Make<S> = dyn Fn(&Target) -> S + Send + Sync;

struct Shared<S> {
    params: BalanceParams,
    discover: Discover,
    make: Box<Make<S>>,
    seed: u64,
    view: RwLock<Arc<View<S>>>,
    /// Taken by whoever makes a new view; others go on with the old one.
    renewing: Mutex<()>,
    /// When the next endpoint ceases to be a lame duck.
    lapses: AtomicU64,
}

/// The endpoints at one moment.
struct View<S> {
    version: u64,
    fleet: Fleet,
    balancer: Box<dyn Balancer>,
    members: Vec<Arc<Member<S>>>,
    /// Places in `members` by key.
    places: HashMap<u64, u32>,
}

struct Member<S> {
    target: Target,
    endpoint: Arc<Endpoint>,
    breaker: Option<breaker::Breaker>,
    service: S,
    /// When it ceases to be a lame duck.
    lapses: AtomicU64,
}

impl<S> Balance<S> {
    /// A balancer over the endpoints that `discover` knows, each called through the service that `make` makes for it.
    ///
    /// # Errors
    /// [`InvalidParams`] names every parameter that makes no sense.
    pub fn new(
        params: &BalanceParams,
        discover: Discover,
        make: impl Fn(&Target) -> S + Send + Sync + 'static,
    ) -> Result<Self, InvalidParams> {
        InvalidParams::check(params.breaker.as_ref().map(BreakerParams::check).unwrap_or_default())?;
        let seed = worker::entropy();
        let shared = Shared {
            params: params.clone(),
            discover,
            make: Box::new(make),
            seed,
            view: RwLock::new(Arc::new(View::empty(params, seed))),
            renewing: Mutex::new(()),
            lapses: AtomicU64::new(Instant::NEVER.as_nanos()),
        };
        let balance = Self { shared: Arc::new(shared) };
        balance.shared.renew(Clock::now());
        Ok(balance)
    }

    /// The endpoints at present, with what was learnt about them; to show them, or to take one out
    /// ([`Endpoint::set_unavailable`]).
    #[must_use]
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.shared.current(Clock::now()).fleet.endpoints().to_vec()
    }
}

impl<S> View<S> {
    fn empty(params: &BalanceParams, seed: u64) -> Self {
        let fleet = Fleet::new(Vec::new(), Ratio::ZERO);
        let balancer = decision::build(&params.balance, &fleet, Instant::ORIGIN, seed);
        Self { version: 0, fleet, balancer, members: Vec::new(), places: HashMap::new() }
    }
}

impl<S> Shared<S> {
    /// The view to pick from, made anew first when the set of endpoints changed or a lame duck is one no longer.
    fn current(&self, now: Instant) -> Arc<View<S>> {
        let view = Arc::clone(&self.view.read());
        if view.version == self.discover.version() && now.as_nanos() < self.lapses.load(Relaxed) {
            return view;
        }
        self.renew(now);
        Arc::clone(&self.view.read())
    }

    fn renew(&self, now: Instant) {
        let Some(_renewing) = self.renewing.try_lock() else { return };
        let before = Arc::clone(&self.view.read());
        let version = self.discover.version();
        let members: Vec<_> = if version == before.version {
            before.members.clone()
        } else {
            let targets = self.discover.targets();
            targets.into_iter().map(|target| self.member(&before, target, now)).collect()
        };
        let mut lapses = Instant::NEVER.as_nanos();
        for member in &members {
            let lapse = member.lapses.load(Relaxed);
            if lapse > now.as_nanos() {
                lapses = lapses.min(lapse);
            } else if member.endpoint.set_unavailable(Unavailable::LameDuck, false) {
                // What comes back was started anew.
                member.endpoint.on_join(now);
            }
        }
        self.lapses.store(lapses, Relaxed);
        let endpoints = members.iter().map(|member| Arc::clone(&member.endpoint)).collect();
        let fleet = Fleet::new(endpoints, PANIC_BELOW).with_slow_start(&self.params.slow_start, now);
        let balancer = decision::build(&self.params.balance, &fleet, now, self.seed);
        let places = (0..).zip(&members).map(|(at, member)| (member.endpoint.key(), at)).collect();
        *self.view.write() = Arc::new(View { version, fleet, balancer, members, places });
    }

    /// The member for `target`: the one that was there, if it was and is called in the same way.
    fn member(&self, before: &View<S>, target: Target, now: Instant) -> Arc<Member<S>> {
        let key = policy::hash(target.name.as_bytes());
        let known = before.places.get(&key).map(|at| &before.members[*at as usize]);
        if let Some(known) = known.filter(|known| known.target.name == target.name) {
            known.endpoint.set_weight(target.weight);
            known.endpoint.set_active_max(target.active_max);
            return Arc::clone(known);
        }
        Arc::new(Member {
            endpoint: Arc::new(Endpoint::new(&target.name, target.weight, target.active_max, now)),
            breaker: self
                .params
                .breaker
                .as_ref()
                .map(|params| breaker::Breaker::new(params, worker::count(), now)),
            service: (self.make)(&target),
            lapses: AtomicU64::new(0),
            target,
        })
    }

    /// Picks an endpoint with room whose breaker lets the call through.
    fn pick(self: &Arc<Self>, key: Option<u64>, tried: Option<&Tried>) -> Option<Flight<S>> {
        let now = Clock::now();
        let view = self.current(now);
        let mut avoid: Vec<u32> = match tried {
            Some(tried) => tried.keys().iter().filter_map(|key| view.places.get(key).copied()).collect(),
            None => Vec::new(),
        };
        let mut refused: Vec<u32> = Vec::new();
        loop {
            let pick = Pick { now, key, tried: &avoid };
            let index = worker::with_rng(|rng| view.balancer.pick(&view.fleet, &pick, rng))?;
            // Balancers fall back on what is to be avoided when nothing else is left.
            if refused.contains(&index) {
                return None;
            }
            let member = Arc::clone(&view.members[index as usize]);
            if member.endpoint.try_start(now) {
                let shared = Arc::clone(self);
                let verdict = Verdict::Unknown;
                let mut flight = Flight {
                    shared,
                    view: Arc::clone(&view),
                    member,
                    index,
                    permit: None,
                    started: now,
                    latency: None,
                    verdict,
                };
                if flight.pass_breaker() {
                    if let Some(tried) = tried {
                        tried.push(flight.member.endpoint.key());
                    }
                    return Some(flight);
                }
            }
            refused.push(index);
            avoid.push(index);
        }
    }

    /// What the call is placed by.
    fn key_of<B>(&self, request: &Request<B>) -> Option<u64> {
        if let Some(PlaceBy(key)) = request.extensions().get() {
            return Some(*key);
        }
        let by = match &self.params.balance {
            decision::Balance::RingHash(params) => &params.key,
            decision::Balance::Maglev(params) => &params.key,
            _ => return None,
        };
        match by {
            HashKey::Header(name) => request.headers().get(name).map(|value| decision::key(value.as_bytes())),
            HashKey::Path => Some(decision::key(request.uri().path().as_bytes())),
            // Cookies and addresses are those of somebody else's client: `PlaceBy` says what stands for them here.
            HashKey::Cookie(_) | HashKey::ClientAddress | HashKey::Identity => None,
        }
    }
}

/// A call under way to an endpoint. However it ends, a cancelled one included, endpoint and breaker are told once.
pub struct Flight<S> {
    shared: Arc<Shared<S>>,
    view: Arc<View<S>>,
    member: Arc<Member<S>>,
    index: u32,
    permit: Option<Permit>,
    started: Instant,
    latency: Option<Duration>,
    verdict: Verdict,
}

impl<S> fmt::Debug for Flight<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("endpoint", &self.member.endpoint.name()).finish_non_exhaustive()
    }
}

impl<S> Flight<S> {
    fn pass_breaker(&mut self) -> bool {
        let Some(breaker) = &self.member.breaker else { return true };
        self.permit = worker::with_rng(|rng| breaker.try_enter(worker::shard(), self.started, rng)).ok();
        self.permit.is_some()
    }

    fn conclude(&mut self, verdict: Verdict) {
        self.verdict = verdict;
        self.latency = Some(Clock::now().since(self.started));
    }

    /// Learns from the head of an answer.
    fn on_answer<R>(&mut self, answer: &Response<R>) {
        let signals = Signals::read(answer);
        self.conclude(signals.verdict);
        let endpoint = &self.member.endpoint;
        let now = Clock::now();
        if let Some(report) = signals::report(answer.headers()) {
            endpoint.on_report(now, &report);
            self.view.balancer.on_probe(self.index);
        }
        if signals.lame_duck && endpoint.set_unavailable(Unavailable::LameDuck, true) {
            let lapses = now.after(LAME_DUCK_LAPSE).as_nanos();
            self.member.lapses.store(lapses, Relaxed);
            self.shared.lapses.fetch_min(lapses, Relaxed);
            self.shared.renew(now);
        }
    }
}

impl<S> Hold for Flight<S> {
    fn on_broken(&mut self) {
        self.verdict = Verdict::Failure;
    }
}

impl<S> Drop for Flight<S> {
    fn drop(&mut self) {
        let now = Clock::now();
        let latency = self.latency.unwrap_or_else(|| now.since(self.started));
        self.member.endpoint.on_end(now, Ended { latency, verdict: self.verdict });
        if let (Some(breaker), Some(permit)) = (&self.member.breaker, self.permit.take()) {
            worker::with_rng(|rng| breaker.on_end(permit, now, self.verdict.into(), latency, rng));
        }
    }
}

impl<S, B, R> Service<Request<B>> for Balance<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    R: Body,
{
    type Response = Response<Held<R, Flight<S>>>;
    type Error = CallError;
    type Future = BalanceFuture<S, B, S::Future>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let tried = request.extensions().get::<Tried>().cloned();
        let key = self.shared.key_of(&request);
        let flight = self.shared.pick(key, tried.as_ref());
        let step = match &flight {
            Some(flight) => Step::NotReady { service: flight.member.service.clone(), request: Some(request) },
            None => Step::Refused,
        };
        BalanceFuture { flight, step }
    }
}

pin_project! {
    /// The answer of the endpoint that was picked.
    #[must_use = "futures do nothing unless polled"]
    pub struct BalanceFuture<S, B, F> {
        flight: Option<Flight<S>>,
        #[pin]
        step: Step<S, B, F>,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<S, B, F> {
        Refused,
        NotReady { service: S, request: Option<Request<B>> },
        Called { #[pin] call: F },
    }
}

impl<S, B, F> fmt::Debug for BalanceFuture<S, B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceFuture").field("flight", &self.flight).finish_non_exhaustive()
    }
}

impl<S, B, R> Future for BalanceFuture<S, B, S::Future>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<Held<R, Flight<S>>>, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = loop {
            match this.step.as_mut().project() {
                StepProj::Refused => return Poll::Ready(Err(CallError::NoEndpoint)),
                StepProj::NotReady { service, request } => {
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        break Err(CallError::of(error));
                    }
                    let request = request.take().expect("a request is sent once");
                    let call = service.call(request);
                    this.step.set(Step::Called { call });
                }
                StepProj::Called { call } => break ready!(call.poll(cx)).map_err(CallError::of),
            }
        };
        let mut flight = this.flight.take().expect("polled again after its end");
        Poll::Ready(match result {
            Ok(answer) => {
                flight.on_answer(&answer);
                Ok(answer.map(|body| Held::new(body, flight)))
            }
            Err(error) => {
                flight.conclude(error.verdict());
                Err(error)
            }
        })
    }
}
