//! Tens of thousands of clients that keep their connection and say nothing.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};
use testkit::sys::raise_open_files;
use testkit::{Client, Seawall, Upstream};

use super::{SEAWALL, Traffic, config, flow};

/// Connections wanted; fewer where fewer descriptors are allowed.
const WANTED: usize = 50_000;
/// Connections from one address of ours: well below the ports that it has.
const PER_ADDRESS: usize = 20_000;

/// Anonymous memory of a process, in bytes: what it has allocated, whatever of its program is mapped.
fn memory(seawall: &Seawall) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", seawall.process().id())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its size");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

/// A connection from `source`.
fn connect(source: Ipv4Addr, addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("every address in 127/8 is ours");
    socket.connect(&addr.into()).expect("it listens");
    socket.into()
}

#[test]
fn tens_of_thousands_of_idle_connections_are_kept_in_little_memory_while_others_are_served() {
    // One descriptor a connection on either side, and an eighth that the gateway keeps for the ways to endpoints.
    let allowed = raise_open_files(200_000).expect("limits can be read") as usize;
    let count = WANTED.min((allowed / 8 * 7).saturating_sub(500));
    assert!(count >= 15_000, "only {allowed} open files are allowed: raise the hard limit to 20000 at least");
    let upstream = Upstream::constant("here");
    // Hundreds ask at once on a machine that is busy opening connections: what is shed for overload is not the point here.
    let text = config(&[upstream.addr()], "    admission: {enabled: false}\n")
        .replace("{address: '127.0.0.1:0'}]", "{address: '127.0.0.1:0', timeouts: {idle: 10m, head: 10m}}]");
    let seawall = Seawall::start(SEAWALL, &text);
    let traffic = Traffic::start(seawall.addr(), "/", 8, 100.0);
    flow(&seawall, 100);
    let before = memory(&seawall);
    let mut idle: Vec<Client> = Vec::with_capacity(count);
    while idle.len() < count {
        let first = idle.len();
        for number in first..count.min(first + 200) {
            let source = Ipv4Addr::new(127, 0, 1, 1 + (number / PER_ADDRESS) as u8);
            let mut client = Client::over(connect(source, seawall.addr())).expect("a client");
            client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
            idle.push(client);
        }
        for client in &mut idle[first..] {
            let response = client.response();
            assert_eq!(response.status, 200, "{response:?}");
        }
        upstream.forget_requests();
    }
    flow(&seawall, 100);
    let each = memory(&seawall).saturating_sub(before) / count;
    println!("{count} idle connections, {each} bytes each");
    assert!(each < 16 * 1024, "{each} bytes for each idle connection");
    let open = seawall.metric("seawall_gateway_connections_open", &[]).expect("a figure");
    assert_eq!(open as usize, count + 8);
    // All of them are still there to be used.
    for client in idle.iter_mut().step_by(100) {
        assert_eq!(client.get("/").status, 200);
    }
    traffic.stop().assert_all_succeeded();
    drop(idle);
    seawall.wait_for_metric("seawall_gateway_connections_open", &[], |open| open == 0.0);
    seawall.stop();
}
