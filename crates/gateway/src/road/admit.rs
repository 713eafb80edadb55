//! Admission: whether a request may go on, what it holds while it is under way, and what is learnt from its end.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use model::{Criticality, Deadline, Instant, Span, Verdict};
use policy::admission::{End, Shed, Ticket, Who};
use policy::breaker::{CallEnd, Permit};
use policy::bulkhead::Admission as Place;
use policy::callers::Advice;

use crate::answer::{Again, Reason, Refusal};
use crate::engine::attempt::AttemptError;
use crate::engine::classify::Request;
use crate::engine::conn::Conn;
use crate::engine::pool::Supply;
use crate::engine::probe;
use crate::engine::worker::Worker;
use crate::fuse::{Fuse, Held};
use crate::service::{NoPlace, View};
use crate::snapshot::Seen;

/// What a request holds while it is under way: a place among those that the service works on, one in its bulkhead, one in
/// its breaker's count, one in its listener's fuse. Given back however the request ends.
pub(super) struct Admitted<'a> {
    worker: &'a Worker,
    pub(super) view: Rc<Seen>,
    fused: Option<Held>,
    class: Criticality,
    permit: Cell<Option<Permit>>,
    ticket: Cell<Option<Ticket>>,
    in_bulkhead: Cell<bool>,
    /// Whether it has a place among the service's tunnels, because it asks for one.
    in_tunnel: Cell<bool>,
    /// When it was let through, as the throttle counts; `None` before that.
    sent: Cell<Option<Instant>>,
    /// The client's body was there when it was sent, so that the time until the answer is the service's.
    pub(super) whole: Cell<bool>,
}

/// Whoever gives up after so many times what an answer takes has met a service that is overloaded.
const PATIENCE: u32 = 4;

impl<'a> Admitted<'a> {
    fn new(
        worker: &'a Worker,
        view: Rc<Seen>,
        fused: Option<Held>,
        class: Criticality,
        permit: Permit,
    ) -> Self {
        Self {
            worker,
            view,
            fused,
            class,
            permit: Cell::new(Some(permit)),
            ticket: Cell::new(None),
            in_bulkhead: Cell::new(false),
            in_tunnel: Cell::new(false),
            sent: Cell::new(None),
            whole: Cell::new(false),
        }
    }

    /// Where its connections come from.
    pub(super) fn supply(&self) -> Supply<'_> {
        match &self.fused {
            Some(held) => Supply::Fuse(held),
            None => Supply::Worker(&self.worker.pool),
        }
    }

    /// The head of an answer is there.
    pub(super) fn answered(&self, now: Instant, verdict: Verdict, latency: Duration) {
        match verdict {
            Verdict::Overloaded => {
                self.throttle(now, false);
                self.leave(now, End::Dropped);
            }
            Verdict::Success if self.whole.get() => {
                self.throttle(now, true);
                self.leave(now, End::Success(latency));
            }
            // A fast failure says nothing about how long the work takes.
            Verdict::Success | Verdict::Failure | Verdict::Unknown => {
                self.throttle(now, true);
                self.leave(now, End::Ignored);
            }
        }
    }

    /// There will be no answer.
    pub(super) fn failed(&self, now: Instant, error: &AttemptError) {
        match error {
            AttemptError::Timeout | AttemptError::Overdue => {
                self.throttle(now, false);
                self.leave(now, End::Dropped);
            }
            AttemptError::ConnectTimeout | AttemptError::Reset | AttemptError::Malformed(_) => {
                self.throttle(now, false);
                self.leave(now, End::Ignored);
            }
            // Whether the service would have answered will never be known.
            AttemptError::Deadline | AttemptError::ClientGone => self.give_up(now),
            // It never got there, or not whole, or was not begun with. Breakers and ejection see to endpoints that are down.
            AttemptError::Connect(_)
            | AttemptError::Tls(_)
            | AttemptError::Refused
            | AttemptError::Stale
            | AttemptError::NoEndpoint(_)
            | AttemptError::BodyTimeout
            | AttemptError::BodyTooLarge
            | AttemptError::BodyMalformed(_) => {
                self.throttle(now, true);
                self.leave(now, End::Ignored);
            }
        }
    }

    /// Nobody waits for the answer any more.
    fn give_up(&self, now: Instant) {
        let waited = self.sent.get().map_or(Duration::ZERO, |sent| now.since(sent));
        let base = self.view.entrance.base_latency();
        let overloaded = self.whole.get() && !base.is_zero() && waited > base * PATIENCE;
        self.leave(now, if overloaded { End::Dropped } else { End::Ignored });
    }

    /// The endpoint has switched protocols: from here on it takes a tunnel's place, and no request's.
    pub(super) fn switch(&self) {
        self.leave_bulkhead();
    }

    /// The endpoint has answered without a switch.
    pub(super) fn stay(&self) {
        if self.in_tunnel.take() {
            let _ = self.view.tunnels.leave(self.worker.id);
        }
    }

    fn leave_bulkhead(&self) {
        if self.in_bulkhead.take() {
            self.view.bulkhead.release(self.worker.id);
        }
    }

    fn throttle(&self, now: Instant, accepted: bool) {
        let Some(sent) = self.sent.take() else { return };
        if accepted {
            self.view.throttle.on_accept(self.worker.id, self.class, sent, now);
        } else {
            self.view.throttle.on_failure(self.worker.id, self.class, sent);
        }
    }

    fn leave(&self, now: Instant, end: End) {
        if let Some(ticket) = self.ticket.take() {
            self.view.entrance.leave(self.worker.id, ticket, now, end);
        }
    }

    /// What it says about the service as a whole.
    pub(super) fn judge(&self, now: Instant, end: CallEnd, latency: Duration) {
        if let Some(permit) = self.permit.take() {
            self.view.breaker.on_end(permit, now, end, latency, &mut self.worker.rng.borrow_mut());
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let now = self.worker.now();
        self.judge(now, CallEnd::Ignored, Duration::ZERO);
        self.give_up(now);
        self.leave_bulkhead();
        self.stay();
    }
}

/// Whether the request may go on: its customer's rate, the fuse of batch jobs, the service's breaker, the room that the service has, the room that
/// it is given, and what it would most likely say; in this order, so that what is refused cheaply is refused first and
/// what is refused here does not count against the service.
///
/// # Errors
/// Why not; `None` when the client left while it waited.
pub(super) async fn admit<'a>(
    worker: &'a Rc<Worker>,
    conn: &Conn,
    request: &Request,
    view: &Rc<Seen>,
    service: usize,
) -> Result<Admitted<'a>, Option<Refusal>> {
    let mut now = request.started;
    if request.caller_deadline.expired(now) {
        return Err(Some(Reason::DeadlineExceeded.into()));
    }
    view.callers.on_request(worker.id, request.attempts_before + 1, now);
    if let Some(limiter) = &request.route().limiter {
        let taken = limiter.try_take(now, request.customer, request.cost);
        taken.map_err(|_| Some(Reason::RateLimited.into()))?;
    }
    let gone = |cx: &mut Context<'_>| conn.poll_gone(cx, &worker.buffers);
    let until = |wait_max: Span| {
        worker.clock.timer(worker.now().after(wait_max.get()).min(request.caller_deadline.instant()))
    };
    let mut view = Rc::clone(view);
    let mut fused = None;
    if let Some(fuse) = &request.fuse {
        // Boxed: what users ask for does not carry its room.
        let entered = Box::pin(fuse.enter(worker.id, || until(fuse.params.wait_max), gone)).await;
        let held = entered.map_err(|why| no_place(worker, request, why, || fuse_full(worker, fuse, why)))?;
        if held.waited {
            // What was known of the service when the request joined the line may have changed since.
            (view, now) = (request.local.view(service), worker.tell_time());
        }
        fused = Some(held);
    }
    let permit = view.breaker.try_enter(worker.id, now, &mut worker.rng.borrow_mut());
    let permit = permit.map_err(|_| Some(Reason::BreakerOpen.into()))?;
    let admitted = Admitted::new(worker, view, fused, request.criticality, permit);
    let view = &admitted.view;

    if view.params.admission.enabled {
        if let Some(degradation) = &view.degradation {
            degradation.on_asked(worker.id);
        }
        let who = Who {
            class: request.criticality,
            customer: request.customer,
            deadline: request.caller_deadline.sooner(Deadline::within(now, request.timeout)),
        };
        let entered = view.entrance.enter(worker.id, who, now, gone).await;
        match entered.ok_or(None)? {
            Ok(ticket) => admitted.ticket.set(Some(ticket)),
            Err(Shed::Deadline) => return Err(Some(Reason::DeadlineExceeded.into())),
            Err(shed) => return Err(Some(overloaded(worker, view, Reason::Overloaded, shed.name()))),
        }
    }
    if request.upgrade.is_some() {
        // Asked for before the endpoint is: to refuse after it has switched would be a lie to it.
        if view.tunnels.try_enter(worker.id) != Place::Enter {
            return Err(Some(Refusal { detail: "tunnels", ..Reason::BulkheadFull.into() }));
        }
        admitted.in_tunnel.set(true);
    }
    let entered = view.bulkhead.enter(worker.id, || until(view.params.bulkhead.wait_max), gone).await;
    entered.map_err(|why| no_place(worker, request, why, || Reason::BulkheadFull.into()))?;
    admitted.in_bulkhead.set(true);
    let now = worker.now();
    let sent = view.throttle.try_send(worker.id, request.criticality, now, &mut worker.rng.borrow_mut());
    sent.map_err(|_| Some(overloaded(worker, view, Reason::Throttled, "")))?;
    admitted.sent.set(Some(now));
    probe::send(worker, view);
    view.retry_budget.on_request(worker.id);
    request.local.snapshot.retry_budget.on_request(worker.id);
    Ok(admitted)
}

/// What a request is told that found no place: nothing when nobody listens, its own deadline when that is what ended the
/// wait.
fn no_place(
    worker: &Worker,
    request: &Request,
    why: NoPlace,
    refusal: impl FnOnce() -> Refusal,
) -> Option<Refusal> {
    match why {
        NoPlace::Gone => None,
        NoPlace::Late if request.caller_deadline.expired(worker.tell_time()) => {
            Some(Reason::DeadlineExceeded.into())
        }
        NoPlace::Late | NoPlace::Full => Some(refusal()),
    }
}

/// A refusal by the fuse. The line moves on within its longest wait, so callers come back spread over that.
fn fuse_full(worker: &Worker, fuse: &Fuse, why: NoPlace) -> Refusal {
    let wait_max = fuse.params.wait_max.get().as_secs().max(1);
    let after_secs = Some(worker.rng.borrow_mut().u64(1..=wait_max));
    let detail = if why == NoPlace::Full { "queue_full" } else { "queue_timeout" };
    let refusal = Refusal::from(Reason::FuseFull);
    Refusal { detail, again: Again { after_secs, ..refusal.again }, ..refusal }
}

/// A refusal for overload. Callers come back spread over some seconds, and elsewhere at once only while few of them come
/// from elsewhere.
fn overloaded(worker: &Worker, view: &View, reason: Reason, detail: &'static str) -> Refusal {
    let never_now = view.callers.advice(worker.now()) == Advice::Never;
    let after_secs = Some(worker.rng.borrow_mut().u64(1..=3));
    Refusal { detail, again: Again { never_now, elsewhere: !never_now, after_secs }, ..reason.into() }
}
