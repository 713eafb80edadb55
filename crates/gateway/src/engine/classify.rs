//! From a request's head to everything that is known about it before it is admitted.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use model::{Criticality, Deadline, Instant};
use policy::balance::{Balance, HashKey};

use super::buffers::Buffer;
use super::conn::Conn;
use super::worker::Worker;
use crate::answer::{After, Reason, Refusal};
use crate::codec::{Body, Field, FieldId, Form, Framing, Limits, Method, RequestHead, Version};
use crate::config::HttpsRedirect;
use crate::forwarded::{self, Scheme};
use crate::fuse::{CLASS_MAX, Fuse};
use crate::grpc::is_grpc;
use crate::quota::Asked;
use crate::router::{Captures, CompiledAction, NotFound, Query, path};
use crate::service::{Degraded, View};
use crate::snapshot::{Local, RouteState, Seen};
use crate::tls::Identity;

/// Longest deadline that a caller may set: beyond it a number is nonsense or an attack on timers.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A classified request: what to do with it, for whom, until when.
pub(crate) struct Request {
    pub(crate) started: Instant,
    pub(crate) local: Rc<Local>,
    pub(crate) route: usize,
    pub(crate) plan: Plan,
    pub(crate) method: Method,
    /// The client speaks HTTP/1.1; to an older one nothing is sent in chunks.
    pub(crate) http11: bool,
    /// What the client wants of the connection.
    pub(crate) after: After,
    /// What its body still owes.
    pub(crate) body: Body,
    pub(crate) body_max: u64,
    pub(crate) expects_continue: bool,
    /// The protocols that the client offers to switch to.
    pub(crate) upgrade: Option<Box<[u8]>>,
    /// When the caller gives up; what Seawall grants itself comes on top, see `timeout`.
    pub(crate) caller_deadline: Deadline,
    /// Endpoints are told what is left as gRPC writes it, too, because the caller spoke so.
    pub(crate) grpc_timeout: bool,
    /// It is a call of gRPC.
    pub(crate) grpc: bool,
    /// Time for the head of the answer, from the end of the request.
    pub(crate) timeout: Duration,
    pub(crate) criticality: Criticality,
    /// Attempts that the caller has made before this one.
    pub(crate) attempts_before: u32,
    /// What the request is placed by, hashed.
    pub(crate) key: Option<u64>,
    /// The endpoint that the client's cookie names.
    pub(crate) sticky: Option<[u8; 16]>,
    /// Who the customer is, hashed, and what the request costs.
    pub(crate) customer: u64,
    pub(crate) cost: f64,
    /// What it asks of its route's quota.
    pub(crate) quota: Option<Asked>,
    /// The modes of its service that hold for it.
    pub(crate) degraded: Option<Degraded>,
    /// What batch jobs go through.
    pub(crate) fuse: Option<Arc<Fuse>>,
    /// What the access log needs to know, when the request is to be logged.
    pub(crate) log: Option<Buffer>,
}

/// What becomes of a request.
pub(crate) enum Plan {
    /// It is forwarded.
    Forward {
        view: Rc<Seen>,
        service: usize,
        /// The head that endpoints get, but for the fields that differ by attempt and the empty line.
        head: Buffer,
    },
    /// It is answered from the configuration, with these fields; the body is the mode's or the route's.
    Answer { status: u16, fields: Buffer },
}

impl Request {
    pub(crate) fn route(&self) -> &RouteState {
        &self.local.snapshot.routes[self.route]
    }

    /// Safe to send twice: defined to have one effect however often it arrives.
    pub(crate) fn idempotent(&self) -> bool {
        self.method.is_idempotent()
    }
}

/// A request that is refused before it is one.
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) started: Instant,
    pub(crate) to_head: bool,
    pub(crate) after: After,
    pub(crate) http11: bool,
    pub(crate) grpc: bool,
    /// What the access log needs to know, when the request is to be logged.
    pub(crate) log: Option<Buffer>,
}

impl Refused {
    /// A request whose head cannot be read: nothing about the client can be relied on. Boxed because it is rare.
    pub(crate) fn unread(worker: &Worker, conn: &Conn, refusal: Refusal, started: Instant) -> Box<Self> {
        let log = log(worker, |line| crate::access_log::begin(line, conn.peer, None, None));
        Box::new(Self {
            refusal,
            started,
            to_head: false,
            after: After::Close,
            http11: true,
            grpc: false,
            log,
        })
    }
}

/// The beginning of the access log's line about a request, if requests are logged.
fn log(worker: &Worker, begin: impl FnOnce(&mut Vec<u8>)) -> Option<Buffer> {
    worker.shared.access_log.enabled().then(|| {
        let mut line = worker.buffers.take();
        begin(&mut line);
        line
    })
}

fn wanted_after(head: &RequestHead<'_, '_>) -> After {
    if head.persists() { After::Keep } else { After::Close }
}

/// Decides what `head`, the first bytes of `bytes`, asks for.
///
/// # Errors
/// A refusal, boxed because it is rare.
pub(crate) fn classify(
    worker: &Worker,
    conn: &Conn,
    bytes: &[u8],
    head: &RequestHead<'_, '_>,
    started: Instant,
) -> Result<Request, Box<Refused>> {
    let client =
        forwarded::client_address(conn.peer, conn.trusted, &conn.listener.params.trusted, head.fields);
    let refuse = |refusal: Refusal, route: Option<(&str, Criticality)>| {
        // A client that sends a body and is refused may not have finished sending: the connection cannot be used again.
        let after = if head.framing == Framing::None { wanted_after(head) } else { After::Close };
        let log = log(worker, |line| crate::access_log::begin(line, client, Some(head), route));
        let (to_head, http11) = (head.method == Method::Head, head.version == Version::Http11);
        let grpc = head.fields.iter().any(|field| field.id == FieldId::ContentType && is_grpc(field.value));
        Box::new(Refused { refusal, started, to_head, after, http11, grpc, log })
    };
    if worker.buffers.exhausted() {
        return Err(refuse(Reason::OutOfBuffers.into(), None));
    }
    if let Some(redirect) = &conn.listener.params.https_redirect {
        return Err(refuse(to_https(redirect, head), None));
    }
    let local = worker.local();
    let mut normal = worker.path_scratch.borrow_mut();
    let path = match head.target.form {
        Form::Asterisk => head.target.path,
        _ => path::normalise(head.target.path, &mut normal)
            .map_err(|_| refuse(Reason::BadPath.into(), None))?,
    };
    let find = |name: &str| {
        if local.snapshot.is_identity_header(name.as_bytes()) {
            return None;
        }
        head.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    };
    let identity = conn.identity();
    let query = Query {
        host: head.host,
        method: head.method_text,
        path,
        query: head.target.query,
        header: &find,
        identity: identity.map(Identity::names).unwrap_or_default(),
    };
    let found = match local.snapshot.router.find(&query) {
        Ok(found) => found,
        Err(NotFound::NoRoute) => return Err(refuse(Reason::NoRoute.into(), None)),
        Err(NotFound::MethodNotAllowed(methods)) => {
            let allow = format!("allow: {methods}\r\n").into_bytes().into();
            let refusal = Refusal { fields: Some(allow), ..Reason::MethodNotAllowed.into() };
            return Err(refuse(refusal, None));
        }
    };
    let compiled = found.route;
    let route_index = compiled.index;
    let route = &local.snapshot.routes[route_index];

    let facts = Facts::gather(head, conn.trusted);
    let fuse = local.snapshot.fuse(conn.listener.params.address).cloned();
    let stated = facts.criticality.unwrap_or(route.criticality);
    // The route's class is for users: a batch job does not become one of them by asking for the same thing.
    let criticality = if fuse.is_some() { stated.max(CLASS_MAX) } else { stated };
    let known = Some((&*route.name, criticality));

    let limits = &conn.listener.params.limits;
    let mut body_max = match route.params.body_max.unwrap_or(limits.body).get() {
        0 => u64::MAX,
        max => max,
    };
    if matches!(head.framing, Framing::Length(length) if length > body_max) {
        return Err(refuse(Reason::BodyTooLarge.into(), known));
    }

    let key_of = |by: &HashKey| match by {
        HashKey::Header(name) => find(name).map(policy::hash),
        HashKey::Cookie(name) => cookie(head.fields, name).map(policy::hash),
        HashKey::ClientAddress => Some(address_key(client)),
        HashKey::Path => Some(policy::hash(path.as_bytes())),
        HashKey::Identity => identity.map(|identity| policy::hash(identity.name().as_bytes())),
    };

    let mut service_view = None;
    let mut degraded = None;
    let plan = match &compiled.action {
        CompiledAction::Service(_) | CompiledAction::Split(_) => {
            let service = match &compiled.action {
                CompiledAction::Service(index) => *index,
                CompiledAction::Split(indices) => {
                    let key = route.params.split_by.as_ref().and_then(key_of);
                    let split = route.split.as_ref().expect("a route that splits has its split built");
                    match split.pick(key, &mut worker.rng.borrow_mut()) {
                        Some(part) => indices[part],
                        None => return Err(refuse(Reason::NoEndpoint.into(), known)),
                    }
                }
                _ => unreachable!("matched above"),
            };
            let (mut service, mut view) = (service, local.view(service));
            if let Some(degradation) = &view.degradation {
                degraded = degradation.look(worker.id, &mut worker.rng.borrow_mut());
            }
            let measures = degraded.as_ref().map(Degraded::measures);
            if let Some(max) = measures.and_then(|measures| measures.body_max) {
                body_max = body_max.min(max);
            }
            if let Some(stand_in) = measures.and_then(|measures| local.find(measures.service.as_deref()?)) {
                (service, view) = (stand_in, local.view(stand_in));
            }
            service_view = Some(Rc::clone(&view));
            let mut wire = worker.buffers.take();
            match measures.and_then(|measures| measures.answer.as_ref()) {
                Some(answer) => {
                    wire.extend(answer.fields());
                    Plan::Answer { status: answer.status(), fields: wire }
                }
                None => {
                    let captures = &found.captures;
                    write_head(
                        &mut wire,
                        bytes,
                        head,
                        path,
                        conn,
                        &local,
                        criticality,
                        &view,
                        compiled,
                        captures,
                        facts.grpc,
                    );
                    Plan::Forward { view, service, head: wire }
                }
            }
        }
        CompiledAction::Redirect(redirect) => {
            let mut fields = worker.buffers.take();
            redirect.write_fields(path, head.target.query, &found.captures, &mut fields);
            Plan::Answer { status: redirect.status(), fields }
        }
        CompiledAction::Answer(answer) => {
            let mut fields = worker.buffers.take();
            fields.extend(answer.fields());
            Plan::Answer { status: answer.status(), fields }
        }
    };

    let balance_key =
        service_view.as_ref().and_then(|view| balance_key(&view.params.balance)).and_then(key_of);
    let sticky = service_view
        .as_ref()
        .and_then(|view| view.params.sticky.as_ref())
        .and_then(|sticky| cookie(head.fields, &sticky.cookie))
        .and_then(|value| value.try_into().ok());
    let (customer, cost) = match &route.params.rate_limit {
        Some(limit) => {
            let cost = limit.cost_header.as_deref().filter(|_| conn.trusted).and_then(find);
            (key_of(&limit.by).unwrap_or(0), cost.and_then(number).unwrap_or(1.0))
        }
        None => (key_of(&HashKey::ClientAddress).unwrap_or(0), 1.0),
    };
    let quota = route.quota.as_ref().map(|quota| {
        let stated = |name: &str| Some(name).filter(|_| conn.trusted).and_then(find).and_then(number);
        Asked::new(quota, key_of(&quota.params.by), stated)
    });
    let timeout = route
        .params
        .timeout
        // A stream may wait for its first message for as long as its caller does.
        .or_else(|| service_view.as_ref().filter(|_| !facts.grpc).map(|view| view.params.timeouts.request))
        .map_or(Duration::MAX, model::Span::get);
    let log = log(worker, |line| crate::access_log::begin(line, client, Some(head), known));
    let body = Body::new(head.framing, &Limits::default());
    drop(normal);
    Ok(Request {
        started,
        route: route_index,
        plan,
        method: head.method,
        http11: head.version == Version::Http11,
        after: wanted_after(head),
        body,
        body_max,
        expects_continue: head.expect_continue,
        upgrade: upgrade(head).map(Box::from),
        grpc_timeout: facts.grpc_timeout,
        grpc: facts.grpc,
        caller_deadline: facts.deadline.map_or(Deadline::NONE, |left| Deadline::within(started, left)),
        timeout,
        criticality,
        attempts_before: facts.attempt.saturating_sub(1),
        key: balance_key,
        sticky,
        customer,
        cost,
        quota,
        degraded,
        fuse,
        log,
        local,
    })
}

/// What a trusted caller says about its request.
#[derive(Default)]
struct Facts {
    deadline: Option<Duration>,
    /// There was a `grpc-timeout` that counts.
    grpc_timeout: bool,
    /// It is a call of gRPC.
    grpc: bool,
    criticality: Option<Criticality>,
    /// The attempt's number at the caller; 1 when it says nothing.
    attempt: u32,
}

impl Facts {
    /// From anybody else these headers say nothing, but for the deadline that belongs to a call of gRPC: it is its caller's
    /// own to shorten. Nonsense says nothing either.
    fn gather(head: &RequestHead<'_, '_>, trusted: bool) -> Self {
        let mut facts = Facts { attempt: 1, ..Facts::default() };
        let of_type = |field: &&Field<'_>| field.id == FieldId::ContentType;
        facts.grpc = head.fields.iter().find(of_type).is_some_and(|field| is_grpc(field.value));
        if !trusted {
            let timeout =
                head.fields.iter().filter(|_| facts.grpc).find(|field| field.id == FieldId::GrpcTimeout);
            facts.deadline =
                timeout.and_then(|field| policy::deadline::parse_grpc_timeout(field.value, DEADLINE_MAX));
            facts.grpc_timeout = facts.deadline.is_some();
            return facts;
        }
        for field in head.fields {
            match field.id {
                FieldId::SeawallDeadlineMs => {
                    facts.deadline =
                        policy::deadline::parse_millis(field.value, DEADLINE_MAX).or(facts.deadline);
                }
                FieldId::GrpcTimeout => {
                    facts.grpc_timeout = true;
                    facts.deadline =
                        facts.deadline.or(policy::deadline::parse_grpc_timeout(field.value, DEADLINE_MAX));
                }
                FieldId::SeawallCriticality => {
                    facts.criticality =
                        std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
                }
                FieldId::SeawallAttempt => {
                    let stated = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
                    facts.attempt = stated.unwrap_or(1).clamp(1, 1000);
                }
                _ => {}
            }
        }
        facts
    }
}

/// What `balance` places requests by, if it does.
fn balance_key(balance: &Balance) -> Option<&HashKey> {
    match balance {
        Balance::RingHash(params) => Some(&params.key),
        Balance::Maglev(params) => Some(&params.key),
        _ => None,
    }
}

fn number(value: &[u8]) -> Option<f64> {
    let cost: f64 = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
    (cost.is_finite() && cost >= 0.0).then_some(cost)
}

/// What a client is placed by that is known by its address alone.
pub(crate) fn address_key(client: std::net::IpAddr) -> u64 {
    match client {
        std::net::IpAddr::V4(ip) => policy::hash(&ip.octets()),
        // A client of IPv6 owns a /64 at the least.
        std::net::IpAddr::V6(ip) => policy::hash(&ip.octets()[..8]),
    }
}

/// The protocols that a request offers to switch to, unless HTTP/2 is among them: requests in a tunnel of that would come past
/// routes and limits (h2c smuggling). An offer may be ignored (RFC 9110, 7.8).
fn upgrade<'b>(head: &RequestHead<'b, '_>) -> Option<&'b [u8]> {
    let http2 = |one: &[u8]| one.trim_ascii().get(..2).is_some_and(|name| name.eq_ignore_ascii_case(b"h2"));
    head.upgrade.filter(|list| !list.split(|byte| *byte == b',').any(http2))
}

/// Sends the client to the same place over TLS. A host that cannot stand in a location, or none, is no place.
fn to_https(redirect: &HttpsRedirect, head: &RequestHead<'_, '_>) -> Refusal {
    let Some(host) = forwarded::host_of(head.host).filter(|_| head.target.form != Form::Asterisk) else {
        return Refusal { status: 400, ..Reason::HttpsOnly.into() };
    };
    let mut fields = format!("location: https://{host}");
    if redirect.port != 443 {
        fields.push_str(&format!(":{}", redirect.port));
    }
    fields.push_str(head.target.path);
    if let Some(query) = head.target.query {
        fields.push('?');
        fields.push_str(query);
    }
    fields.push_str("\r\n");
    Refusal { status: redirect.status, fields: Some(fields.into_bytes().into()), ..Reason::HttpsOnly.into() }
}

/// The value of the cookie called `name`.
fn cookie<'b>(fields: &[Field<'b>], name: &str) -> Option<&'b [u8]> {
    fields.iter().filter(|field| field.id == FieldId::Cookie).find_map(|field| {
        field.value.split(|byte| *byte == b';').find_map(|pair| {
            let (key, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
            (key.trim_ascii() == name.as_bytes()).then(|| value[1..].trim_ascii())
        })
    })
}

/// Writes the head that endpoints get, in one pass over the one that came: fields that stay are copied in runs.
#[allow(clippy::too_many_arguments)]
fn write_head(
    out: &mut Vec<u8>,
    bytes: &[u8],
    head: &RequestHead<'_, '_>,
    path: &str,
    conn: &Conn,
    local: &Local,
    criticality: Criticality,
    view: &View,
    compiled: &crate::router::CompiledRoute,
    captures: &Captures,
    grpc: bool,
) {
    out.extend_from_slice(head.method_text.as_bytes());
    out.push(b' ');
    if head.target.form == Form::Asterisk {
        out.push(b'*');
    } else {
        compiled.write_path(path, captures, out);
        if let Some(query) = head.target.query {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(compiled.host.as_deref().unwrap_or(head.host).as_bytes());
    out.extend_from_slice(b"\r\n");

    let mut runs = Runs::over(bytes);
    for field in head.fields {
        let drop = match field.id {
            FieldId::Other => local.snapshot.is_identity_header(field.name),
            FieldId::Cookie | FieldId::ContentType => false,
            // Of one hop, and yet what gRPC must say on each.
            FieldId::Te if grpc && field.value.eq_ignore_ascii_case(b"trailers") => false,
            id => is_dropped(id),
        };
        if drop || compiled.removes_request_field(field.name) {
            runs.flush(out);
        } else {
            runs.keep(field.line);
        }
    }
    runs.flush(out);

    match head.framing {
        Framing::None => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            crate::codec::write_decimal(length, out);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::UntilClose => {}
    }
    if let Some(protocol) = upgrade(head) {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
        out.extend_from_slice(protocol);
        out.extend_from_slice(b"\r\n");
    }
    if head.expect_continue {
        out.extend_from_slice(b"expect: 100-continue\r\n");
    }
    let scheme = if conn.tls.is_some() { Scheme::Https } else { Scheme::Http };
    forwarded::write(conn.peer, scheme, conn.trusted, head.host, head.fields, out);
    if view.params.via {
        out.extend_from_slice(b"via: 1.1 seawall\r\n");
    }
    out.extend_from_slice(b"seawall-criticality: ");
    out.extend_from_slice(criticality.name().as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some((name, identity)) = conn.identity_field() {
        for part in [name, ": ", identity.name(), "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(compiled.request_fields());
}

/// Fields that do not go on as they came: between two hops only, written anew, or from somebody who is not believed.
fn is_dropped(id: FieldId) -> bool {
    !matches!(
        id,
        FieldId::Other
            | FieldId::ContentType
            | FieldId::GrpcStatus
            | FieldId::Cookie
            | FieldId::Date
            | FieldId::Server
            | FieldId::Via
            | FieldId::SetCookie
            | FieldId::RetryAfter
            | FieldId::Trailer
    )
}

/// Copies field lines that stay in runs as long as possible: neighbours in the head go out in one piece.
pub(super) struct Runs<'b> {
    head: &'b [u8],
    run: Option<(usize, usize)>,
}

impl<'b> Runs<'b> {
    /// Runs over the lines of `head`.
    pub(super) fn over(head: &'b [u8]) -> Self {
        Self { head, run: None }
    }

    /// `line`, a part of the head behind all earlier ones, stays.
    pub(super) fn keep(&mut self, line: &[u8]) {
        let start = line.as_ptr() as usize - self.head.as_ptr() as usize;
        self.run = Some((self.run.map_or(start, |(first, _)| first), start + line.len()));
    }

    /// Writes the run that ends here.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        if let Some((start, end)) = self.run.take() {
            out.extend_from_slice(&self.head[start..end]);
        }
    }
}
