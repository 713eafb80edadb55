//! Finds where an answer ends, at the least cost: everything else about it is somebody else's test.

/// How far the answer to one request has come.
#[derive(Debug, Default)]
pub(super) struct Answer {
    status: u16,
    state: State,
    closes: bool,
}

#[derive(Debug, Default)]
enum State {
    /// The bytes of the head so far, empty while a whole one may come in one read.
    #[default]
    Head,
    PartialHead(Vec<u8>),
    Body(u64),
    Chunk(Chunk),
}

#[derive(Debug)]
enum Chunk {
    Size {
        size: u64,
        extension: bool,
    },
    Data(u64),
    /// The line's length so far.
    Trailer(usize),
}

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Answer {
    /// Whether nothing of it has come.
    #[cfg(test)]
    fn is_unread(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Whether the last head said that the connection ends with its answer.
    pub(super) fn closes(&self) -> bool {
        self.closes
    }

    /// Takes the next bytes. Once the answer is whole: its status and how many of these bytes belong to it; then ready
    /// for the next one.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Option<(u16, usize)>, Malformed> {
        let mut used = 0;
        loop {
            match &mut self.state {
                State::Head => {
                    let rest = &bytes[used..];
                    match memchr::memmem::find(rest, b"\r\n\r\n") {
                        Some(end) => {
                            used += end + 4;
                            if self.begin(&rest[..end + 2])? {
                                return Ok(Some(self.finish(used)));
                            }
                        }
                        None if rest.is_empty() => return Ok(None),
                        None => {
                            self.state = State::PartialHead(rest.to_vec());
                            return Ok(None);
                        }
                    }
                }
                State::PartialHead(head) => {
                    let before = head.len();
                    head.extend_from_slice(&bytes[used..]);
                    let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else { return Ok(None) };
                    used += end + 4 - before;
                    let head = std::mem::take(head);
                    if self.begin(&head[..end + 2])? {
                        return Ok(Some(self.finish(used)));
                    }
                }
                State::Body(left) => {
                    let now = (bytes.len() - used).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    (*left, used) = (*left - now as u64, used + now);
                    return Ok(if *left == 0 { Some(self.finish(used)) } else { None });
                }
                State::Chunk(chunk) => {
                    while let Some(byte) = bytes.get(used) {
                        if let Chunk::Data(left) = chunk
                            && *left > 0
                        {
                            let now = (bytes.len() - used).min(usize::try_from(*left).unwrap_or(usize::MAX));
                            (*left, used) = (*left - now as u64, used + now);
                            continue;
                        }
                        used += 1;
                        if chunk.step(*byte)? {
                            return Ok(Some(self.finish(used)));
                        }
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Reads a head, given up to the end of its last line; answers whether it is the whole answer.
    fn begin(&mut self, head: &[u8]) -> Result<bool, Malformed> {
        let status = head.get(9..12).and_then(|code| std::str::from_utf8(code).ok()).ok_or(Malformed)?;
        self.status = status.parse().map_err(|_| Malformed)?;
        self.state = State::Head;
        self.closes = false;
        match self.status {
            100..200 => return Ok(false),
            204 | 304 => return Ok(true),
            _ => {}
        }
        let mut is_framed = false;
        for line in memchr::memchr_iter(b'\n', head).map(|end| &head[end + 1..]) {
            match line.first() {
                Some(b'c' | b'C') if has_name(line, b"content-length:") => {
                    let value = value(line, b"content-length:").ok_or(Malformed)?;
                    let value = std::str::from_utf8(value).map_err(|_| Malformed)?;
                    self.state = State::Body(value.parse().map_err(|_| Malformed)?);
                    is_framed = true;
                }
                Some(b'c' | b'C') if has_name(line, b"connection:") => {
                    self.closes =
                        value(line, b"connection:").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
                }
                Some(b't' | b'T') if has_name(line, b"transfer-encoding:") => {
                    self.state = State::Chunk(Chunk::Size { size: 0, extension: false });
                    is_framed = true;
                }
                _ => {}
            }
        }
        // Without a frame it ends when the connection does: a measurement over kept connections cannot count it.
        if is_framed { Ok(matches!(self.state, State::Body(0))) } else { Err(Malformed) }
    }

    fn finish(&mut self, used: usize) -> (u16, usize) {
        self.state = State::Head;
        (self.status, used)
    }
}

impl Chunk {
    /// Takes one byte of what frames the chunks; answers whether it was the last of the body.
    fn step(&mut self, byte: u8) -> Result<bool, Malformed> {
        match self {
            Self::Size { size, extension } => match byte {
                b'\n' if *size == 0 => *self = Self::Trailer(0),
                b'\n' => *self = Self::Data(*size),
                b'\r' => {}
                b';' => *extension = true,
                _ if *extension => {}
                _ => {
                    let digit = (byte as char).to_digit(16).ok_or(Malformed)?;
                    *size = size.checked_mul(16).ok_or(Malformed)? + u64::from(digit);
                }
            },
            Self::Data(_) => match byte {
                b'\r' => {}
                b'\n' => *self = Self::Size { size: 0, extension: false },
                _ => return Err(Malformed),
            },
            Self::Trailer(length) => match byte {
                b'\r' => {}
                b'\n' if *length == 0 => return Ok(true),
                b'\n' => *length = 0,
                _ => *length += 1,
            },
        }
        Ok(false)
    }
}

fn has_name(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// The value of a line that begins with `name`.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    Some(line.get(name.len()..memchr::memchr(b'\r', line)?)?.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANSWERS: [(&[u8], u16); 5] = [
        (b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-Length: 5\r\nA: b\r\n\r\nhello", 200),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 503),
        (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nB;a=b\r\n0\r\n\r\nhello\n\r\n1\r\nx\r\n0\r\nT: 1\r\n\r\n", 200),
    ];

    #[test]
    fn refuses_what_has_no_end() {
        assert_eq!(Answer::default().feed(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n"), Err(Malformed));
        assert_eq!(Answer::default().feed(b"nonsense\r\n\r\n"), Err(Malformed));
    }

    #[test]
    fn knows_when_the_connection_ends_with_the_answer() {
        let mut answer = Answer::default();
        for (field, closes) in
            [("Connection: Close\r\n", true), ("Connection: keep-alive\r\n", false), ("", false)]
        {
            let head = format!("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n{field}\r\n");
            assert_eq!(answer.feed(head.as_bytes()), Ok(Some((503, head.len()))));
            assert_eq!(answer.closes(), closes, "{field}");
        }
    }

    proptest! {
        #[test]
        fn finds_the_end_wherever_reads_are_cut(
            order in proptest::collection::vec(0usize..ANSWERS.len(), 1..6),
            cuts in proptest::collection::vec(1usize..40, 1..60),
        ) {
            let bytes: Vec<u8> = order.iter().flat_map(|index| ANSWERS[*index].0).copied().collect();
            let (mut answer, mut statuses, mut at) = (Answer::default(), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                let mut piece = &bytes[at..(at + cut).min(bytes.len())];
                at += piece.len();
                while !piece.is_empty() {
                    match answer.feed(piece).unwrap() {
                        Some((status, used)) => {
                            statuses.push(status);
                            piece = &piece[used..];
                        }
                        None => break,
                    }
                }
                if at == bytes.len() {
                    break;
                }
            }
            prop_assert!(answer.is_unread());
            prop_assert_eq!(statuses, order.iter().map(|index| ANSWERS[*index].1).collect::<Vec<_>>());
        }
    }
}
