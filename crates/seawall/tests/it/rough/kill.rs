//! Endpoints that die, freeze and come back under load. The servers are real nginx processes.

use testkit::sys::{SIGCONT, SIGSTOP};
use testkit::{Reply, Seawall, Upstream};

use super::nginx::Server;
use super::{Traffic, flow, gateway};

fn answered_by(seawall: &Seawall, server: &Server) -> f64 {
    let endpoint = format!("endpoint=\"{}\"", server.addr);
    seawall.metric("seawall_gateway_endpoint_requests_total", &[&endpoint]).expect("a known endpoint")
}

/// Waits until `server` has answered `more` further requests.
fn wait_until_used(seawall: &Seawall, server: &Server, more: u32) {
    let before = answered_by(seawall, server);
    let endpoint = format!("endpoint=\"{}\"", server.addr);
    seawall.wait_for_metric("seawall_gateway_endpoint_requests_total", &[&endpoint], |now| {
        now >= before + f64::from(more)
    });
}

/// Bounds fit for a test that lasts seconds; the policies are those that everybody gets.
const BRISK: &str = "    timeouts: {connect: 500ms, attempt: 500ms, request: 3s}\n    \
                     ejection: {interval: 1s, time_base: 1s}\n    slow_start: {window: 1s}\n    \
                     endpoint_breaker: {open_base: 500ms, open_max: 1s}\n";

/// Turns that do not depend on what was learnt: an endpoint that is back is used as soon as nothing forbids it.
const IN_TURNS: &str = "    balance: round_robin\n";

#[test]
fn killing_one_of_two_endpoints_costs_hardly_a_request_and_it_serves_again_when_it_is_back() {
    let mut servers = [Server::start(), Server::start()];
    let seawall = gateway(&[servers[0].addr, servers[1].addr], BRISK);
    let traffic = Traffic::start(seawall.addr(), "/", 16, 300.0);
    wait_until_used(&seawall, &servers[0], 50);
    servers[0].kill();
    flow(&seawall, 300);
    servers[0].start_again();
    wait_until_used(&seawall, &servers[0], 50);
    traffic.stop().assert_succeeded(0.995);
    seawall.stop();
}

#[test]
fn a_storm_of_restarts_costs_hardly_a_request() {
    let mut servers = [Server::start(), Server::start(), Server::start()];
    let seawall =
        gateway(&[servers[0].addr, servers[1].addr, servers[2].addr], &format!("{BRISK}{IN_TURNS}"));
    let traffic = Traffic::start(seawall.addr(), "/", 16, 300.0);
    // The retry budget is a share of the traffic, so there has to have been some.
    flow(&seawall, 500);
    for round in 0..9 {
        let server = &mut servers[round % 3];
        flow(&seawall, 50);
        server.kill();
        flow(&seawall, 30);
        server.start_again();
    }
    for server in &servers {
        wait_until_used(&seawall, server, 20);
    }
    traffic.stop().assert_succeeded(0.99);
    seawall.stop();
}

#[test]
fn an_endpoint_whose_packets_vanish_is_left_alone_until_it_answers_again() {
    let servers = [Server::start(), Server::start()];
    let seawall = gateway(&[servers[0].addr, servers[1].addr], &format!("{BRISK}{IN_TURNS}"));
    let traffic = Traffic::start(seawall.addr(), "/", 64, 200.0);
    // The retry budget is a share of the traffic, so there has to have been some.
    flow(&seawall, 600);
    servers[0].signal(SIGSTOP);
    flow(&seawall, 400);
    servers[0].signal(SIGCONT);
    wait_until_used(&seawall, &servers[0], 50);
    traffic.stop().assert_succeeded(0.97);
    seawall.stop();
}

#[test]
fn an_endpoint_that_accepts_and_never_answers_is_left_alone() {
    let (good, mute) = (Upstream::constant("here"), Upstream::start(|_| Reply::hang()));
    let seawall = gateway(&[good.addr(), mute.addr()], BRISK);
    let traffic = Traffic::start(seawall.addr(), "/", 64, 200.0);
    flow(&seawall, 600);
    let asked = mute.request_count();
    traffic.stop().assert_succeeded(0.98);
    assert!(asked < 150, "the mute endpoint was asked {asked} times");
    seawall.stop();
}
