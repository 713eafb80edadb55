//! Programs under test as child processes: the `seawall` binary, nginx and Redis.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::sys;
use crate::temp::TempDir;
use crate::wait::{PATIENCE, wait_for, wait_until};

/// The series of `/metrics` that grows by one each time a configuration takes effect.
pub const CONFIG_VERSION: &str = "seawall_config_version";

/// What a program has printed so far, line by line; standard output and error in the order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Output(Arc<(Mutex<Printed>, Condvar)>);

#[derive(Debug, Default)]
struct Printed {
    lines: Vec<String>,
    open: usize,
}

impl Output {
    fn printed(&self) -> MutexGuard<'_, Printed> {
        self.0.0.lock().expect("no panic while held")
    }

    fn follow(&self, stream: impl io::Read + Send + 'static) {
        self.printed().open += 1;
        let output = self.clone();
        thread::spawn(move || {
            let mut lines = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
                output.printed().lines.push(text);
                output.0.1.notify_all();
                line.clear();
            }
            output.printed().open -= 1;
            output.0.1.notify_all();
        });
    }

    /// The lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.printed().lines.clone()
    }

    /// The first answer that `probe` gives for a line, past or future. `None` when the program closed its output or
    /// `limit` passed without one.
    pub fn find<T>(&self, limit: Duration, mut probe: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let until = Instant::now() + limit;
        let mut next = 0;
        let mut printed = self.printed();
        loop {
            while let Some(line) = printed.lines.get(next) {
                next += 1;
                if let Some(found) = probe(line) {
                    return Some(found);
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if printed.open == 0 || left.is_zero() {
                return None;
            }
            printed = self.0.1.wait_timeout(printed, left).expect("no panic while held").0;
        }
    }

    /// Waits until both streams are closed, so that nothing is missing from [`Output::lines`].
    fn finish(&self) {
        let _ = self.find(PATIENCE, |_| None::<()>);
    }
}

/// A child process whose output is followed. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Output,
    name: String,
}

impl Process {
    /// Starts `command`, its standard input empty.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let name =
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = Output::default();
        output.follow(child.stdout.take().expect("piped"));
        output.follow(child.stderr.take().expect("piped"));
        Ok(Self { child, output, name })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Sends a signal (see [`sys`]).
    pub fn signal(&self, signal: i32) {
        sys::signal(self.id(), signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended, with all that it printed. Panics after `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let status = wait_for(&format!("{} has ended", self.name), limit, || {
            self.child.try_wait().expect("a child can be waited for")
        });
        self.output.finish();
        status
    }

    /// Ends it without asking and waits until it is gone.
    pub fn kill(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A `seawall` that did not start to serve.
#[derive(Debug)]
pub struct Refused {
    /// How it ended; `None` when it neither ended nor listened.
    pub status: Option<ExitStatus>,
    /// What it printed.
    pub lines: Vec<String>,
}

/// A running `seawall up CONFIG`.
///
/// When dropped it is killed, and the test fails if it logged an ERROR that was not
/// [expected](Seawall::expect_errors).
#[derive(Debug)]
pub struct Seawall {
    process: Process,
    dir: TempDir,
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    admin_client: Mutex<Option<Client>>,
    errors_expected: bool,
}

impl Seawall {
    /// Starts `bin up CONFIG` and waits until it serves. Addresses in `config` may have port 0. `bin` is
    /// `env!("CARGO_BIN_EXE_seawall")`.
    #[must_use]
    pub fn start(bin: &str, config: &str) -> Self {
        Self::start_with(bin, &[], config)
    }

    /// Starts `bin up CONFIG ARGS…` and waits until it serves.
    #[must_use]
    pub fn start_with(bin: &str, args: &[&str], config: &str) -> Self {
        Self::try_start(bin, args, config).unwrap_or_else(|refused| {
            panic!("seawall does not serve ({:?}):\n{}", refused.status, refused.lines.join("\n"))
        })
    }

    /// Starts `bin up CONFIG ARGS…`; answers what it said when it ends instead of serving.
    pub fn try_start(bin: &str, args: &[&str], config: &str) -> Result<Self, Refused> {
        let dir = TempDir::new("config");
        let path = dir.write("seawall.yaml", config);
        let mut command = Command::new(bin);
        command.arg("up").arg(&path).args(args).current_dir(dir.path()).env("NO_COLOR", "1");
        Self::serve(&mut command, dir)
    }

    /// Runs `bin ARGS…` without a file of ours (such as `up --to …`) and waits until it serves.
    pub fn try_run(bin: &str, args: &[&str]) -> Result<Self, Refused> {
        let dir = TempDir::new("config");
        let mut command = Command::new(bin);
        command.args(args).current_dir(dir.path()).env("NO_COLOR", "1");
        Self::serve(&mut command, dir)
    }

    /// Starts `command`, which says `listening on ADDR` for each listener, then `admin on http://ADDR`.
    fn serve(command: &mut Command, dir: TempDir) -> Result<Self, Refused> {
        let mut process = Process::start(command).expect("the seawall binary can be started");
        let mut listeners = Vec::new();
        let admin = process.output().find(PATIENCE, |line| {
            if let Some(addr) = address_after(line, "listening on ") {
                listeners.push(addr);
            }
            address_after(line, "admin on http://")
        });
        if admin.is_some() {
            let admin_client = Mutex::default();
            return Ok(Self { process, dir, listeners, admin, admin_client, errors_expected: false });
        }
        let status = process.child.try_wait().ok().flatten().or_else(|| {
            // Both streams are closed before the process can be waited for.
            let limit = if process.output().printed().open == 0 { PATIENCE } else { Duration::ZERO };
            let until = Instant::now() + limit;
            loop {
                match process.child.try_wait() {
                    Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(2)),
                    answer => break answer.ok().flatten(),
                }
            }
        });
        Err(Refused { status, lines: process.output().lines() })
    }

    /// The address of the first listener.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        *self.listeners.first().expect("a listener")
    }

    /// The addresses of all listeners, in the order of the configuration.
    #[must_use]
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// The address of the admin API.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin address")
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("seawall.yaml")
    }

    /// Where its configuration lies; files that it refers to may be added.
    #[must_use]
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// Does not fail the test for logged ERRORs.
    pub fn expect_errors(&mut self) {
        self.errors_expected = true;
    }

    /// Its log and output so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.process.output().lines()
    }

    /// Waits until it prints a line that contains `text`, in the past or the future; answers the line.
    pub fn wait_for_line(&self, text: &str) -> String {
        self.process
            .output()
            .find(PATIENCE, |line| line.contains(text).then(|| line.to_owned()))
            .unwrap_or_else(|| panic!("seawall never said {text:?}:\n{}", self.lines().join("\n")))
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn metrics(&self) -> String {
        let addr = self.admin();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {addr}\r\n\r\n");
        let mut kept = self.admin_client.lock().expect("no panic while held");
        // One connection for all, so that polling does not use up the machine's ports.
        let answer = kept.take().and_then(|mut client| {
            let response = client.try_request(&request).ok()?;
            Some((client, response))
        });
        let (client, response) = answer.unwrap_or_else(|| {
            let mut client = Client::connect(addr);
            let response = client.request(&request);
            (client, response)
        });
        *kept = Some(client);
        assert_eq!(response.status, 200, "{}", response.text());
        response.text()
    }

    /// The sum of all samples of the series `name` whose labels contain each of `labels` (written `key="value"`);
    /// `None` when there is none.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        sum_of(&self.metrics(), name, labels)
    }

    /// Waits until [`Seawall::metric`] answers something for which `holds` says yes.
    pub fn wait_for_metric(&self, name: &str, labels: &[&str], holds: impl Fn(f64) -> bool) -> f64 {
        wait_for(&format!("{name}{labels:?} is as wanted"), PATIENCE, || {
            self.metric(name, labels).filter(|value| holds(*value))
        })
    }

    /// Replaces the configuration file at once, and returns without waiting for any effect.
    pub fn rewrite(&self, config: &str) {
        self.dir.write("seawall.yaml", config);
    }

    /// Replaces the configuration file and waits until it has taken effect.
    pub fn reload(&self, config: &str) {
        let before = self.config_version();
        self.rewrite(config);
        wait_until("the new configuration is active", PATIENCE, || self.config_version() != before);
    }

    fn config_version(&self) -> f64 {
        self.metric(CONFIG_VERSION, &[]).unwrap_or_else(|| panic!("/metrics lacks {CONFIG_VERSION}"))
    }

    /// Sends a signal (see [`sys`]).
    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait(PATIENCE)
    }

    /// Asks it to finish and waits until it has. Panics when it ends with an error.
    pub fn stop(mut self) {
        self.signal(sys::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "seawall ended with {status}:\n{}", self.lines().join("\n"));
    }
}

impl Drop for Seawall {
    fn drop(&mut self) {
        self.process.kill();
        self.process.output().finish();
        if thread::panicking() {
            eprintln!("--- seawall said:\n{}", self.lines().join("\n"));
            return;
        }
        let errors: Vec<_> = self.lines().into_iter().filter(|line| is_error(line)).collect();
        assert!(self.errors_expected || errors.is_empty(), "seawall logged errors:\n{}", errors.join("\n"));
    }
}

/// The address that `line` has directly after `marker`.
fn address_after(line: &str, marker: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(marker)?;
    rest.split(|c: char| c.is_whitespace() || c == '/' || c == ',').next()?.parse().ok()
}

/// Whether a log line has the level ERROR, as text or as JSON.
fn is_error(line: &str) -> bool {
    line.contains("\"level\":\"ERROR\"") || line.split_whitespace().take(3).any(|word| word == "ERROR")
}

fn sum_of(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut sum = None;
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix(name) else { continue };
        let (found, rest) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}').unwrap_or(("", "")),
            None if rest.starts_with(' ') => ("", rest),
            None => continue,
        };
        let value = rest.split_whitespace().next().and_then(|value| value.parse::<f64>().ok());
        if let (true, Some(value)) = (labels.iter().all(|label| found.contains(label)), value) {
            *sum.get_or_insert(0.0) += value;
        }
    }
    sum
}

/// An nginx in the foreground with a directory of its own. Killed, its worker with it, when dropped.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    addr: SocketAddr,
    _dir: TempDir,
}

impl Nginx {
    /// Starts nginx with `servers` inside its `http` block, which must listen on `addr`, and waits until it accepts.
    /// `None` when nginx is not installed: `cargo xtask test` installs it.
    #[must_use]
    pub fn start(addr: SocketAddr, servers: &str) -> Option<Self> {
        let bin = find_program("nginx")?;
        let dir = TempDir::new("nginx");
        fs::create_dir(dir.path().join("run")).expect("a directory of our own is writable");
        let config = dir.write("nginx.conf", &nginx_config(servers));
        let mut process = Process::start(Command::new(bin).arg("-p").arg(dir.path()).arg("-c").arg(config))
            .unwrap_or_else(|error| panic!("cannot start nginx: {error}"));
        wait_until(&format!("nginx accepts on {addr}"), PATIENCE, || {
            assert!(process.is_running(), "nginx ended:\n{}", process.output().lines().join("\n"));
            TcpStream::connect(addr).is_ok()
        });
        Some(Self { process, addr, _dir: dir })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// One process (no master), so that a signal reaches the one that serves.
fn nginx_config(servers: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid run/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path run/body;\n  proxy_temp_path run/proxy;\n  \
         fastcgi_temp_path run/f;\n  uwsgi_temp_path run/u;\n  scgi_temp_path run/s;\n{servers}\n}}\n"
    )
}

/// A Redis that keeps nothing. Killed when dropped.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    addr: SocketAddr,
    _dir: TempDir,
}

impl Redis {
    /// Starts Redis on `addr` and waits until it answers. `None` when it is not installed: `cargo xtask test` installs it.
    #[must_use]
    pub fn start(addr: SocketAddr) -> Option<Self> {
        let bin = find_program("redis-server")?;
        let dir = TempDir::new("redis");
        let (port, host) = (addr.port().to_string(), addr.ip().to_string());
        let words = ["--port", &port, "--bind", &host, "--save", "", "--appendonly", "no"];
        let mut process = Process::start(Command::new(bin).args(words).current_dir(dir.path()))
            .unwrap_or_else(|error| panic!("cannot start redis-server: {error}"));
        wait_until(&format!("Redis accepts on {addr}"), PATIENCE, || {
            assert!(process.is_running(), "Redis ended:\n{}", process.output().lines().join("\n"));
            TcpStream::connect(addr).is_ok()
        });
        Some(Self { process, addr, _dir: dir })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// The path of an installed program, also where only the administrator's `PATH` leads.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::free_port;

    fn shell(script: &str) -> Process {
        Process::start(Command::new("sh").arg("-c").arg(script)).unwrap()
    }

    fn fake_seawall(dir: &TempDir, script: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.write("fake", &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    const SERVES: &str = "echo 'INFO listening on 127.0.0.1:81'; echo listening on 127.0.0.1:82; \
        echo admin on http://127.0.0.1:83/;";

    #[test]
    fn reads_where_it_listens() {
        let dir = TempDir::new("fake");
        let bin = fake_seawall(&dir, &format!("test $1 = up && {SERVES} cat $2; exec sleep 1000"));
        let seawall = Seawall::start(&bin, "workers: 1\n");
        let ports: Vec<_> = seawall.listeners().iter().map(SocketAddr::port).collect();
        assert_eq!((ports, seawall.admin().port()), (vec![81, 82], 83));
        seawall.wait_for_line("workers: 1");
    }

    #[test]
    #[should_panic(expected = "seawall logged errors:\n2026-01-01T00:00:00Z ERROR broken")]
    fn an_error_in_the_log_fails_the_test() {
        let dir = TempDir::new("fake");
        let bin =
            fake_seawall(&dir, &format!("{SERVES} echo 2026-01-01T00:00:00Z ERROR broken; exec sleep 1000"));
        let seawall = Seawall::start(&bin, "");
        seawall.wait_for_line("broken");
    }

    #[test]
    fn a_refusal_tells_how_and_why() {
        let dir = TempDir::new("fake");
        let bin = fake_seawall(&dir, "echo 'unknown key' >&2; exit 2");
        let refused = Seawall::try_start(&bin, &[], "").unwrap_err();
        assert_eq!(refused.status.and_then(|status| status.code()), Some(2));
        assert_eq!(refused.lines, ["unknown key"]);
    }

    #[test]
    fn waits_for_the_end_with_all_output() {
        let mut process = shell("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done");
        assert!(process.output().find(PATIENCE, |line| (line == "ready").then_some(())).is_some());
        assert!(process.is_running());
        process.signal(sys::SIGTERM);
        assert_eq!(process.wait(PATIENCE).code(), Some(3));
        assert_eq!(process.output().lines(), ["ready", "bye"]);
    }

    #[test]
    fn levels_are_told_from_words() {
        assert!(is_error("2026-01-01T00:00:00Z ERROR gateway: bad"));
        assert!(is_error("{\"timestamp\":\"x\",\"level\":\"ERROR\"}"));
        assert!(!is_error("2026-01-01T00:00:00Z  WARN gateway: message=an ERROR page was served"));
    }

    #[test]
    fn sums_only_matching_series() {
        let text = "# HELP a_total x\na_total{route=\"x\",code=\"200\"} 2\na_total{route=\"y\",code=\"200\"} 3\n\
            a_total_more 9\nb 7 1700000000\n";
        assert_eq!(sum_of(text, "a_total", &[]), Some(5.0));
        assert_eq!(sum_of(text, "a_total", &["code=\"200\"", "route=\"y\""]), Some(3.0));
        assert_eq!(sum_of(text, "a_total", &["code=\"500\""]), None);
        assert_eq!(sum_of(text, "b", &[]), Some(7.0));
    }

    #[test]
    fn nginx_serves_from_its_own_directory() {
        let addr = free_port();
        let Some(nginx) = Nginx::start(addr, &format!("server {{ listen {addr}; return 200 nginx; }}"))
        else {
            eprintln!("nginx is not installed: nothing to see");
            return;
        };
        assert_eq!(crate::client::get(nginx.addr(), "/").text(), "nginx");
    }
}
