//! Clients that dribble.

use std::io::{Read, Write};
use std::net::TcpStream;

use testkit::wait::PATIENCE;
use testkit::{Seawall, Upstream, wait_until};

use super::{COMMON, SEAWALL, Traffic, flow};

/// Clients that send a byte of their head now and then, each keeping a connection busy.
const DRIBBLERS: usize = 300;

#[test]
fn hundreds_of_dribbling_clients_are_sent_away_in_time_and_disturb_nobody() {
    let upstream = Upstream::constant("here");
    let seawall = Seawall::start(
        SEAWALL,
        &format!(
            "{COMMON}listeners: [{{address: '127.0.0.1:0', timeouts: {{head: 2s}}}}]\n\
             services: {{shop: {{endpoints: ['{}']}}}}\n",
            upstream.addr()
        ),
    );
    let traffic = Traffic::start(seawall.addr(), "/", 8, 200.0);
    let dribblers: Vec<_> = (0..DRIBBLERS)
        .map(|_| {
            let mut stream = TcpStream::connect(seawall.addr()).expect("room for one more");
            stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nX-Slow: ").expect("sent");
            stream
        })
        .collect();
    let timed_out = "seawall_gateway_client_timeouts_total";
    wait_until("all of them are sent away", PATIENCE, || {
        for mut dribbler in &dribblers {
            // Fails for those that have been sent away.
            let _ = dribbler.write(b"x");
        }
        seawall.metric(timed_out, &["stage=\"head\""]) == Some(DRIBBLERS as f64)
    });
    seawall.wait_for_metric("seawall_gateway_connections_open", &[], |open| open == 8.0);
    let mut told = 0;
    for mut dribbler in dribblers {
        let mut answer = Vec::new();
        // Bytes that crossed its farewell on the way may have reset the connection.
        let _ = dribbler.read_to_end(&mut answer);
        told += usize::from(answer.starts_with(b"HTTP/1.1 408 "));
    }
    assert!(told > DRIBBLERS / 2, "only {told} were told why");
    flow(&seawall, 50);
    traffic.stop().assert_all_succeeded();
    seawall.stop();
}
