//! Checks of endpoints that speak HTTP/2, gRPC's own among them.

use std::pin::pin;

use bytes::Bytes;
use http::{HeaderMap, Request, header};

use super::{Answer, Asked};
use crate::engine::stream::Io;
use crate::tls::Security;

/// Most bytes of an answer that are read.
const ANSWER_MAX: usize = 64 * 1024;

/// One whole answer.
struct Heard {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: HeaderMap,
}

impl Heard {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).or_else(|| self.trailers.get(name)).map(http::HeaderValue::as_bytes)
    }
}

/// Asks for `path`.
pub(super) async fn get(stream: Box<dyn Io>, asked: &Asked<'_>, path: &str) -> Result<Answer, String> {
    let request = Request::get(uri(asked, path)).header(header::ACCEPT, "*/*");
    let heard = ask(stream, request, None).await?;
    Ok(match heard.status {
        _ if heard.field("seawall-lame-duck") == Some(b"1") => Answer::LameDuck,
        200..300 => Answer::Healthy,
        status => Answer::Failed(format!("it answered {status}")),
    })
}

/// Asks gRPC's health service about `service`.
pub(super) async fn grpc(stream: Box<dyn Io>, asked: &Asked<'_>, service: &str) -> Result<Answer, String> {
    let request = Request::post(uri(asked, "/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers");
    let heard = ask(stream, request, Some(question(service)?)).await?;
    if heard.field("seawall-lame-duck") == Some(b"1") {
        return Ok(Answer::LameDuck);
    }
    Ok(match heard.field("grpc-status") {
        Some(b"0") => match serving(&heard.body) {
            Some(1) => Answer::Healthy,
            Some(2) => Answer::Failed("it says NOT_SERVING".to_owned()),
            Some(_) => Answer::Failed("it does not say whether it serves".to_owned()),
            None => Answer::Failed("its answer is no message of gRPC's health service".to_owned()),
        },
        Some(code) => {
            let message = heard.field("grpc-message").unwrap_or_default();
            let (code, message) = (String::from_utf8_lossy(code), String::from_utf8_lossy(message));
            Answer::Failed(format!("it answered grpc-status {code} {message}"))
        }
        None => Answer::Failed(format!("it answered {} without a grpc-status", heard.status)),
    })
}

fn uri(asked: &Asked<'_>, path: &str) -> String {
    let scheme = if matches!(asked.security, Security::Plain) { "http" } else { "https" };
    format!("{scheme}://{}{path}", asked.address)
}

/// `HealthCheckRequest{service}` as one message of gRPC: field 1, a string.
fn question(service: &str) -> Result<Bytes, String> {
    let length = u8::try_from(service.len()).ok().filter(|length| *length < 128);
    let length = length.ok_or_else(|| "the service's name is too long".to_owned())?;
    let mut message = vec![0, 0, 0, 0, 0];
    if length > 0 {
        message[4] = length + 2;
        message.extend_from_slice(&[0x0a, length]);
        message.extend_from_slice(service.as_bytes());
    }
    Ok(message.into())
}

/// The status in a `HealthCheckResponse`: field 1, a number, 0 when it is left out. `None` for anything else.
fn serving(body: &[u8]) -> Option<u8> {
    match body {
        [0, 0, 0, 0, 0] => Some(0),
        [0, 0, 0, 0, 2, 0x08, status @ ..] if status.len() == 1 && status[0] < 128 => Some(status[0]),
        _ => None,
    }
}

/// Asks once on a connection of its own.
async fn ask(
    stream: Box<dyn Io>,
    request: http::request::Builder,
    body: Option<Bytes>,
) -> Result<Heard, String> {
    let request = request.header(header::USER_AGENT, "seawall-health").body(());
    let request = request.map_err(|error| format!("cannot ask: {error}"))?;
    let failed = |error: h2::Error| format!("it does not answer by HTTP/2: {error}");
    let (sender, connection) = h2::client::handshake(stream).await.map_err(failed)?;
    let exchange = async {
        let mut sender = sender.ready().await.map_err(failed)?;
        let (answer, mut send) = sender.send_request(request, body.is_none()).map_err(failed)?;
        if let Some(body) = body {
            send.send_data(body, true).map_err(failed)?;
        }
        let (head, mut recv) = answer.await.map_err(failed)?.into_parts();
        let mut body = Vec::new();
        while let Some(data) = recv.data().await {
            let data = data.map_err(failed)?;
            if body.len() + data.len() > ANSWER_MAX {
                return Err("its answer is too long".to_owned());
            }
            let _ = recv.flow_control().release_capacity(data.len());
            body.extend_from_slice(&data);
        }
        let trailers = recv.trailers().await.map_err(failed)?.unwrap_or_default();
        Ok(Heard { status: head.status.as_u16(), headers: head.headers, body, trailers })
    };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        heard = &mut exchange => heard,
        _ = &mut connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_grpcs() {
        assert_eq!(&question("").unwrap()[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab").unwrap()[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert!(question(&"x".repeat(128)).is_err());
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [&[][..], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 16, 1], &[0, 0, 0, 0, 3, 8, 1]] {
            assert_eq!(serving(wrong), None, "{wrong:?}");
        }
    }
}
