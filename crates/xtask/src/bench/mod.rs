//! Measurements. Each is a command that anyone can run; none gates a test.

mod allocations;
mod coord;
mod gateway;
mod h2;
mod idle;
mod machine;
mod overload;
mod policy;
mod proc;
mod proxy;
mod registry;
mod routes;
mod shape;
mod soak;
mod stats;
mod store;
mod syscalls;
mod tls;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;

use crate::args::Args;
use crate::run::{cargo, show};

const USAGE: &str = "\
cargo xtask bench NAME [OPTIONS]

  gateway               CPU per request beside the peers
      --quick             3 rounds instead of 9
      --rounds N          so many rounds of one second each per proxy and shape
      --protocol h1|h2|tls  h2: multiplexed requests, by h2load; tls: handshakes, full and resumed, and requests over TLS;
                          peers of both: haproxy, nginx, envoy, seawall
      --only SHAPE,…      of min64, brw64, brw16k, brw4, rate5k
      --peers NAME,…      of forwarder, haproxy, haproxy-featured, nginx, envoy, seawall, seawall-bare, seawall-all
      --protocol tcp      the same requests through relays of bytes: forwarder, haproxy-tcp, seawall-tcp
  gateway-idle          memory per idle client connection       [--connections 10000] [--peers …]
  gateway-soak          memory and descriptors over time        [--seconds 600]
  gateway-syscalls      system calls per request at saturation  [--peers …]
  gateway-allocations   allocations per request
  gateway-routes        what 10 000 routes and 1 000 services cost
  overload              what comes through at up to ten times the capacity [--quick] [--peers …] [--help]
  coord                 leases a second and lateness of watches, on SQLite and etcd [--seconds 3] [--rounds 5]
  store                 committed writes per second, and what a back-up of 1 GiB does to them [--mib N] [--seconds N]
  coord-registry        how late a registry change reaches a balancer, and ids a second [--endpoints 10000] [--changes 500]
  policy                nanoseconds and allocations per decision [--quick] [--only PART,…]
";

pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let Some(name) = args.word() else { return Err(USAGE.to_owned()) };
    if cfg!(debug_assertions) {
        // The load, the floor and the policies are part of what is measured: they must be optimised too.
        let rest = args.rest();
        let words = ["run", "--quiet", "--release", "--package", "xtask", "--", "bench", &name];
        return show(cargo(&words).args(rest)).map_err(|_| format!("`bench {name}` failed"));
    }
    match name.as_str() {
        "gateway" => gateway::run(args),
        "gateway-idle" => idle::run(args),
        "gateway-soak" => soak::run(args),
        "gateway-syscalls" => syscalls::run(args),
        "gateway-allocations" => allocations::run(args),
        "gateway-routes" => routes::run(args),
        "overload" => overload::run(args),
        "coord" => coord::run(args),
        "coord-registry" => registry::run(args),
        "policy" => policy::run(args),
        "store" => store::run(args),
        _ => Err(USAGE.to_owned()),
    }
}

/// Serves as a back end of known capacity until it is killed.
pub(crate) fn station(args: Args) -> Result<(), String> {
    overload::station(args)
}

/// Forwards bytes from `--listen` to `--to` until it is killed.
pub(crate) fn forward(mut args: Args) -> Result<(), String> {
    let listen: SocketAddr = args.option("listen")?.ok_or("--listen is missing")?;
    let to = args.list("to")?;
    let to: Vec<SocketAddr> =
        to.iter().map(|addr| addr.parse()).collect::<Result<_, _>>().map_err(|_| "--to")?;
    args.finish()?;
    let listener =
        TcpListener::bind(listen).map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    testkit::forwarder::serve(&listener, &to, &AtomicBool::new(false)).map_err(|error| error.to_string())
}
