//! One attempt: take a connection to an endpoint, send the request, wait for the head of the answer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::answer_head::{Signals, copy_end_to_end, hop_field, switches_as_asked, write_sticky};
use super::buffers::Buffer;
use super::classify::{Plan, Request, Runs};
use super::conn::{Conn, poll_flush};
use super::download::{Download, DownloadError};
use super::h2::client::{LinkParams, Links};
use super::pool::Supply;
use super::stream::{OpenError, Stream};
use super::upload::{Upload, UploadError};
use super::worker::Worker;
use crate::answer::{After, Reason, Refusal};
use crate::codec::{
    Body, FieldId, FieldStorage, Framing, Limits, Malformed, Parsed, ResponseHead, parse_response,
    write_decimal,
};
use crate::config::{self, Alpn};
use crate::grpc::Code;
use crate::service::{Notice, Service, Target, View};
use crate::snapshot::{Local, Seen};
use crate::tls::{Failure, Security};
use model::{Deadline, Fault, Instant, Party, Retry, Span, Verdict};
use policy::Ended;
use policy::attempts::RetryPolicyParams;
use policy::breaker::{CallEnd, Permit};

/// Why an attempt brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttemptError {
    #[error("the endpoint does not accept a connection")]
    Connect(#[source] io::Error),
    #[error("the connection to the endpoint could not be secured")]
    Tls(#[source] io::Error),
    #[error("the endpoint did not accept a connection in time")]
    ConnectTimeout,
    #[error("the endpoint did not begin with the request")]
    Refused,
    #[error("a pooled connection was closed before it was used")]
    Stale,
    #[error("the endpoint closed the connection without an answer")]
    Reset,
    #[error("the endpoint did not answer in time")]
    Timeout,
    #[error("the request's deadline passed")]
    Deadline,
    #[error("the endpoint did not answer in the time that the route grants")]
    Overdue,
    #[error("the endpoint's answer breaks the rule {}", .0.name())]
    Malformed(Malformed),
    #[error("the client left")]
    ClientGone,
    #[error("the client's body did not arrive in time")]
    BodyTimeout,
    #[error("the client's body is larger than allowed")]
    BodyTooLarge,
    #[error("the client's body breaks the rule {}", .0.name())]
    BodyMalformed(Malformed),
    #[error("no endpoint may be tried")]
    NoEndpoint(Reason),
}

impl AttemptError {
    /// `deadline` has passed. A caller that is in too much of a hurry proves nothing against the endpoint; one that is too
    /// slow for the route does.
    pub(crate) fn out_of_time(request: &Request, deadline: Deadline) -> Self {
        if deadline == request.caller_deadline { Self::Deadline } else { Self::Overdue }
    }

    /// Whose fault it is, and whether another attempt could help without doing harm.
    pub(crate) fn fault(&self) -> Fault {
        let (who, retry) = match self {
            Self::Connect(_) | Self::Tls(_) | Self::ConnectTimeout | Self::Refused => {
                (Party::Upstream, Retry::Safe)
            }
            Self::Stale | Self::Reset | Self::Timeout => (Party::Upstream, Retry::IfIdempotent),
            Self::Malformed(_) | Self::Overdue => (Party::Upstream, Retry::Never),
            Self::Deadline
            | Self::ClientGone
            | Self::BodyTimeout
            | Self::BodyTooLarge
            | Self::BodyMalformed(_) => (Party::Downstream, Retry::Never),
            Self::NoEndpoint(_) => (Party::Ours, Retry::Never),
        };
        Fault { who, retry }
    }

    /// What the client is told.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Connect(_) | Self::Tls(_) | Self::ConnectTimeout => Reason::ConnectFailed,
            Self::Refused | Self::Stale | Self::Reset => Reason::UpstreamReset,
            Self::Timeout => Reason::UpstreamTimeout,
            Self::Deadline | Self::Overdue => Reason::DeadlineExceeded,
            Self::Malformed(_) => Reason::UpstreamMalformed,
            Self::BodyTooLarge => Reason::BodyTooLarge,
            Self::BodyTimeout | Self::ClientGone => Reason::BodyTimeout,
            Self::BodyMalformed(_) => Reason::Malformed,
            Self::NoEndpoint(reason) => *reason,
        }
    }

    /// How the client is told.
    pub(crate) fn refusal(&self) -> Refusal {
        let refusal = Refusal::from(self.reason());
        match self {
            Self::Malformed(malformed) | Self::BodyMalformed(malformed) => {
                Refusal { detail: malformed.name(), ..refusal }
            }
            Self::Tls(error) => Refusal { detail: Failure::of(error).detail(), ..refusal },
            _ => refusal,
        }
    }

    fn verdict(&self) -> Verdict {
        match self.fault().who {
            Party::Upstream => Verdict::Failure,
            Party::Downstream | Party::Ours => Verdict::Unknown,
        }
    }
}

impl From<UploadError> for AttemptError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::ClientGone => Self::ClientGone,
            UploadError::Malformed(malformed) => Self::BodyMalformed(malformed),
            UploadError::TooLarge => Self::BodyTooLarge,
            UploadError::Upstream => Self::Reset,
        }
    }
}

/// A request under way at an endpoint. However it ends, a cancelled one included, the endpoint is told once.
pub(crate) struct Flight {
    worker: Rc<Worker>,
    local: Rc<Local>,
    pub(super) view: Rc<Seen>,
    service: usize,
    index: u32,
    /// The breaker's, until it has been told.
    permit: Option<Permit>,
    started: Instant,
    verdict: Verdict,
    latency: Option<Duration>,
    /// How long it takes says nothing about the endpoint.
    patient: bool,
}

impl Flight {
    /// Takes over what [`Endpoint::try_start`](policy::Endpoint::try_start) and the breaker granted.
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        request: &Request,
        view: &Rc<Seen>,
        index: u32,
        permit: Permit,
        now: Instant,
    ) -> Self {
        let Plan::Forward { service, .. } = &request.plan else {
            unreachable!("only forwarded requests are attempted")
        };
        let mut flight = Self::start(worker, &request.local, view, *service, index, permit, now);
        flight.patient = request.route().params.long_poll;
        flight
    }

    /// As [`Flight::begin`], for a connection that is passed on as it is.
    pub(crate) fn start(
        worker: &Rc<Worker>,
        local: &Rc<Local>,
        view: &Rc<Seen>,
        service: usize,
        index: u32,
        permit: Permit,
        now: Instant,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            local: Rc::clone(local),
            view: Rc::clone(view),
            service,
            index,
            permit: Some(permit),
            started: now,
            verdict: Verdict::Unknown,
            latency: None,
            patient: false,
        }
    }

    pub(crate) fn target(&self) -> &Arc<Target> {
        &self.view.targets[self.index as usize]
    }

    pub(super) fn service(&self) -> &Service {
        &self.local.snapshot.services[self.service]
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// What it says about the endpoint.
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// From sending the request to the answer's head.
    pub(crate) fn latency(&self) -> Duration {
        self.latency.unwrap_or_default()
    }

    pub(crate) fn conclude(&mut self, now: Instant, verdict: Verdict) {
        self.verdict = verdict;
        self.latency = Some(now.since(self.started));
    }

    /// What followed a head says more about the endpoint than the head did.
    pub(crate) fn judge(&mut self, verdict: Verdict) {
        self.verdict = verdict;
    }
}

impl Flight {
    /// Tells the endpoint and its breaker now what it has come to: what goes on from here counts as active and as nothing else.
    /// A connection that lives for hours would otherwise keep a half-open breaker waiting for as long.
    pub(crate) fn settle(&mut self, now: Instant) {
        // A place of its own for what is told, so that the flight keeps its.
        self.target().endpoint.on_start(now);
        self.tell(now);
        self.verdict = Verdict::Unknown;
    }

    fn tell(&mut self, now: Instant) {
        let latency = self.latency.unwrap_or_else(|| now.since(self.started));
        let target = &self.view.targets[self.index as usize];
        // Told as taking as long as others take: to leave it out would leave only failures.
        let told = match self.patient {
            true => target.endpoint.latency(now).unwrap_or_default(),
            false => latency,
        };
        target.endpoint.on_end(now, Ended { latency: told, verdict: self.verdict });
        if let Some(permit) = self.permit.take() {
            let rng = &mut self.worker.rng.borrow_mut();
            target.breaker.on_end(permit, now, CallEnd::from(self.verdict), told, rng);
        }
        if target.streak.on_end(self.verdict) {
            self.service().notify(Notice::Failing { target: target.id });
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.tell(self.worker.now());
    }
}

/// The head of an answer, ready to go out, with the way to the rest of it.
pub(crate) struct Answer {
    pub(crate) flight: Flight,
    pub(crate) stream: Stream,
    pub(crate) status: u16,
    /// The status that it is judged by: its own, or what its `grpc-status` stands for; `None` while that is still to come.
    pub(crate) judged: Option<u16>,
    pub(crate) download: Download,
    /// What the client is told about its connection.
    pub(crate) after: After,
    /// The connection to the endpoint may be used again once the body has come.
    pub(crate) persists: bool,
    /// The endpoint asks not to be asked again.
    pub(crate) dont_retry: bool,
    /// From here on both sides speak another protocol.
    pub(crate) upgraded: bool,
    /// It is a stream of events, which may be silent for long.
    pub(crate) events: bool,
}

impl Answer {
    /// Whether another attempt may take its place: nothing but a head and its end has come, or the head says all. A gRPC
    /// message is the answer, whatever follows it.
    pub(crate) fn may_be_replaced(&self) -> bool {
        self.judged == Some(self.status) || self.download.bytes == 0
    }
}

/// What every attempt of a request shares.
pub(crate) struct Attempts<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) conn: &'a Conn,
    pub(crate) request: &'a Request,
    pub(crate) view: &'a Rc<Seen>,
    pub(crate) supply: Supply<'a>,
    pub(crate) retry: &'a RetryPolicyParams,
    pub(crate) head: &'a [u8],
    pub(crate) upload: &'a RefCell<Upload>,
    /// Interim answers are passed on; not while two attempts race.
    pub(crate) interim: bool,
}

/// Sends the request on its `flight` as attempt `number`, and waits for the head of its answer.
pub(crate) async fn attempt(
    way: &Attempts<'_>,
    mut flight: Flight,
    number: u32,
    deadline: Deadline,
) -> Result<Answer, AttemptError> {
    let worker = way.worker;
    let result = send_and_wait(way, &mut flight, number, deadline, worker.now()).await;
    match result {
        Ok(incoming) => Ok(incoming.with(flight)),
        Err(error) => {
            flight.conclude(worker.tell_time(), error.verdict());
            Err(error)
        }
    }
}

/// An answer that does not own its flight yet.
struct Incoming {
    stream: Stream,
    status: u16,
    judged: Option<u16>,
    download: Download,
    after: After,
    persists: bool,
    dont_retry: bool,
    upgraded: bool,
    events: bool,
}

impl Incoming {
    fn with(self, flight: Flight) -> Answer {
        let Self { stream, status, judged, download, after, persists, dont_retry, upgraded, events } = self;
        Answer { flight, stream, status, judged, download, after, persists, dont_retry, upgraded, events }
    }
}

async fn send_and_wait(
    way: &Attempts<'_>,
    flight: &mut Flight,
    number: u32,
    deadline: Deadline,
    now: Instant,
) -> Result<Incoming, AttemptError> {
    let (worker, conn, view) = (way.worker, way.conn, way.view);
    // A stream of gRPC may say nothing before its first message, and whoever waits for news is not kept waiting.
    let patient = way.request.grpc || way.request.route().params.long_poll;
    let usual = if patient { Duration::MAX } else { view.params.timeouts.attempt.get() };
    let attempt_timeout = match way.request.route().params.long_poll {
        true => usual,
        false => way.retry.attempt_timeout.map_or(usual, Span::get),
    };
    let left =
        deadline.to_pass_on(now, view.params.timeouts.deadline_margin.get()).ok_or(AttemptError::Deadline)?;

    let (stream, pooled) = match spoken(view) {
        config::Protocol::H1 => {
            let fits = |stream: &Stream| stream.fits(&view.security);
            match way.supply.take(flight.target().id, now).filter(fits) {
                Some(stream) => (stream, true),
                None => {
                    let target = flight.target();
                    let opening =
                        Stream::open(target.address, target.endpoint.name(), &view.security, &[Alpn::Http11]);
                    (connect(way, opening, deadline).await?, false)
                }
            }
        }
        // Boxed: attempts over HTTP/1.1 alone do not carry its room.
        protocol => Box::pin(join(way, flight.index(), protocol, now, deadline)).await?,
    };
    if pooled {
        worker.metrics.reuses.one();
    }

    let mut wire = worker.buffers.take();
    wire.extend(way.head);
    let told = left.min(attempt_timeout);
    if deadline != Deadline::NONE || attempt_timeout < Duration::MAX {
        if way.request.grpc_timeout || way.request.grpc {
            wire.extend(b"grpc-timeout: ");
            wire.extend(policy::deadline::format_grpc_timeout(told).as_bytes());
            wire.extend(b"\r\n");
        }
        wire.extend(b"seawall-deadline-ms: ");
        write_decimal(u64::try_from(told.as_millis().max(1)).unwrap_or(u64::MAX), &mut wire);
        wire.extend(b"\r\n");
    }
    wire.extend(b"seawall-attempt: ");
    write_decimal(u64::from(way.request.attempts_before + number), &mut wire);
    wire.extend(b"\r\n\r\n");
    way.upload.borrow_mut().restart(&mut wire);

    let invited = !way.request.expects_continue || way.upload.borrow().bytes > 0;
    let mut exchange = Exchange {
        way,
        stream,
        wire,
        wire_sent: 0,
        write_failed: false,
        head: None,
        to_client: None,
        any_byte: false,
        pooled,
        invited,
        stage_deadline: Instant::NEVER,
        attempt_timeout,
        deadline,
    };
    exchange.stage_deadline = now.after(exchange.stage_timeout(&way.upload.borrow()));
    exchange.set_alarm();
    let answered = poll_fn(|cx| exchange.poll(cx, flight)).await;
    conn.alarm.off();
    let stream = exchange.stream;
    let (status, judged, download, after, persists, dont_retry, upgraded, events) = answered?;
    Ok(Incoming { stream, status, judged, download, after, persists, dont_retry, upgraded, events })
}

/// What the endpoints of `view` may be spoken to in: by their own choice only where there is TLS to choose by.
fn spoken(view: &View) -> config::Protocol {
    match (view.params.protocol, &view.security) {
        (config::Protocol::Auto, Security::Plain) => config::Protocol::H1,
        (protocol, _) => protocol,
    }
}

/// Takes a place on a connection of HTTP/2 to the endpoint at `index`, which this worker's requests share, or a connection of
/// HTTP/1.1 where the endpoint may choose and chooses that. Answers whether it comes from the pool.
async fn join(
    way: &Attempts<'_>,
    index: u32,
    protocol: config::Protocol,
    now: Instant,
    deadline: Deadline,
) -> Result<(Stream, bool), AttemptError> {
    let (worker, params, security) = (way.worker, &way.view.params, &way.view.security);
    let target = &way.view.targets[index as usize];
    if let Some(stream) = worker.links.take(target.id, security) {
        worker.metrics.reuses.one();
        return Ok((stream, false));
    }
    let mut chosen = None;
    if protocol == config::Protocol::Auto {
        if let Some(stream) = way.supply.take(target.id, now).filter(|stream| stream.fits(security)) {
            return Ok((stream, true));
        }
        let offer = &[Alpn::Http2, Alpn::Http11];
        let opening = Stream::open(target.address, target.endpoint.name(), security, offer);
        let stream = connect(way, opening, deadline).await?;
        if stream.alpn() != Some(Alpn::Http2) {
            return Ok((stream, false));
        }
        chosen = Some(stream);
    }
    let link = LinkParams {
        security: security.clone(),
        http2: params.http2.clone(),
        connect_timeout: params.timeouts.connect.get(),
        keep: params.timeouts.idle.get(),
        head_max: params.response_head_max.as_len(),
    };
    let view = Rc::clone(way.view);
    let open = || async move {
        if let Some(stream) = chosen {
            return Ok(stream);
        }
        let target = &view.targets[index as usize];
        let name = target.endpoint.name();
        let stream = Stream::open(target.address, name, &view.security, &[Alpn::Http2]).await?;
        match stream.alpn() {
            None if !matches!(view.security, Security::Plain) => {
                Err(OpenError::Secure(io::Error::other("it does not speak HTTP/2")))
            }
            _ => Ok(stream),
        }
    };
    Ok((connect(way, Links::open(worker, target.id, link, open), deadline).await?, false))
}

/// Opens a connection. Nothing of the request has been sent yet, so a failure is always safe to try elsewhere.
async fn connect(
    way: &Attempts<'_>,
    opening: impl Future<Output = Result<Stream, OpenError>>,
    deadline: Deadline,
) -> Result<Stream, AttemptError> {
    let worker = way.worker;
    let connected_by = worker.now().after(way.view.params.timeouts.connect.get());
    let until = deadline.instant().min(connected_by);
    let mut connecting = std::pin::pin!(opening);
    worker.wheel.set(&way.conn.alarm, until);
    let result = poll_fn(|cx| {
        way.conn.alarm.wake_me(cx.waker());
        match connecting.as_mut().poll(cx) {
            Poll::Ready(Err(OpenError::Connect(error))) if worker.on_io_error(&error) => {
                // Our shortage says nothing about the endpoint.
                return Poll::Ready(Err(AttemptError::NoEndpoint(Reason::OutOfDescriptors)));
            }
            Poll::Ready(result) => {
                return Poll::Ready(result.map_err(|error| match error {
                    OpenError::Connect(error) => AttemptError::Connect(error),
                    OpenError::Secure(error) => AttemptError::Tls(error),
                }));
            }
            Poll::Pending => {}
        }
        if way.upload.borrow().arrived() && way.conn.poll_gone(cx, &worker.buffers).is_ready() {
            return Poll::Ready(Err(AttemptError::ClientGone));
        }
        if way.conn.alarm.rung() {
            let now = worker.tell_time();
            if deadline.expired(now) {
                return Poll::Ready(Err(AttemptError::out_of_time(way.request, deadline)));
            }
            if connected_by <= now {
                return Poll::Ready(Err(AttemptError::ConnectTimeout));
            }
        }
        if way.conn.alarm.rung() || !way.conn.alarm.is_set() {
            // One of two racing attempts rang, or has ended and taken the alarm with it.
            worker.wheel.set(&way.conn.alarm, until);
        }
        Poll::Pending
    })
    .await;
    match &result {
        Ok(_) => worker.metrics.connects.one(),
        Err(_) => worker.metrics.connect_failures.one(),
    }
    result
}

type Answered = (u16, Option<u16>, Download, After, bool, bool, bool, bool);

/// Both directions of an attempt until the head of the answer is there.
struct Exchange<'a, 'w> {
    way: &'a Attempts<'w>,
    stream: Stream,
    wire: Buffer,
    wire_sent: usize,
    /// The endpoint takes no more bytes; it may have answered all the same.
    write_failed: bool,
    /// A partial head.
    head: Option<Buffer>,
    /// Interim answers that the client has not taken yet, and how much of them it has.
    to_client: Option<(Buffer, usize)>,
    any_byte: bool,
    pooled: bool,
    /// The client need not wait for an invitation to send its body, or no longer.
    invited: bool,
    /// When this stage is over: the answer's head, or the next piece of the client's body.
    stage_deadline: Instant,
    attempt_timeout: Duration,
    deadline: Deadline,
}

impl Exchange<'_, '_> {
    fn set_alarm(&self) {
        let until = self.stage_deadline.min(self.deadline.instant());
        self.way.worker.wheel.set(&self.way.conn.alarm, until);
    }

    fn poll(&mut self, cx: &mut Context<'_>, flight: &mut Flight) -> Poll<Result<Answered, AttemptError>> {
        self.way.conn.alarm.wake_me(cx.waker());
        self.poll_send(cx)?;
        if let Poll::Ready(answered) = self.poll_answer(cx, flight) {
            return Poll::Ready(answered);
        }
        self.poll_interim(cx)?;
        if self.way.upload.borrow().arrived()
            && self.way.conn.poll_gone(cx, &self.way.worker.buffers).is_ready()
        {
            return Poll::Ready(Err(AttemptError::ClientGone));
        }
        if self.way.conn.alarm.rung() {
            let now = self.way.worker.tell_time();
            if self.deadline.expired(now) {
                return Poll::Ready(Err(AttemptError::out_of_time(self.way.request, self.deadline)));
            }
            if self.stage_deadline <= now {
                return Poll::Ready(Err(
                    if self.wire.is_empty() && self.waits_for_client(&self.way.upload.borrow()) {
                        AttemptError::BodyTimeout
                    } else {
                        AttemptError::Timeout
                    },
                ));
            }
            self.set_alarm();
        } else if !self.way.conn.alarm.is_set() {
            // The other one of two racing attempts has ended and taken the alarm with it.
            self.set_alarm();
        }
        Poll::Pending
    }

    /// Whether it is the client's pace that is watched. A client that waits for an invitation waits for the endpoint.
    fn waits_for_client(&self, upload: &Upload) -> bool {
        self.invited && upload.waits_for_client()
    }

    fn stage_timeout(&self, upload: &Upload) -> Duration {
        if self.waits_for_client(upload) && self.way.request.grpc {
            Duration::MAX
        } else if self.waits_for_client(upload) {
            self.way.conn.listener.params.timeouts.body.get()
        } else {
            self.attempt_timeout
        }
    }

    /// Sends head and body for as long as the endpoint takes them.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), AttemptError> {
        if self.write_failed {
            return Ok(());
        }
        match poll_flush(&mut self.stream, cx, &mut self.wire, &mut self.wire_sent) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Err(_)) => {
                self.write_failed = true;
                return Ok(());
            }
            Poll::Ready(Ok(())) => {}
        }
        let mut upload = self.way.upload.borrow_mut();
        if upload.done() {
            return Ok(());
        }
        let (worker, conn) = (self.way.worker, self.way.conn);
        let mut progress = false;
        let sent = upload.poll(cx, worker, conn, &mut self.stream, &mut progress);
        if progress {
            self.invited = true;
            self.stage_deadline = worker.tell_time().after(self.stage_timeout(&upload));
            self.set_alarm();
        }
        match sent {
            Poll::Ready(Err(UploadError::Upstream)) => self.write_failed = true,
            Poll::Ready(Err(error)) => return Err(error.into()),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Ok(())
    }

    /// Passes interim answers on.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Result<(), AttemptError> {
        if let Some((bytes, sent)) = &mut self.to_client {
            let mut stream = self.way.conn.stream.borrow_mut();
            match poll_flush(&mut stream, cx, bytes, sent) {
                Poll::Ready(Ok(())) => self.to_client = None,
                Poll::Ready(Err(_)) => return Err(AttemptError::ClientGone),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Reads until the final head is there.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        flight: &mut Flight,
    ) -> Poll<Result<Answered, AttemptError>> {
        let worker = self.way.worker;
        loop {
            let mut scratch = worker.scratch.borrow_mut();
            let count = match ready!(self.stream.poll_read(cx, &mut scratch)) {
                Ok(count) if count > 0 => count,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Poll::Ready(Err(AttemptError::Refused));
                }
                _ if self.any_byte || !self.pooled => return Poll::Ready(Err(AttemptError::Reset)),
                _ => return Poll::Ready(Err(AttemptError::Stale)),
            };
            self.any_byte = true;
            let answered = match self.head.take() {
                None => self.parse(&scratch[..count], flight),
                Some(mut partial) => {
                    partial.extend(&scratch[..count]);
                    self.parse(&partial, flight)
                }
            };
            if let Some(answered) = answered.transpose() {
                return Poll::Ready(answered);
            }
        }
    }

    /// Parses what has arrived; keeps it when the final head is not all there.
    fn parse(&mut self, mut bytes: &[u8], flight: &mut Flight) -> Result<Option<Answered>, AttemptError> {
        let limits =
            Limits { head_bytes: self.way.view.params.response_head_max.as_len(), ..Limits::default() };
        loop {
            let mut storage = FieldStorage::new();
            let head = match parse_response(bytes, &mut storage, &limits, self.way.request.method) {
                Err(malformed) => return Err(AttemptError::Malformed(malformed)),
                Ok(Parsed::Partial) => {
                    if !bytes.is_empty() {
                        self.head.insert(self.way.worker.buffers.take()).extend(bytes);
                    }
                    return Ok(None);
                }
                Ok(Parsed::Complete(head)) => head,
            };
            if head.is_interim() {
                self.interim(bytes, &head);
                bytes = &bytes[head.len..];
                continue;
            }
            return self.accept(bytes, &head, &limits, flight).map(Some);
        }
    }

    /// Passes on 100 to who waits for it, and 103 to whoever understands it.
    fn interim(&mut self, bytes: &[u8], head: &ResponseHead<'_, '_>) {
        let request = self.way.request;
        let wanted = match head.status {
            // While the body is still to come, attempts do not race.
            100 => request.expects_continue && !self.way.upload.borrow().arrived(),
            103 => request.http11 && self.way.interim,
            _ => false,
        };
        if head.status == 100 && wanted {
            self.invited = true;
            self.stage_deadline =
                self.way.worker.tell_time().after(self.stage_timeout(&self.way.upload.borrow()));
            self.set_alarm();
        }
        if wanted {
            let (out, _) = self.to_client.get_or_insert_with(|| (self.way.worker.buffers.take(), 0));
            crate::codec::write_status_line(crate::codec::Version::Http11, head.status, out);
            copy_end_to_end(bytes, head, out);
            out.extend(b"\r\n");
        }
    }

    /// Writes the head that the client gets, and judges the endpoint by the one that came.
    fn accept(
        &mut self,
        bytes: &[u8],
        head: &ResponseHead<'_, '_>,
        limits: &Limits,
        flight: &mut Flight,
    ) -> Result<Answered, AttemptError> {
        let Attempts { worker, conn, request, view, .. } = *self.way;
        let upgraded = head.status == 101;
        if upgraded && !switches_as_asked(request.upgrade.as_deref(), head.upgrade) {
            return Err(AttemptError::Malformed(Malformed::Status));
        }
        let now = worker.tell_time();
        let signals = Signals::read(head);
        let mut code = request.grpc.then(|| signals.grpc_status(head)).flatten();
        flight.conclude(now, code.map_or_else(|| signals.verdict(head.status), Code::verdict));
        signals.tell(flight, now);

        let dechunk = !request.http11 && head.framing == Framing::Chunked;
        let early = !self.way.upload.borrow().arrived();
        let after = if worker.draining() {
            After::Leave
        } else if upgraded || early || dechunk || head.framing == Framing::UntilClose || conn.last_request() {
            After::Close
        } else {
            request.after
        };

        let mut out = match self.to_client.take() {
            // What the client has not taken of the interim answers goes first.
            Some((mut unsent, sent)) => {
                unsent.consume(sent);
                unsent
            }
            None => worker.buffers.take(),
        };
        out.extend(b"HTTP/1.1 ");
        write_decimal(u64::from(head.status), &mut out);
        out.extend(b" ");
        out.extend(head.reason.as_bytes());
        out.extend(b"\r\n");
        let route = &request.local.snapshot.router.routes()[request.route];
        if route.changes_response() {
            let mut runs = Runs::over(bytes);
            for field in head.fields {
                if hop_field(field.id) || route.removes_response_field(field.name) {
                    runs.flush(&mut out);
                } else {
                    runs.keep(field.line);
                }
            }
            runs.flush(&mut out);
            out.extend(route.response_fields());
        } else {
            copy_end_to_end(bytes, head, &mut out);
        }
        match head.framing {
            Framing::Chunked if !dechunk => out.extend(b"transfer-encoding: chunked\r\n"),
            Framing::Length(length) => {
                out.extend(b"content-length: ");
                write_decimal(length, &mut out);
                out.extend(b"\r\n");
            }
            Framing::None => {
                // The length that another method would have got, or that of the copy the client has.
                for field in head.fields.iter().filter(|field| field.id == FieldId::ContentLength) {
                    out.extend(field.line);
                }
            }
            Framing::Chunked | Framing::UntilClose => {}
        }
        if let Some(degraded) = &request.degraded {
            out.extend(degraded.field());
        }
        if view.params.via {
            out.extend(b"via: 1.1 seawall\r\n");
        }
        if let (Some(params), Some(sticky)) = (&view.params.sticky, &view.sticky) {
            let cookie = sticky.cookie(flight.index());
            if request.sticky != Some(cookie) {
                write_sticky(params, &cookie, &mut out);
            }
        }
        if after == After::Leave {
            out.extend(b"seawall-lame-duck: 1\r\n");
        }
        match (upgraded, after) {
            (true, _) => {
                out.extend(b"connection: upgrade\r\nupgrade: ");
                out.extend(head.upgrade.unwrap_or_default());
                out.extend(b"\r\n");
            }
            (false, After::Close | After::Leave) => out.extend(b"connection: close\r\n"),
            (false, After::Keep) if !request.http11 => out.extend(b"connection: keep-alive\r\n"),
            (false, After::Keep) => {}
        }
        out.extend(b"\r\n");

        let rest = &bytes[head.len..];
        let body = if upgraded { Body::None } else { Body::new(head.framing, limits) };
        let download = if upgraded {
            // Already the other protocol: passed on behind the head.
            out.extend(rest);
            Download::new(body, out, false, &[], None)
        } else {
            // Neither tried again nor raced by another attempt: this is the answer.
            let certain =
                self.way.interim && !request.grpc && !self.way.retry.statuses.contains(&head.status);
            Download::new(body, out, dechunk, rest, certain.then_some(conn))
        };
        let download = download.map_err(|error| match error {
            DownloadError::Malformed(malformed) => AttemptError::Malformed(malformed),
            DownloadError::ClientGone | DownloadError::Truncated => AttemptError::Reset,
        })?;
        let mut judged = Some(head.status);
        if request.grpc {
            if code.is_none() && download.arrived() {
                code = Some(download.grpc_status().unwrap_or(Code::UNKNOWN));
            }
            flight.judge(code.map_or(Verdict::Unknown, Code::verdict));
            judged = code.map(Code::status);
        }
        let persists = head.persists() && !self.write_failed;
        Ok((head.status, judged, download, after, persists, signals.dont_retry, upgraded, signals.events))
    }
}
