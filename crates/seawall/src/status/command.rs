//! `seawall status`: asks a running gateway.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;

use super::{Status, render};
use crate::cli::{Failure, say};
use crate::http::Admin;

/// What `seawall status` is told.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where the admin pages are.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9901")]
    admin: String,
    /// Print the document as it is.
    #[arg(long)]
    json: bool,
    /// Ask again every two seconds until interrupted.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Prints the status of a running gateway.
///
/// # Errors
/// When the address makes no sense, nobody answers there, or what answers is no Seawall.
pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let admin = Admin::parse(&args.admin)?;
    loop {
        let body = admin.ask("GET", "/api/status", "")?;
        if args.json {
            return say(body.trim_end());
        }
        let status: Status = admin.read(&body)?;
        let mut out = std::io::stdout().lock();
        if args.watch && out.is_terminal() {
            let home = (crossterm::cursor::MoveTo(0, 0), crossterm::terminal::ClearType::All);
            let _ = crossterm::execute!(out, crossterm::terminal::Clear(home.1), home.0);
        }
        match out.write_all(render(&status).as_bytes()).and_then(|()| out.flush()) {
            Err(closed) if closed.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(problem) => return Err(Failure::Runtime(format!("cannot write the status: {problem}"))),
            Ok(()) if !args.watch => return Ok(()),
            Ok(()) => std::thread::sleep(WATCH_INTERVAL),
        }
    }
}
