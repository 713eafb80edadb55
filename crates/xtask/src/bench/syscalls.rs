//! System calls per request at saturation.

use std::process::Command;
use std::time::Duration;

use testkit::load::{Limit, Load};
use testkit::process::{Process, find_program};
use testkit::sys::SIGINT;

use super::machine;
use super::proxy::{self, Proxy};
use super::shape::{SHAPES, Shape};
use crate::args::Args;

const SPAN: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(10);
const PEERS: [&str; 5] = ["forwarder", "haproxy", "nginx", "seawall", "seawall-all"];
/// Calls that move a request's or an answer's bytes.
const DATA: [&str; 11] = [
    "read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg", "splice", "sendfile",
    "tee",
];

pub(super) fn run(mut args: Args) -> Result<(), String> {
    let names = proxy::chosen(&args.list("peers")?, &PEERS)?;
    args.finish()?;
    let strace = find_program("strace").ok_or("strace is not installed (Debian: strace)")?;
    machine::print_header("gateway-syscalls");
    println!("- method: `strace -f -c -p PID` for 3 s of closed-loop load; calls over answers");
    let backends = proxy::start_backends()?;
    let proxies = proxy::start_all(&names, &backends, 1000);
    println!("| proxy | shape | data calls | epoll_wait | others | which |\n|---|---|---|---|---|---|");
    for proxy in &proxies {
        for shape in SHAPES.iter().filter(|shape| !shape.is_open()) {
            let counted = Command::new(&strace);
            match measure(counted, proxy, shape) {
                Ok((calls, answers)) => print_row(proxy.name, shape.name, &calls, answers),
                Err(error) => println!("| {} | {} | failed: {error} | | | |", proxy.name, shape.name),
            }
        }
    }
    Ok(())
}

/// Calls by name, and the answers they served.
fn measure(mut strace: Command, proxy: &Proxy, shape: &Shape) -> Result<(Vec<(String, u64)>, u64), String> {
    let mut load =
        Load::connect(proxy.addr, shape.connections, &shape.request()).map_err(|error| error.to_string())?;
    load.run(shape.pace(0), Limit::time(Duration::from_millis(300))).map_err(|error| error.to_string())?;
    strace.args(["-f", "-c"]);
    let pids = proxy.pids();
    strace.args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
    let mut strace = Process::start(&mut strace).map_err(|error| error.to_string())?;
    let mut attached = 0;
    let seen = strace.output().find(PATIENCE, |line| {
        attached += usize::from(line.contains("attached"));
        (attached == pids.len()).then_some(())
    });
    seen.ok_or_else(|| format!("strace cannot attach: {}", strace.output().lines().join(" | ")))?;
    let report = load.run(shape.pace(1), Limit::time(SPAN)).map_err(|error| error.to_string())?;
    strace.signal(SIGINT);
    strace.wait(PATIENCE);
    Ok((parse(&strace.output().lines()), report.answered()))
}

/// Reads the table that `strace -c` prints: time, seconds, usecs/call, calls, \[errors,\] name.
fn parse(lines: &[String]) -> Vec<(String, u64)> {
    lines
        .iter()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (name, numbers) = words.split_last()?;
            if !matches!(numbers.len(), 4 | 5) || *name == "total" {
                return None;
            }
            numbers[0].parse::<f64>().ok()?;
            Some(((*name).to_owned(), numbers[3].parse().ok()?))
        })
        .collect()
}

fn print_row(proxy: &str, shape: &str, calls: &[(String, u64)], answers: u64) {
    let per_request = |count: u64| count as f64 / answers.max(1) as f64;
    let of = |wanted: &dyn Fn(&str) -> bool| {
        per_request(calls.iter().filter(|(name, _)| wanted(name)).map(|(_, count)| count).sum())
    };
    let waits = |name: &str| name.starts_with("epoll_wait") || name.starts_with("epoll_pwait");
    let data = |name: &str| DATA.contains(&name);
    let list: Vec<_> = calls
        .iter()
        .filter(|(_, count)| per_request(*count) >= 0.005)
        .map(|(name, count)| format!("{name} {:.2}", per_request(*count)))
        .collect();
    println!(
        "| {proxy} | {shape} | {:.2} | {:.2} | {:.2} | {} |",
        of(&data),
        of(&waits),
        of(&|name| !data(name) && !waits(name)),
        list.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_table_of_strace() {
        let text = "strace: Process 7 attached\n\
            % time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            60.10    0.010000           5      2000           sendto\n \
            39.90    0.006640           3      2100       100 recvfrom\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.016640           4      4100       100 total\n";
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        assert_eq!(parse(&lines), [("sendto".to_owned(), 2000), ("recvfrom".to_owned(), 2100)]);
    }
}
