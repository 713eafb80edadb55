//! The codec beside hyper: whatever the codec accepts, hyper must read as the same messages with the same bodies.
//!
//! The other way round the codec may refuse what hyper accepts, but only for the reasons listed in `stricter`.

mod messages;
mod stricter;

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use gateway::codec::{
    Body, FieldStorage, Framing, Limits, Malformed, Method, Parsed, Version, parse_request, parse_response,
};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::messages::{REQUEST_LINES, STATUS_LINES, stream};
use self::stricter::{STRICTER_REQUESTS, STRICTER_RESPONSES, Stricter, allowed};

/// One message as a reader saw it. `body` is `None` when it was cut short or damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    start: String,
    fields: usize,
    body: Option<Vec<u8>>,
}

/// The messages seen on a connection, and why reading them stopped, if because of a refusal.
#[derive(Debug)]
struct Reading {
    seen: Vec<Seen>,
    refused: Option<Malformed>,
}

/// Reads a body from the beginning of `rest` and returns it with what is left.
fn body_of(framing: Framing, rest: &[u8]) -> Result<(Option<Vec<u8>>, &[u8]), Malformed> {
    let mut body = Body::new(framing, &Limits::default());
    let mut data = Vec::new();
    let advance = body.advance_data(rest, |run| data.extend_from_slice(run))?;
    Ok((body.may_close().then_some(data), &rest[advance.consumed..]))
}

fn version(version: Version) -> &'static str {
    version.as_str()
}

fn codec_reads_requests(mut stream: &[u8]) -> Reading {
    let mut reading = Reading { seen: Vec::new(), refused: None };
    loop {
        let mut storage = FieldStorage::new();
        let head = match parse_request(stream, &mut storage, &Limits::default()) {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) => return reading,
            Err(malformed) => return Reading { refused: Some(malformed), ..reading },
        };
        let target = match head.target.authority {
            // hyper's form of an absolute target, whose OPTIONS without a path it gives as `/`.
            Some(authority) => {
                let path =
                    head.target.path_and_query.replace('*', if head.target.path == "*" { "/" } else { "*" });
                format!(
                    "{:?}://{authority}{path}",
                    head.target.scheme.expect("an absolute target has a scheme")
                )
                .replacen("Http", "http", 1)
            }
            None => head.target.path_and_query.to_owned(),
        };
        let start = format!("{} {target} {}", head.method_text, version(head.version));
        let (fields, persists) = (head.fields.len(), head.persists());
        let (body, rest) = match body_of(head.framing, &stream[head.len..]) {
            Ok(read) => read,
            Err(malformed) => {
                reading.seen.push(Seen { start, fields, body: None });
                return Reading { refused: Some(malformed), ..reading };
            }
        };
        let whole = body.is_some();
        reading.seen.push(Seen { start, fields, body });
        if !whole || !persists {
            return reading;
        }
        stream = rest;
    }
}

async fn hyper_reads_requests(stream: &[u8]) -> Vec<Seen> {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let start = format!("{} {} {:?}", request.method(), request.uri(), request.version());
            let fields = request.headers().len();
            let body = request.into_body().collect().await.ok().map(|body| body.to_bytes().to_vec());
            seen.borrow_mut().push(Seen { start, fields, body });
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        }
    });
    let serve = async {
        let io = TokioIo::new(server);
        // An error is a refusal, which shows in what was not seen.
        let _ = hyper::server::conn::http1::Builder::new()
            .max_headers(128)
            .half_close(true)
            .serve_connection(io, service)
            .await;
    };
    let drive = async {
        // The server may hang up before it has read everything.
        let _ = client.write_all(stream).await;
        let _ = client.shutdown().await;
        let _ = client.read_to_end(&mut Vec::new()).await;
    };
    tokio::join!(serve, drive);
    seen.take()
}

fn codec_reads_response(mut stream: &[u8], to: Method) -> (Option<Seen>, Option<Malformed>, bool) {
    loop {
        let mut storage = FieldStorage::new();
        let head = match parse_response(stream, &mut storage, &Limits::default(), to) {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) => return (None, None, false),
            Err(malformed) => return (None, Some(malformed), false),
        };
        let rest = &stream[head.len..];
        if head.is_interim() {
            stream = rest;
            continue;
        }
        let start = format!("{} {}", version(head.version), head.status);
        let fields = head.fields.len();
        let (body, refused) = match body_of(head.framing, rest) {
            Ok((body, _)) => (body, None),
            Err(malformed) => (None, Some(malformed)),
        };
        return (Some(Seen { start, fields, body }), refused, head.status == 101);
    }
}

async fn hyper_reads_response(stream: &[u8], to: Method) -> Option<Seen> {
    let (client, mut server) = tokio::io::duplex(64 * 1024);
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_headers(128)
        .handshake(TokioIo::new(client))
        .await
        .expect("a handshake over HTTP/1.1 sends nothing");
    let method = if to == Method::Head { hyper::Method::HEAD } else { hyper::Method::GET };
    let request = hyper::Request::builder()
        .method(method)
        .uri("/")
        .header("host", "a")
        .body(Empty::<Bytes>::new())
        .expect("the request is sound");
    let ask = async {
        let response = sender.send_request(request).await.ok()?;
        let start = format!("{:?} {}", response.version(), response.status().as_u16());
        let fields = response.headers().len();
        let body = response.into_body().collect().await.ok().map(|body| body.to_bytes().to_vec());
        // The connection ends only when nobody can ask any more.
        drop(sender);
        Some(Seen { start, fields, body })
    };
    let drive = async {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            server.read_buf(&mut request).await.expect("a duplex does not fail");
        }
        // The client may hang up before it has read everything.
        let _ = server.write_all(stream).await;
        let _ = server.shutdown().await;
    };
    let (seen, _, ()) = tokio::join!(ask, connection, drive);
    seen
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers").block_on(future)
}

#[test]
fn every_allowed_difference_is_one() {
    for Stricter { reason, hyper, example } in STRICTER_REQUESTS {
        assert_eq!(codec_reads_requests(example.as_bytes()).refused, Some(*reason), "{example:?}");
        let theirs = block_on(hyper_reads_requests(example.as_bytes()));
        assert!(theirs.len() == 1 && theirs[0].body.is_some(), "hyper no longer {hyper}: {theirs:?}");
    }
    for Stricter { reason, hyper, example } in STRICTER_RESPONSES {
        assert_eq!(codec_reads_response(example.as_bytes(), Method::Get).1, Some(*reason), "{example:?}");
        let theirs = block_on(hyper_reads_response(example.as_bytes(), Method::Get));
        assert!(theirs.is_some_and(|theirs| theirs.body.is_some()), "hyper no longer {hyper}: {example:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn hyper_reads_the_same_requests(stream in stream(REQUEST_LINES, 3)) {
        let ours = codec_reads_requests(&stream);
        let theirs = block_on(hyper_reads_requests(&stream));
        prop_assert!(ours.seen.len() <= theirs.len(), "hyper refuses what the codec accepts\n{:?}\n{theirs:?}", ours);
        for (at, (ours_seen, theirs_seen)) in ours.seen.iter().zip(&theirs).enumerate() {
            let refused_here = ours.refused.is_some() && at + 1 == ours.seen.len() && ours_seen.body.is_none();
            if refused_here {
                prop_assert_eq!((&ours_seen.start, ours_seen.fields), (&theirs_seen.start, theirs_seen.fields));
            } else {
                prop_assert_eq!(ours_seen, theirs_seen);
            }
        }
        let accepts_more = theirs.len() > ours.seen.len()
            || ours.seen.last().zip(theirs.last()).is_some_and(|(ours, theirs)| ours.body.is_none() && theirs.body.is_some());
        if accepts_more {
            let reason = ours.refused;
            prop_assert!(reason.is_some_and(|reason| allowed(STRICTER_REQUESTS, reason)), "hyper accepts more: {:?}\n{theirs:?}", ours);
        }
    }

    #[test]
    fn hyper_reads_the_same_response(stream in stream(STATUS_LINES, 1), to in select(&[Method::Get, Method::Head])) {
        let (ours, refused, switched) = codec_reads_response(&stream, to);
        // hyper without upgrades has no notion of what follows a switch.
        prop_assume!(!switched);
        let theirs = block_on(hyper_reads_response(&stream, to));
        if let Some(reason) = refused {
            let both_refuse = theirs.as_ref().is_none_or(|theirs| theirs.body.is_none());
            prop_assert!(both_refuse || allowed(STRICTER_RESPONSES, reason), "hyper accepts what is refused for {reason}: {theirs:?}");
        } else {
            prop_assert_eq!(ours, theirs);
        }
    }
}
