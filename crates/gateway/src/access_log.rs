//! One line of JSON for each finished request. Workers write lines; one thread puts them where they belong, so that a slow
//! disk costs lines, which are counted, and never a request.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use model::{Criticality, Instant, Ratio};
use parking_lot::Mutex;

use crate::codec::{FieldId, RequestHead};
use crate::config;
use crate::road::Served;

/// Lines that may wait for the writer; more are dropped and counted.
const WAITING_MAX: usize = 8192;

/// The workers' end of the log.
#[derive(Debug)]
pub(crate) struct AccessLog {
    enabled: AtomicBool,
    /// The share of successes that are logged, of 2³².
    sample: AtomicU64,
    failures_per_sec: AtomicU32,
    /// The second that `failures` counts.
    second: AtomicU64,
    failures: AtomicU32,
    lines: SyncSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// There is something to open.
    Open,
    /// Answered once every line before it is written.
    Flush(SyncSender<()>),
}

/// What the writer shares with everybody else. Not sent as messages: a queue full of lines must not keep the log from being
/// turned away from the disk that is full.
#[derive(Debug)]
struct Shared {
    to: Mutex<config::AccessLogTarget>,
    /// Whether the target is to be opened anew.
    open: AtomicBool,
    /// Lines that could not be written.
    lost: AtomicU64,
}

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread cannot be started.
    pub(crate) fn open(params: &config::AccessLog) -> io::Result<Self> {
        let target = Target::open(&params.to)?;
        let (lines, inbox) = sync_channel(WAITING_MAX);
        let shared = Arc::new(Shared {
            to: Mutex::new(params.to.clone()),
            open: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        let writer = Writer { shared: Arc::clone(&shared), target, torn: false };
        std::thread::Builder::new().name("access-log".into()).spawn(move || writer.run(&inbox))?;
        let log = Self {
            enabled: AtomicBool::new(false),
            sample: AtomicU64::new(0),
            failures_per_sec: AtomicU32::new(0),
            second: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            lines,
            shared,
        };
        log.set(params);
        Ok(log)
    }

    fn set(&self, params: &config::AccessLog) {
        self.enabled.store(params.to != config::AccessLogTarget::Off, Relaxed);
        self.sample.store(sample_of(params.sample), Relaxed);
        self.failures_per_sec.store(params.failures_per_sec, Relaxed);
    }

    /// Takes over new parameters.
    ///
    /// # Errors
    /// The new file cannot be opened; the log goes on as it was.
    pub(crate) fn reconfigure(&self, params: &config::AccessLog) -> io::Result<()> {
        drop(Target::open(&params.to)?);
        self.set(params);
        *self.shared.to.lock() = params.to.clone();
        self.reopen();
        Ok(())
    }

    /// Opens the file again: the old one was moved away.
    pub(crate) fn reopen(&self) {
        self.shared.open.store(true, Release);
        // When the queue is full the next line tells the writer.
        let _ = self.lines.try_send(Message::Open);
    }

    /// Lines that the target did not take.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }

    /// Waits until everything is written, at most `limit`: a target that takes nothing must not keep the process.
    pub(crate) fn flush(&self, limit: Duration) {
        let until = std::time::Instant::now() + limit;
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(again)) = self.lines.try_send(message) {
            if std::time::Instant::now() >= until {
                return;
            }
            message = again;
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = written.recv_timeout(until.saturating_duration_since(std::time::Instant::now()));
    }

    /// Whether requests are logged at all.
    pub(crate) fn enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    /// Completes `line` and sends it off, unless it is not among the sample. Answers false when it was lost.
    pub(crate) fn end(&self, line: &[u8], served: &Served, now: Instant, random: u32) -> bool {
        if served.ending.good() {
            if u64::from(random) >= self.sample.load(Relaxed) {
                return true;
            }
        } else if !self.failure_allowed(now) {
            return false;
        }
        let mut line = line.to_vec();
        complete(&mut line, served);
        !matches!(self.lines.try_send(Message::Line(line)), Err(TrySendError::Full(_)))
    }

    /// Counts failures by the second; racing workers may let a few more through.
    fn failure_allowed(&self, now: Instant) -> bool {
        let second = now.as_nanos() / 1_000_000_000;
        if self.second.swap(second, Relaxed) != second {
            self.failures.store(0, Relaxed);
        }
        self.failures.fetch_add(1, Relaxed) < self.failures_per_sec.load(Relaxed)
    }
}

fn sample_of(share: Ratio) -> u64 {
    (share.get() * (1u64 << 32) as f64) as u64
}

/// Writes what is known when a request begins: its head unless it could not be read, its route and class once they are found.
pub(crate) fn begin(
    line: &mut Vec<u8>,
    client: IpAddr,
    head: Option<&RequestHead<'_, '_>>,
    route: Option<(&str, Criticality)>,
) {
    let _ = write!(line, r#"{{"time":"{}","client":"{client}","#, crate::service::Clock::wall());
    if let Some((route, criticality)) = route {
        string(line, "route", route.as_bytes());
        string(line, "class", criticality.name().as_bytes());
    }
    if let Some(head) = head {
        string(line, "method", head.method_text.as_bytes());
        string(line, "host", head.host.as_bytes());
        string(line, "path", head.target.path_and_query.as_bytes());
        let agent = head
            .fields
            .iter()
            .find(|field| field.id == FieldId::Other && field.name.eq_ignore_ascii_case(b"user-agent"));
        if let Some(agent) = agent {
            string(line, "user_agent", agent.value);
        }
    }
}

/// Writes what is known when a TCP listener's connection begins to be passed on.
pub(crate) fn begin_tcp(
    line: &mut Vec<u8>,
    client: IpAddr,
    listener: &str,
    server: Option<&str>,
    service: Option<&str>,
) {
    let _ = write!(line, r#"{{"time":"{}","client":"{client}","#, crate::service::Clock::wall());
    string(line, "listener", listener.as_bytes());
    for (key, value) in [("server_name", server), ("service", service)] {
        if let Some(value) = value {
            string(line, key, value.as_bytes());
        }
    }
}

fn complete(line: &mut Vec<u8>, served: &Served) {
    let _ = write!(
        line,
        r#""status":{},"outcome":"{}","seconds":{:.6},"attempts":{},"request_bytes":{},"response_bytes":{}"#,
        served.status,
        served.ending.name(),
        served.latency.as_secs_f64(),
        served.attempts,
        served.request_bytes,
        served.response_bytes,
    );
    if let Some(reason) = served.reason {
        let _ = write!(line, r#","reason":"{}""#, reason.name());
    }
    if let Some(endpoint) = &served.endpoint {
        let _ = write!(line, r#","endpoint":"{endpoint}""#);
    }
    line.extend_from_slice(b"}\n");
}

/// Writes `"key":"value",`. What is not printable ASCII is escaped byte by byte, so that a line is always JSON.
fn string(line: &mut Vec<u8>, key: &str, value: &[u8]) {
    let _ = write!(line, "\"{key}\":\"");
    for byte in value {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
            0x20..=0x7e => line.push(*byte),
            byte => {
                let _ = write!(line, "\\u{byte:04x}");
            }
        }
    }
    line.extend_from_slice(b"\",");
}

enum Target {
    Off,
    Stdout,
    File(File),
}

impl Target {
    fn open(to: &config::AccessLogTarget) -> io::Result<Self> {
        Ok(match to {
            config::AccessLogTarget::Off => Self::Off,
            config::AccessLogTarget::Stdout => Self::Stdout,
            config::AccessLogTarget::File(path) => Self::File(append(path)?),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Off => Ok(bytes.len()),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush().map(|()| bytes.len())
            }
            Self::File(file) => file.write(bytes),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The one that waits for the disk.
struct Writer {
    shared: Arc<Shared>,
    target: Target,
    /// The last line was cut because no more of it fitted.
    torn: bool,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Message>) {
        let mut failing = false;
        while let Ok(message) = inbox.recv() {
            let opened = self.open_if_asked();
            let result = match message {
                Message::Line(line) => {
                    let written = self.write(&line);
                    if written.is_err() {
                        self.shared.lost.fetch_add(1, Relaxed);
                    }
                    opened.and(written)
                }
                Message::Open => opened,
                Message::Flush(done) => {
                    let _ = done.send(());
                    continue;
                }
            };
            // A full disk is said once, and once more when it is over.
            match result {
                Err(error) if !failing => {
                    tracing::warn!(%error, "access log cannot be written; lines are lost");
                    failing = true;
                }
                Ok(()) if failing => {
                    tracing::info!("access log can be written again");
                    failing = false;
                }
                _ => {}
            }
        }
    }

    fn open_if_asked(&mut self) -> io::Result<()> {
        if self.shared.open.swap(false, Acquire) {
            let to = self.shared.to.lock().clone();
            // Until it can be opened, lines go where they went.
            self.target = Target::open(&to)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Writes a whole line. One that was cut before is ended first, so that it spoils no other.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.write_all(b"\n")?;
            self.torn = false;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            match self.target.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    left = &left[count..];
                    self.torn = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.torn = false;
        Ok(())
    }
}
