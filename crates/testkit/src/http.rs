//! Just enough HTTP/1.1 to read what well-behaved peers write. Not strict: a test that cares sends or reads raw bytes.

use std::fmt;
use std::io::{self, Read};

/// Header fields in the order they came, names as written.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of `name`, whatever its case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Every value of `name`, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether there is a field `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether the comma-separated list `name` contains `token`.
    #[must_use]
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.all(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// Appends a field.
    pub fn push(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    fn parse(lines: &[u8]) -> io::Result<Self> {
        let mut headers = Self::default();
        for line in String::from_utf8_lossy(lines).split("\r\n").filter(|line| !line.is_empty()) {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| malformed(format!("header line without colon: {line:?}")))?;
            headers.push(name, value.trim());
        }
        Ok(headers)
    }

    fn framing(&self) -> io::Result<Option<Framing>> {
        if self.lists("transfer-encoding", "chunked") {
            return Ok(Some(Framing::Chunked));
        }
        let Some(length) = self.get("content-length") else { return Ok(None) };
        let length = length.parse().map_err(|_| malformed(format!("content-length {length:?}")))?;
        Ok(Some(Framing::Length(length)))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, value)| (name, value))).finish()
    }
}

/// How the end of a body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks until the empty one, then trailers.
    Chunked,
    /// Until the peer closes. Answers only.
    UntilClose,
}

/// A message's first line and header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The first line, without its end.
    pub line: String,
    /// The header fields.
    pub headers: Headers,
}

impl Head {
    /// How the body of a request with this head ends.
    pub fn request_framing(&self) -> io::Result<Framing> {
        Ok(self.headers.framing()?.unwrap_or(Framing::Length(0)))
    }

    /// How the body of an answer with this head ends.
    pub fn response_framing(&self) -> io::Result<Framing> {
        Ok(self.headers.framing()?.unwrap_or(Framing::UntilClose))
    }
}

/// Reads messages from a stream of bytes.
#[derive(Debug)]
pub struct Reader<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S: Read> Reader<S> {
    /// Reads from `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The stream underneath.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream underneath, to write to.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The next head; `None` when the peer has closed before its first byte.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            // Empty lines before a message are tolerated, as RFC 9112 asks of servers.
            while self.buffer.starts_with(b"\r\n") {
                self.buffer.drain(..2);
            }
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                let bytes: Vec<u8> = self.buffer.drain(..end + 4).collect();
                let line_end = memchr::memmem::find(&bytes, b"\r\n").unwrap_or(end);
                let line = String::from_utf8_lossy(&bytes[..line_end]).into_owned();
                return Ok(Some(Head { line, headers: Headers::parse(&bytes[line_end..])? }));
            }
            if self.fill()? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(cut("head", &self.buffer)) };
            }
        }
    }

    /// The body and the trailers after a head. What was read before an error is in `into`.
    pub fn body(&mut self, framing: Framing, into: &mut Vec<u8>) -> io::Result<Headers> {
        match framing {
            Framing::Length(length) => self.take(length, into).map(|()| Headers::default()),
            Framing::UntilClose => {
                into.append(&mut self.buffer);
                self.stream.read_to_end(into).map(|_| Headers::default())
            }
            Framing::Chunked => loop {
                let line = self.line()?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size =
                    u64::from_str_radix(size, 16).map_err(|_| malformed(format!("chunk size {line:?}")))?;
                if size == 0 {
                    let mut trailers = Vec::new();
                    loop {
                        let line = self.line()?;
                        if line.is_empty() {
                            return Headers::parse(&trailers);
                        }
                        trailers.extend_from_slice(line.as_bytes());
                        trailers.extend_from_slice(b"\r\n");
                    }
                }
                self.take(size, into)?;
                if !self.line()?.is_empty() {
                    return Err(malformed("chunk longer than its size".into()));
                }
            },
        }
    }

    /// At least one byte of what comes next, whatever it is; empty when the peer has closed.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Exactly `count` bytes.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.take(count as u64, &mut bytes).map(|()| bytes)
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.fill()? == 0 {
                return Err(cut("chunk line", &self.buffer));
            }
        }
    }

    fn take(&mut self, count: u64, into: &mut Vec<u8>) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            if self.buffer.is_empty() && self.fill()? == 0 {
                return Err(cut(&format!("body, {left} bytes early"), &[]));
            }
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            into.extend(self.buffer.drain(..now));
            left -= now as u64;
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let count = loop {
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answer => break answer?,
            }
        };
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }
}

fn malformed(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn cut(what: &str, seen: &[u8]) -> io::Error {
    let seen = String::from_utf8_lossy(seen);
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed in mid {what} (after {seen:?})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Yields one byte a read, so that every boundary is met.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            (into[0], self.0) = (*first, rest);
            Ok(1)
        }
    }

    #[test]
    fn reads_two_messages_back_to_back() {
        let bytes = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
            \r\nPOST /b HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n2;x=y\r\nde\r\n1\r\nf\r\n0\r\nSum: 9\r\n\r\n";
        let mut reader = Reader::new(Dribble(bytes));
        let mut body = Vec::new();

        let head = reader.head().unwrap().unwrap();
        assert_eq!((head.line.as_str(), head.headers.get("HOST")), ("POST /a HTTP/1.1", Some("x")));
        reader.body(head.request_framing().unwrap(), &mut body).unwrap();
        assert_eq!(body, b"abc");

        let head = reader.head().unwrap().unwrap();
        let trailers = reader.body(head.request_framing().unwrap(), &mut body).unwrap();
        assert_eq!((body.as_slice(), trailers.get("sum")), (&b"abcdef"[..], Some("9")));
        assert_eq!(reader.head().unwrap(), None);
    }

    #[test]
    fn a_cut_message_is_an_error_not_an_end() {
        for (bytes, kept) in [
            (&b"HTTP/1.1 200 OK\r\nConte"[..], &b""[..]),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", b"abc"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"abc"),
        ] {
            let mut reader = Reader::new(Dribble(bytes));
            let mut body = Vec::new();
            let outcome = reader
                .head()
                .and_then(|head| reader.body(head.unwrap().response_framing().unwrap(), &mut body));
            assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(body, kept);
        }
    }

    proptest! {
        #[test]
        fn reads_any_body_in_any_chunks(chunks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..50), 0..8)) {
            let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\nnext");
            let mut reader = Reader::new(Dribble(&bytes));
            let head = reader.head().unwrap().unwrap();
            let mut body = Vec::new();
            reader.body(head.response_framing().unwrap(), &mut body).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(reader.exactly(4).unwrap(), b"next");
        }
    }
}
