//! Services at work, over real sockets.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{Span, Verdict};
use policy::breaker::Force;
use policy::health::HealthParams;
use policy::{Rng, Unavailable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::*;
use crate::config::{EndpointParams, FileSd, Health, HealthCheck};

const WELL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const LEAVING: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nseawall-lame-duck: 1\r\ncontent-length: 0\r\n\r\n";

/// An endpoint on loopback that gives every request the same answer; gone when dropped.
struct Backend {
    address: SocketAddr,
    answer: Arc<RwLock<&'static [u8]>>,
    serving: AbortHandle,
}

impl Backend {
    async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(RwLock::new(WELL));
        let given = Arc::clone(&answer);
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n")
                    && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0)
                {}
                let answer = *given.read();
                let _ = stream.write_all(answer).await;
            }
        });
        Self { address, answer, serving: serving.abort_handle() }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn services() -> Services {
    Services::new(Clock::new(), 1, Handle::current(), 7, None)
}

fn map(params: &config::Service) -> BTreeMap<String, config::Service> {
    BTreeMap::from([("cart".to_owned(), params.clone())])
}

fn list(addresses: &[SocketAddr]) -> config::Service {
    let entry = |address: &SocketAddr| EndpointParams { address: address.to_string(), weight: 1 };
    config::Service { endpoints: addresses.iter().map(entry).collect(), ..config::Service::default() }
}

fn checked(addresses: &[SocketAddr]) -> config::Service {
    let timing = HealthParams { interval: Span::from_millis(10), ..HealthParams::default() };
    let check = HealthCheck::Http("/health".to_owned());
    config::Service { health: Some(Health { check, timing }), ..list(addresses) }
}

/// Waits until the newest view is as `wanted`.
async fn until(service: &Service, wanted: impl Fn(&View) -> bool) -> Arc<View> {
    poll(|| Some(service.view()).filter(|view| wanted(view))).await
}

/// Looks until there is something to see.
async fn poll<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let mut looks = tokio::time::interval(Duration::from_millis(1));
    let seen = async {
        loop {
            looks.tick().await;
            if let Some(seen) = look() {
                return seen;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("the awaited state within 30 s")
}

fn literal(count: u8) -> Vec<SocketAddr> {
    (1..=count).map(|number| SocketAddr::from(([10, 0, 0, number], 80))).collect()
}

#[test]
fn the_first_view_is_complete_before_the_runtime_turns() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let services = Services::new(Clock::new(), 4, runtime.handle().clone(), 7, None);
    let table = services.apply(&map(&list(&literal(3))));
    let view = table[0].view();
    assert_eq!((view.targets.len(), view.fleet.candidates().len(), view.version), (3, 3, 1));
    let mut rng = Rng::with_seed(1);
    let pick = policy::balance::Pick { now: services.clock().now(), key: None, tried: &[] };
    assert!(view.balancer.pick(&view.fleet, &pick, &mut rng).is_some());
    runtime.block_on(services.stop());
}

#[tokio::test]
async fn an_endpoint_that_dies_is_out_until_it_is_back_and_then_starts_slowly() {
    let (one, two) = (Backend::start("127.0.0.1:0").await, Backend::start("127.0.0.1:0").await);
    let services = services();
    let address = two.address;
    let table = services.apply(&map(&checked(&[one.address, address])));
    drop(two);
    let view = until(&table[0], |view| view.fleet.candidates() == [0]).await;
    assert_eq!(view.targets[1].endpoint.reasons().collect::<Vec<_>>(), [Unavailable::Unhealthy]);
    let left = view.targets[1].endpoint.joined();
    let control = services.get("cart").unwrap();
    let status = control.status();
    assert!(status.endpoints[1].reasons[0].why.contains("connect"), "{status:?}");

    let _two = Backend::start(&address.to_string()).await;
    let view = until(&table[0], |view| view.fleet.candidates() == [0, 1]).await;
    assert!(view.targets[1].endpoint.joined() > left);
    assert!(view.fleet.ramp_share(&view.targets[1].endpoint, view.targets[1].endpoint.joined()) < 1.0);
    let told: Vec<What> = control.events().iter().map(|event| event.what).collect();
    assert!(told.ends_with(&[What::Unhealthy, What::Healthy]), "{told:?}");
    services.stop().await;
}

#[tokio::test]
async fn a_health_answer_says_lame_duck_and_a_later_one_takes_it_back() {
    let backend = Backend::start("127.0.0.1:0").await;
    let spare = Backend::start("127.0.0.1:0").await;
    let services = services();
    let table = services.apply(&map(&checked(&[backend.address, spare.address])));
    *backend.answer.write() = LEAVING;
    let view = until(&table[0], |view| view.fleet.candidates() == [1]).await;
    assert_eq!(view.targets[0].endpoint.reasons().collect::<Vec<_>>(), [Unavailable::LameDuck]);
    *backend.answer.write() = WELL;
    until(&table[0], |view| view.fleet.candidates() == [0, 1]).await;
    services.stop().await;
}

#[tokio::test]
async fn a_tcp_check_is_content_with_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut params = checked(&[listener.local_addr().unwrap(), refused.local_addr().unwrap()]);
    drop(refused);
    if let Some(health) = &mut params.health {
        health.check = HealthCheck::Tcp;
    }
    let services = services();
    let table = services.apply(&map(&params));
    until(&table[0], |view| view.fleet.candidates() == [0]).await;
    drop(listener);
    until(&table[0], |view| view.fleet.panicking()).await;
    services.stop().await;
}

#[tokio::test]
async fn a_streak_of_failures_ejects_through_a_notice() {
    let services = services();
    let mut params = list(&literal(3));
    params.ejection.time_base = Span::from_millis(20);
    let table = services.apply(&map(&params));
    let target = Arc::clone(&table[0].view().targets[1]);
    while !target.streak.on_end(Verdict::Failure) {}
    table[0].notify(Notice::Failing { target: target.id });
    until(&table[0], |view| view.fleet.candidates() == [0, 2]).await;
    until(&table[0], |view| view.fleet.candidates() == [0, 1, 2]).await;
    services.stop().await;
}

#[tokio::test]
async fn a_lame_duck_told_by_a_worker_leaves_the_view() {
    let services = services();
    let table = services.apply(&map(&list(&literal(2))));
    let target = Arc::clone(&table[0].view().targets[0]);
    target.endpoint.set_unavailable(Unavailable::LameDuck, true);
    table[0].notify(Notice::LameDuck { target: target.id });
    until(&table[0], |view| view.fleet.candidates() == [1]).await;
    services.stop().await;
}

#[tokio::test]
async fn a_reload_is_done_when_it_returns_and_keeps_what_was_learnt() {
    let services = services();
    let table = services.apply(&map(&list(&literal(2))));
    let before = table[0].view();
    before.targets[0].endpoint.on_start(services.clock().now());
    assert!(services.get("cart").unwrap().set_disabled("10.0.0.2:80", true));

    let mut params = list(&literal(3));
    params.via = false;
    let again = services.apply(&map(&params));
    assert!(Arc::ptr_eq(&table[0], &again[0]));
    let view = again[0].view();
    assert!(!view.params.via);
    assert_eq!(view.targets.len(), 3);
    assert!(Arc::ptr_eq(&view.targets[0], &before.targets[0]));
    assert_eq!(view.targets[0].endpoint.active(), 1);
    assert_eq!(view.fleet.candidates(), [0, 2]);
    assert!(Arc::ptr_eq(&view.retry_budget, &before.retry_budget));

    let version = again[0].version();
    services.apply(&map(&params));
    assert_eq!(again[0].version(), version, "the same configuration changes nothing");
    services.stop().await;
}

#[tokio::test]
async fn slots_are_used_again_and_removed_services_end_their_tasks() {
    let services = services();
    let all = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), list(&literal(1)))).collect();
    let table = services.apply(&all(&["a", "b", "c"]));
    assert_eq!(table.iter().map(|service| service.index).collect::<Vec<_>>(), [0, 1, 2]);
    let table = services.apply(&all(&["a", "c"]));
    assert_eq!(table.iter().map(|service| service.index).collect::<Vec<_>>(), [0, 2]);
    assert!(services.get("b").is_none());
    let table = services.apply(&all(&["a", "c", "d", "e"]));
    let slots: Vec<_> = table.iter().map(|service| (&*service.name, service.index)).collect();
    assert_eq!(slots, [("a", 0), ("c", 2), ("d", 1), ("e", 3)]);
    services.stop().await;
}

#[tokio::test]
async fn a_file_is_followed_and_a_broken_one_takes_nobody_away() {
    let path = std::env::temp_dir().join(format!("seawall-service-{}.json", std::process::id()));
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write(r#"[{"targets": ["10.0.0.1:80", "10.0.0.2:80"]}]"#);
    let file = FileSd { path: path.clone(), refresh: Span::from_millis(5) };
    let services = services();
    let table = services.apply(&map(&config::Service { file: Some(file), ..config::Service::default() }));
    assert_eq!(table[0].view().targets.len(), 2, "known at once");
    write(r#"[{"targets": ["10.0.0.2:80"]}]"#);
    until(&table[0], |view| view.targets.len() == 1).await;
    write("[");
    let control = services.get("cart").unwrap();
    poll(|| control.status().discovery.trouble).await;
    assert_eq!(table[0].view().targets.len(), 1);

    // Another source in its place: what the file still says counts no longer.
    services.apply(&map(&list(&literal(3))));
    write(r#"[{"targets": ["10.0.0.9:80"]}]"#);
    assert_eq!(table[0].view().targets.len(), 3);
    assert_eq!(control.status().discovery.source, "list");
    services.stop().await;
    assert_eq!(table[0].view().targets.len(), 3);
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn operators_override_breakers_of_services_and_endpoints() {
    let services = services();
    let table = services.apply(&map(&list(&literal(2))));
    let control = services.get("cart").unwrap();
    let (view, now) = (table[0].view(), services.clock().now());
    let mut rng = Rng::with_seed(1);
    assert!(control.force_breaker(None, Force::Open));
    assert!(view.breaker.try_enter(0, now, &mut rng).is_err());
    assert!(control.force_breaker(Some("10.0.0.2:80"), Force::Open));
    assert!(view.targets[1].breaker.try_enter(0, now, &mut rng).is_err());
    assert!(view.targets[0].breaker.try_enter(0, now, &mut rng).is_ok());
    assert!(!control.force_breaker(Some("nobody"), Force::Open));
    assert!(control.force_breaker(None, Force::Auto) && control.reset_breaker(Some("10.0.0.2:80")));
    assert!(view.breaker.try_enter(0, now, &mut rng).is_ok());
    let told = control.events().iter().filter(|event| event.what == What::BreakerForced).count();
    assert_eq!(told, 4);
    services.stop().await;
}

#[tokio::test]
async fn the_status_says_it_all() {
    let services = services();
    services.apply(&map(&list(&literal(1))));
    let control = services.get("cart").unwrap();
    control.set_disabled("10.0.0.1:80", true);
    let status = serde_json::to_value(control.status()).unwrap();
    assert_eq!(status["name"], "cart");
    assert_eq!(status["balancer"], "least_loaded");
    assert_eq!(status["discovery"]["source"], "list");
    assert_eq!(status["breaker"]["state"], "closed");
    let endpoint = &status["endpoints"][0];
    assert_eq!(endpoint["address"], "10.0.0.1:80");
    assert_eq!(endpoint["available"], false);
    assert_eq!(endpoint["reasons"][0]["reason"], "disabled");
    assert_eq!(endpoint["reasons"][0]["why"], "an operator said so");
    let events = serde_json::to_value(control.events()).unwrap();
    assert_eq!(events[1]["what"], "disabled");
    assert!(events[1]["at"].as_str().unwrap().ends_with('Z'));
    services.stop().await;
}
