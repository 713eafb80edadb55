//! Client layers in paused time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use layers::client::{
    Balance, BalanceParams, BreakerLayer, BulkheadLayer, DeadlineLayer, Discover, HedgeLayer, PropagateLayer,
    ReplayLayer, Target, ThrottleLayer, discovered,
};
use layers::policy::Unavailable;
use layers::policy::attempts::RetryPolicyParams;
use layers::policy::balance as policies;
use layers::policy::breaker::{BreakerParams, State};
use layers::policy::bulkhead::BulkheadParams;
use layers::policy::hedge::HedgeParams;
use layers::policy::throttle::ThrottleParams;
use layers::{ByteSize, CallError, Clock, Context, Criticality, Deadline, Span, header};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::support::{Body, Boxed, Count, broken, call, get, post, retries, service, status};

/// A service that answers after `delay` by the number of the call.
fn slow(count: &Count, delay: impl Fn(u32) -> Duration + Clone + Send + Sync + 'static) -> Boxed<io::Error> {
    let count = count.clone();
    BoxCloneSyncService::new(tower::service_fn(move |_: Request<Body>| {
        let delay = delay(count.one());
        async move {
            tokio::time::timeout(delay, std::future::pending::<()>()).await.ok();
            Ok(status(200))
        }
    }))
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_and_the_callee_is_told_what_is_left() {
    let calls = Count::default();
    let below = service(&calls, |_, request| {
        let told = request.headers()[header::DEADLINE_MS].clone();
        Response::builder().header(header::DEADLINE_MS, told).body(Body::default()).unwrap()
    });
    let stack = ServiceBuilder::new()
        .layer(DeadlineLayer::new(Duration::from_millis(500)))
        .layer(PropagateLayer::new().margin(Duration::from_millis(20)));
    let told = call(&mut stack.clone().service(below), get("/")).await.unwrap();
    assert_eq!(told.headers()[header::DEADLINE_MS], "480");

    // Nobody gets more than the incoming request has.
    let began = Clock::now();
    let context = Context::new().with_deadline(Deadline::within(began, Duration::from_millis(200)));
    let mut hanging = stack.clone().service(slow(&calls, |_| HOUR));
    let error = context.clone().scope(call(&mut hanging, get("/"))).await.unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded));
    assert!((200..=201).contains(&Clock::now().since(began).as_millis()));

    // Nothing is sent when nothing is left.
    let before = calls.get();
    let error = context.scope(call(&mut hanging, get("/"))).await.unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded) && calls.get() == before);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_when_only_the_margin_is_left() {
    let calls = Count::default();
    let margin = PropagateLayer::new().margin(Duration::from_millis(20));
    let mut client = ServiceBuilder::new().layer(margin).service(service(&calls, |_, _| status(200)));
    for (left, sent) in [(21, 1), (20, 1)] {
        let deadline = Deadline::within(Clock::now(), Duration::from_millis(left));
        let answer = Context::new().with_deadline(deadline).scope(call(&mut client, get("/"))).await;
        assert_eq!(answer.is_ok(), left > 20, "{answer:?}");
        assert_eq!(calls.get(), sent);
    }
}

#[tokio::test(start_paused = true)]
async fn trap_7_a_retry_has_what_is_left_and_no_more() {
    let calls = Count::default();
    let params = RetryPolicyParams {
        attempts_max: 10,
        attempt_timeout: Some(Span::from_millis(300)),
        ..RetryPolicyParams::default()
    };
    let mut client = ServiceBuilder::new()
        .layer(DeadlineLayer::new(Duration::from_secs(1)))
        .layer(retries(&params))
        .service(slow(&calls, |_| HOUR));
    let began = Clock::now();
    let error = call(&mut client, get("/")).await.unwrap_err();
    // The last error is kept when no time is left to wait for another attempt.
    assert!(matches!(error, CallError::DeadlineExceeded | CallError::AttemptTimeout));
    assert!((900..=1_001).contains(&Clock::now().since(began).as_millis()));
    assert!((3..=4).contains(&calls.get()), "{} attempts of 300 ms in 1 s", calls.get());
}

#[tokio::test(start_paused = true)]
async fn what_may_have_had_an_effect_is_not_repeated() {
    let params = RetryPolicyParams::default();
    for (request, error, expected) in [
        (get("/"), io::ErrorKind::ConnectionReset, 3),
        (post("/", "once"), io::ErrorKind::ConnectionReset, 1),
        (post("/", "once"), io::ErrorKind::ConnectionRefused, 3),
    ] {
        let calls = Count::default();
        let below = broken(&calls, move || io::Error::from(error).into());
        let failed = call(&mut ServiceBuilder::new().layer(retries(&params)).service(below), request).await;
        assert!(matches!(failed, Err(CallError::Reset(_) | CallError::Connect(_))));
        assert_eq!(calls.get(), expected, "{error}");
    }
    let calls = Count::default();
    let below = service(&calls, |_, _| status(503));
    call(&mut ServiceBuilder::new().layer(retries(&params)).service(below), post("/", "once")).await.unwrap();
    assert_eq!(calls.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn any_body_is_sent_again_as_it_was() {
    let calls = Count::default();
    let count = calls.clone();
    let below = tower::service_fn(move |request: Request<layers::client::ReplayBody<axum::body::Body>>| {
        let call = count.one();
        async move {
            let body = request.into_body().collect().await?.to_bytes();
            assert_eq!(body, "not in memory at once");
            Ok::<_, layers::client::replay::ReplayError>(status(if call < 3 { 503 } else { 200 }))
        }
    });
    let mut client = ServiceBuilder::new()
        .layer(ReplayLayer::new(ByteSize::kib(1)))
        .layer(retries(&RetryPolicyParams { non_idempotent: true, ..RetryPolicyParams::default() }))
        .service(below);
    let body = axum::body::Body::new(http_body_util::Full::new(Bytes::from("not in memory at once")));
    let answer = call(&mut client, Request::post("/").body(body).unwrap()).await.unwrap();
    assert_eq!((answer.status().as_u16(), calls.get()), (200, 3));
}

#[tokio::test(start_paused = true)]
async fn a_late_call_is_hedged_once_it_is_known_what_late_is() {
    let calls = Count::default();
    // Ten milliseconds, but for one call in the middle that hangs.
    let below = slow(&calls, |call| if call == 401 { HOUR } else { Duration::from_millis(10) });
    let hedge = HedgeLayer::new(&HedgeParams::default(), crate::support::rich()).unwrap();
    let mut client = ServiceBuilder::new().layer(hedge.clone()).service(below);
    assert_eq!(hedge.delay(), None);
    for _ in 0..400 {
        call(&mut client, get("/")).await.unwrap();
    }
    let delay = hedge.delay().unwrap();
    assert!((Duration::from_millis(10)..Duration::from_millis(13)).contains(&delay), "{delay:?}");
    let began = Clock::now();
    call(&mut client, get("/")).await.unwrap();
    assert_eq!(calls.get(), 402);
    assert!(Clock::now().since(began) < Duration::from_millis(30));

    // Attempts of a caller that repeats, and what may have an effect, are not hedged.
    let stuck = slow(&calls, |_| Duration::from_secs(1));
    let mut client = ServiceBuilder::new().layer(hedge).service(stuck);
    call(&mut client, post("/", "once")).await.unwrap();
    Context::new().with_attempt(2).scope(call(&mut client, get("/"))).await.unwrap();
    assert_eq!(calls.get(), 404);
}

fn breaker(params: &BreakerParams) -> BreakerLayer {
    BreakerLayer::new(params).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_and_closes_and_ignores_who_is_not_to_blame() {
    let calls = Count::default();
    let params = BreakerParams { calls_min: 5, ..BreakerParams::default() };
    let layer = breaker(&params);
    let mut client =
        ServiceBuilder::new().layer(layer.clone()).service(service(&calls, |call, _| match call {
            1..=20 => status(503),
            21..=30 => status(500),
            _ => status(200),
        }));
    for _ in 0..20 {
        call(&mut client, get("/")).await.unwrap();
    }
    assert_eq!(layer.breaker().state(), State::Closed, "overload does not open it");
    while call(&mut client, get("/")).await.is_ok() {
        tokio::time::advance(Duration::from_millis(600)).await;
        assert!(calls.get() <= 100);
    }
    let error = call(&mut client, get("/")).await.unwrap_err();
    assert!(matches!(error, CallError::BreakerOpen { retry_after } if !retry_after.is_zero()));
    let mut refused = 0;
    while layer.breaker().state() != State::Closed {
        tokio::time::advance(Duration::from_millis(500)).await;
        refused += u32::from(call(&mut client, get("/")).await.is_err());
        assert!(refused < 1_000, "it never closes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cancelled_after_too_long_counts_against_the_callee() {
    let calls = Count::default();
    let slow_after = Some(Span::from_millis(100));
    let layer = breaker(&BreakerParams { calls_min: 5, slow_after, ..BreakerParams::default() });
    let stack =
        ServiceBuilder::new().layer(DeadlineLayer::new(Duration::from_millis(150))).layer(layer.clone());
    let mut client = stack.service(slow(&calls, |_| HOUR));
    let mut exceeded = 0;
    while layer.breaker().state() == State::Closed {
        exceeded += u32::from(matches!(call(&mut client, get("/")).await, Err(CallError::DeadlineExceeded)));
        assert!(exceeded <= 100, "it never opens");
    }
    assert!(exceeded >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_spares_a_callee_that_refuses_most_and_only_in_its_class() {
    let calls = Count::default();
    let layer = ThrottleLayer::new(&ThrottleParams::default()).unwrap();
    let below = service(&calls, |_, request| {
        let plus = request.headers()[header::CRITICALITY] == "CRITICAL_PLUS";
        status(if plus { 200 } else { 503 })
    });
    let mut client = ServiceBuilder::new().layer(layer).layer(PropagateLayer::new()).service(below);
    let (mut throttled, mut plus_refused) = (0, 0);
    for _ in 0..3_000 {
        tokio::time::advance(Duration::from_millis(10)).await;
        let plain = Context::new().with_criticality(Criticality::Sheddable);
        throttled +=
            u32::from(matches!(plain.scope(call(&mut client, get("/"))).await, Err(CallError::Throttled)));
        let plus = Context::new().with_criticality(Criticality::CriticalPlus);
        plus_refused += u32::from(plus.scope(call(&mut client, get("/"))).await.is_err());
    }
    assert!(throttled > 2_000, "{throttled} of 3000 throttled");
    assert_eq!(plus_refused, 0);
    assert_eq!(calls.get(), 6_000 - throttled);
}

/// A balancer over services that answer with their own name.
fn named(
    params: &BalanceParams,
    discover: Discover,
    answer: impl Fn(&str, u32) -> Response<Body> + Clone + Send + Sync + 'static,
) -> (Balance<Boxed<std::convert::Infallible>>, Count) {
    let calls = Count::default();
    let count = calls.clone();
    let make = move |target: &Target| {
        let (name, answer) = (Arc::clone(&target.name), answer.clone());
        service(&count, move |call, _| {
            let mut said = answer(&name, call);
            said.headers_mut().insert("server", name.parse().unwrap());
            said
        })
    };
    (Balance::new(params, discover, make).unwrap(), calls)
}

async fn server_of<S, R, E>(client: &mut S) -> Result<String, E>
where
    S: Service<Request<Body>, Response = Response<R>, Error = E>,
{
    let answer = call(client, get("/")).await?;
    Ok(answer.headers()["server"].to_str().unwrap().to_owned())
}

fn round_robin() -> BalanceParams {
    BalanceParams { balance: policies::Balance::RoundRobin, ..BalanceParams::default() }
}

#[tokio::test(start_paused = true)]
async fn trap_7_a_retry_goes_to_another_endpoint_each_time() {
    let discover = Discover::fixed(["a", "b", "c"]).unwrap();
    for params in [BalanceParams::default(), round_robin()] {
        let (balance, calls) =
            named(&params, discover.clone(), |name, _| status(if name == "c" { 200 } else { 503 }));
        let mut client = ServiceBuilder::new().layer(retries(&RetryPolicyParams::default())).service(balance);
        for request in 1..=20 {
            assert_eq!(server_of(&mut client).await.unwrap(), "c", "in request {request}");
        }
        assert!(calls.get() <= 60);
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_come_and_go_and_keep_what_was_learnt() {
    let (publisher, discover) = discovered();
    let (mut balance, _) = named(&round_robin(), discover, |_, _| status(200));
    assert!(matches!(server_of(&mut balance).await, Err(CallError::NoEndpoint)));
    publisher.publish([Target::new("a"), Target::new("b")]).unwrap();
    for _ in 0..10 {
        server_of(&mut balance).await.unwrap();
    }
    let before = balance.endpoints();
    assert_eq!(before.iter().map(|endpoint| endpoint.totals().successes).sum::<u64>(), 10);
    publisher.publish([Target::new("b"), Target::new("c")]).unwrap();
    let after = balance.endpoints();
    assert!(Arc::ptr_eq(&before[1], &after[0]), "b is still the same");
    assert_eq!(after[1].name(), "c");
    before[1].set_unavailable(Unavailable::Disabled, true);
    assert_eq!(server_of(&mut balance).await.unwrap(), "c");
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_gets_nothing_new_until_it_is_back_unless_all_are() {
    let discover = Discover::fixed(["duck", "other"]).unwrap();
    let (mut balance, _) = named(&round_robin(), discover, |name, _| {
        let mut answer = status(200);
        if name == "duck" {
            answer.headers_mut().insert(header::LAME_DUCK, "1".parse().unwrap());
        }
        answer
    });
    while server_of(&mut balance).await.unwrap() != "duck" {}
    for _ in 0..10 {
        assert_eq!(server_of(&mut balance).await.unwrap(), "other");
    }
    tokio::time::advance(Duration::from_secs(31)).await;
    let mut asked = 0;
    while server_of(&mut balance).await.unwrap() != "duck" {
        asked += 1;
        assert!(asked < 1_000, "it never comes back");
    }
    let (mut all, _) = named(&round_robin(), Discover::fixed(["duck"]).unwrap(), |_, _| {
        Response::builder().header(header::LAME_DUCK, "1").body(Body::default()).unwrap()
    });
    for _ in 0..3 {
        assert_eq!(server_of(&mut all).await.unwrap(), "duck", "there is nobody else");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_breaker_is_open_is_passed_by() {
    let breaker = Some(BreakerParams { calls_min: 5, ..BreakerParams::default() });
    let params = BalanceParams { breaker, ..round_robin() };
    let discover = Discover::fixed(["bad", "good"]).unwrap();
    let (mut balance, _) = named(&params, discover, |name, _| status(if name == "bad" { 500 } else { 200 }));
    let mut bad = 0;
    for _ in 0..200 {
        bad += u32::from(server_of(&mut balance).await.unwrap() == "bad");
    }
    assert!((5..50).contains(&bad), "{bad} of 200 calls went to the bad one");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_under_way_until_its_answer_is_read_or_dropped_however_it_ends() {
    let discover = Discover::fixed(["a"]).unwrap();
    let (mut balance, _) =
        named(&round_robin(), discover, |_, _| Response::new(Body::from(Bytes::from_static(b"long"))));
    let endpoint = Arc::clone(&balance.endpoints()[0]);
    let read = call(&mut balance, get("/")).await.unwrap();
    let dropped = call(&mut balance, get("/")).await.unwrap();
    assert_eq!(endpoint.active(), 2);
    assert_eq!(read.into_body().collect().await.unwrap().to_bytes(), "long");
    assert_eq!(endpoint.active(), 1);
    drop(dropped);
    assert_eq!(endpoint.active(), 0);
    drop(balance.call(get("/")));
    assert_eq!((endpoint.active(), endpoint.totals().successes), (0, 2), "a cancelled call teaches nothing");
}

#[tokio::test(start_paused = true)]
async fn a_clients_bulkhead_refuses_what_finds_no_place() {
    let calls = Count::default();
    let params = BulkheadParams { active_max: 1, waiting_max: 1, ..BulkheadParams::default() };
    let layer = BulkheadLayer::new(&params).unwrap();
    let below = service(&calls, |_, _| Response::new(Body::from(Bytes::from_static(b"long"))));
    let mut client = ServiceBuilder::new().layer(layer.clone()).service(below);
    let first = call(&mut client, get("/")).await.unwrap();
    let waits = tokio::spawn(client.clone().oneshot(get("/")));
    while layer.bulkhead().waiting() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(call(&mut client, get("/")).await, Err(CallError::BulkheadFull)));
    drop(first);
    assert!(waits.await.unwrap().is_ok());
    assert_eq!((calls.get(), layer.bulkhead().active()), (2, 0));
}

#[test]
fn what_makes_no_sense_is_said_before_anything_runs() {
    let params = RetryPolicyParams { attempts_max: 0, ..RetryPolicyParams::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _runtime = runtime.enter();
    let invalid = layers::client::RetryLayer::new(&params, crate::support::rich()).unwrap_err();
    assert_eq!(invalid.problems()[0].0, "attempts_max");
}
