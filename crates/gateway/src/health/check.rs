use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time;

use super::http2;
use crate::codec::{self, Field, FieldId, FieldStorage, Limits, Malformed, Method, Parsed};
use crate::config::{Alpn, HealthCheck, Protocol};
use crate::engine::stream::{Io, OpenError, Stream};
use crate::tls::{Security, explain};

/// What an endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It may have requests.
    Healthy,
    /// It is well and wants no new requests.
    LameDuck,
    /// It is unwell, for this reason.
    Failed(String),
}

/// Who is asked.
pub(crate) struct Asked<'a> {
    pub(crate) address: SocketAddr,
    /// What the configuration calls it.
    pub(crate) name: &'a str,
    pub(crate) security: &'a Security,
    pub(crate) protocol: Protocol,
}

/// Asks an endpoint once; no answer within `timeout` is a failed one.
///
/// HTTP checks are GET requests whose `host` is the address, by HTTP/2 where the service speaks nothing else. Any answer with `seawall-lame-duck: 1` means lame
/// duck, whatever its status; otherwise 2xx means healthy. The body is not read. An answer that could not be passed on
/// to a client is a failed one.
pub(crate) async fn check(asked: &Asked<'_>, what: &HealthCheck, timeout: Duration) -> Answer {
    let &Asked { address, name, security, protocol } = asked;
    let http2 = protocol == Protocol::H2 || matches!(what, HealthCheck::Grpc(_));
    let ask = async {
        let offer = if http2 { &[Alpn::Http2] } else { &[Alpn::Http11] };
        let stream =
            Stream::open_apart(address, name, security, offer).await.map_err(|error| match error {
                OpenError::Connect(error) => format!("cannot connect: {error}"),
                OpenError::Secure(error) => format!("cannot connect over TLS: {}", explain(&error)),
            })?;
        match what {
            HealthCheck::Tcp => Ok(Answer::Healthy),
            HealthCheck::Http(path) if http2 => http2::get(stream, asked, path).await,
            HealthCheck::Http(path) => get(stream, address, path).await,
            HealthCheck::Grpc(service) => http2::grpc(stream, asked, service).await,
        }
    };
    match time::timeout(timeout, ask).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(reason)) => Answer::Failed(reason),
        Err(_) => Answer::Failed(format!("no answer within {timeout:?}")),
    }
}

async fn get(mut stream: Box<dyn Io>, address: SocketAddr, path: &str) -> Result<Answer, String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: seawall-health\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    let sent = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await
    };
    sent.await.map_err(|error| format!("cannot send: {error}"))?;
    let mut head = Vec::with_capacity(1024);
    loop {
        let read =
            stream.read_buf(&mut head).await.map_err(|error| format!("cannot read the answer: {error}"))?;
        while let Some((length, answer)) =
            parse(&head).map_err(|error| format!("its answer is wrong: {error}"))?
        {
            if let Some(answer) = answer {
                return Ok(answer);
            }
            head.drain(..length);
        }
        if read == 0 {
            return Err("it closed the connection before its answer was complete".to_owned());
        }
    }
}

/// The length of a complete head, and what it says unless another one follows.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Option<Answer>)>, Malformed> {
    let mut storage = FieldStorage::new();
    let parsed = codec::parse_response(bytes, &mut storage, &Limits::default(), Method::Get)?;
    let Parsed::Complete(head) = parsed else { return Ok(None) };
    let duck = |field: &Field<'_>| field.id == FieldId::SeawallLameDuck && field.value == b"1";
    let answer = match head.status {
        _ if head.is_interim() => None,
        _ if head.fields.iter().any(duck) => Some(Answer::LameDuck),
        200..300 => Some(Answer::Healthy),
        status => Some(Answer::Failed(format!("it answered {status}"))),
    };
    Ok(Some((head.len, answer)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn ask_at(address: SocketAddr, what: &HealthCheck, timeout: Duration) -> Answer {
        let (name, security) = ("cart:80", &Security::Plain);
        check(&Asked { address, name, security, protocol: Protocol::Auto }, what, timeout).await
    }

    /// Sends `answer` to whoever asks, and answers what was asked.
    async fn ask(answer: &'static [u8]) -> (Answer, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            let _ = stream.write_all(answer).await;
            String::from_utf8(request).unwrap()
        });
        let answer = ask_at(address, &HealthCheck::Http("/health?full".to_owned()), PATIENCE).await;
        (answer, server.await.unwrap())
    }

    #[tokio::test]
    async fn only_2xx_is_healthy() {
        let (answer, request) = ask(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(answer, Answer::Healthy);
        assert!(request.starts_with("GET /health?full HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
        assert!(request.contains("\r\nconnection: close\r\n"), "{request}");

        assert_eq!(ask(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n").await.0, Answer::Healthy);
        for bad in [
            &b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..],
            b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-le",
            b"",
        ] {
            let (answer, _) = ask(bad).await;
            assert!(matches!(answer, Answer::Failed(_)), "{:?}: {answer:?}", String::from_utf8_lossy(bad));
        }
    }

    #[tokio::test]
    async fn a_lame_duck_says_so_whatever_its_status() {
        let well = b"HTTP/1.1 200 OK\r\nSeawall-Lame-Duck: 1\r\n\r\n";
        let leaving = b"HTTP/1.1 503 Service Unavailable\r\nseawall-lame-duck:  1 \r\n\r\n";
        let not = b"HTTP/1.1 200 OK\r\nseawall-lame-duck: 0\r\n\r\n";
        assert_eq!(ask(well).await.0, Answer::LameDuck);
        assert_eq!(ask(leaving).await.0, Answer::LameDuck);
        assert_eq!(ask(not).await.0, Answer::Healthy);
    }

    #[tokio::test]
    async fn an_endless_head_is_refused() {
        let head =
            [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'a'; 2 * Limits::default().head_bytes]].concat();
        let (answer, _) = ask(head.leak()).await;
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    }

    #[tokio::test]
    async fn silence_and_refusal_are_failures() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(ask_at(address, &HealthCheck::Tcp, PATIENCE).await, Answer::Healthy);
        let silent = ask_at(address, &HealthCheck::Http("/".to_owned()), Duration::from_millis(20)).await;
        assert!(matches!(&silent, Answer::Failed(reason) if reason.contains("within")), "{silent:?}");
        drop(listener);
        let refused = ask_at(address, &HealthCheck::Tcp, PATIENCE).await;
        assert!(matches!(&refused, Answer::Failed(reason) if reason.contains("connect")), "{refused:?}");
    }
}
