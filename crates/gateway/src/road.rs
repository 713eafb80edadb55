//! The road that every request takes:
//! read head → classify → admit → attempt (retry, hedge) → deliver → observe.

mod admit;
mod pick;

pub(crate) use pick::{Tried, pick_any};

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use model::{Deadline, Fault, Instant, Party, Ratio, Retry, Verdict};
use policy::attempts::{Condition, Decision, Facts, Failure, Stop, decide};
use policy::breaker::CallEnd;
use policy::hedge::HedgeTimer;

use crate::answer::{After, Reason, Refusal, begin_head, end_head, refuse};
use crate::codec::{Body, FieldStorage, Limits, Malformed, Method, Parsed, parse_request};
use crate::engine::attempt::{Answer, AttemptError, Attempts, Flight, attempt};
use crate::engine::buffers::Buffer;
use crate::engine::classify::{Plan, Refused, Request, classify};
use crate::engine::conn::{Conn, poll_flush};
use crate::engine::download::{DownloadError, Waits};
use crate::engine::h2::PREFACE;
use crate::engine::tunnel;
use crate::engine::upload::Upload;
use crate::engine::worker::Worker;
use crate::grpc::{Code, Messages};
use crate::metrics::{ClientStage, Ending};
use crate::quota;
use crate::router::CompiledAction;
use crate::service::Degraded;
use admit::{Admitted, admit};

/// What the connection does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It waits for another request.
    Idle,
    /// It is closed; the client has taken all there was.
    Close,
    /// It is closed once the client has stopped sending, so that what it was told is not lost.
    Linger,
    /// It speaks HTTP/2: nothing of it has been used.
    Http2,
}

/// Takes one request down the road. The connection has bytes to read.
pub(crate) async fn request(worker: Rc<Worker>, conn: Rc<Conn>) -> Next {
    let request = match read_head(&worker, &conn).await {
        Head::Request(request) => request,
        Head::Refused(refused) => return answer_refused(&worker, &conn, &refused).await,
        Head::Nothing => return Next::Idle,
        Head::Http2 => return Next::Http2,
        Head::Gone => return Next::Close,
    };
    let served = serve(&worker, &conn, &request).await;
    observe(&worker, &request, &served);
    served.next
}

/// What became of a request.
pub(crate) struct Served {
    /// The status that the client got; 0 for none.
    pub(crate) status: u16,
    pub(crate) ending: Ending,
    pub(crate) reason: Option<Reason>,
    /// From the request's first byte to the head of the answer.
    pub(crate) latency: Duration,
    pub(crate) attempts: u32,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) endpoint: Option<Rc<str>>,
    /// What was taken from its quota.
    pub(crate) spent: Option<policy::quota::Spent>,
    /// When it was let through to the service.
    pub(crate) admitted: Option<Instant>,
    pub(crate) next: Next,
}

impl Default for Served {
    /// Refused without a word, as long as nothing better is known.
    fn default() -> Self {
        Self {
            status: 0,
            ending: Ending::Refused,
            reason: None,
            latency: Duration::ZERO,
            attempts: 0,
            request_bytes: 0,
            response_bytes: 0,
            endpoint: None,
            spent: None,
            admitted: None,
            next: Next::Close,
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "boxing the usual case would allocate for each request")]
enum Head {
    Request(Request),
    Refused(Box<Refused>),
    /// The connection was thought to have bytes, and had none.
    Nothing,
    /// The connection begins with HTTP/2's preface.
    Http2,
    Gone,
}

/// Reads until the head of a request is there, and classifies it while it still lies in the read buffer.
async fn read_head(worker: &Rc<Worker>, conn: &Conn) -> Head {
    let mut reading = Reading::new(worker, conn);
    let head = poll_fn(|cx| reading.poll(cx)).await;
    conn.alarm.off();
    if !matches!(head, Head::Nothing | Head::Http2) {
        conn.requests.set(conn.requests.get() + 1);
    }
    head
}

/// A request's head on its way in.
struct Reading<'a> {
    worker: &'a Rc<Worker>,
    conn: &'a Conn,
    limits: Limits,
    /// When its first byte was read.
    started: Option<Instant>,
    /// Bytes already known not to hold a whole head.
    seen: usize,
}

impl<'a> Reading<'a> {
    fn new(worker: &'a Rc<Worker>, conn: &'a Conn) -> Self {
        let params = &conn.listener.params.limits;
        let limits = Limits {
            head_bytes: params.head.as_len(),
            fields_max: params.fields as usize,
            ..Limits::default()
        };
        Self { worker, conn, limits, started: None, seen: 0 }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Head> {
        let Self { worker, conn, .. } = *self;
        loop {
            let scratch = &mut *worker.scratch.borrow_mut();
            let mut carry = conn.carry.borrow_mut().take();
            let sent_ahead = self.seen == 0 && carry.is_some();
            let count = if sent_ahead {
                0
            } else {
                match conn.poll_read(cx, scratch) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Head::Gone),
                    Poll::Ready(Ok(count)) => count,
                    Poll::Pending => {
                        *conn.carry.borrow_mut() = carry;
                        return self.wait(cx);
                    }
                }
            };
            let fresh = &scratch[..count];
            let bytes = match &mut carry {
                Some(carry) => {
                    carry.extend(fresh);
                    &carry[..]
                }
                None => fresh,
            };
            let started = *self.started.get_or_insert_with(|| worker.tell_time());
            match self.parse(bytes, started) {
                Some((used, head)) => {
                    *conn.carry.borrow_mut() = left_over(worker, carry, fresh, used);
                    return Poll::Ready(head);
                }
                None => {
                    if self.seen == 0 {
                        let timeout = conn.listener.params.timeouts.head.get();
                        worker.wheel.set(&conn.alarm, started.after(timeout));
                    }
                    self.seen = bytes.len().max(1);
                    *conn.carry.borrow_mut() = left_over(worker, carry, fresh, 0);
                }
            }
        }
    }

    /// There is nothing more to read for now.
    fn wait(&self, cx: &mut Context<'_>) -> Poll<Head> {
        let Self { worker, conn, .. } = *self;
        // The runtime takes a new connection for readable until it has been tried.
        let Some(started) = self.started else { return Poll::Ready(Head::Nothing) };
        conn.alarm.wake_me(cx.waker());
        if !conn.alarm.rung() {
            return Poll::Pending;
        }
        worker.metrics.client_timeouts[ClientStage::Head as usize].one();
        Poll::Ready(Head::Refused(Refused::unread(worker, conn, Reason::HeadTimeout.into(), started)))
    }

    /// Whether `bytes`, which are no HTTP/1.1, are the beginning of a connection of HTTP/2.
    #[cold]
    fn is_http2(&self, bytes: &[u8]) -> bool {
        let Self { conn, .. } = *self;
        let beginning = &bytes[..bytes.len().min(PREFACE.len())];
        conn.listener.params.http2.enabled && conn.is_new() && PREFACE.starts_with(beginning)
    }

    /// What `bytes` ask for and how many of them were used, once they hold a whole head or break a rule.
    fn parse(&self, bytes: &[u8], started: Instant) -> Option<(usize, Head)> {
        let Self { worker, conn, ref limits, seen, .. } = *self;
        let worth_a_try =
            seen == 0 || bytes.len() >= limits.head_bytes || crate::codec::may_hold_head(bytes, seen);
        if !worth_a_try {
            return None;
        }
        let mut storage = FieldStorage::new();
        match parse_request(bytes, &mut storage, limits) {
            Ok(Parsed::Partial) => None,
            Ok(Parsed::Complete(head)) => {
                let classified = classify(worker, conn, bytes, &head, started);
                Some((head.len, classified.map_or_else(Head::Refused, Head::Request)))
            }
            Err(Malformed::VersionUnsupported) if self.is_http2(bytes) => Some((0, Head::Http2)),
            Err(malformed) => {
                worker.metrics.malformed[malformed as usize].one();
                let refusal = Refusal {
                    status: malformed.status(),
                    detail: malformed.name(),
                    ..Reason::Malformed.into()
                };
                Some((bytes.len(), Head::Refused(Refused::unread(worker, conn, refusal, started))))
            }
        }
    }
}

/// What stays to be read of `carry`, which ends with `fresh`, or of `fresh` alone, after the first `used` bytes.
fn left_over(worker: &Worker, carry: Option<Buffer>, fresh: &[u8], used: usize) -> Option<Buffer> {
    match carry {
        Some(mut carry) => {
            carry.consume(used);
            (!carry.is_empty()).then_some(carry)
        }
        None if used < fresh.len() => {
            let mut left = worker.buffers.take();
            left.extend(&fresh[used..]);
            Some(left)
        }
        None => None,
    }
}

/// Answers a request that was refused before it was one.
async fn answer_refused(worker: &Rc<Worker>, conn: &Conn, refused: &Refused) -> Next {
    let reason = refused.refusal.reason;
    worker.metrics.refusals[reason as usize].one();
    let after = if worker.draining() { After::Leave } else { refused.after };
    let mut bytes = worker.buffers.take();
    refuse(&mut bytes, &refused.refusal, refused.to_head, after, refused.http11, refused.grpc, &worker.date);
    let next = match after {
        _ if !write_all(worker, conn, bytes).await => Next::Close,
        After::Keep => Next::Idle,
        After::Close | After::Leave => Next::Linger,
    };
    if let Some(line) = &refused.log {
        let latency = worker.now().since(refused.started);
        let status = refused.refusal.status;
        log(worker, line, &Served { status, reason: Some(reason), latency, next, ..Served::default() });
    }
    next
}

/// Admits the request, finds it an answer and delivers that.
async fn serve(worker: &Rc<Worker>, conn: &Rc<Conn>, request: &Request) -> Served {
    let route = request.route();
    if let Some(reason) = request.degraded.as_ref().and_then(|degraded| left_out(request, degraded)) {
        return finish_refused(worker, conn, request, None, reason.into(), Served::default()).await;
    }
    let (view, service, head) = match &request.plan {
        Plan::Answer { status, fields } => return serve_fixed(worker, conn, request, *status, fields).await,
        Plan::Forward { view, service, head } => (view, *service, head),
    };
    let mut served = Served::default();
    match quota::try_enter(worker, request) {
        Ok(spent) => served.spent = spent,
        Err(refusal) => return finish_refused(worker, conn, request, None, refusal, served).await,
    }
    let admitted = match admit(worker, conn, request, view, service).await {
        Ok(admitted) => admitted,
        Err(Some(refusal)) => return finish_refused(worker, conn, request, None, refusal, served).await,
        Err(None) => {
            served.ending = Ending::Cancelled;
            return served;
        }
    };

    let sent = worker.now();
    served.admitted = Some(sent);
    let view = &admitted.view;
    let retry = route.params.retry.as_ref().unwrap_or(&view.params.retry);
    let message_max = conn.listener.params.limits.grpc_message.get();
    let upload = Upload::new(
        request.body.clone(),
        retry.replay_max.as_len(),
        request.body_max,
        (request.grpc && message_max > 0).then(|| Messages::new(message_max)),
        &worker.buffers,
    );
    let upload = RefCell::new(upload);
    let absorbed = upload.borrow_mut().absorb(conn, &worker.buffers);
    if let Err(error) = absorbed {
        let error = AttemptError::from(error);
        admitted.failed(worker.now(), &error);
        let refusal = refusal_of(worker, &error);
        return finish_refused(worker, conn, request, Some(&upload), refusal, served).await;
    }
    admitted.whole.set(upload.borrow().arrived() && !route.params.long_poll);
    let way = Attempts {
        worker,
        conn,
        request,
        view,
        supply: admitted.supply(),
        retry,
        head,
        upload: &upload,
        interim: hedge_of(request).is_none(),
    };
    let found = find_answer(&way, &mut served).await;
    let now = worker.now();
    served.latency = now.since(request.started);
    served.request_bytes = upload.borrow().bytes;
    let answer = match found {
        Ok(answer) => answer,
        Err(AttemptError::ClientGone) => {
            served.ending = Ending::Cancelled;
            return served;
        }
        Err(error) => {
            admitted.failed(now, &error);
            let (ending, end) = match error.fault().who {
                Party::Upstream => (Ending::Failed, CallEnd::Failure),
                Party::Downstream | Party::Ours => (Ending::Refused, CallEnd::Ignored),
            };
            served.ending = ending;
            admitted.judge(now, end, now.since(sent));
            let refusal = refusal_of(worker, &error);
            return finish_refused(worker, conn, request, Some(&upload), refusal, served).await;
        }
    };
    served.status = answer.status;
    // Whoever waits for news is not kept waiting.
    let took = if route.params.long_poll { Duration::ZERO } else { now.since(sent) };
    match answer.judged {
        Some(status) => {
            served.ending = Ending::of(status);
            admitted.judge(now, call_end(status, answer.dont_retry), took);
            admitted.answered(now, answer.flight.verdict(), answer.flight.latency());
        }
        // A stream of gRPC: it was let in, and how it went is told at its end.
        None => admitted.answered(now, Verdict::Success, answer.flight.latency()),
    }
    if worker.shared.access_log.enabled() {
        served.endpoint = Some(answer.flight.target().endpoint.name().into());
    }
    if answer.upgraded {
        let Answer { stream, download, flight, .. } = answer;
        admitted.switch();
        let idle = view.params.timeouts.tunnel.get();
        let tunnel = Box::pin(tunnel::run(worker, conn, stream, download, flight, idle));
        (served.request_bytes, served.response_bytes) = tunnel.await;
        return served;
    }
    admitted.stay();
    deliver(worker, conn, request.grpc, answer, &upload, &admitted, &mut served).await;
    served
}

/// What an answer of `status` says about its service.
fn call_end(status: u16, dont_retry: bool) -> CallEnd {
    match status {
        // A refusal further down says that there is too much load, not that the service is broken.
        500.. if dont_retry => CallEnd::Ignored,
        500.. => CallEnd::Failure,
        _ => CallEnd::Success,
    }
}

/// Why a request is not served in the modes that hold for it.
fn left_out(request: &Request, degraded: &Degraded) -> Option<Reason> {
    if matches!(request.body, Body::Length(length) if length > request.body_max) {
        return Some(Reason::BodyTooLarge);
    }
    degraded.measures().drops(request.criticality).then_some(Reason::Degraded)
}

/// The timer of the route's hedges. Batch requests have none: each has one connection, and nobody waits for it.
fn hedge_of(request: &Request) -> Option<&HedgeTimer> {
    request.route().hedge.as_deref().filter(|_| request.fuse.is_none())
}

/// Attempts until there is an answer to deliver, or nothing more to hope for.
async fn find_answer(way: &Attempts<'_>, served: &mut Served) -> Result<Answer, AttemptError> {
    let Attempts { worker, request, view, retry, .. } = *way;
    let metrics = request.route().metrics.shard(worker.id);
    let measures = request.degraded.as_ref().map(Degraded::measures);
    let may_hedge = measures.is_none_or(|measures| !measures.no_hedging);
    let may_retry = measures.is_none_or(|measures| !measures.no_retries);
    let mut tried = Tried::default();
    let mut free_retry = true;
    let mut deadline: Option<Deadline> = None;
    loop {
        let now = worker.now();
        if deadline.is_none() && way.upload.borrow().arrived() {
            deadline = Some(request.caller_deadline.sooner(Deadline::within(now, request.timeout)));
        }
        // While the body is still arriving only the caller's own deadline counts: a long upload is not the service's delay.
        let deadline = deadline.unwrap_or(request.caller_deadline);
        if deadline.to_pass_on(now, view.params.timeouts.deadline_margin.get()).is_none() {
            // Found before an endpoint is asked, so that none is blamed for what others used up.
            return Err(AttemptError::out_of_time(request, deadline));
        }
        let (index, permit) =
            pick::pick(worker, request, view, &mut tried, now).map_err(AttemptError::NoEndpoint)?;
        let flight = Flight::begin(worker, request, view, index, permit, now);
        tried.push(index);
        served.attempts += 1;
        metrics.attempts[(served.attempts as usize).min(4) - 1].one();
        let hedge_delay = match hedge_of(request) {
            Some(hedge)
                if may_hedge
                    && served.attempts == 1
                    && way.upload.borrow().arrived()
                    && request.idempotent() =>
            {
                hedge.delay()
            }
            _ => None,
        };
        let result = match hedge_delay {
            None => attempt(way, flight, served.attempts, deadline).await,
            Some(delay) => {
                let first = attempt(way, flight, served.attempts, deadline);
                hedged(way, first, delay, deadline, &mut tried, &mut served.attempts).await
            }
        };
        let failure = match &result {
            Ok(answer) => match answer.judged {
                Some(status) if answer.may_be_replaced() && retry.statuses.contains(&status) => {
                    Failure::Status(status)
                }
                _ => return result,
            },
            Err(AttemptError::Stale) if free_retry && request.idempotent() => {
                // The endpoint closed an idle connection while the request was on its way: no sign of illness, so
                // trying once more costs no budget.
                worker.metrics.stale.one();
                free_retry = false;
                served.attempts -= 1;
                tried = Tried::default();
                way.supply.forget(view.targets[index as usize].id);
                continue;
            }
            Err(
                AttemptError::Connect(_)
                | AttemptError::Tls(_)
                | AttemptError::ConnectTimeout
                | AttemptError::Refused,
            ) => Failure::NoAnswer(Condition::ConnectFailure),
            Err(AttemptError::Stale | AttemptError::Reset) => Failure::NoAnswer(Condition::Reset),
            Err(AttemptError::Timeout) => Failure::NoAnswer(Condition::Timeout),
            Err(_) => return result,
        };
        if !may_retry {
            metrics.stops[Stop::Attempts as usize].one();
            return result;
        }
        let fault = match &result {
            Ok(_) => Fault { who: Party::Upstream, retry: Retry::IfIdempotent },
            Err(error) => error.fault(),
        };
        let now = worker.now();
        let facts = Facts {
            attempts: served.attempts,
            failure,
            retry: fault.retry,
            idempotent: request.idempotent(),
            dont_retry: result.as_ref().is_ok_and(|answer| answer.dont_retry),
            body_replayable: way.upload.borrow().replayable(),
            deadline_left: deadline.left(now),
        };
        let budgets = [&*view.retry_budget, &*request.local.snapshot.retry_budget];
        let decision = decide(retry, &facts, &budgets, now, &mut worker.rng.borrow_mut());
        match decision {
            Decision::Retry { delay, .. } => {
                drop(result);
                if !wait(way, delay).await {
                    return Err(AttemptError::ClientGone);
                }
            }
            Decision::Stop(stop) => {
                metrics.stops[stop as usize].one();
                return result;
            }
        }
    }
}

/// Waits before a retry; answers false when the client leaves meanwhile.
async fn wait(way: &Attempts<'_>, delay: Duration) -> bool {
    let mut sleep = pin!(tokio::time::sleep(delay));
    let waited = poll_fn(|cx| {
        if sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        if way.upload.borrow().arrived() && way.conn.poll_gone(cx, &way.worker.buffers).is_ready() {
            return Poll::Ready(false);
        }
        Poll::Pending
    })
    .await;
    way.worker.tell_time();
    waited
}

/// Sends a second attempt when the first has not answered after `delay`, if a budget pays for it; the first good answer
/// wins, and the other attempt is cancelled.
async fn hedged(
    way: &Attempts<'_>,
    first: impl Future<Output = Result<Answer, AttemptError>>,
    delay: Duration,
    deadline: Deadline,
    tried: &mut Tried,
    attempts: &mut u32,
) -> Result<Answer, AttemptError> {
    let Attempts { worker, request, view, .. } = *way;
    let mut first = pin!(first);
    tokio::select! {
        biased;
        result = &mut first => return result,
        () = tokio::time::sleep(delay) => {}
    }
    let now = worker.tell_time();
    let budgets = [&*view.retry_budget, &*request.local.snapshot.retry_budget];
    // Picked before paid for, so that a hedge that has nowhere to go costs nothing.
    let Ok((index, permit)) = pick::pick(worker, request, view, tried, now) else { return first.await };
    let flight = Flight::begin(worker, request, view, index, permit, now);
    if tried.as_slice().contains(&index) || !policy::budget::try_retry_all(&budgets, now) {
        drop(flight);
        return first.await;
    }
    tried.push(index);
    *attempts += 1;
    let metrics = request.route().metrics.shard(worker.id);
    metrics.hedges.one();
    metrics.attempts[(*attempts as usize).min(4) - 1].one();
    // Boxed: few requests come this far, and all would carry its room.
    let mut second = Box::pin(attempt(way, flight, *attempts, deadline));
    let good = |result: &Result<Answer, AttemptError>| {
        matches!(result, Ok(answer) if answer.judged.is_none_or(|status| status < 500))
            || matches!(result, Err(AttemptError::ClientGone))
    };
    tokio::select! {
        biased;
        result = &mut first => if good(&result) { result } else { second.await },
        result = &mut second => if good(&result) { result } else { first.await },
    }
}

/// Moves the answer to the client, and what is left of the request to the endpoint. With `patient`, the endpoint may be
/// silent for as long as its connection stands.
async fn deliver(
    worker: &Rc<Worker>,
    conn: &Conn,
    patient: bool,
    answer: Answer,
    upload: &RefCell<Upload>,
    admitted: &Admitted<'_>,
    served: &mut Served,
) {
    let view = &admitted.view;
    let Answer { mut flight, mut stream, mut download, after, persists, judged, dont_retry, events, .. } =
        answer;
    let begun = worker.now();
    let mut timed = false;
    let delivered = poll_fn(|cx| {
        let result = download.poll(cx, worker, conn, &mut stream);
        if let Poll::Ready(result) = result {
            return Poll::Ready(result);
        }
        // An early answer: the client may need to be heard out before it reads.
        if !upload.borrow().done() {
            let _ = upload.borrow_mut().poll(cx, worker, conn, &mut stream, &mut download.progress);
        } else if download.waits == Waits::Upstream && conn.poll_gone(cx, &worker.buffers).is_ready() {
            return Poll::Ready(Err(DownloadError::ClientGone));
        }
        conn.alarm.wake_me(cx.waker());
        if !timed || std::mem::take(&mut download.progress) {
            timed = true;
            let timeout = match download.waits {
                Waits::Client => conn.listener.params.timeouts.write.get(),
                // Nothing to say is no fault of a stream's.
                Waits::Upstream if patient => Duration::MAX,
                Waits::Upstream if events => view.params.timeouts.tunnel.get(),
                Waits::Upstream => view.params.timeouts.body.get(),
            };
            worker.wheel.set(&conn.alarm, worker.tell_time().after(timeout));
        } else if conn.alarm.rung() {
            if download.waits == Waits::Client {
                worker.metrics.client_timeouts[ClientStage::Write as usize].one();
                return Poll::Ready(Err(DownloadError::ClientGone));
            }
            return Poll::Ready(Err(DownloadError::Truncated));
        }
        Poll::Pending
    })
    .await;
    conn.alarm.off();
    served.response_bytes = download.bytes;
    match delivered {
        Ok(()) => {
            if judged.is_none() {
                let code = download.grpc_status().unwrap_or(Code::UNKNOWN);
                flight.judge(code.verdict());
                served.ending = Ending::of(code.status());
                let now = worker.now();
                admitted.judge(now, call_end(code.status(), dont_retry), now.since(begun) + flight.latency());
            }
            let target = flight.target().id;
            if persists && download.arrived() && !download.overrun && upload.borrow().done() {
                let idle_max = worker.shared.idle_upstream_max();
                let keep = view.params.timeouts.idle.get();
                admitted.supply().put(target, stream, worker.now(), keep, idle_max);
            }
            served.next = match after {
                After::Keep => Next::Idle,
                After::Close | After::Leave if upload.borrow().arrived() => Next::Close,
                After::Close | After::Leave => Next::Linger,
            };
        }
        Err(DownloadError::ClientGone) => {
            served.ending = Ending::Cancelled;
            served.next = Next::Close;
        }
        Err(DownloadError::Truncated | DownloadError::Malformed(_)) => {
            // The client sees a cut connection: the only honest end of an answer that has none.
            flight.judge(Verdict::Failure);
            if judged.is_none() {
                let now = worker.now();
                admitted.judge(now, CallEnd::Failure, now.since(begun) + flight.latency());
            }
            if download.ends_by_closing() {
                conn.break_off();
            }
            served.ending = Ending::Failed;
            served.reason = Some(Reason::UpstreamReset);
            served.next = Next::Close;
        }
    }
}

/// Answers from the configuration.
async fn serve_fixed(
    worker: &Rc<Worker>,
    conn: &Conn,
    request: &Request,
    status: u16,
    fields: &[u8],
) -> Served {
    let after = after_own(worker, conn, request, !request.body.finished());
    let mut bytes = worker.buffers.take();
    begin_head(&mut bytes, status, &worker.date);
    bytes.extend(fields);
    let route = &request.local.snapshot.router.routes()[request.route];
    bytes.extend(route.response_fields());
    if let Some(degraded) = &request.degraded {
        bytes.extend(degraded.field());
    }
    end_head(&mut bytes, after, request.http11);
    let of_mode = request.degraded.as_ref().and_then(|degraded| degraded.measures().answer.as_deref());
    let of_route = match &route.action {
        CompiledAction::Answer(answer) => Some(answer),
        _ => None,
    };
    if let (Some(answer), true) = (of_mode.or(of_route), request.method != Method::Head) {
        bytes.extend(answer.body());
    }
    let written = write_all(worker, conn, bytes).await;
    Served {
        status,
        ending: Ending::of(status),
        latency: worker.now().since(request.started),
        next: match after {
            _ if !written => Next::Close,
            After::Keep => Next::Idle,
            After::Close | After::Leave => Next::Linger,
        },
        ..Served::default()
    }
}

/// How the client is told that its request failed. What it did wrong itself is counted by kind.
fn refusal_of(worker: &Worker, error: &AttemptError) -> Refusal {
    match error {
        AttemptError::BodyMalformed(malformed) => worker.metrics.malformed[*malformed as usize].one(),
        AttemptError::BodyTimeout => worker.metrics.client_timeouts[ClientStage::Body as usize].one(),
        _ => {}
    }
    error.refusal()
}

/// Answers that the request cannot be served; `served` says how it ended by then.
async fn finish_refused(
    worker: &Rc<Worker>,
    conn: &Conn,
    request: &Request,
    upload: Option<&RefCell<Upload>>,
    mut refusal: Refusal,
    mut served: Served,
) -> Served {
    refusal.fields = refusal.fields.or_else(|| Some(Arc::clone(request.degraded.as_ref()?.field())));
    let reason = refusal.reason;
    worker.metrics.refusals[reason as usize].one();
    // A body that has not been read to its end makes the connection useless.
    let unread = upload.map_or(!request.body.finished(), |upload| !upload.borrow().arrived());
    let after = after_own(worker, conn, request, unread);
    let mut bytes = worker.buffers.take();
    let to_head = request.method == Method::Head;
    refuse(&mut bytes, &refusal, to_head, after, request.http11, request.grpc, &worker.date);
    served.latency = worker.tell_time().since(request.started);
    served.status = refusal.status;
    served.reason = Some(reason);
    served.next = match after {
        _ if !write_all(worker, conn, bytes).await => Next::Close,
        After::Keep => Next::Idle,
        After::Close | After::Leave => Next::Linger,
    };
    served
}

/// What the connection does after an answer of our own to a request whose body may be `unread`.
fn after_own(worker: &Worker, conn: &Conn, request: &Request, unread: bool) -> After {
    if worker.draining() {
        After::Leave
    } else if unread || conn.last_request() {
        After::Close
    } else {
        request.after
    }
}

/// Writes `bytes` to the client; answers whether it took them in time.
async fn write_all(worker: &Worker, conn: &Conn, mut bytes: Buffer) -> bool {
    let mut sent = 0;
    let mut timed = false;
    let written = poll_fn(|cx| {
        if let Poll::Ready(result) = poll_flush(&mut conn.stream.borrow_mut(), cx, &mut bytes, &mut sent) {
            return Poll::Ready(result.is_ok());
        }
        conn.alarm.wake_me(cx.waker());
        if !timed {
            timed = true;
            worker
                .wheel
                .set(&conn.alarm, worker.tell_time().after(conn.listener.params.timeouts.write.get()));
        } else if conn.alarm.rung() {
            worker.metrics.client_timeouts[ClientStage::Write as usize].one();
            return Poll::Ready(false);
        }
        Poll::Pending
    })
    .await;
    conn.alarm.off();
    written
}

/// Tells whoever learns from traffic what became of the request.
fn observe(worker: &Worker, request: &Request, served: &Served) {
    let route = request.route();
    quota::settle(worker, request, served);
    let shard = route.metrics.shard(worker.id);
    shard.requests[request.criticality.index()][served.ending as usize].one();
    let histogram = if served.ending.good() { &shard.good } else { &shard.bad };
    histogram.observe(served.latency);
    if served.request_bytes > 0 {
        shard.request_bytes.add(served.request_bytes);
    }
    if served.response_bytes > 0 {
        shard.response_bytes.add(served.response_bytes);
    }
    if let (Some(hedge), true) = (hedge_of(request), served.ending.good()) {
        hedge.on_latency(worker.id, worker.now(), served.latency);
    }
    let kept = request.degraded.as_ref().and_then(|degraded| degraded.measures().log_sample);
    let sampled = |share: Ratio| !served.ending.good() || worker.rng.borrow_mut().f64() < share.get();
    if let Some(line) = request.log.as_ref().filter(|_| kept.is_none_or(sampled)) {
        log(worker, line, served);
    }
}

/// Ends the access log's `line` about a request.
pub(crate) fn log(worker: &Worker, line: &[u8], served: &Served) {
    let random = worker.rng.borrow_mut().u32(..);
    if !worker.shared.access_log.end(line, served, worker.now(), random) {
        worker.metrics.log_dropped.one();
    }
}
