//! Tells callers how busy this process is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use model::{Instant, Verdict};
use pin_project_lite::pin_project;
use policy::Report;
use tower_layer::Layer;
use tower_service::Service;

use crate::hold::{Held, Hold};
use crate::signals::Signals;
use crate::{Clock, header};

/// Latencies are kept apart for each power of two of requests in flight.
const BUCKETS: usize = 32;
/// Weight of a new latency in the mean.
const STEP: f64 = 1.0 / 8.0;
/// Span over which requests and errors are counted.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// The load of this process: what it measures by itself, and what the application says. Everything is approximate by
/// what racing threads did in the last moment.
///
/// The latency is the one to expect at the present number of requests in flight: a mean of recent successes that arrived
/// at about that number.
///
/// Source: "Load is not what you should balance: Introducing Prequal" (in flight and latency at it); ORCA (the rest).
#[derive(Debug)]
pub struct Load {
    in_flight: AtomicU32,
    /// Seconds as `f64` bits, 0 when nothing is known.
    latencies: [AtomicU64; BUCKETS],
    requests: Rate,
    errors: Rate,
    application_utilization: AtomicU64,
    cpu_utilization: AtomicU64,
    mem_utilization: AtomicU64,
}

impl Load {
    fn new(now: Instant) -> Self {
        let unknown = || AtomicU64::new(f64::NAN.to_bits());
        Self {
            in_flight: AtomicU32::new(0),
            latencies: std::array::from_fn(|_| AtomicU64::new(0)),
            requests: Rate::new(now),
            errors: Rate::new(now),
            application_utilization: unknown(),
            cpu_utilization: unknown(),
            mem_utilization: unknown(),
        }
    }

    /// Requests being worked on.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// How much of what it can do the application does, as it judges itself; 1.0 is all.
    pub fn set_application_utilization(&self, share: f64) {
        self.application_utilization.store(share.to_bits(), Relaxed);
    }

    /// How much of its CPU time the process uses; 1.0 is all it may.
    pub fn set_cpu_utilization(&self, share: f64) {
        self.cpu_utilization.store(share.to_bits(), Relaxed);
    }

    /// How much of its memory the process uses.
    pub fn set_mem_utilization(&self, share: f64) {
        self.mem_utilization.store(share.to_bits(), Relaxed);
    }

    /// All of it at present.
    #[must_use]
    pub fn report(&self) -> Report {
        let now = Clock::now();
        let said = |figure: &AtomicU64| Some(f64::from_bits(figure.load(Relaxed))).filter(|f| f.is_finite());
        let in_flight = self.in_flight();
        Report {
            cache_hit_ratio: None,
            application_utilization: said(&self.application_utilization),
            cpu_utilization: said(&self.cpu_utilization),
            mem_utilization: said(&self.mem_utilization),
            rps_fractional: Some(self.requests.per_sec(now)),
            eps: Some(self.errors.per_sec(now)),
            requests_in_flight: Some(in_flight),
            latency: self.latency_at(in_flight),
        }
    }

    /// The latency to expect at so many requests in flight: the nearest that is known, rather a lower one.
    fn latency_at(&self, in_flight: u32) -> Option<Duration> {
        let at = bucket(in_flight);
        let known =
            |index: usize| Some(f64::from_bits(self.latencies[index].load(Relaxed))).filter(|l| *l > 0.0);
        let seconds = (0..=at).rev().chain(at + 1..BUCKETS).find_map(known)?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    fn on_latency(&self, in_flight: u32, latency: Duration) {
        let cell = &self.latencies[bucket(in_flight)];
        let (mean, new) = (f64::from_bits(cell.load(Relaxed)), latency.as_secs_f64().max(1e-9));
        let mean = if mean == 0.0 { new } else { mean + STEP * (new - mean) };
        cell.store(mean.to_bits(), Relaxed);
    }
}

/// The bucket of a number of requests in flight.
fn bucket(in_flight: u32) -> usize {
    (u32::BITS - in_flight.leading_zeros()).min(BUCKETS as u32 - 1) as usize
}

/// Counts something per second: the figure of the last full window, until the present one is full.
#[derive(Debug)]
struct Rate {
    began: AtomicU64,
    count: AtomicU64,
    last: AtomicU64,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { began: AtomicU64::new(now.as_nanos()), count: AtomicU64::new(0), last: AtomicU64::new(0) }
    }

    fn one(&self, now: Instant) {
        self.count.fetch_add(1, Relaxed);
        self.turn(now);
    }

    fn per_sec(&self, now: Instant) -> f64 {
        self.turn(now);
        f64::from_bits(self.last.load(Relaxed))
    }

    /// Ends the window if it is full.
    fn turn(&self, now: Instant) {
        let began = self.began.load(Relaxed);
        let span = now.since(Instant::from_nanos(began));
        if span >= RATE_WINDOW && self.began.compare_exchange(began, now.as_nanos(), Relaxed, Relaxed).is_ok()
        {
            let per_sec = self.count.swap(0, Relaxed) as f64 / span.as_secs_f64();
            self.last.store(per_sec.to_bits(), Relaxed);
        }
    }
}

/// Puts a load report on every answer: `endpoint-load-metrics`, in ORCA's text form, with requests in flight and latency
/// for Prequal. The gateway and [`client::Balance`](crate::client::Balance) balance by it; the gateway keeps it from
/// clients.
///
/// Stands above what refuses or lets wait, so that it sees every request.
#[derive(Clone, Debug)]
pub struct LoadReportLayer {
    load: Arc<Load>,
}

impl LoadReportLayer {
    /// A layer that has seen no request yet.
    #[must_use]
    pub fn new() -> Self {
        Self { load: Arc::new(Load::new(Clock::now())) }
    }

    /// What is reported; the application adds what only it knows.
    #[must_use]
    pub fn load(&self) -> &Arc<Load> {
        &self.load
    }
}

impl Default for LoadReportLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for LoadReportLayer {
    type Service = ReportLoad<S>;

    fn layer(&self, inner: S) -> ReportLoad<S> {
        ReportLoad { inner, load: Arc::clone(&self.load) }
    }
}

/// The service of [`LoadReportLayer`].
#[derive(Clone, Debug)]
pub struct ReportLoad<S> {
    inner: S,
    load: Arc<Load>,
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight {
    load: Arc<Load>,
    started: Instant,
    /// How many there were when it came, itself included.
    among: u32,
}

impl Hold for InFlight {
    fn on_head(&mut self, signals: &Signals) {
        let now = Clock::now();
        match signals.verdict {
            // A failure that is fast would flatter.
            Verdict::Success => self.load.on_latency(self.among, now.since(self.started)),
            Verdict::Failure => self.load.errors.one(now),
            // What was refused is load, not an error.
            Verdict::Overloaded | Verdict::Unknown => {}
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Relaxed);
    }
}

impl<S, B, R> Service<Request<B>> for ReportLoad<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<Held<R, InFlight>>;
    type Error = S::Error;
    type Future = LoadReportFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let load = Arc::clone(&self.load);
        let started = Clock::now();
        load.requests.one(started);
        let among = load.in_flight.fetch_add(1, Relaxed) + 1;
        let hold = InFlight { load, started, among };
        LoadReportFuture { call: self.inner.call(request), hold: Some(hold) }
    }
}

pin_project! {
    /// The answer with its report.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct LoadReportFuture<F> {
        #[pin]
        call: F,
        hold: Option<InFlight>,
    }
}

impl<F, R, E> Future for LoadReportFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<Held<R, InFlight>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.call.poll(cx));
        let mut hold = this.hold.take().expect("polled again after its end");
        Poll::Ready(result.map(|mut answer| {
            hold.on_head(&Signals::read(&answer));
            if let Some(report) = header::format_report(&hold.load.report()) {
                answer.headers_mut().insert(header::LOAD, report);
            }
            answer.map(|body| Held::new(body, hold))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_per_second_and_forgets() {
        let load = Load::new(Clock::now());
        for _ in 0..50 {
            load.requests.one(Clock::now());
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(load.report().rps_fractional, Some(25.0));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(load.report().rps_fractional, Some(0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_latency_is_that_at_the_present_number_in_flight() {
        let load = Load::new(Clock::now());
        assert_eq!(load.latency_at(5), None);
        load.on_latency(1, Duration::from_millis(10));
        load.on_latency(100, Duration::from_millis(400));
        assert_eq!(load.latency_at(1), Some(Duration::from_millis(10)));
        assert_eq!(load.latency_at(20), Some(Duration::from_millis(10)), "rather the lower one");
        assert_eq!(load.latency_at(0), Some(Duration::from_millis(10)), "or the next higher one");
        assert_eq!(load.latency_at(90), Some(Duration::from_millis(400)));
        (0..100).for_each(|_| load.on_latency(1, Duration::from_millis(20)));
        assert!(load.latency_at(1).unwrap().abs_diff(Duration::from_millis(20)) < Duration::from_micros(10));
    }
}
