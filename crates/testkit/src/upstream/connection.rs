//! One connection of a back end: reads requests, asks the handler, writes what it says.

use std::cell::{OnceCell, RefCell};
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::reply::{Ending, Marking, Part, Reading, Reply, reason};
use super::{Recorded, Shared};
use crate::http::{Framing, Head, Headers, Reader};

/// A request as the handler sees it: the head has come, the body is read when asked for.
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The target as written.
    pub target: &'a str,
    /// The header fields.
    pub headers: &'a Headers,
    /// Which connection of this back end it came on, counted from 0 over its whole life.
    pub connection: u64,
    /// How many requests came on this connection before.
    pub serial: u64,
    body: Body<'a>,
}

impl Request<'_> {
    /// The body; waits for all of it. Cut short when the peer cuts it.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body.read(true).bytes
    }

    /// The trailers; waits for the whole body.
    #[must_use]
    pub fn trailers(&self) -> &Headers {
        &self.body.read(true).trailers
    }

    /// The target without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

struct Body<'a> {
    reader: &'a RefCell<Reader<TcpStream>>,
    framing: Framing,
    expects: bool,
    shared: &'a Shared,
    index: usize,
    read: OnceCell<Read>,
}

struct Read {
    bytes: Vec<u8>,
    trailers: Headers,
    whole: bool,
}

impl Body<'_> {
    fn read(&self, invite: bool) -> &Read {
        self.read.get_or_init(|| {
            if invite && self.expects {
                // A peer that is gone shows when its body is read.
                let _ = self.reader.borrow().stream().write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            let mut bytes = Vec::new();
            let outcome = self.reader.borrow_mut().body(self.framing, &mut bytes);
            let whole = outcome.is_ok();
            let trailers = outcome.unwrap_or_default();
            self.shared.update(self.index, |recorded| {
                recorded.body.clone_from(&bytes);
                recorded.trailers = trailers.clone();
                recorded.complete = whole;
            });
            Read { bytes, trailers, whole }
        })
    }
}

/// Serves one connection until either side ends it.
pub(super) fn serve(shared: &Arc<Shared>, stream: TcpStream, connection: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_millis(50)))?;
    let reader = RefCell::new(Reader::new(stream));
    for serial in 0.. {
        let Some(head) = reader.borrow_mut().head()? else { return Ok(()) };
        let ending = exchange(shared, &reader, &head, connection, serial)?;
        match ending {
            Ending::Keep => {}
            Ending::Close => return Ok(()),
            Ending::Reset => return SockRef::from(reader.borrow().stream()).set_linger(Some(Duration::ZERO)),
            Ending::Hang => {
                shared.wait_for_stop(None);
                return Ok(());
            }
            Ending::Echo => return echo(&mut reader.borrow_mut()),
        }
    }
    Ok(())
}

fn exchange(
    shared: &Shared,
    reader: &RefCell<Reader<TcpStream>>,
    head: &Head,
    connection: u64,
    serial: u64,
) -> io::Result<Ending> {
    let mut words = head.line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let framing = head.request_framing()?;
    let is_health = shared.is_health_path(target);
    let recorded = Recorded {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: head.headers.clone(),
        body: Vec::new(),
        trailers: Headers::default(),
        complete: framing == Framing::Length(0),
        connection,
        at: Instant::now(),
    };
    let index = if is_health { shared.record_check() } else { shared.record(recorded) };
    let expects = head.headers.lists("expect", "100-continue");
    let body = Body { reader, framing, expects, shared, index, read: OnceCell::new() };
    let request = Request { method, target, headers: &head.headers, connection, serial, body };

    let reply = if is_health { shared.health_reply() } else { shared.handle(&request) };
    if reply.reading == Reading::First && !request.body.read(reply.invites).whole {
        return Ok(Ending::Close);
    }
    let mut writer = Writer { stream: &reader.borrow().stream().try_clone()?, shared, left: None };
    write(&mut writer, &reply, method)?;
    if reply.reading == Reading::Afterwards && !request.body.read(reply.invites).whole {
        return Ok(Ending::Close);
    }
    let announced_close = head.headers.lists("connection", "close") || head.line.ends_with("HTTP/1.0");
    Ok(if reply.ending == Ending::Keep && announced_close { Ending::Close } else { reply.ending })
}

struct Writer<'a> {
    stream: &'a TcpStream,
    shared: &'a Shared,
    left: Option<u64>,
}

impl Writer<'_> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let count = self
            .left
            .map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        self.left = self.left.map(|left| left - count as u64);
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                // The peer does not read: look up now and then whether to give in.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.shared.wait_for_stop(Some(Duration::ZERO)) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait(&self, part: &Part) -> io::Result<()> {
        let stopped = match part {
            Part::Pause(span) => self.shared.wait_for_stop(Some(*span)),
            Part::Hold(gate) => loop {
                if gate.wait_for(Duration::from_millis(10)) {
                    break false;
                }
                if self.shared.wait_for_stop(Some(Duration::ZERO)) {
                    break true;
                }
            },
            Part::Bytes(_) | Part::Fill(_) => false,
        };
        if stopped { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

fn write(writer: &mut Writer<'_>, reply: &Reply, method: &str) -> io::Result<()> {
    for (status, headers) in &reply.interim {
        writer.send(head(*status, headers, None).as_bytes())?;
    }
    reply.before.iter().try_for_each(|part| writer.wait(part))?;
    writer.left = reply.cut;
    if let Some(raw) = &reply.raw {
        writer.send(raw)?;
        return writer.send(&reply.extra);
    }
    let bodiless = method == "HEAD" || matches!(reply.status, 100..200 | 204 | 304);
    let length = reply.body.iter().map(length).sum();
    let framing = match reply.marking {
        Marking::Length(None) if bodiless && method != "HEAD" => None,
        Marking::Length(announced) => Some(("Content-Length", announced.unwrap_or(length).to_string())),
        Marking::Chunked => Some(("Transfer-Encoding", "chunked".to_owned())),
        Marking::Close => None,
    };
    let mut pending = head(reply.status, &reply.headers, framing).into_bytes();
    if !bodiless {
        let chunked = reply.marking == Marking::Chunked;
        for part in &reply.body {
            match part {
                Part::Bytes(bytes) => {
                    // The head leaves with the first piece, as servers do.
                    frame(&mut pending, bytes, chunked);
                    writer.send(&std::mem::take(&mut pending))?;
                }
                Part::Fill(count) => {
                    let filler = [b'x'; 16 * 1024];
                    let mut left = *count;
                    while left > 0 {
                        let now = usize::try_from(left).unwrap_or(usize::MAX).min(filler.len());
                        frame(&mut pending, &filler[..now], chunked);
                        writer.send(&std::mem::take(&mut pending))?;
                        left -= now as u64;
                    }
                }
                Part::Pause(_) | Part::Hold(_) => {
                    writer.send(&std::mem::take(&mut pending))?;
                    writer.wait(part)?;
                }
            }
        }
        if chunked {
            pending.extend_from_slice(b"0\r\n");
            for (name, value) in &reply.trailers.0 {
                pending.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            pending.extend_from_slice(b"\r\n");
        }
    }
    pending.extend_from_slice(&reply.extra);
    writer.send(&pending)
}

fn length(part: &Part) -> u64 {
    match part {
        Part::Bytes(bytes) => bytes.len() as u64,
        Part::Fill(count) => *count,
        Part::Pause(_) | Part::Hold(_) => 0,
    }
}

/// Appends one piece of the body; an empty one would end a chunked body and is left out.
fn frame(into: &mut Vec<u8>, bytes: &[u8], chunked: bool) {
    if chunked && !bytes.is_empty() {
        into.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        into.extend_from_slice(bytes);
        into.extend_from_slice(b"\r\n");
    } else {
        into.extend_from_slice(bytes);
    }
}

fn head(status: u16, headers: &Headers, framing: Option<(&str, String)>) -> String {
    let mut text = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    let framing = framing.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in headers.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(framing)
    {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text
}

fn echo(reader: &mut Reader<TcpStream>) -> io::Result<()> {
    loop {
        let bytes = reader.some()?;
        if bytes.is_empty() {
            return Ok(());
        }
        reader.stream().write_all(&bytes)?;
    }
}
