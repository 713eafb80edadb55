//! Server layers in paused time.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use layers::policy::admission::AdmissionParams;
use layers::policy::bulkhead::BulkheadParams;
use layers::policy::limit::LimitParams;
use layers::server::{AdmissionLayer, BulkheadLayer, ContextLayer, DeadlineLayer, LameDuck, LoadReportLayer};
use layers::{Clock, Context, Criticality, header};
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use crate::support::{Body, Boxed, Count, call, get, service, status};

fn with(name: http::HeaderName, value: &str) -> Request<Body> {
    let mut request = get("/");
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

/// Answers after an hour.
fn hanging() -> Boxed<Infallible> {
    BoxCloneSyncService::new(tower::service_fn(|_: Request<Body>| async {
        tokio::time::timeout(Duration::from_secs(3_600), std::future::pending::<()>()).await.ok();
        Ok(status(200))
    }))
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_refused_and_what_expires_is_given_up() {
    let stack = ServiceBuilder::new().layer(ContextLayer::new()).layer(DeadlineLayer::new());
    let calls = Count::default();
    let mut quick = stack.clone().service(service(&calls, |_, _| status(200)));
    let refused = call(&mut quick, with(header::DEADLINE_MS, "0")).await.unwrap();
    assert_eq!((refused.status().as_u16(), calls.get()), (504, 0));
    assert_eq!(refused.headers()[header::REASON], "deadline_exceeded");
    assert_eq!(call(&mut quick, with(header::DEADLINE_MS, "junk")).await.unwrap().status(), 200);

    let mut slow = stack.service(hanging());
    let began = Clock::now();
    let given_up = call(&mut slow, with(header::GRPC_TIMEOUT, "250m")).await.unwrap();
    assert_eq!(given_up.headers()[header::RETRY], "never");
    assert!((250..=251).contains(&Clock::now().since(began).as_millis()));
}

#[tokio::test(start_paused = true)]
async fn trap_7_a_server_for_anybody_believes_nobody() {
    let calls = Count::default();
    let layer = ContextLayer::untrusted().default_criticality(Criticality::SheddablePlus);
    let below = service(&calls, |_, _| {
        let context = Context::current().unwrap();
        assert_eq!((context.left(), context.attempt()), (Duration::MAX, None));
        assert_eq!(context.criticality(), Criticality::SheddablePlus);
        status(200)
    });
    let mut server = ServiceBuilder::new().layer(layer).service(below);
    let mut request = with(header::DEADLINE_MS, "1");
    request.headers_mut().insert(header::CRITICALITY, "CRITICAL_PLUS".parse().unwrap());
    request.headers_mut().insert(header::ATTEMPT, "7".parse().unwrap());
    call(&mut server, request).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_bulkhead_refuses_what_finds_no_place_and_counts_bodies() {
    let params = BulkheadParams { active_max: 1, waiting_max: 0, ..BulkheadParams::default() };
    let layer = BulkheadLayer::new(&params).unwrap();
    let calls = Count::default();
    let below = service(&calls, |_, _| Response::new(Body::from(Bytes::from_static(b"long"))));
    let mut server = ServiceBuilder::new().layer(layer.clone()).service(below);
    let first = call(&mut server, get("/")).await.unwrap();
    let refused = call(&mut server, get("/")).await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()[header::REASON]),
        (503, &"bulkhead_full".parse().unwrap())
    );
    assert_eq!(refused.headers()["retry-after"], "1");
    drop(first);
    assert_eq!(call(&mut server, get("/")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_lower_class_is_refused_before_a_higher_one() {
    let limit = LimitParams { initial: Some(100), min: 100, max: 100, ..LimitParams::default() };
    let layer = AdmissionLayer::new(&AdmissionParams { limit, ..AdmissionParams::default() }).unwrap();
    let calls = Count::default();
    let below = service(&calls, |_, _| Response::new(Body::from(Bytes::from_static(b"held"))));
    let mut server = ServiceBuilder::new().layer(ContextLayer::new()).layer(layer.clone()).service(below);
    let mut held = Vec::new();
    let mut served = Vec::new();
    for class in Criticality::ALL.into_iter().rev() {
        let mut count = 0;
        loop {
            let answer = call(&mut server, with(header::CRITICALITY, class.name())).await.unwrap();
            if answer.status() != 200 {
                assert_eq!(answer.headers()[header::REASON], "overloaded");
                assert!(
                    !answer.headers().contains_key(header::RETRY),
                    "few are retries: another may have room"
                );
                break;
            }
            held.push(answer);
            count += 1;
        }
        served.push(count);
    }
    assert!(
        served.iter().all(|count| *count > 0),
        "each class found places that lower ones left: {served:?}"
    );
    assert_eq!(served.iter().sum::<u32>(), 100);
    held.clear();
    assert_eq!(layer.admission().active(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_says_so_on_every_answer() {
    let duck = LameDuck::new();
    let calls = Count::default();
    let mut server = ServiceBuilder::new().layer(duck.layer()).service(service(&calls, |_, _| status(200)));
    assert!(!call(&mut server, get("/")).await.unwrap().headers().contains_key(header::LAME_DUCK));
    let waits = tokio::spawn({
        let duck = duck.clone();
        async move { duck.entered().await }
    });
    duck.enter();
    waits.await.unwrap();
    let answer = call(&mut server, get("/")).await.unwrap();
    assert_eq!(
        (&answer.headers()[header::LAME_DUCK], &answer.headers()["connection"]),
        (&"1".parse().unwrap(), &"close".parse().unwrap())
    );
    let mut http2 = get("/");
    *http2.version_mut() = http::Version::HTTP_2;
    assert!(!call(&mut server, http2).await.unwrap().headers().contains_key("connection"));
    duck.leave();
    assert!(!call(&mut server, get("/")).await.unwrap().headers().contains_key(header::LAME_DUCK));
}

#[tokio::test(start_paused = true)]
async fn every_answer_reports_the_load() {
    let layer = LoadReportLayer::new();
    layer.load().set_application_utilization(0.5);
    let calls = Count::default();
    let below = service(&calls, |_, _| Response::new(Body::from(Bytes::from_static(b"long"))));
    let mut server = ServiceBuilder::new().layer(layer.clone()).service(below);
    let first = call(&mut server, get("/")).await.unwrap();
    let second = call(&mut server, get("/")).await.unwrap();
    let report = layers::policy::Report::parse(second.headers()[header::LOAD].as_bytes()).unwrap();
    assert_eq!((report.requests_in_flight, report.application_utilization), (Some(2), Some(0.5)));
    assert!(report.latency.is_some());
    drop((first, second));
    assert_eq!(layer.load().in_flight(), 0);
}
