//! A blocking HTTP/1.1 client that sends bytes as they are, so that a test can say anything, even what is wrong.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::http::{Framing, Head, Headers, Reader};
use crate::wait::PATIENCE;

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: Headers,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// What came after a chunked body.
    pub trailers: Headers,
    /// The informational (1xx) answers that came before, but for 101, which is an answer of its own.
    pub interim: Vec<(u16, Headers)>,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first value of the header `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    reader: Reader<TcpStream>,
}

impl Client {
    /// Connects; panics when refused. Reads and writes that take longer than [`PATIENCE`] fail.
    #[must_use]
    pub fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).unwrap_or_else(|error| panic!("cannot connect to {addr}: {error}"))
    }

    /// Connects.
    pub fn try_connect(addr: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&addr, PATIENCE)?)
    }

    /// Uses a connection that the caller has made.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { reader: Reader::new(stream) })
    }

    /// The connection underneath.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.reader.stream()
    }

    /// Our end's address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.stream().local_addr().expect("a connected socket has an address")
    }

    /// Sends bytes as they are; panics when that fails.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server takes what is sent");
    }

    /// Sends bytes as they are.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream().write_all(bytes.as_ref())
    }

    /// Reads the next answer; panics when there is none.
    pub fn response(&mut self) -> Response {
        self.try_response().expect("an answer")
    }

    /// Reads the next answer. A connection closed before its first byte is `UnexpectedEof` as well.
    pub fn try_response(&mut self) -> io::Result<Response> {
        self.read(true)
    }

    /// Reads the next answer as that to a `HEAD` request: its lengths announce a body that does not come.
    pub fn response_to_head(&mut self) -> Response {
        self.read(false).expect("an answer")
    }

    /// Sends one request, given in full, and reads its answer.
    pub fn request(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.try_request(request).expect("an answer")
    }

    /// Sends one request, given in full, and reads its answer.
    pub fn try_request(&mut self, request: impl AsRef<[u8]>) -> io::Result<Response> {
        let request = request.as_ref();
        self.try_send(request)?;
        self.read(!request.starts_with(b"HEAD "))
    }

    /// Sends `GET path` and reads its answer; the connection can be used again.
    pub fn get(&mut self, path: &str) -> Response {
        self.request(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// The head of the next answer, its body left unread.
    pub fn head(&mut self) -> io::Result<Head> {
        self.reader.head()?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Exactly `count` bytes, whatever they are.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.reader.exactly(count)
    }

    /// At least one byte of what comes next; empty when the server has closed.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        self.reader.some()
    }

    /// Whether the server closes without another byte; waits up to [`PATIENCE`]. A reset counts as closed.
    pub fn is_closed_by_server(&mut self) -> bool {
        match self.reader.some() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted)
            }
        }
    }

    /// Whether the server has sent nothing and kept the connection open for `span`: the one question that only
    /// waiting can answer.
    pub fn is_quiet_for(&mut self, span: Duration) -> bool {
        self.stream().set_read_timeout(Some(span)).expect("a time-out above zero");
        let seen = self.stream().peek(&mut [0]);
        self.stream().set_read_timeout(Some(PATIENCE)).expect("a time-out above zero");
        seen.is_err_and(|error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }

    /// Says that nothing more will be sent; answers can still come.
    pub fn finish_sending(&mut self) {
        self.stream().shutdown(Shutdown::Write).expect("an open connection");
    }

    /// Breaks the connection with a reset.
    pub fn reset(self) {
        SockRef::from(self.stream()).set_linger(Some(Duration::ZERO)).expect("an open connection");
    }

    fn read(&mut self, with_body: bool) -> io::Result<Response> {
        read_response(&mut self.reader, with_body)
    }
}

/// Reads the next final answer.
pub(crate) fn read_response(reader: &mut Reader<impl io::Read>, with_body: bool) -> io::Result<Response> {
    let mut interim = Vec::new();
    loop {
        let head = reader.head()?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let status = status(&head)?;
        if (100..200).contains(&status) && status != 101 {
            interim.push((status, head.headers));
            continue;
        }
        let bodiless = !with_body || matches!(status, 101 | 204 | 304);
        let framing = if bodiless { Framing::Length(0) } else { head.response_framing()? };
        let mut response = Response { status, headers: head.headers, interim, ..Response::default() };
        response.trailers = reader.body(framing, &mut response.body)?;
        return Ok(response);
    }
}

/// `GET path` on a connection of its own. Panics when there is no answer.
pub fn get(addr: SocketAddr, path: &str) -> Response {
    Client::connect(addr).get(path)
}

/// `GET path` on a connection of its own.
pub fn try_get(addr: SocketAddr, path: &str) -> io::Result<Response> {
    Client::try_connect(addr)?
        .try_request(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"))
}

/// Sends one request, given in full, on a connection of its own. Panics when there is no answer.
pub fn request(addr: SocketAddr, request: &str) -> Response {
    Client::connect(addr).request(request)
}

fn status(head: &Head) -> io::Result<u16> {
    let code = head.line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    code.and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no status line: {:?}", head.line)))
}
