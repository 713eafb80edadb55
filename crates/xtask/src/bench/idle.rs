//! Memory per idle client connection.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use testkit::sys::{choose_port_at_connect, raise_open_files};

use super::proxy::{self, Proxy};
use super::{machine, proc};
use crate::args::Args;

const PEERS: [&str; 5] = ["haproxy", "nginx", "envoy", "seawall", "seawall-all"];
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
/// Connections from one source address: the ports of one address would not suffice for more.
const PER_SOURCE: usize = 20_000;
/// How long a proxy may take to accept, or to answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(mut args: Args) -> Result<(), String> {
    let count: usize = args.option("connections")?.unwrap_or(10_000);
    let names = proxy::chosen(&args.list("peers")?, &PEERS)?;
    args.finish()?;
    let needed = count as u64 + 1000;
    let allowed =
        raise_open_files(2 * needed).map_err(|error| format!("cannot raise the file limit: {error}"))?;
    if allowed < needed {
        return Err(format!("{count} connections need {needed} open files; the limit is {allowed}"));
    }

    machine::print_header("gateway-idle");
    println!("- method: {count} client connections, one request each, then idle; growth of resident memory");
    let backends = proxy::start_backends()?;
    let proxies = proxy::start_all(&names, &backends, count);
    println!("| proxy | bytes per idle connection | resident MiB before | after |\n|---|---|---|---|");
    for proxy in &proxies {
        // What fails here is the machine's or the proxy's want of something, and the next peer would want it too.
        let (before, after) = measure(proxy, count)
            .map_err(|error| format!("{}: {error}; it said: {}", proxy.name, proxy.last_words()))?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let each = after.saturating_sub(before) / count as u64;
        println!("| {} | {each} | {:.1} | {:.1} |", proxy.name, mib(before), mib(after));
    }
    Ok(())
}

/// Resident memory before and after.
fn measure(proxy: &Proxy, count: usize) -> std::io::Result<(u64, u64)> {
    // What the first connections cost for ever is no cost of idle ones.
    let warm: Vec<_> = (0..64).map(|index| open(proxy.addr, index)).collect::<Result<_, _>>()?;
    let before = proc::resident(&proxy.pids());
    let idle: Vec<_> = (0..count).map(|index| open(proxy.addr, index)).collect::<Result<_, _>>()?;
    let after = proc::resident(&proxy.pids());
    drop((warm, idle));
    Ok((before, after))
}

/// A connection that has had one answer.
fn open(addr: SocketAddr, index: usize) -> std::io::Result<TcpStream> {
    let source = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(index / PER_SOURCE).unwrap_or(250));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    // A port that is free towards this proxy: those that the proxies before it have used up do not matter.
    choose_port_at_connect(&socket)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    socket.connect_timeout(&addr.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let mut seen = [0; 4096];
    let mut count = 0;
    while !seen[..count].ends_with(b"xxxxxxxx") {
        match stream.read(&mut seen[count..])? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            more => count += more,
        }
    }
    Ok(stream)
}
