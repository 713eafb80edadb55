//! One line of JSON for each finished request. Workers write lines; one thread puts them where they belong, so that a slow
//! disk costs lines, which are counted, and never a request.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use model::{Criticality, Instant, Ratio};

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
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    To(config::AccessLogTarget),
    Reopen,
}

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread cannot be started.
    pub(crate) fn open(params: &config::AccessLog) -> io::Result<Self> {
        let (to, target) = (params.to.clone(), Target::open(&params.to)?);
        let (lines, inbox) = sync_channel(WAITING_MAX);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(to, target, &inbox))?;
        let log = Self {
            enabled: AtomicBool::new(false),
            sample: AtomicU64::new(0),
            failures_per_sec: AtomicU32::new(0),
            second: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            lines,
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
        let _ = self.lines.send(Message::To(params.to.clone()));
        Ok(())
    }

    /// Opens the file again: the old one was moved away.
    pub(crate) fn reopen(&self) {
        let _ = self.lines.try_send(Message::Reopen);
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

/// Writes what is known when a request begins.
pub(crate) fn begin(
    line: &mut Vec<u8>,
    client: IpAddr,
    head: &RequestHead<'_, '_>,
    criticality: Criticality,
    route: &str,
) {
    let _ =
        write!(line, r#"{{"time":"{}","client":"{client}","#, crate::service::Clock::default().timestamp());
    for (key, value) in [
        ("route", route.as_bytes()),
        ("method", head.method_text.as_bytes()),
        ("host", head.host.as_bytes()),
        ("path", head.target.path_and_query.as_bytes()),
    ] {
        string(line, key, value);
    }
    let agent = head
        .fields
        .iter()
        .find(|field| field.id == FieldId::Other && field.name.eq_ignore_ascii_case(b"user-agent"));
    if let Some(agent) = agent {
        string(line, "user_agent", agent.value);
    }
    let _ = write!(line, r#""class":"{criticality}""#);
}

fn complete(line: &mut Vec<u8>, served: &Served) {
    let _ = write!(
        line,
        r#","status":{},"outcome":"{}","seconds":{:.6},"attempts":{},"request_bytes":{},"response_bytes":{}"#,
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

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Off => Ok(()),
            Self::Stdout => io::stdout().lock().write_all(line),
            Self::File(file) => file.write_all(line),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_lines(mut to: config::AccessLogTarget, mut target: Target, inbox: &Receiver<Message>) {
    let mut failing = false;
    while let Ok(message) = inbox.recv() {
        let result = match message {
            Message::Line(line) => target.write(&line),
            Message::To(new) => {
                to = new;
                Target::open(&to).map(|opened| target = opened)
            }
            Message::Reopen => Target::open(&to).map(|opened| target = opened),
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
