//! Real etcd clusters that can be killed, stopped and partitioned.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use crate::process::{Process, find_program};
use crate::relay::Relay;
use crate::sys;
use crate::temp::TempDir;
use crate::wait::{PATIENCE, free_port, wait_until};

/// An etcd cluster on loopback. Killed when dropped.
///
/// Members reach each other, and clients reach members, through relays, so that any of them can be cut off. Elections are
/// quick, so that tests are.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    dir: TempDir,
}

#[derive(Debug)]
struct Member {
    process: Option<Process>,
    client: SocketAddr,
    peer: SocketAddr,
    clients: Relay,
    peers: Relay,
}

impl Etcd {
    /// Starts a cluster of `size` members and waits until each answers.
    ///
    /// # Panics
    /// When etcd is not installed: `cargo xtask test` installs it.
    #[must_use]
    pub fn start(size: usize) -> Self {
        let members = (0..size).map(|_| {
            let (client, peer) = (free_port(), free_port());
            Member { process: None, client, peer, clients: Relay::start(client), peers: Relay::start(peer) }
        });
        let mut etcd = Self { members: members.collect(), dir: TempDir::new("etcd") };
        (0..size).for_each(|index| etcd.launch(index));
        etcd.tell_apart();
        (0..size).for_each(|index| etcd.wait_ready(index));
        // Peers that connected before their processes were known cannot be told apart: they connect anew.
        for member in &etcd.members {
            member.peers.cut();
            member.peers.heal();
        }
        (0..size).for_each(|index| etcd.wait_ready(index));
        etcd
    }

    /// Where clients reach the members, each through its relay, as configuration has it.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("http://{}", member.clients.addr())).collect()
    }

    /// Where a member itself listens for clients.
    #[must_use]
    pub fn addr(&self, index: usize) -> SocketAddr {
        self.members[index].client
    }

    /// How many members there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The member that leads, once there is one.
    #[must_use]
    pub fn leader(&self) -> usize {
        crate::wait::wait_for("a leader", PATIENCE, || {
            (0..self.size()).find(|index| {
                self.running(*index)
                    && self
                        .metrics(*index)
                        .is_some_and(|text| text.lines().any(|line| line.trim() == "etcd_server_is_leader 1"))
            })
        })
    }

    /// Kills a member.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill();
        }
    }

    /// Starts a member that was killed, with the data it had.
    pub fn restart(&mut self, index: usize) {
        self.launch(index);
        self.tell_apart();
    }

    /// Freezes a member: its sockets stay open and it answers nobody.
    pub fn freeze(&self, index: usize) {
        self.signal(index, sys::SIGSTOP);
    }

    /// Thaws it.
    pub fn thaw(&self, index: usize) {
        self.signal(index, sys::SIGCONT);
    }

    /// Cuts a member off from the others; clients still reach it.
    pub fn isolate(&self, index: usize) {
        let Some(process) = &self.members[index].process else { return };
        for (other, member) in self.members.iter().enumerate() {
            if other == index {
                member.peers.cut();
            } else {
                member.peers.cut_from(process.id());
            }
        }
    }

    /// Cuts a member off from its clients only.
    pub fn cut_clients(&self, index: usize) {
        self.members[index].clients.cut();
    }

    /// Cuts every member off from every other, so that none has a majority.
    pub fn shatter(&self) {
        self.members.iter().for_each(|member| member.peers.cut());
    }

    /// Ends every cut.
    pub fn heal(&self) {
        for member in &self.members {
            member.peers.heal();
            member.clients.heal();
        }
    }

    /// Waits until a member answers with the cluster behind it.
    pub fn wait_ready(&self, index: usize) {
        wait_until(&format!("member {index} of etcd is healthy"), PATIENCE, || {
            self.ask(index, "/health").is_some_and(|text| text.contains("\"true\""))
        });
    }

    fn metrics(&self, index: usize) -> Option<String> {
        self.ask(index, "/metrics")
    }

    fn ask(&self, index: usize, path: &str) -> Option<String> {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(self.members[index].client).ok()?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: etcd\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn running(&self, index: usize) -> bool {
        self.members[index].process.is_some()
    }

    fn signal(&self, index: usize, signal: i32) {
        if let Some(process) = &self.members[index].process {
            process.signal(signal);
        }
    }

    fn tell_apart(&self) {
        let processes: Vec<u32> =
            self.members.iter().filter_map(|member| member.process.as_ref().map(Process::id)).collect();
        self.members.iter().for_each(|member| member.peers.tell_apart(&processes));
    }

    fn launch(&mut self, index: usize) {
        let bin = find_program("etcd")
            .unwrap_or_else(|| panic!("etcd is not installed; `cargo xtask test` installs it (etcd-server)"));
        let peer_url = |member: &Member| format!("http://{}", member.peers.addr());
        let cluster: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(index, member)| format!("m{index}={}", peer_url(member)))
            .collect();
        let member = &self.members[index];
        let client = format!("http://{}", member.client);
        let data = self.dir.path().join(format!("m{index}"));
        let process = Process::start(
            Command::new(bin)
                .env_clear()
                .arg("--data-dir")
                .arg(data)
                .args(["--name", &format!("m{index}")])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &format!("http://{}", member.peer)])
                .args(["--initial-advertise-peer-urls", &peer_url(member)])
                .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
                .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
                .args(["--logger", "zap", "--log-outputs", "stderr"]),
        )
        .unwrap_or_else(|error| panic!("cannot start etcd: {error}"));
        self.members[index].process = Some(process);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (index, member) in self.members.iter().enumerate() {
                if let Some(process) = &member.process {
                    let lines = process.output().lines();
                    let last = lines.len().saturating_sub(10);
                    eprintln!("--- etcd m{index} said last:\n{}", lines[last..].join("\n"));
                }
            }
        }
    }
}
