//! `seawall status`: asks a running gateway.

use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::Args;

use super::{Status, render};
use crate::cli::{Failure, say};
use crate::http::Connection;

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

const TIMEOUT: Duration = Duration::from_secs(5);
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Prints the status of a running gateway.
///
/// # Errors
/// When the address makes no sense, nobody answers there, or what answers is no Seawall.
pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let host = host(&args.admin).ok_or_else(|| {
        Failure::Input(format!(
            "`{}` is no admin address; expected one such as http://127.0.0.1:9901",
            args.admin
        ))
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|problem| Failure::Runtime(format!("cannot start: {problem}")))?;
    loop {
        let body = runtime.block_on(fetch(host))?;
        if args.json {
            return say(body.trim_end());
        }
        let status: Status = serde_json::from_str(&body).map_err(|problem| {
            Failure::Runtime(format!("what answers at http://{host}/api/status is no Seawall: {problem}"))
        })?;
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

/// `host:port` of an admin address, given with or without `http://` and a trailing slash.
fn host(admin: &str) -> Option<&str> {
    let host = admin.strip_prefix("http://").unwrap_or(admin);
    let host = host.strip_suffix('/').unwrap_or(host);
    let (name, port) = host.rsplit_once(':')?;
    let plain = !name.is_empty() && !name.contains(['/', '@', ' ']);
    (plain && port.parse::<u16>().is_ok()).then_some(host)
}

async fn fetch(host: &str) -> Result<String, Failure> {
    let nobody = |problem: &dyn std::fmt::Display| {
        Failure::Runtime(format!(
            "nobody answers at http://{host} ({problem}); is Seawall running there, and is this its admin address? \
             `seawall up` prints it"
        ))
    };
    let address: SocketAddr = host
        .to_socket_addrs()
        .map_err(|problem| nobody(&problem))?
        .next()
        .ok_or_else(|| nobody(&"the name has no address"))?;
    let ask = async {
        let mut connection = Connection::open(address, host).await?;
        connection.send("GET", "/api/status", "accept: application/json\r\nconnection: close\r\n").await
    };
    let answer = tokio::time::timeout(TIMEOUT, ask)
        .await
        .map_err(|_| nobody(&"no answer within 5 s"))?
        .map_err(|problem| nobody(&problem))?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    match answer.status {
        200 => Ok(body),
        status => Err(Failure::Runtime(format!(
            "http://{host}/api/status answered {status}: {}",
            body.lines().next().unwrap_or("nothing")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn admin_addresses_come_with_or_without_scheme() {
        assert_eq!(host("http://127.0.0.1:9901"), Some("127.0.0.1:9901"));
        assert_eq!(host("localhost:9901/"), Some("localhost:9901"));
        assert_eq!(host("[::1]:9901"), Some("[::1]:9901"));
        for bad in ["", "9901", ":9901", "http://x", "https://x:1", "x:y", "x:99999", "a/b:1", "a b:1"] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }
}
