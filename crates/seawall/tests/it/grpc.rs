//! Calls of gRPC, as endpoints and clients see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use testkit::wait::{PATIENCE, wait_until};

use crate::gate::{Gate, NUMB, RICH, refused};
use crate::peer::{Answer, Doing, Manners, Peer, ask, block_on, connect, pace, request};

/// A message of gRPC.
fn message(body: &[u8]) -> Bytes {
    let mut message = vec![0];
    message.extend_from_slice(&(body.len() as u32).to_be_bytes());
    message.extend_from_slice(body);
    message.into()
}

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    fields.iter().map(pair).collect()
}

/// Answers with a head alone.
fn trailers_only(respond: &mut SendResponse<Bytes>, fields: &[(&'static str, &str)]) {
    let mut response = Response::new(());
    *response.headers_mut() = map(fields);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let _ = respond.send_response(response, true);
}

/// Answers with messages, `pause` before each but the first, and trailers.
async fn stream(respond: &mut SendResponse<Bytes>, messages: u32, pause: Duration, status: &str) {
    let response = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
    let Ok(mut send) = respond.send_response(response, false) else { return };
    for number in 0..messages {
        if number > 0 {
            pace(pause).await;
        }
        if send.send_data(message(b"tea"), false).is_err() {
            return;
        }
    }
    let _ = send.send_trailers(map(&[("grpc-status", status)]));
}

/// An endpoint whose path says how a call ends: `/head/N` in its head, `/end/N` behind a message.
fn by_path() -> Peer {
    Peer::start(Manners::default(), |request, mut respond| -> Doing {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            match path.rsplit_once('/') {
                Some(("/head", code)) => trailers_only(&mut respond, &[("grpc-status", code)]),
                Some((_, code)) => stream(&mut respond, 1, Duration::ZERO, code).await,
                None => {}
            }
        })
    })
}

async fn call(addr: std::net::SocketAddr, path: &str, fields: &[(&str, &str)]) -> Result<Answer, h2::Error> {
    let fields = [&[("content-type", "application/grpc"), ("te", "trailers")], fields].concat();
    ask(&connect(addr).await, request("POST", path, &fields), Some(message(b"hello")), None).await
}

fn service(more: &str) -> String {
    format!("protocol: h2, {NUMB}, retry_budget: {RICH}{more}")
}

#[test]
fn a_call_is_judged_by_its_status_wherever_it_stands() {
    let peer = by_path();
    for (code, outcome, failures) in [
        ("0", "success", 0.0),
        ("5", "client_error", 0.0),
        ("12", "client_error", 0.0),
        ("13", "server_error", 1.0),
        ("14", "server_error", 1.0),
        ("2", "server_error", 1.0),
    ] {
        for place in ["head", "end"] {
            let gate = Gate::with("web", &[peer.addr()], &service("")).start();
            let answer = block_on(call(gate.addr(), &format!("/{place}/{code}"), &[])).unwrap();
            assert_eq!((answer.status, answer.field("grpc-status")), (200, Some(code)));
            let labels = format!("outcome=\"{outcome}\"");
            gate.wait_for_metric("seawall_gateway_requests_total", &[&labels], |count| count == 1.0);
            let failed = gate.metric("seawall_gateway_endpoint_failures_total", &[]).unwrap_or(0.0);
            assert_eq!(failed, failures, "{place} {code}");
        }
    }
}

#[test]
fn an_endpoint_that_is_unavailable_opens_its_breaker() {
    let peer = by_path();
    let keys = "protocol: h2, throttle: {enabled: false}, ejection: {enabled: false}, slow_start: {window: 0s}, \
        retry: {attempts_max: 1}";
    let gate = Gate::with("web", &[peer.addr()], keys).start();
    let mut codes = Vec::new();
    for _ in 0..200 {
        let answer = block_on(call(gate.addr(), "/end/14", &[])).unwrap();
        codes.push(answer.field("seawall-reason").map(str::to_owned));
    }
    assert!(codes.iter().flatten().any(|reason| reason == "breaker_open"), "{codes:?}");
}

#[test]
fn a_head_that_says_all_is_tried_again_and_a_message_never() {
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let peer = Peer::start(Manners::default(), move |request, mut respond| -> Doing {
        let first = count.fetch_add(1, Relaxed) == 0;
        Box::pin(async move {
            match (first, request.uri().path()) {
                (true, "/head") => trailers_only(&mut respond, &[("grpc-status", "14")]),
                (true, _) => stream(&mut respond, 1, Duration::ZERO, "14").await,
                (false, _) => stream(&mut respond, 1, Duration::ZERO, "0").await,
            }
        })
    });
    let gate = Gate::with("web", &[peer.addr()], &service(", retry: {non_idempotent: true}")).start();
    let answer = block_on(call(gate.addr(), "/head", &[])).unwrap();
    assert_eq!((answer.field("grpc-status"), asked.load(Relaxed)), (Some("0"), 2));
    asked.store(0, Relaxed);
    let answer = block_on(call(gate.addr(), "/message", &[])).unwrap();
    assert_eq!((answer.field("grpc-status"), asked.load(Relaxed)), (Some("14"), 1));
    assert_eq!(answer.body, message(b"tea"));
}

#[test]
fn refusals_are_told_in_grpcs_words() {
    let peer = by_path();
    let gate =
        Gate::with("web", &[peer.addr()], &service("")).route("match: {path: /only}, service: web").start();
    let answer = block_on(call(gate.addr(), "/nowhere", &[])).unwrap();
    assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("12")));
    assert_eq!((answer.field("grpc-message"), answer.body.len()), (Some("no_route"), 0));
    assert_eq!(answer.field("content-type"), Some("application/grpc"));
    assert_eq!(refused(&gate, "no_route"), 1.0);
    drop(gate);
    let gate = Gate::with("web", &[testkit::free_port()], &service("")).start();
    let answer = block_on(call(gate.addr(), "/head/0", &[])).unwrap();
    assert_eq!(
        (answer.field("grpc-status"), answer.field("grpc-message")),
        (Some("14"), Some("connect_failed"))
    );
}

#[test]
fn a_deadline_comes_in_and_what_is_left_goes_out() {
    let peer = Peer::start(Manners::default(), |request, mut respond| -> Doing {
        Box::pin(async move {
            if request.uri().path() == "/hang" {
                std::future::pending::<()>().await;
            }
            let left =
                request.headers().get("grpc-timeout").map_or("none", |left| left.to_str().unwrap_or("?"));
            trailers_only(&mut respond, &[("grpc-status", "0"), ("x-left", left)]);
        })
    });
    let gate = Gate::with("web", &[peer.addr()], &service("")).start();
    let answer = block_on(call(gate.addr(), "/", &[("grpc-timeout", "5S")])).unwrap();
    let left =
        policy::deadline::parse_grpc_timeout(answer.field("x-left").unwrap().as_bytes(), Duration::MAX);
    assert!(left.is_some_and(|left| left < Duration::from_secs(5)), "{answer:?}");
    // Nobody else sets one.
    let answer = block_on(call(gate.addr(), "/", &[])).unwrap();
    assert_eq!(answer.field("x-left"), Some("none"));
    let answer = block_on(call(gate.addr(), "/hang", &[("grpc-timeout", "100m")])).unwrap();
    assert_eq!(
        (answer.field("grpc-status"), answer.field("grpc-message")),
        (Some("4"), Some("deadline_exceeded"))
    );
    assert_eq!(gate.metric("seawall_gateway_endpoint_failures_total", &[]).unwrap_or(0.0), 0.0);
}

#[test]
fn a_stream_may_be_silent_for_longer_than_any_answer() {
    let peer = Peer::start(Manners::default(), |_, mut respond| -> Doing {
        Box::pin(async move {
            // Silent before the head and between messages, longer than every time-out below.
            pace(Duration::from_millis(600)).await;
            stream(&mut respond, 2, Duration::from_millis(600), "0").await;
        })
    });
    let more = ", timeouts: {attempt: 200ms, request: 200ms, body: 200ms}";
    let gate = Gate::with("web", &[peer.addr()], &service(more)).listener("timeouts: {body: 200ms}").start();
    let answer = block_on(call(gate.addr(), "/", &[])).unwrap();
    assert_eq!((answer.field("grpc-status"), answer.body.len()), (Some("0"), 16));
}

#[test]
fn both_sides_of_a_stream_talk_at_once() {
    let peer = Peer::start(Manners::default(), |request, mut respond| -> Doing {
        Box::pin(async move {
            let response =
                Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
            let Ok(mut send) = respond.send_response(response, false) else { return };
            let mut recv = request.into_body();
            while let Some(Ok(data)) = recv.data().await {
                let _ = recv.flow_control().release_capacity(data.len());
                if send.send_data(data, false).is_err() {
                    return;
                }
            }
            let _ = send.send_trailers(map(&[("grpc-status", "0")]));
        })
    });
    let gate = Gate::with("web", &[peer.addr()], &service("")).start();
    block_on(async {
        let mut sender = connect(gate.addr()).await.ready().await.unwrap();
        let head = request("POST", "/", &[("content-type", "application/grpc"), ("te", "trailers")]);
        let (answer, mut send) = sender.send_request(head, false).unwrap();
        send.send_data(message(b"0"), false).unwrap();
        let mut recv = answer.await.unwrap().into_body();
        for number in 1..=5 {
            let echoed = recv.data().await.unwrap().unwrap();
            assert_eq!(echoed.len(), 6);
            send.send_data(message(number.to_string().as_bytes()), number == 5).unwrap();
        }
        recv.data().await.unwrap().unwrap();
        assert!(recv.data().await.is_none());
        assert_eq!(recv.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}

#[test]
fn a_message_too_long_is_refused_however_long_the_call_is() {
    let peer = by_path();
    let gate =
        Gate::with("web", &[peer.addr()], &service("")).listener("limits: {grpc_message: 1KiB}").start();
    block_on(async {
        let sender = connect(gate.addr()).await;
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let many: Vec<u8> = (0..20).flat_map(|_| message(&[7; 1000])).collect();
        let answer =
            ask(&sender, request("POST", "/head/0", &fields), Some(many.into()), None).await.unwrap();
        assert_eq!(answer.field("grpc-status"), Some("0"));
        let long = message(&[7; 1025]);
        let answer = ask(&sender, request("POST", "/head/0", &fields), Some(long), None).await.unwrap();
        assert_eq!(
            (answer.field("grpc-status"), answer.field("seawall-reason")),
            (Some("8"), Some("body_too_large"))
        );
    });
}

#[test]
fn a_call_that_is_cancelled_is_cancelled_beyond() {
    let gone = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&gone);
    let peer = Peer::start(Manners::default(), move |_, mut respond| -> Doing {
        let seen = Arc::clone(&seen);
        Box::pin(async move {
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            seen.store(reason.map_or(0, u32::from).into(), Relaxed);
        })
    });
    let gate = Gate::with("web", &[peer.addr()], &service("")).start();
    block_on(async {
        let sender = connect(gate.addr()).await;
        let fields = [("content-type", "application/grpc")];
        let call = ask(&sender, request("POST", "/", &fields), Some(message(b"x")), None);
        tokio::select! {
            answer = call => panic!("{answer:?}"),
            () = async { while peer.requests() == 0 { tokio::task::yield_now().await } } => {}
        }
    });
    wait_until("the endpoint hears of it", PATIENCE, || {
        gone.load(Relaxed) == u64::from(u32::from(h2::Reason::CANCEL))
    });
}

#[test]
fn health_is_asked_in_the_services_own_protocol() {
    let (serving, asked) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
    let (status, count) = (Arc::clone(&serving), Arc::clone(&asked));
    let peer = Peer::start(Manners::default(), move |request, mut respond| -> Doing {
        let status = status.load(Relaxed) as u8;
        let path = request.uri().path().to_owned();
        if path == "/grpc.health.v1.Health/Check" {
            count.fetch_add(1, Relaxed);
        }
        Box::pin(async move {
            if path != "/grpc.health.v1.Health/Check" {
                return trailers_only(&mut respond, &[("grpc-status", "0")]);
            }
            let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
            let _ = send.send_data(message(&[8, status]), false);
            let _ = send.send_trailers(map(&[("grpc-status", "0")]));
        })
    });
    let health =
        ", health: {grpc: shop.Cart, interval: 50ms, unhealthy_after: 1, healthy_after: 1}, panic_below: 0.0";
    let gate = Gate::with("web", &[peer.addr()], &service(health)).start();
    wait_until("a check", PATIENCE, || asked.load(Relaxed) > 0);
    assert_eq!(block_on(call(gate.addr(), "/head/0", &[])).unwrap().field("grpc-status"), Some("0"));
    serving.store(2, Relaxed);
    gate.wait_for_metric("seawall_gateway_endpoint_unavailable", &["reason=\"unhealthy\""], |is| is == 1.0);
    serving.store(1, Relaxed);
    wait_until("it is back", PATIENCE, || {
        gate.metric("seawall_gateway_endpoint_unavailable", &["reason=\"unhealthy\""]).unwrap_or(0.0) == 0.0
    });
}
