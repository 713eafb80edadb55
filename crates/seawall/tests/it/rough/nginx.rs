//! A real server that can be killed and brought back at the same address.

use std::net::SocketAddr;

use testkit::Nginx;
use testkit::sys::SIGKILL;

use super::own_addr;

/// An nginx that answers 200 to everything.
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    process: Option<Nginx>,
}

impl Server {
    pub(super) fn start() -> Self {
        let addr = own_addr();
        Self { addr, process: Some(nginx(addr)) }
    }

    /// Ends it as the kernel ends what is out of memory.
    pub(super) fn kill(&mut self) {
        let process = self.process.take().expect("a running server");
        process.process().signal(SIGKILL);
    }

    pub(super) fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs");
        self.process = Some(nginx(self.addr));
    }

    pub(super) fn signal(&self, signal: i32) {
        self.process.as_ref().expect("a running server").process().signal(signal);
    }
}

fn nginx(addr: SocketAddr) -> Nginx {
    Nginx::start(addr, &format!("server {{ listen {addr}; location / {{ return 200 \"nginx\\n\"; }} }}"))
        .expect("nginx is not installed; `cargo xtask test` installs it, or: apt-get install nginx-light")
}
