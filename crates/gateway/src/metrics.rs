//! What the gateway counts. Every metric is declared in [`METRICS`], which the exporter and the reference are made from.
//!
//! Counters are written by one worker each, without read-modify-write instructions, and summed when somebody asks.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use model::Criticality;

use crate::answer::Reason;
use crate::codec::Malformed;
use crate::config::ProxyProtocol;
use crate::engine::h2::meter::Flood;
use crate::fuse::FuseStatus;
use crate::listen::{Handshakes, ListenerFigures, ListenerState, Room};
use crate::quota::QuotaFigures;
use crate::service::{ClassShed, EndpointStatus, ModeStatus, ServiceStatus};
use crate::signals::{Signal, Utilisation};
use crate::tcp::{Outcome, ProxyRefused, TcpShard};
use crate::tls::{Failure, TlsStatus, UpstreamTls};

/// What kind of figure a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations by upper bound.
    Histogram,
}

impl Kind {
    /// Its name in the exposition format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric, as `/metrics` and the reference describe it.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name; a counter's ends in `_total`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels, all from the configuration or from fixed lists.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal $kind:ident [$($label:literal),*] $help:literal;)*) => {
        $(pub(crate) const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// Every metric of the gateway.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    REQUESTS = "seawall_gateway_requests_total" Counter ["route", "class", "outcome"]
        "Requests finished, by how they ended: success, client_error, server_error (what the service answered), failed (the service gave no usable answer), refused (this gateway declined), cancelled (the client left).";
    REQUEST_SECONDS = "seawall_gateway_request_duration_seconds" Histogram ["route", "result"]
        "From a request's first byte to the head of its answer, successes apart from failures.";
    REQUEST_BYTES = "seawall_gateway_request_body_bytes_total" Counter ["route"] "Bytes of request bodies forwarded.";
    RESPONSE_BYTES = "seawall_gateway_response_body_bytes_total" Counter ["route"] "Bytes of answer bodies forwarded.";
    ATTEMPTS = "seawall_gateway_attempts_total" Counter ["route", "number"]
        "Attempts sent upstream, by their number; 4 stands for 4 and more. Hedges count.";
    HEDGES = "seawall_gateway_hedges_total" Counter ["route"] "Second attempts sent beside a late first one.";
    RETRIES_STOPPED = "seawall_gateway_retries_stopped_total" Counter ["route", "reason"]
        "Failed requests that were not tried again, by why.";
    REFUSALS = "seawall_gateway_refusals_total" Counter ["reason"]
        "Requests that this gateway answered itself because it would not or could not forward them.";
    MALFORMED = "seawall_gateway_malformed_requests_total" Counter ["reason"]
        "Requests refused because they are no strict HTTP/1.1, by the rule they break.";
    CONNECTIONS = "seawall_gateway_connections_open" Gauge ["listener"] "Client connections open.";
    CONNECTIONS_MAX = "seawall_gateway_connections_max" Gauge ["listener"] "Client connections that may be open.";
    ROOM_TAKEN = "seawall_gateway_client_connections_open" Gauge []
        "Client connections open over all listeners, those that a reload took away included.";
    ROOM_MAX = "seawall_gateway_client_connections_max" Gauge []
        "Client connections that the process's limit of open files leaves room for, beside those to endpoints.";
    ACCEPTED = "seawall_gateway_connections_accepted_total" Counter ["listener"] "Client connections accepted.";
    SHED_CONNECTIONS = "seawall_gateway_connections_shed_total" Counter ["listener", "reason"]
        "Client connections closed on arrival: `limit` of the listener, or no file `descriptors` left.";
    TCP_CONNECTIONS = "seawall_gateway_tcp_connections_total" Counter ["listener", "outcome"]
        "Connections of a TCP listener that have ended: closed (by both sides), client_gone and upstream_gone (broken off by), idle, cut (the process or the listener left), failed (no endpoint accepted), refused.";
    TCP_BYTES = "seawall_gateway_tcp_bytes_total" Counter ["listener", "direction"] "Bytes passed on by a TCP listener: up to endpoints, down to clients.";
    PROXY_REFUSED = "seawall_gateway_proxy_protocol_refused_total" Counter ["listener", "reason"]
        "Connections closed for their PROXY header: untrusted (the peer may not say so), malformed, missing, timeout.";
    HANDSHAKES = "seawall_gateway_tls_handshakes_total" Counter ["listener", "kind"]
        "Handshakes with clients that succeeded: full, or resumed from an earlier session.";
    HANDSHAKES_FAILED = "seawall_gateway_tls_handshakes_failed_total" Counter ["listener", "reason"]
        "Handshakes with clients that failed: closed, timeout, limit (too many under way), authority, name, expired, certificate (the client's), refused (by the client), incompatible, unmatched (no certificate for the name), malformed, unusable.";
    HANDSHAKES_ACTIVE = "seawall_gateway_tls_handshakes_active" Gauge ["listener"] "Handshakes with clients under way.";
    CERTIFICATE_EXPIRY = "seawall_gateway_tls_certificate_expiry_timestamp_seconds" Gauge ["of", "certificate"]
        "When a certificate that is in use expires, by the listener or service that shows it and by its file.";
    CERTIFICATE_CURRENT = "seawall_gateway_tls_certificates_current" Gauge ["of"]
        "1 while certificates are in use as their files have them, 0 while changed files are refused.";
    CERTIFICATE_LOADS = "seawall_gateway_tls_certificate_reloads_total" Counter ["of", "result"]
        "Times that changed files of certificates were taken into use (ok) or refused.";
    UPSTREAM_HANDSHAKES = "seawall_gateway_upstream_tls_handshakes_total" Counter ["service", "kind"]
        "Handshakes with endpoints that succeeded: full, or resumed from an earlier session.";
    UPSTREAM_HANDSHAKES_FAILED = "seawall_gateway_upstream_tls_handshakes_failed_total" Counter ["service", "reason"]
        "Handshakes with endpoints that failed, by why, as for those with clients.";
    FUSE_ACTIVE = "seawall_gateway_fuse_active_requests" Gauge ["listener"] "Batch requests under way upstream, over all services.";
    FUSE_CONNECTIONS = "seawall_gateway_fuse_connections_open" Gauge ["listener"] "Connections to endpoints that batch requests use or left idle.";
    FUSE_CONNECTIONS_MAX = "seawall_gateway_fuse_connections_max" Gauge ["listener"] "Connections to endpoints that batch requests may have.";
    FUSE_WAITING = "seawall_gateway_fuse_waiting_requests" Gauge ["listener"] "Batch requests that wait in line.";
    FUSE_REFUSED = "seawall_gateway_fuse_refused_requests_total" Counter ["listener", "reason"]
        "Batch requests refused: queue_full (nobody more may wait) or queue_timeout (waited too long).";
    CLIENT_TIMEOUTS = "seawall_gateway_client_timeouts_total" Counter ["stage"]
        "Connections closed because the client was too slow: head, body, write.";
    HTTP2_CONNECTIONS = "seawall_gateway_http2_connections_total" Counter [] "Client connections that spoke HTTP/2.";
    HTTP2_STREAMS = "seawall_gateway_http2_streams_total" Counter [] "Requests that came by HTTP/2.";
    HTTP2_FLOODS = "seawall_gateway_http2_floods_total" Counter ["frame"]
        "Client connections closed because too many frames came that cost work and bring none, by the frame that was one too many: reset, ping, settings, priority, window_update, empty_data, continuation, unknown.";
    HTTP2_VIOLATIONS = "seawall_gateway_http2_violations_total" Counter []
        "Client connections closed because their HTTP/2 was wrong or exceeded a limit of frames, continuations or resets.";
    BUFFER_BYTES = "seawall_gateway_buffer_bytes" Gauge [] "Bytes in buffers that outlive a moment.";
    BUFFER_BYTES_MAX = "seawall_gateway_buffer_bytes_max" Gauge [] "Bytes that such buffers may take before requests are refused.";
    UPSTREAM_CONNECTS = "seawall_gateway_upstream_connects_total" Counter ["result"] "Connections opened to endpoints, by result.";
    UPSTREAM_REUSES = "seawall_gateway_upstream_reuses_total" Counter [] "Attempts sent on a pooled connection.";
    UPSTREAM_STALE = "seawall_gateway_upstream_stale_total" Counter []
        "Pooled connections that turned out closed; their request went out again on a new one, free of budget.";
    UPSTREAM_IDLE = "seawall_gateway_upstream_idle_connections" Gauge [] "Idle connections to endpoints.";
    ENDPOINT_ACTIVE = "seawall_gateway_endpoint_active_requests" Gauge ["service", "endpoint"] "Requests that an endpoint is working on for this process.";
    ENDPOINT_REQUESTS = "seawall_gateway_endpoint_requests_total" Counter ["service", "endpoint"] "Attempts that an endpoint answered or failed.";
    ENDPOINT_FAILURES = "seawall_gateway_endpoint_failures_total" Counter ["service", "endpoint"] "Attempts that an endpoint failed.";
    ENDPOINT_UNAVAILABLE = "seawall_gateway_endpoint_unavailable" Gauge ["service", "endpoint", "reason"]
        "1 while an endpoint gets no new requests, by why: unhealthy, ejected, lame_duck, disabled.";
    SERVICE_PANIC = "seawall_gateway_service_panicking" Gauge ["service"] "1 while so few endpoints are available that availability is ignored.";
    BREAKER_STATE = "seawall_gateway_breaker_state" Gauge ["service"] "The service's breaker: 0 closed, 1 half-open, 2 open.";
    BULKHEAD_ACTIVE = "seawall_gateway_bulkhead_active_requests" Gauge ["service"] "Requests under way in a service's bulkhead.";
    BULKHEAD_WAITING = "seawall_gateway_bulkhead_waiting_requests" Gauge ["service"] "Requests that wait for a place in a service's bulkhead.";
    TUNNELS_ACTIVE = "seawall_gateway_tunnels_open" Gauge ["service"] "Upgraded connections (WebSocket) open.";
    TUNNELS_MAX = "seawall_gateway_tunnels_max" Gauge ["service"] "Upgraded connections that may be open.";
    ADMISSION_LIMIT = "seawall_gateway_admission_limit_requests" Gauge ["service"] "Requests that a service may work on at once, found by watching it.";
    ADMISSION_ACTIVE = "seawall_gateway_admission_active_requests" Gauge ["service"] "Requests that a service works on.";
    ADMISSION_WAITING = "seawall_gateway_admission_waiting_requests" Gauge ["service"] "Requests that wait until a service can work on them.";
    SHED = "seawall_gateway_shed_requests_total" Counter ["service", "class", "reason"]
        "Requests refused because the service has no room for them: limit, class, customer, deadline, queue_full, queue_timeout, pressure.";
    THROTTLE = "seawall_gateway_throttle_rejection_ratio" Gauge ["service", "class"] "Share of requests refused on behalf of an overloaded service.";
    MODE_ACTIVE = "seawall_gateway_mode_active" Gauge ["service", "mode"] "1 while a service's mode of graceful degradation is in force.";
    MODE_ENTERED = "seawall_gateway_mode_entered_total" Counter ["service", "mode"] "Times that a mode was entered.";
    MODE_REQUESTS = "seawall_gateway_mode_requests_total" Counter ["service", "mode"] "Requests that a mode held for while in force.";
    MODE_EXERCISED = "seawall_gateway_mode_exercised_requests_total" Counter ["service", "mode"]
        "Requests that a mode held for only to try it out. They are not among those of `seawall_gateway_mode_requests_total`.";
    CALLERS = "seawall_gateway_caller_attempts" Gauge ["service", "attempt"]
        "Requests that arrived in the last seconds, by their callers' attempt; 4 stands for 4 and more.";
    RETRY_BUDGET = "seawall_gateway_retry_budget_tokens" Gauge ["service"] "Retries that a service's budget would grant now.";
    QUOTA_THROTTLED = "seawall_gateway_quota_throttled_total" Counter ["quota"] "Requests refused because their customer's quota was used up.";
    QUOTA_SLICES_ASKED = "seawall_gateway_quota_slices_asked_total" Counter ["quota"] "Slices of customers' quotas asked of the store that gateways share.";
    QUOTA_SLICES = "seawall_gateway_quota_slices_total" Counter ["quota", "result"]
        "Answers of that store: granted, short (less than was asked for, because the quota is used up), failed (none in time).";
    QUOTA_REACHABLE = "seawall_gateway_quota_store_reachable" Gauge ["quota"]
        "0 while the store does not answer and the quota's `when_unreachable` holds.";
    QUOTA_REPLICAS = "seawall_gateway_quota_replicas" Gauge ["quota"] "Gateways that share the quota, as the store said last.";
    UTILISATION = "seawall_gateway_utilisation_ratio" Gauge ["signal"]
        "How utilised the process and its host are, 1 = at the limit: cpu, memory, run_queue, lag (of the workers' timers). NaN while it cannot be read.";
    WORKERS = "seawall_gateway_workers" Gauge [] "Worker threads.";
    ACCESS_LOG_DROPPED = "seawall_gateway_access_log_dropped_total" Counter [] "Access log lines that were not written: over the rate, or the file could not take them.";
}

/// A counter with a single writer.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        // One writer: a plain store cannot lose anything.
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    #[inline]
    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}

/// Upper bounds of the latency histogram, in microseconds: 2.5 buckets a decade, around what objectives name.
const BOUNDS_MICROS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Count; BOUNDS_MICROS.len() + 1],
    sum_nanos: Count,
}

impl Histogram {
    pub(crate) fn observe(&self, latency: Duration) {
        let micros = latency.as_micros() as u64;
        let bucket = BOUNDS_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS_MICROS.len());
        self.buckets[bucket].one();
        self.sum_nanos.add(latency.as_nanos() as u64);
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The service answered 1xx to 3xx, or a route's own answer went out.
    Success,
    /// The service answered 4xx.
    ClientError,
    /// The service answered 5xx.
    ServerError,
    /// The service gave no usable answer.
    Failed,
    /// The gateway declined.
    Refused,
    /// The client left before the answer.
    Cancelled,
}

impl Ending {
    /// Every ending.
    pub const ALL: [Ending; 6] =
        [Self::Success, Self::ClientError, Self::ServerError, Self::Failed, Self::Refused, Self::Cancelled];

    /// How a request ended that was answered with `status` by whoever it was meant for.
    #[must_use]
    pub fn of(status: u16) -> Self {
        match status {
            ..400 => Self::Success,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the user got what the service had to say.
    #[must_use]
    pub fn good(self) -> bool {
        matches!(self, Self::Success | Self::ClientError)
    }
}

/// Why a failed request was not tried again: the names of [`policy::attempts`].
pub(crate) const STOPS: usize = policy::attempts::Stop::ALL.len();

/// One worker's figures of one route.
#[derive(Debug, Default)]
pub(crate) struct RouteShard {
    pub(crate) requests: [[Count; Ending::ALL.len()]; Criticality::ALL.len()],
    pub(crate) good: Histogram,
    pub(crate) bad: Histogram,
    pub(crate) request_bytes: Count,
    pub(crate) response_bytes: Count,
    pub(crate) attempts: [Count; 4],
    pub(crate) hedges: Count,
    pub(crate) stops: [Count; STOPS],
}

/// A route's figures; they survive reloads that keep its name.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    shards: Box<[RouteShard]>,
}

impl RouteMetrics {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { shards: (0..workers).map(|_| RouteShard::default()).collect() })
    }

    pub(crate) fn shard(&self, worker: usize) -> &RouteShard {
        &self.shards[worker]
    }

    fn sum(&self, figure: impl Fn(&RouteShard) -> u64) -> u64 {
        self.shards.iter().map(figure).sum()
    }

    /// Requests by ending, over all classes.
    pub(crate) fn endings(&self) -> [u64; Ending::ALL.len()] {
        std::array::from_fn(|ending| {
            self.sum(|shard| shard.requests.iter().map(|class| class[ending].get()).sum())
        })
    }
}

/// One worker's figures that belong to no route.
#[derive(Debug)]
pub(crate) struct WorkerMetrics {
    pub(crate) refusals: [Count; Reason::ALL.len()],
    pub(crate) malformed: [Count; Malformed::ALL.len()],
    pub(crate) client_timeouts: [Count; ClientStage::ALL.len()],
    pub(crate) http2_connections: Count,
    pub(crate) http2_streams: Count,
    pub(crate) http2_floods: [Count; Flood::ALL.len()],
    pub(crate) http2_violations: Count,
    pub(crate) connects: Count,
    pub(crate) connect_failures: Count,
    pub(crate) reuses: Count,
    pub(crate) stale: Count,
    pub(crate) idle_upstream: Count,
    pub(crate) buffers: Arc<AtomicU64>,
    pub(crate) log_dropped: Count,
    /// How late the worker's last timer rang.
    pub(crate) lag_nanos: AtomicU64,
}

impl WorkerMetrics {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            refusals: std::array::from_fn(|_| Count::default()),
            malformed: std::array::from_fn(|_| Count::default()),
            client_timeouts: std::array::from_fn(|_| Count::default()),
            http2_connections: Count::default(),
            http2_streams: Count::default(),
            http2_floods: std::array::from_fn(|_| Count::default()),
            http2_violations: Count::default(),
            connects: Count::default(),
            connect_failures: Count::default(),
            reuses: Count::default(),
            stale: Count::default(),
            idle_upstream: Count::default(),
            buffers: Arc::default(),
            log_dropped: Count::default(),
            lag_nanos: AtomicU64::new(0),
        })
    }
}

/// Where a client was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientStage {
    Head,
    Body,
    Write,
}

impl ClientStage {
    pub(crate) const ALL: [ClientStage; 3] = [Self::Head, Self::Body, Self::Write];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Body => "body",
            Self::Write => "write",
        }
    }
}

/// A metric, and how it is read off what it describes.
type Figure<T, V> = (&'static Metric, fn(&T) -> V);

/// Writes metrics in the Prometheus text format, or in OpenMetrics.
pub struct Exporter {
    out: String,
    openmetrics: bool,
}

impl Exporter {
    /// An empty page.
    #[must_use]
    pub fn new(openmetrics: bool) -> Self {
        Self { out: String::with_capacity(64 * 1024), openmetrics }
    }

    /// Begins a metric: its samples must follow before the next one begins.
    pub fn begin(&mut self, metric: &Metric) {
        let family = if self.openmetrics && metric.kind == Kind::Counter {
            metric.name.trim_end_matches("_total")
        } else {
            metric.name
        };
        let _ = writeln!(self.out, "# HELP {family} {}", metric.help);
        let _ = writeln!(self.out, "# TYPE {family} {}", metric.kind.name());
    }

    /// One sample. Label values are escaped.
    pub fn sample(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        self.line(metric.name, "", metric.labels, labels, None, value);
    }

    fn line(
        &mut self,
        name: &str,
        suffix: &str,
        names: &[&str],
        values: &[&str],
        bound: Option<f64>,
        value: f64,
    ) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        if !names.is_empty() || bound.is_some() {
            self.out.push('{');
            for (index, (name, value)) in names.iter().zip(values).enumerate() {
                if index > 0 {
                    self.out.push(',');
                }
                let _ = write!(self.out, "{name}=\"");
                for c in value.chars() {
                    match c {
                        '\\' => self.out.push_str("\\\\"),
                        '"' => self.out.push_str("\\\""),
                        '\n' => self.out.push_str("\\n"),
                        c => self.out.push(c),
                    }
                }
                self.out.push('"');
            }
            if let Some(bound) = bound {
                if !names.is_empty() {
                    self.out.push(',');
                }
                if bound.is_infinite() {
                    self.out.push_str("le=\"+Inf\"");
                } else if self.openmetrics {
                    let _ = write!(self.out, "le=\"{bound:?}\"");
                } else {
                    let _ = write!(self.out, "le=\"{bound}\"");
                }
            }
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    /// The page.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.openmetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn histogram<'a>(
        &mut self,
        metric: &Metric,
        labels: &[&str],
        shards: impl Iterator<Item = &'a Histogram> + Clone,
    ) {
        let mut below = 0;
        for bucket in 0..=BOUNDS_MICROS.len() {
            below += shards.clone().map(|shard| shard.buckets[bucket].get()).sum::<u64>();
            let bound = BOUNDS_MICROS.get(bucket).map_or(f64::INFINITY, |micros| *micros as f64 / 1e6);
            self.line(metric.name, "_bucket", metric.labels, labels, Some(bound), below as f64);
        }
        let nanos: u64 = shards.map(|shard| shard.sum_nanos.get()).sum();
        self.line(metric.name, "_sum", metric.labels, labels, None, nanos as f64 / 1e9);
        self.line(metric.name, "_count", metric.labels, labels, None, below as f64);
    }

    /// The figures of routes. Series that never counted anything are left out, so that ten thousand routes stay readable.
    pub(crate) fn routes(&mut self, routes: &[(&str, &RouteMetrics)]) {
        self.begin(&REQUESTS);
        for (name, route) in routes {
            for class in Criticality::ALL {
                for ending in Ending::ALL {
                    let count = route.sum(|shard| shard.requests[class.index()][ending as usize].get());
                    if count > 0 {
                        self.sample(&REQUESTS, &[name, class.name(), ending.name()], count as f64);
                    }
                }
            }
        }
        self.begin(&REQUEST_SECONDS);
        for (name, route) in routes {
            let endings = route.endings();
            let any = |good: bool| Ending::ALL.iter().any(|e| e.good() == good && endings[*e as usize] > 0);
            if any(true) {
                self.histogram(&REQUEST_SECONDS, &[name, "success"], route.shards.iter().map(|s| &s.good));
            }
            if any(false) {
                self.histogram(&REQUEST_SECONDS, &[name, "failure"], route.shards.iter().map(|s| &s.bad));
            }
        }
        let plain: [Figure<RouteShard, u64>; 3] = [
            (&REQUEST_BYTES, |shard| shard.request_bytes.get()),
            (&RESPONSE_BYTES, |shard| shard.response_bytes.get()),
            (&HEDGES, |shard| shard.hedges.get()),
        ];
        for (metric, figure) in plain {
            self.begin(metric);
            for (name, route) in routes {
                let count = route.sum(figure);
                if count > 0 {
                    self.sample(metric, &[name], count as f64);
                }
            }
        }
        self.begin(&ATTEMPTS);
        for (name, route) in routes {
            for (index, number) in ["1", "2", "3", "4"].into_iter().enumerate() {
                let count = route.sum(|shard| shard.attempts[index].get());
                if count > 0 {
                    self.sample(&ATTEMPTS, &[name, number], count as f64);
                }
            }
        }
        self.begin(&RETRIES_STOPPED);
        for (name, route) in routes {
            for (index, stop) in policy::attempts::Stop::ALL.into_iter().enumerate() {
                let count = route.sum(|shard| shard.stops[index].get());
                if count > 0 {
                    self.sample(&RETRIES_STOPPED, &[name, stop.name()], count as f64);
                }
            }
        }
    }

    /// The figures of workers.
    pub(crate) fn workers(&mut self, workers: &[Arc<WorkerMetrics>], buffers_max: u64, log_lost: u64) {
        let sum = |figure: &dyn Fn(&WorkerMetrics) -> u64| {
            workers.iter().map(|worker| figure(worker)).sum::<u64>() as f64
        };
        self.begin(&REFUSALS);
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            self.sample(&REFUSALS, &[reason.name()], sum(&|w| w.refusals[index].get()));
        }
        self.begin(&MALFORMED);
        for (index, malformed) in Malformed::ALL.iter().enumerate() {
            self.sample(&MALFORMED, &[malformed.name()], sum(&|w| w.malformed[index].get()));
        }
        self.begin(&CLIENT_TIMEOUTS);
        for (index, stage) in ClientStage::ALL.into_iter().enumerate() {
            self.sample(&CLIENT_TIMEOUTS, &[stage.name()], sum(&|w| w.client_timeouts[index].get()));
        }
        self.begin(&HTTP2_FLOODS);
        for (index, flood) in Flood::ALL.into_iter().enumerate() {
            self.sample(&HTTP2_FLOODS, &[flood.name()], sum(&|w| w.http2_floods[index].get()));
        }
        self.begin(&UPSTREAM_CONNECTS);
        self.sample(&UPSTREAM_CONNECTS, &["success"], sum(&|w| w.connects.get()));
        self.sample(&UPSTREAM_CONNECTS, &["failure"], sum(&|w| w.connect_failures.get()));
        let plain: [(&Metric, f64); 9] = [
            (&HTTP2_CONNECTIONS, sum(&|w| w.http2_connections.get())),
            (&HTTP2_STREAMS, sum(&|w| w.http2_streams.get())),
            (&HTTP2_VIOLATIONS, sum(&|w| w.http2_violations.get())),
            (&UPSTREAM_REUSES, sum(&|w| w.reuses.get())),
            (&UPSTREAM_STALE, sum(&|w| w.stale.get())),
            (&UPSTREAM_IDLE, sum(&|w| w.idle_upstream.get())),
            (&BUFFER_BYTES, sum(&|w| w.buffers.load(Relaxed))),
            (&BUFFER_BYTES_MAX, buffers_max as f64),
            (&WORKERS, workers.len() as f64),
        ];
        for (metric, value) in plain {
            self.begin(metric);
            self.sample(metric, &[], value);
        }
        self.begin(&ACCESS_LOG_DROPPED);
        self.sample(&ACCESS_LOG_DROPPED, &[], sum(&|w| w.log_dropped.get()) + log_lost as f64);
    }
}

impl Exporter {
    /// The figures of listeners, and of the room that they share.
    pub(crate) fn listeners(&mut self, listeners: &[Arc<ListenerState>], room: &Room) {
        for (metric, value) in [(&ROOM_TAKEN, room.taken()), (&ROOM_MAX, room.max())] {
            self.begin(metric);
            self.sample(metric, &[], value.into());
        }
        let figures: [Figure<ListenerState, u64>; 3] = [
            (&CONNECTIONS, |listener| listener.figures.open.load(Relaxed).into()),
            (&CONNECTIONS_MAX, |listener| listener.params.connections_max.into()),
            (&ACCEPTED, |listener| listener.figures.accepted.load(Relaxed)),
        ];
        for (metric, figure) in figures {
            self.begin(metric);
            for listener in listeners {
                self.sample(metric, &[&listener.name], figure(listener) as f64);
            }
        }
        self.begin(&SHED_CONNECTIONS);
        for listener in listeners {
            let ListenerFigures { shed_limit, shed_descriptors, .. } = &*listener.figures;
            for (reason, count) in [("limit", shed_limit), ("descriptors", shed_descriptors)] {
                self.sample(&SHED_CONNECTIONS, &[&listener.name, reason], count.load(Relaxed) as f64);
            }
        }
        self.handshakes(listeners);
    }

    fn handshakes(&mut self, listeners: &[Arc<ListenerState>]) {
        let secured = || listeners.iter().filter(|listener| listener.tls.is_some());
        self.begin(&HANDSHAKES);
        for listener in secured() {
            let Handshakes { full, resumed, .. } = &listener.figures.handshakes;
            for (kind, count) in [("full", full), ("resumed", resumed)] {
                self.sample(&HANDSHAKES, &[&listener.name, kind], count.load(Relaxed) as f64);
            }
        }
        self.begin(&HANDSHAKES_FAILED);
        for listener in secured() {
            let Handshakes { failures, shed, .. } = &listener.figures.handshakes;
            for (failure, count) in Failure::ALL.iter().zip(failures) {
                let labels = [&*listener.name, failure.name()];
                self.sample(&HANDSHAKES_FAILED, &labels, count.load(Relaxed) as f64);
            }
            self.sample(&HANDSHAKES_FAILED, &[&listener.name, "limit"], shed.load(Relaxed) as f64);
        }
        self.begin(&HANDSHAKES_ACTIVE);
        for listener in secured() {
            let active = listener.figures.handshakes.active.load(Relaxed);
            self.sample(&HANDSHAKES_ACTIVE, &[&listener.name], active.into());
        }
    }

    /// The certificates in use, by whose they are.
    pub(crate) fn certificates(&mut self, all: &[(String, TlsStatus)]) {
        self.begin(&CERTIFICATE_EXPIRY);
        for (of, tls) in all {
            for (index, certificate) in tls.certificates.iter().enumerate() {
                let path = certificate.path.display().to_string();
                // A file that is named twice is one certificate.
                if tls.certificates[..index].iter().all(|earlier| earlier.path != certificate.path) {
                    self.sample(&CERTIFICATE_EXPIRY, &[of, &path], certificate.not_after as f64);
                }
            }
        }
        self.begin(&CERTIFICATE_CURRENT);
        for (of, tls) in all {
            self.sample(&CERTIFICATE_CURRENT, &[of], f64::from(u8::from(tls.refused.is_none())));
        }
        self.begin(&CERTIFICATE_LOADS);
        for (of, tls) in all {
            for (result, count) in [("ok", tls.reloads), ("refused", tls.refusals)] {
                self.sample(&CERTIFICATE_LOADS, &[of, result], count as f64);
            }
        }
    }

    /// TLS towards the endpoints of services.
    pub(crate) fn upstream_tls(&mut self, services: &[(&str, &UpstreamTls)]) {
        self.begin(&UPSTREAM_HANDSHAKES);
        for (service, tls) in services {
            let (full, resumed, _) = tls.handshakes();
            for (kind, count) in [("full", full), ("resumed", resumed)] {
                self.sample(&UPSTREAM_HANDSHAKES, &[service, kind], count as f64);
            }
        }
        self.begin(&UPSTREAM_HANDSHAKES_FAILED);
        for (service, tls) in services {
            for (failure, count) in tls.handshakes().2 {
                self.sample(&UPSTREAM_HANDSHAKES_FAILED, &[service, failure.name()], count as f64);
            }
        }
    }

    /// What listeners passed on as it is, and whom they refused for their PROXY header.
    pub(crate) fn passed_on(&mut self, listeners: &[Arc<ListenerState>]) {
        let tcp = || listeners.iter().filter(|listener| listener.params.tcp.is_some());
        self.begin(&TCP_CONNECTIONS);
        for listener in tcp() {
            for outcome in Outcome::all() {
                let ended = listener.figures.tcp.iter().map(|shard| shard.ended(outcome)).sum::<u64>();
                self.sample(&TCP_CONNECTIONS, &[&listener.name, outcome.name()], ended as f64);
            }
        }
        self.begin(&TCP_BYTES);
        for listener in tcp() {
            let sum = |bytes: fn(&TcpShard) -> u64| listener.figures.tcp.iter().map(bytes).sum::<u64>();
            for (direction, bytes) in
                [("up", sum(|shard| shard.up.get())), ("down", sum(|shard| shard.down.get()))]
            {
                self.sample(&TCP_BYTES, &[&listener.name, direction], bytes as f64);
            }
        }
        self.begin(&PROXY_REFUSED);
        let asked = |listener: &&Arc<ListenerState>| listener.params.proxy_protocol != ProxyProtocol::Off;
        for listener in listeners.iter().filter(asked) {
            for (reason, count) in ProxyRefused::ALL.into_iter().zip(&listener.figures.proxy_refused) {
                self.sample(&PROXY_REFUSED, &[&listener.name, reason.name()], count.load(Relaxed) as f64);
            }
        }
    }

    /// How busy the process and its host are.
    pub(crate) fn utilisation(&mut self, utilisation: &Utilisation) {
        self.begin(&UTILISATION);
        for signal in Signal::ALL {
            self.sample(&UTILISATION, &[signal.name()], utilisation.get(signal).unwrap_or(f64::NAN));
        }
    }

    /// The figures of batch listeners' fuses, each with the listener's name.
    pub(crate) fn fuses(&mut self, fuses: &[(&str, FuseStatus)]) {
        let figures: [Figure<FuseStatus, u32>; 4] = [
            (&FUSE_ACTIVE, |fuse| fuse.active),
            (&FUSE_CONNECTIONS, |fuse| fuse.connections),
            (&FUSE_CONNECTIONS_MAX, |fuse| fuse.connections_max),
            (&FUSE_WAITING, |fuse| fuse.waiting),
        ];
        for (metric, figure) in figures {
            self.begin(metric);
            for (listener, fuse) in fuses {
                self.sample(metric, &[listener], figure(fuse).into());
            }
        }
        self.begin(&FUSE_REFUSED);
        for (listener, fuse) in fuses {
            for (reason, count) in [("queue_full", fuse.queue_full), ("queue_timeout", fuse.queue_timeout)] {
                self.sample(&FUSE_REFUSED, &[listener, reason], count as f64);
            }
        }
    }

    /// The figures of quotas.
    pub(crate) fn quotas(&mut self, quotas: &[QuotaFigures]) {
        self.begin(&QUOTA_THROTTLED);
        for quota in quotas {
            self.sample(&QUOTA_THROTTLED, &[&quota.name], quota.throttled as f64);
        }
        let figures: [Figure<QuotaFigures, f64>; 3] = [
            (&QUOTA_SLICES_ASKED, |quota| quota.asked as f64),
            (&QUOTA_REACHABLE, |quota| f64::from(u8::from(quota.reachable))),
            (&QUOTA_REPLICAS, |quota| quota.replicas.into()),
        ];
        let shared = || quotas.iter().filter(|quota| quota.shared);
        for (metric, figure) in figures {
            self.begin(metric);
            for quota in shared() {
                self.sample(metric, &[&quota.name], figure(quota));
            }
        }
        self.begin(&QUOTA_SLICES);
        for quota in shared() {
            for (result, count) in
                [("granted", quota.granted), ("short", quota.short), ("failed", quota.failed)]
            {
                self.sample(&QUOTA_SLICES, &[&quota.name, result], count as f64);
            }
        }
    }

    /// The figures of services and their endpoints.
    pub(crate) fn services(&mut self, services: &[ServiceStatus]) {
        let figures: [Figure<ServiceStatus, f64>; 10] = [
            (&TUNNELS_ACTIVE, |service| service.tunnels.into()),
            (&TUNNELS_MAX, |service| service.tunnels_max.into()),
            (&SERVICE_PANIC, |service| f64::from(u8::from(service.panicking))),
            (&BREAKER_STATE, |service| match service.breaker.state {
                "open" => 2.0,
                "half_open" => 1.0,
                _ => 0.0,
            }),
            (&BULKHEAD_ACTIVE, |service| service.bulkhead.active.into()),
            (&BULKHEAD_WAITING, |service| service.bulkhead.waiting.into()),
            (&ADMISSION_LIMIT, |service| service.admission.limit.into()),
            (&ADMISSION_ACTIVE, |service| service.admission.active.into()),
            (&ADMISSION_WAITING, |service| service.admission.waiting.into()),
            (&RETRY_BUDGET, |service| service.retry_budget),
        ];
        for (metric, figure) in figures {
            self.begin(metric);
            for service in services {
                self.sample(metric, &[&service.name], figure(service));
            }
        }
        self.begin(&SHED);
        for service in services {
            for ClassShed { class, reason, count } in &service.admission.shed {
                self.sample(&SHED, &[&service.name, class, reason], *count as f64);
            }
        }
        self.begin(&THROTTLE);
        for service in services {
            for (class, rejection) in Criticality::ALL.into_iter().zip(service.throttle) {
                self.sample(&THROTTLE, &[&service.name, class.name()], rejection);
            }
        }
        self.begin(&CALLERS);
        for service in services {
            for (attempt, count) in ["1", "2", "3", "4"].into_iter().zip(service.callers) {
                self.sample(&CALLERS, &[&service.name, attempt], count as f64);
            }
        }
        let figures: [Figure<ModeStatus, f64>; 4] = [
            (&MODE_ACTIVE, |mode| f64::from(u8::from(mode.active))),
            (&MODE_ENTERED, |mode| mode.entered as f64),
            (&MODE_REQUESTS, |mode| mode.requests as f64),
            (&MODE_EXERCISED, |mode| mode.exercised as f64),
        ];
        for (metric, figure) in figures {
            self.begin(metric);
            for service in services {
                for mode in &service.modes {
                    self.sample(metric, &[&service.name, &mode.name], figure(mode));
                }
            }
        }
        let figures: [Figure<EndpointStatus, f64>; 3] = [
            (&ENDPOINT_ACTIVE, |endpoint| endpoint.active.into()),
            (&ENDPOINT_REQUESTS, |endpoint| endpoint.requests as f64),
            (&ENDPOINT_FAILURES, |endpoint| endpoint.failures as f64),
        ];
        for (metric, figure) in figures {
            self.begin(metric);
            for service in services {
                for endpoint in &service.endpoints {
                    self.sample(metric, &[&service.name, &endpoint.name], figure(endpoint));
                }
            }
        }
        self.begin(&ENDPOINT_UNAVAILABLE);
        for service in services {
            for endpoint in &service.endpoints {
                for reason in &endpoint.reasons {
                    self.sample(&ENDPOINT_UNAVAILABLE, &[&service.name, &endpoint.name, reason.reason], 1.0);
                }
            }
        }
    }
}
