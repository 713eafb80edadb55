//! As much HTTP/1.1 client as the commands and the demo need: one connection, one request at a time, bodies of known length or
//! chunked; and a running Seawall's admin address, asked by it.

use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::cli::Failure;

/// How long an admin address may take to answer.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a running Seawall's admin pages are.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    host: String,
}

impl Admin {
    /// An address, given with or without `http://` and a trailing slash.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let host = host(text).ok_or_else(|| {
            Failure::Input(format!(
                "`{text}` is no admin address; expected one such as http://127.0.0.1:9901"
            ))
        })?;
        Ok(Self { host: host.to_owned() })
    }

    /// The body of the answer to one request. For commands that do nothing else meanwhile.
    pub(crate) fn ask(&self, method: &str, target: &str, body: &str) -> Result<String, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|problem| Failure::Runtime(format!("cannot start: {problem}")))?;
        runtime.block_on(self.ask_async(method, target, body))
    }

    /// The body of the answer to one request, of which anything but success is a failure.
    pub(crate) async fn ask_async(&self, method: &str, target: &str, body: &str) -> Result<String, Failure> {
        let host = &self.host;
        let nobody = |problem: &dyn Display| {
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
        let headers = "accept: application/json\r\nseawall-client: 1\r\nconnection: close\r\n";
        let ask = async {
            let mut connection = Connection::open(address, host).await?;
            connection.send_json(method, target, headers, body).await
        };
        let answer = tokio::time::timeout(ADMIN_TIMEOUT, ask)
            .await
            .map_err(|_| nobody(&"no answer within 5 s"))?
            .map_err(|problem| nobody(&problem))?;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        if (200..300).contains(&answer.status) {
            return Ok(body);
        }
        let said = serde_json::from_str::<serde_json::Value>(&body).ok();
        let said = said.as_ref().and_then(|value| value["error"].as_str()).or_else(|| body.lines().next());
        let path = target.split('?').next().unwrap_or_default();
        Err(Failure::Runtime(format!(
            "http://{host}{path} answered {}: {}",
            answer.status,
            said.unwrap_or("nothing")
        )))
    }

    /// A document that it answered.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self, body: &str) -> Result<T, Failure> {
        serde_json::from_str(body).map_err(|problem| {
            Failure::Runtime(format!("what answers at http://{} is no Seawall: {problem}", self.host))
        })
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

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// Whether the connection may carry another request.
    pub(crate) reusable: bool,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

/// Bytes of a body that are read; more is an error, because nobody here expects it.
const BODY_MAX: usize = 16 << 20;
/// Bytes of one line of an answer's head.
const LINE_MAX: u64 = 16 << 10;
/// Lines of an answer's head.
const LINES_MAX: usize = 200;

impl Connection {
    pub(crate) async fn open(address: SocketAddr, host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(8 << 10, stream), host: host.to_owned() })
    }

    /// Sends one request and reads its whole answer.
    ///
    /// Not cancel-safe: a connection whose request was abandoned must not be used again.
    pub(crate) async fn send(&mut self, method: &str, target: &str, headers: &str) -> io::Result<Answer> {
        let length = if matches!(method, "POST" | "PUT") { "content-length: 0\r\n" } else { "" };
        self.write(format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n{length}{headers}\r\n", self.host))
            .await
    }

    /// As [`Connection::send`], with a JSON document as the body unless it is empty.
    async fn send_json(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &str,
    ) -> io::Result<Answer> {
        if body.is_empty() {
            return self.send(method, target, headers).await;
        }
        let (host, length) = (&self.host, body.len());
        let about = format!("content-type: application/json\r\ncontent-length: {length}\r\n");
        self.write(format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n{about}{headers}\r\n{body}")).await
    }

    async fn write(&mut self, request: String) -> io::Result<Answer> {
        self.stream.get_mut().write_all(request.as_bytes()).await?;
        self.read_answer().await
    }

    async fn read_answer(&mut self) -> io::Result<Answer> {
        let status_line = self.line().await?;
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| invalid("the answer is not HTTP"))?;
        let mut length = None;
        let mut chunked = false;
        let mut reusable = status_line.starts_with("HTTP/1.1");
        for _ in 0..LINES_MAX {
            let line = self.line().await?;
            if line.is_empty() {
                let body = self.body(status, length, chunked).await?;
                let delimited = chunked || length.is_some() || status == 204 || status == 304;
                return Ok(Answer { status, body, reusable: reusable && delimited });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header field has no colon"))?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse().map_err(|_| invalid("content-length is no number"))?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
                reusable = false;
            }
        }
        Err(invalid("the answer's head is too long"))
    }

    async fn body(&mut self, status: u16, length: Option<usize>, chunked: bool) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if matches!(status, 204 | 304) {
            return Ok(body);
        }
        if chunked {
            loop {
                let line = self.line().await?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(|_| invalid("a chunk has no size"))?;
                self.append(&mut body, size).await?;
                // The line end after the chunk, or the empty line after the last one.
                while !self.line().await?.is_empty() {}
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        match length {
            Some(length) => self.append(&mut body, length).await?,
            None => {
                (&mut self.stream).take(BODY_MAX as u64).read_to_end(&mut body).await?;
            }
        }
        Ok(body)
    }

    async fn append(&mut self, body: &mut Vec<u8>, more: usize) -> io::Result<()> {
        let start = body.len();
        let end = start.checked_add(more).filter(|end| *end <= BODY_MAX);
        body.resize(end.ok_or_else(|| invalid("the answer's body is too large"))?, 0);
        self.stream.read_exact(&mut body[start..]).await.map(drop)
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_MAX).read_until(b'\n', &mut line).await?;
        if line.pop() != Some(b'\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off"));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| invalid("the answer's head is not text"))
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// The answer that a server gives when it sends exactly `bytes`.
    fn answer_to(bytes: &'static [u8]) -> io::Result<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let mut read = 0;
                while !buffer[..read].ends_with(b"\r\n\r\n") {
                    read += stream.read(&mut buffer[read..]).await.unwrap();
                }
                stream.write_all(bytes).await.unwrap();
            });
            let answer = Connection::open(address, "test").await?.send("GET", "/", "").await;
            server.await.unwrap();
            answer
        })
    }

    #[test]
    fn admin_addresses_come_with_or_without_scheme() {
        assert_eq!(host("http://127.0.0.1:9901"), Some("127.0.0.1:9901"));
        assert_eq!(host("localhost:9901/"), Some("localhost:9901"));
        assert_eq!(host("[::1]:9901"), Some("[::1]:9901"));
        for bad in ["", "9901", ":9901", "http://x", "https://x:1", "x:y", "x:99999", "a/b:1", "a b:1"] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }

    #[test]
    fn reads_bodies_by_length_by_chunks_and_to_the_end() {
        let fixed = answer_to(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").unwrap();
        assert_eq!((fixed.status, &fixed.body[..], fixed.reusable), (200, &b"hello"[..], true));
        let chunked = answer_to(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!((&chunked.body[..], chunked.reusable), (&b"hello"[..], true));
        let closing = answer_to(b"HTTP/1.1 503 No\r\n\r\nhello").unwrap();
        assert_eq!((closing.status, &closing.body[..], closing.reusable), (503, &b"hello"[..], false));
    }

    #[test]
    fn a_cut_off_answer_is_an_error() {
        for cut in
            [&b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel"[..], b"HTTP/1.1 200", b"", b"SSH-2.0-x\r\n"]
        {
            assert!(answer_to(cut).is_err(), "{:?}", String::from_utf8_lossy(cut));
        }
    }
}
