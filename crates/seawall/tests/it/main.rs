//! The whole binary, from outside.

mod attempts;
mod balance;
mod bodies;
mod calibration;
mod commands;
mod deadlines;
mod demo;
mod discovery;
mod docs;
mod fuse;
mod gate;
mod grpc;
mod http;
mod http2;
mod limits;
mod lock;
mod modes;
mod peer;
mod protect;
mod quotas;
mod registry;
mod rough;
mod routes;
mod sim;
mod store;
mod streams;
mod strict;
mod tcp;
mod tls;
mod up;
mod websocket;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// The `seawall` command, deaf to the environment of whoever runs the tests.
fn seawall(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

/// Runs a command to its end.
fn run(arguments: &[&str]) -> Output {
    seawall(arguments).output().expect("the binary can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// A file of its own, removed with its directory when dropped.
struct File(PathBuf);

impl File {
    fn new(content: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("seawall-it-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = Self(directory.join("seawall.yaml"));
        file.write(content);
        file
    }

    /// Replaces the file in one step, as careful editors do.
    fn write(&self, content: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, content).expect("written");
        std::fs::rename(new, &self.0).expect("renamed");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap_or(Path::new("/nonexistent")));
    }
}
