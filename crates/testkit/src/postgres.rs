//! A PostgreSQL of one's own.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{Process, find_program};
use crate::sys;
use crate::temp::TempDir;
use crate::wait::{PATIENCE, free_port, wait_until};

/// A private cluster that listens on loopback and syncs as a real one does. Killed when dropped.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    addr: SocketAddr,
    server: PathBuf,
    user: Option<(u32, u32)>,
    dir: TempDir,
}

impl Postgres {
    /// Makes a cluster and starts its server. `None` when PostgreSQL is not installed: `cargo xtask test` installs it.
    #[must_use]
    pub fn start() -> Option<Self> {
        let (initdb, server) = (program("initdb")?, program("postgres")?);
        let dir = TempDir::new("postgres");
        // It refuses to run as the administrator.
        let user =
            is_administrator(dir.path()).then(|| user("postgres").or_else(|| user("nobody"))).flatten();
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).expect("the administrator may give files away");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("a directory of our own");
        let data = dir.path().join("data");
        let mut make = as_user(&initdb, user, dir.path());
        make.args([
            "--username",
            "seawall",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--no-sync",
            "--pgdata",
        ]);
        let made = make.arg(&data).stdin(Stdio::null()).output().expect("initdb can be started");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let addr = free_port();
        let process = serve(&server, user, dir.path(), addr).expect("postgres can be started");
        let mut postgres = Self { process, addr, server, user, dir };
        postgres.wait_until_it_accepts();
        Some(postgres)
    }

    /// The URL of the database `name`. The database `postgres` is there from the start.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("postgres://seawall@{}/{name}", self.addr)
    }

    /// Makes an empty database; answers its URL.
    #[must_use]
    pub fn create(&self, name: &str) -> String {
        let bin = program("createdb").expect("createdb is installed with postgres");
        let (host, port) = (self.addr.ip().to_string(), self.addr.port().to_string());
        let mut command = Command::new(bin);
        command.args(["--host", &host, "--port", &port, "--username", "seawall", name]);
        let output = command.current_dir("/").output().expect("createdb can be started");
        assert!(output.status.success(), "createdb: {}", String::from_utf8_lossy(&output.stderr));
        self.url(name)
    }

    /// Kills the server and all its back ends without asking, as a power cut would.
    pub fn kill(&mut self) {
        // The back ends notice that the postmaster is gone and leave by themselves.
        self.process.kill();
        let pid = self.dir.path().join("data/postmaster.pid");
        // Left behind, it would keep the next one from starting until its process id is seen to be free.
        let _ = fs::remove_file(pid);
    }

    /// Starts the server again after [`Postgres::kill`], and waits until it accepts.
    pub fn restart(&mut self) {
        wait_until("the killed server's memory is free and the new one starts", PATIENCE, || {
            self.process =
                serve(&self.server, self.user, self.dir.path(), self.addr).expect("postgres can be started");
            self.accepts_or_ends()
        });
        self.wait_until_it_accepts();
    }

    /// The server process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    fn accepts_or_ends(&mut self) -> bool {
        loop {
            if !self.process.is_running() {
                return false;
            }
            if self.says_ready() {
                return true;
            }
            crate::wait::pace(std::time::Duration::from_millis(5));
        }
    }

    fn says_ready(&self) -> bool {
        self.process.output().lines().iter().any(|line| line.contains("ready to accept connections"))
    }

    fn wait_until_it_accepts(&mut self) {
        wait_until("PostgreSQL accepts", PATIENCE, || {
            assert!(
                self.process.is_running(),
                "PostgreSQL ended:\n{}",
                self.process.output().lines().join("\n")
            );
            self.says_ready() && TcpStream::connect(self.addr).is_ok()
        });
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Immediate shutdown, which takes the back ends along; the process is killed by its own drop otherwise.
        if sys::signal(self.process.id(), sys::SIGQUIT).is_ok() {
            let _ = self.process.wait(PATIENCE);
        }
    }
}

fn serve(server: &Path, user: Option<(u32, u32)>, dir: &Path, addr: SocketAddr) -> io::Result<Process> {
    let mut command = as_user(server, user, dir);
    command.arg("-D").arg(dir.join("data")).arg("-k").arg(dir);
    command.arg("-h").arg(addr.ip().to_string()).arg("-p").arg(addr.port().to_string());
    Process::start(command.args(["-c", "max_connections=100", "-c", "shared_buffers=32MB"]))
}

fn as_user(program: &Path, user: Option<(u32, u32)>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).env("LC_ALL", "C.UTF-8");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// New files belong to whoever runs this.
fn is_administrator(file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(file).is_ok_and(|found| found.uid() == 0)
}

/// The numbers of a user and its group.
fn user(name: &str) -> Option<(u32, u32)> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut numbers = line.split(':').skip(2).map(|field| field.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// A program of PostgreSQL, also where Debian hides it: the newest version.
fn program(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.is_file()).collect();
    found.sort();
    found.pop().or_else(|| find_program(name))
}
