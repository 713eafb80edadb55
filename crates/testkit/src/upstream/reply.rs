//! What a back end answers, and how it misbehaves while doing so.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::http::Headers;
use crate::wait::PATIENCE;

/// A door that a test opens: holds an answer back until the test has seen what it wanted to see.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens it, for ever.
    pub fn open(&self) {
        *self.0.0.lock().expect("no panic while held") = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open. Panics after [`PATIENCE`].
    pub fn wait(&self) {
        assert!(self.wait_for(PATIENCE), "a gate stayed closed for {PATIENCE:?}");
    }

    /// Waits until it is open, at most `limit`; answers whether it is.
    pub fn wait_for(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut open = self.0.0.lock().expect("no panic while held");
        while !*open {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            open = self.0.1.wait_timeout(open, left).expect("no panic while held").0;
        }
        true
    }
}

/// One piece of an answer's body.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Bytes(Vec<u8>),
    Fill(u64),
    Pause(Duration),
    Hold(Gate),
}

/// How the body's end is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marking {
    Length(Option<u64>),
    Chunked,
    Close,
}

/// What happens to the connection once everything (or as much as was wanted) is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Keep,
    Close,
    Reset,
    Hang,
    Echo,
}

/// When the request's body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    First,
    Afterwards,
    Never,
}

/// One answer. By default: the request's body is read first, the head comes at once, the body has a
/// `Content-Length`, the connection is kept.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) interim: Vec<(u16, Headers)>,
    pub(super) before: Vec<Part>,
    pub(super) body: Vec<Part>,
    pub(super) marking: Marking,
    pub(super) trailers: Headers,
    pub(super) extra: Vec<u8>,
    pub(super) raw: Option<Vec<u8>>,
    pub(super) cut: Option<u64>,
    pub(super) ending: Ending,
    pub(super) reading: Reading,
    pub(super) invites: bool,
}

impl Reply {
    /// An empty answer with this status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Headers::default(),
            interim: Vec::new(),
            before: Vec::new(),
            body: Vec::new(),
            marking: Marking::Length(None),
            trailers: Headers::default(),
            extra: Vec::new(),
            raw: None,
            cut: None,
            ending: Ending::Keep,
            reading: Reading::First,
            invites: true,
        }
    }

    /// `200 OK` with this body.
    #[must_use]
    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::status(200).chunk(body)
    }

    /// Exactly these bytes, whatever they mean.
    #[must_use]
    pub fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self { raw: Some(bytes.as_ref().to_vec()), ..Self::status(0) }
    }

    /// Never answers; the connection stays open.
    #[must_use]
    pub fn hang() -> Self {
        Self::raw("").then(Ending::Hang)
    }

    /// Breaks the connection with a reset instead of answering.
    #[must_use]
    pub fn reset() -> Self {
        Self::raw("").then(Ending::Reset)
    }

    /// Closes the connection instead of answering.
    #[must_use]
    pub fn close() -> Self {
        Self::raw("").then(Ending::Close)
    }

    /// `101 Switching Protocols` to `protocol`, then sends back every byte that comes until the peer finishes.
    #[must_use]
    pub fn echo_tunnel(protocol: &str) -> Self {
        let mut reply = Self::status(101).header("Connection", "Upgrade").header("Upgrade", protocol);
        reply.reading = Reading::Never;
        reply.then(Ending::Echo)
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Sends an informational answer first, such as 103 with `Link`.
    #[must_use]
    pub fn interim(mut self, status: u16, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.interim.push((status, Headers(headers)));
        self
    }

    /// Waits for `span` before the head.
    #[must_use]
    pub fn delay(mut self, span: Duration) -> Self {
        self.before.push(Part::Pause(span));
        self
    }

    /// Waits before the head until `gate` opens.
    #[must_use]
    pub fn hold(mut self, gate: &Gate) -> Self {
        self.before.push(Part::Hold(gate.clone()));
        self
    }

    /// Appends to the body. With [`Reply::chunked`] each call is one chunk; in any case one write.
    #[must_use]
    pub fn chunk(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.body.push(Part::Bytes(bytes.as_ref().to_vec()));
        self
    }

    /// Appends `count` bytes of filler to the body without holding them in memory.
    #[must_use]
    pub fn fill(mut self, count: u64) -> Self {
        self.body.push(Part::Fill(count));
        self
    }

    /// Waits for `span` between what is before and after in the body.
    #[must_use]
    pub fn pause(mut self, span: Duration) -> Self {
        self.body.push(Part::Pause(span));
        self
    }

    /// Waits between what is before and after in the body until `gate` opens.
    #[must_use]
    pub fn pause_until(mut self, gate: &Gate) -> Self {
        self.body.push(Part::Hold(gate.clone()));
        self
    }

    /// Sends the body in chunks instead of with a length.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.marking = Marking::Chunked;
        self
    }

    /// Marks the body's end by closing.
    #[must_use]
    pub fn until_close(mut self) -> Self {
        self.marking = Marking::Close;
        self.then(Ending::Close)
    }

    /// Announces `length` whatever the body's length is (the answer to `HEAD`, or a lie).
    #[must_use]
    pub fn announce_length(mut self, length: u64) -> Self {
        self.marking = Marking::Length(Some(length));
        self
    }

    /// Adds a trailer field; implies [`Reply::chunked`].
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push(name, value);
        self.chunked()
    }

    /// Sends these bytes after the answer, unasked.
    #[must_use]
    pub fn extra(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.extra = bytes.as_ref().to_vec();
        self
    }

    /// Stops after the first `bytes` bytes of the final answer (head and framing included).
    #[must_use]
    pub fn cut_after(mut self, bytes: u64) -> Self {
        self.cut = Some(bytes);
        if self.ending == Ending::Keep { self.then(Ending::Close) } else { self }
    }

    /// Closes the connection afterwards. Says nothing of it in the head: add `Connection: close` to announce it.
    #[must_use]
    pub fn then_close(self) -> Self {
        self.then(Ending::Close)
    }

    /// Breaks the connection with a reset afterwards.
    #[must_use]
    pub fn then_reset(self) -> Self {
        self.then(Ending::Reset)
    }

    /// Keeps the connection open afterwards but neither reads nor writes any more.
    #[must_use]
    pub fn then_hang(self) -> Self {
        self.then(Ending::Hang)
    }

    /// Answers before the request's body is read, then reads it.
    #[must_use]
    pub fn early(mut self) -> Self {
        self.reading = Reading::Afterwards;
        self
    }

    /// Never reads the request's body. Implies [`Reply::then_hang`] unless another ending was chosen.
    #[must_use]
    pub fn never_read(mut self) -> Self {
        self.reading = Reading::Never;
        if self.ending == Ending::Keep { self.then(Ending::Hang) } else { self }
    }

    /// Reads the body of a request with `Expect: 100-continue` without having invited it.
    #[must_use]
    pub fn without_continue(mut self) -> Self {
        self.invites = false;
        self
    }

    fn then(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }
}

/// A reason phrase; peers ignore it.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
