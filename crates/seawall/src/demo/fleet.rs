//! The demo's processes: two copies of the shop and a gateway before each. All end with the demo.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::script::{Fault, Shelf};
use crate::cli::Failure;
use crate::http::Connection;

/// Who stands before a copy of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Seawall as it is.
    Seawall,
    /// The same binary with round robin and everything else off.
    Plain,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::Seawall, Side::Plain];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Seawall => "with Seawall",
            Self::Plain => "round robin",
        }
    }
}

/// A child process. Killed when dropped; ends by itself when the demo is killed, because its standard input does.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Endpoint {
    shelf: Shelf,
    address: SocketAddr,
    process: Option<Process>,
}

/// One copy of the shop and the gateway before it.
pub(super) struct Copy {
    pub(super) side: Side,
    /// Where its users go.
    pub(super) door: SocketAddr,
    endpoints: Vec<Endpoint>,
    _gateway: Process,
    config: Config,
}

/// The gateway's configuration file, removed with it.
struct Config(std::path::PathBuf);

impl Drop for Config {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Copy {
    /// Starts the shop, then the gateway.
    pub(super) fn start(side: Side) -> Result<Self, Failure> {
        let mut endpoints = Vec::new();
        for shelf in Shelf::ALL {
            for _ in 0..shelf.endpoints() {
                let (process, address) = start_endpoint(side, shelf, ANY_PORT)?;
                endpoints.push(Endpoint { shelf, address, process: Some(process) });
            }
        }
        let addresses = |shelf: Shelf| endpoints.iter().filter(move |e| e.shelf == shelf).map(|e| e.address);
        let text = config_text(side, |shelf| addresses(shelf).collect());
        let path = std::env::temp_dir().join(format!("seawall-demo-{}-{side:?}.yaml", std::process::id()));
        let config = Config(path);
        std::fs::write(&config.0, text).map_err(|problem| {
            Failure::Runtime(format!("cannot write `{}`: {problem}", config.0.display()))
        })?;
        let mut gateway = this_program()?;
        gateway.args(["--log-level", "error", "up", "--exit-with-parent"]).arg(&config.0);
        let (gateway, door) = start(gateway)?;
        Ok(Self { side, door, endpoints, _gateway: gateway, config })
    }

    /// Where the gateway's configuration can be read while the demo runs.
    pub(super) fn config_path(&self) -> &std::path::Path {
        &self.config.0
    }

    /// Makes one endpoint of a shelf, or all, misbehave.
    pub(super) async fn inject(&mut self, shelf: Shelf, which: Which, fault: Fault) -> Result<(), Failure> {
        let side = self.side;
        let on_shelf = self.endpoints.iter_mut().filter(|endpoint| endpoint.shelf == shelf);
        let chosen: Vec<_> = match which {
            Which::Nth(nth) => on_shelf.skip(nth).take(1).collect(),
            Which::All => on_shelf.collect(),
        };
        for endpoint in chosen {
            match fault {
                Fault::Die => endpoint.process = None,
                Fault::Restart => {
                    endpoint.process = None;
                    endpoint.process = Some(start_endpoint(side, shelf, endpoint.address)?.0);
                }
                _ => tell(endpoint.address, fault).await?,
            }
        }
        Ok(())
    }
}

/// Which endpoints of a shelf a fault meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Nth(usize),
    All,
}

fn start_endpoint(side: Side, shelf: Shelf, listen: SocketAddr) -> Result<(Process, SocketAddr), Failure> {
    let mut shop = this_program()?;
    shop.args(["--log-level", "error", "shop"]);
    shop.args(["--listen", &listen.to_string(), "--work-ms", &shelf.work_ms().to_string()]);
    if side == Side::Seawall {
        shop.arg("--cooperative");
    }
    start(shop)
}

fn this_program() -> Result<Command, Failure> {
    let path = std::env::current_exe().map_err(|problem| {
        Failure::Runtime(format!("cannot find this program to start it again: {problem}"))
    })?;
    let mut command = Command::new(path);
    command.env_remove("RUST_LOG").stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

/// Starts a child and waits until it says where it listens.
fn start(mut command: Command) -> Result<(Process, SocketAddr), Failure> {
    let failed = |problem: &dyn std::fmt::Display| {
        Failure::Runtime(format!("cannot start a part of the demo: {problem}"))
    };
    let mut process = Process(command.spawn().map_err(|problem| failed(&problem))?);
    let output = process.0.stdout.take().ok_or_else(|| failed(&"it has no output"))?;
    let address = read_address(output).ok_or_else(|| failed(&"it ended before it listened"))?;
    Ok((process, address))
}

fn read_address(output: ChildStdout) -> Option<SocketAddr> {
    let mut lines = BufReader::new(output).lines();
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("listening on ")?.parse().ok());
    // What it says later is read and dropped, so that it never waits for a reader.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    address
}

async fn tell(endpoint: SocketAddr, fault: Fault) -> Result<(), Failure> {
    let ask = async {
        let mut connection = Connection::open(endpoint, "shop").await?;
        connection.send("POST", &format!("/-/fault?{}", fault.query()), "connection: close\r\n").await
    };
    match ask.await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => {
            Err(Failure::Runtime(format!("the endpoint {endpoint} answered {} to a fault", answer.status)))
        }
        Err(problem) => Err(Failure::Runtime(format!("cannot reach the endpoint {endpoint}: {problem}"))),
    }
}

/// The whole difference between the two sides.
fn config_text(side: Side, endpoints: impl Fn(Shelf) -> Vec<SocketAddr>) -> String {
    let (policies, hedge) = match side {
        Side::Seawall => (SEAWALL, HEDGE),
        Side::Plain => (PLAIN, ""),
    };
    let mut text =
        "listeners: [{address: '127.0.0.1:0'}]\nadmin: {enabled: false}\nworkers: 1\nroutes:\n".to_owned();
    for shelf in Shelf::ALL {
        let name = shelf.name();
        let hedge = if shelf == Shelf::Catalog { hedge } else { "" };
        text += &format!("  - match: {{path: /{name}/}}\n    service: {name}\n{hedge}");
    }
    text += "services:\n";
    for shelf in Shelf::ALL {
        let addresses: Vec<String> = endpoints(shelf).iter().map(|address| format!("'{address}'")).collect();
        text += &format!("  {}:\n    endpoints: [{}]\n{policies}", shelf.name(), addresses.join(", "));
    }
    text
}

/// The defaults, with spans and counts for phases that last seconds where real outages last minutes, and a bound on what is
/// under way at a service.
const SEAWALL: &str = "    timeouts: {connect: 250ms, attempt: 950ms, request: 950ms}
    health: {path: /-/health, interval: 500ms, timeout: 250ms}
    ejection: {interval: 1s, calls_min: 5, time_base: 2s}
    slow_start: {window: 2s}
    bulkhead: {active_max: 20}
    retry_budget: {burst: 10}
";

/// Reads may be asked twice.
const HEDGE: &str = "    hedge: {delay: 60ms}
";

/// Round robin and nothing else.
const PLAIN: &str = "    timeouts: {connect: 250ms, attempt: 950ms, request: 950ms}
    balance: round_robin
    panic_below: 0
    ejection: {enabled: false}
    breaker: {enabled: false}
    endpoint_breaker: {enabled: false}
    retry: {attempts_max: 1}
    slow_start: {window: 0s}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_configurations_are_valid() {
        for side in Side::BOTH {
            let text =
                config_text(side, |_| vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()]);
            let loaded =
                crate::config::read("demo.yaml", &text).unwrap_or_else(|errors| panic!("{side:?}: {errors}"));
            assert_eq!(loaded.config().gateway().routes.len(), Shelf::ALL.len());
        }
    }
}
