//! Services that register themselves: from a command to the gateway's balancer, to DNS and back out.

use std::collections::BTreeSet;
use std::process::Command;

use testkit::process::{Process, find_program};
use testkit::sys::SIGTERM;
use testkit::wait::{PATIENCE, wait_until};
use testkit::{Seawall, Upstream, get, request};

use crate::gate::{Gate, figure};
use crate::{run, text};

/// Ends with code 7 when told to, and with code 0 by itself after a while, so that no test leaves it behind.
const OBEDIENT: &str = "trap 'exit 7' TERM; for _ in $(seq 600); do sleep 0.1; done";

/// A gateway whose only service is whoever registers as `cart`.
fn gate(root: &str) -> Seawall {
    let file = Gate::default().root(&format!("registry: {{}}\n{root}"));
    // Neither failing over nor ramping up is looked at here.
    file.service_keys("web", "registry: cart, slow_start: {window: 0s}, breaker: {enabled: false}").start()
}

/// `seawall register cart` for a server that plays the command's part.
fn register(gate: &Seawall, server: &Upstream, more: &[&str]) -> Process {
    let (port, admin) = (server.addr().port().to_string(), format!("http://{}", gate.admin()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.args(["register", "cart", "--port", &port, "--admin", &admin, "--lame-duck", "500ms"]);
    command.args(more).args(["--", "sh", "-c", OBEDIENT]).env("NO_COLOR", "1");
    Process::start(&mut command).expect("the seawall binary can be started")
}

/// Tells the registry over HTTP; answers status and body.
fn tell(gate: &Seawall, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let response = request(
        gate.admin(),
        &format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}\
             Content-Length: {length}\r\n\r\n{body}"
        ),
    );
    (response.status, response.text())
}

const CLIENT: &str = "seawall-client: 1\r\n";

/// Registers over HTTP, for as long as `ttl` says.
fn put(gate: &Seawall, name: &str, address: &str, ttl: &str, more: &str) {
    let body = format!("{{\"address\": \"{address}\", \"ttl\": \"{ttl}\"{more}}}");
    let (status, answer) = tell(gate, "PUT", &format!("/api/registry/cart/{name}"), CLIENT, &body);
    assert_eq!(status, 200, "{answer}");
}

fn served_by(gate: &Seawall) -> BTreeSet<String> {
    let answers = (0..8).map(|_| get(gate.addr(), "/"));
    answers
        .map(|answer| if answer.status == 200 { answer.text() } else { answer.status.to_string() })
        .collect()
}

#[test]
fn a_command_is_registered_while_it_runs_and_leaves_without_a_failed_request() {
    let (one, two) = (Upstream::constant("one"), Upstream::constant("two"));
    let gate = gate("");
    assert_eq!(get(gate.addr(), "/").status, 503, "nobody registered yet");
    let mut first = register(&gate, &one, &["--version", "v1"]);
    let mut second = register(&gate, &two, &[]);
    let both = BTreeSet::from(["one".to_owned(), "two".to_owned()]);
    wait_until("both serve", PATIENCE, || served_by(&gate) == both);
    let listed = run(&["registry", "list", "--admin", &gate.admin().to_string()]);
    let listed = text(&listed.stdout);
    assert!(listed.contains("cart: 2 instances") && listed.contains("version v1"), "{listed}");

    first.signal(SIGTERM);
    let only = BTreeSet::from(["two".to_owned()]);
    wait_until("requests turn away from the one that leaves", PATIENCE, || {
        let served = served_by(&gate);
        assert!(served.is_subset(&both), "no request fails: {served:?}");
        served == only
    });
    assert!(first.is_running(), "a lame duck first");
    assert_eq!(first.wait(PATIENCE).code(), Some(7), "{:?}", first.output().lines());
    assert_eq!(served_by(&gate), only);
    wait_until("it is not listed any more", PATIENCE, || {
        figure(&gate, "seawall_coord_registry_instances") == 1.0
    });
    second.kill();
}

#[test]
fn the_exit_code_is_passed_on_whether_the_registry_hears_or_not() {
    let server = Upstream::constant("");
    let port = server.addr().port().to_string();
    let nowhere =
        ["register", "cart", "--port", &port, "--admin", "http://127.0.0.1:1", "--lame-duck", "0", "--"];
    let mut command = crate::seawall(&[&nowhere[..], &["sh", "-c", OBEDIENT]].concat());
    let mut unheard =
        Process::start(command.env("NO_COLOR", "1")).expect("the seawall binary can be started");
    let warned =
        unheard.output().find(PATIENCE, |line| line.contains("the registry does not hear").then_some(()));
    assert!(warned.is_some(), "{:?}", unheard.output().lines());
    unheard.signal(SIGTERM);
    assert_eq!(unheard.wait(PATIENCE).code(), Some(7));
    let ended = run(&[&nowhere[..], &["sh", "-c", "exit 9"]].concat());
    assert_eq!(ended.status.code(), Some(9), "{}", text(&ended.stderr));
    let killed = run(&[&nowhere[..], &["sh", "-c", "kill -9 $$"]].concat());
    assert_eq!(killed.status.code(), Some(128 + 9));
    for (arguments, expected) in [
        (&["register", "Cart", "--port", "80", "--", "true"][..], "`Cart` is no service name"),
        (&["register", "cart", "--port", "0", "--", "true"], "needs a host's own address and a port"),
        (&["register", "cart", "--port", "80", "--", "/nonexistent"], "cannot start `/nonexistent`"),
        (&["register", "cart", "--port", "80"], "CMD"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}

#[test]
fn an_unhealthy_command_is_not_registered_until_it_is_healthy_again() {
    let (ill, well) = (Upstream::constant("ill"), Upstream::constant("well"));
    let gate = gate("");
    let check = ["--health", "/healthz", "--health-interval", "50ms"];
    let _first = register(&gate, &ill, &check);
    let _second = register(&gate, &well, &check);
    let instances = || figure(&gate, "seawall_coord_registry_instances");
    wait_until("both are registered", PATIENCE, || instances() == 2.0);
    ill.set_health(500);
    wait_until("the ill one is not", PATIENCE, || instances() == 1.0);
    ill.set_health(200);
    wait_until("it is back", PATIENCE, || instances() == 2.0);
}

/// TRAP 17, row C4: instances that go silent together are held, and requests go on.
#[test]
fn trap_17_instances_that_vanish_together_are_held_until_an_operator_releases_them() {
    let servers: Vec<_> = (0..4).map(|_| Upstream::constant("here")).collect();
    let mut gate = gate("");
    gate.expect_errors();
    for (number, server) in servers.iter().enumerate() {
        put(&gate, &format!("i{number}"), &server.addr().to_string(), "2s", "");
    }
    wait_until("they serve", PATIENCE, || get(gate.addr(), "/").status == 200);
    gate.wait_for_metric("seawall_coord_registry_held_instances", &[], |held| held == 4.0);
    gate.wait_for_line("many instances vanished at once");
    assert_eq!(served_by(&gate), BTreeSet::from(["here".to_owned()]));
    let admin = gate.admin().to_string();
    let listed = run(&["registry", "list", "--json", "--admin", &admin]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed["services"][0]["held"], 4);
    // Three of them come back: one that stays away is ordinary, and gone.
    for (number, server) in servers.iter().enumerate().skip(1) {
        put(&gate, &format!("i{number}"), &server.addr().to_string(), "1m", "");
    }
    gate.wait_for_metric("seawall_coord_registry_held_instances", &[], |held| held == 0.0);
    assert_eq!(figure(&gate, "seawall_coord_registry_instances"), 3.0);
    let released = run(&["registry", "release", "cart", "--admin", &admin]);
    assert_eq!(text(&released.stdout), "cart: nothing was held\n");
}

#[test]
fn weights_zones_and_lame_ducks_are_honoured() {
    let servers: Vec<_> = ["near", "far", "lame"].map(Upstream::constant).into();
    let gate = Gate::default()
        .root("registry: {}")
        .service_keys("web", "registry: cart, zone: a, slow_start: {window: 0s}")
        .start();
    let register = |index: usize, more: &str| {
        put(&gate, &format!("i{index}"), &servers[index].addr().to_string(), "1m", more);
    };
    register(1, ", \"zone\": \"b\"");
    register(2, ", \"zone\": \"a\", \"lame_duck\": true");
    wait_until("the other zone helps", PATIENCE, || served_by(&gate) == BTreeSet::from(["far".to_owned()]));
    register(0, ", \"zone\": \"a\"");
    wait_until("the own zone serves", PATIENCE, || served_by(&gate) == BTreeSet::from(["near".to_owned()]));
    register(0, ", \"zone\": \"a\", \"weight\": 0");
    register(2, ", \"zone\": \"a\"");
    wait_until("weight 0 gets nothing", PATIENCE, || served_by(&gate) == BTreeSet::from(["lame".to_owned()]));
}

#[test]
fn the_api_refuses_what_a_web_page_or_a_mistake_may_send_and_tells_changes() {
    let gate = gate("");
    let body = "{\"address\": \"10.0.0.1:80\"}";
    let put = |path: &str, headers: &str, body: &str| tell(&gate, "PUT", path, headers, body).0;
    let path = "/api/registry/cart/one";
    assert_eq!(put(path, "", body), 403, "no header of a client");
    assert_eq!(put(path, &format!("{CLIENT}Origin: http://evil.example\r\n"), body), 403);
    assert_eq!(tell(&gate, "DELETE", path, "", "").0, 403);
    assert_eq!(tell(&gate, "POST", "/api/registry/cart/release", "", "").0, 403);
    assert_eq!(put("/api/registry/Cart/one", CLIENT, body), 400);
    assert_eq!(put(path, CLIENT, "{\"address\": \"0.0.0.0:80\"}"), 400);
    assert_eq!(put(path, CLIENT, "{\"address\": \"10.0.0.1:80\", \"ttl\": \"1ms\"}"), 400);
    assert_eq!(put(path, CLIENT, "{\"address\": \"10.0.0.1:80\", \"colour\": 1}"), 422);
    let version =
        |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["version"].as_u64().unwrap();
    wait_until("the registry is heard", PATIENCE, || {
        tell(&gate, "GET", "/api/registry", "", "").1.contains("\"trouble\":null")
    });
    let before = version(&tell(&gate, "GET", "/api/registry", "", "").1);
    assert_eq!(put(path, CLIENT, body), 200);
    let (_, news) = tell(&gate, "GET", &format!("/api/registry/watch?after={before}"), "", "");
    assert!(version(&news) > before && news.contains("10.0.0.1:80"), "{news}");
}

/// Asks with `dig`, which is in Debian's bind9-dnsutils.
fn dig(gate: &Seawall, arguments: &[&str]) -> String {
    let program =
        find_program("dig").expect("`dig` is missing: cargo xtask test installs it (bind9-dnsutils)");
    let line = gate.wait_for_line("dns on ");
    let port = line.rsplit(':').next().expect("a port");
    let mut command = Command::new(program);
    let output =
        command.args(["@127.0.0.1", "-p", port, "+tries=3", "+time=5"]).args(arguments).output().unwrap();
    text(&output.stdout).to_owned()
}

#[test]
fn dig_finds_what_registered() {
    let gate = gate("dns: {address: '127.0.0.1:0', ttl: 2s}");
    wait_until("the registry is heard", PATIENCE, || {
        dig(&gate, &["cart.seawall"]).contains("status: NXDOMAIN")
    });
    for number in 1..=60 {
        let more = if number == 1 { ", \"weight\": 5" } else { "" };
        put(&gate, &format!("i{number}"), &format!("10.0.0.{number}:80{number:02}"), "1m", more);
    }
    put(&gate, "six", "[2001:db8::1]:8080", "1m", "");
    wait_until("all are known", PATIENCE, || figure(&gate, "seawall_coord_registry_instances") >= 61.0);
    assert_eq!(dig(&gate, &["+short", "+tcp", "cart.seawall", "A"]).lines().count(), 60);
    assert_eq!(dig(&gate, &["+short", "CART.seawall", "AAAA"]), "2001:db8::1\n");
    let srv = dig(&gate, &["+tcp", "_cart._tcp.seawall", "SRV"]);
    assert!(srv.contains("2\tIN\tSRV\t1 5 8001 0a000001.addr.seawall."), "{srv}");
    assert!(srv.contains("ANSWER: 61") && srv.contains("ADDITIONAL: 62"), "{srv}");
    assert_eq!(dig(&gate, &["+short", "0a000001.addr.seawall"]), "10.0.0.1\n");
    let cut = dig(&gate, &["+ignore", "+noedns", "cart.seawall", "A"]);
    assert!(cut.contains("flags: qr aa tc rd"), "{cut}");
    // By itself it asks again over TCP.
    assert!(dig(&gate, &["+noedns", "cart.seawall", "A"]).contains("ANSWER: 60"));
    for (question, status) in [
        (["shop.seawall", "A"], "status: NXDOMAIN"),
        (["cart.seawall", "MX"], "status: NOERROR"),
        (["cart.example", "A"], "status: REFUSED"),
    ] {
        let answer = dig(&gate, &question);
        assert!(answer.contains(status) && answer.contains("ANSWER: 0"), "{answer}");
        assert_eq!(answer.contains("IN\tSOA"), !status.contains("REFUSED"), "{answer}");
    }
}

#[test]
fn ids_rise_and_are_given_only_where_that_is_wanted() {
    let gate = gate("ids: {numbers: 2}");
    let admin = gate.admin().to_string();
    gate.wait_for_metric("seawall_coord_id_workers", &[], |numbers| numbers == 2.0);
    let ids = |count: &str| -> Vec<u64> {
        let output = run(&["id", "--count", count, "--admin", &admin]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| line.parse().unwrap()).collect()
    };
    let (first, second) = (ids("150000"), ids("1"));
    assert_eq!((first.len(), second.len()), (150_000, 1));
    assert!(first.iter().chain(&second).is_sorted_by(|a, b| a < b));
    assert_eq!(tell(&gate, "GET", "/api/id?count=0", "", "").0, 400);
    let without = Gate::to(&["127.0.0.1:1".parse().unwrap()]).start();
    let output = run(&["id", "--admin", &without.admin().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("add `ids: {}`"), "{}", text(&output.stderr));
}

#[test]
fn senseless_keys_and_changes_that_need_a_restart_are_refused() {
    let gate = gate("");
    let running = std::fs::read_to_string(gate.config_path()).unwrap();
    gate.rewrite(&running.replace("registry: {}", "registry: {window: 1s}"));
    gate.wait_for_line("registry cannot change while running");
    for (keys, expected) in [
        ("dns: {address: '0.0.0.0:53'}", "loopback"),
        ("dns: {ttl: 1ms}", "whole seconds"),
        ("ids: {numbers: 17}", "from 1 to 16"),
        ("registry: {window: 0s}", "longer than 0"),
    ] {
        let file = crate::File::new(&format!("{keys}\nservices: {{web: {{registry: cart}}}}\n"));
        let output = run(&["check", file.path()]);
        assert_eq!(output.status.code(), Some(2), "{keys}");
        assert!(text(&output.stderr).contains(expected), "{keys}: {}", text(&output.stderr));
    }
    let file = crate::File::new("services: {web: {registry: cart, endpoints: [10.0.0.1:80]}}\n");
    assert!(text(&run(&["check", file.path()]).stderr).contains("more than one way"));
    let file = crate::File::new("services: {web: {registry: Cart}}\n");
    assert!(
        text(&run(&["check", file.path()]).stderr).contains("cannot be the name of a registered service")
    );
    let file = crate::File::new("services: {web: {registry: cart, zone: a}}\n");
    let known = run(&["check", file.path()]);
    assert!(known.status.success(), "{}", text(&known.stderr));
}
