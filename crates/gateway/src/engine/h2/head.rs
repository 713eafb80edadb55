//! Heads of HTTP/2 as HTTP/1.1 writes them, and back.
//!
//! Towards the road nothing is judged here: whatever HTTP/2 lets stand that the codec would not accept (two hosts, a length
//! given twice, a target in no known form) is written as it is, and the codec refuses it by name.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, request, response};

use crate::codec::{Field, FieldId, Form, RequestHead, ResponseHead, write_status_line};

/// A head that HTTP/2 has no words for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Untranslatable;

fn line(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a request that came by HTTP/2. Answers whether its body comes in chunks.
pub(crate) fn write_request(parts: &request::Parts, has_body: bool, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let authority = parts.uri.authority().map(Authority::as_str);
    match parts.uri.path_and_query() {
        Some(path) => out.extend_from_slice(path.as_str().as_bytes()),
        None => out.extend_from_slice(authority.unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(authority) = authority {
        line("host", authority.as_bytes(), out);
    }
    let mut chunked = has_body;
    let mut crumbs = false;
    for (name, value) in &parts.headers {
        let value = value.as_bytes();
        match *name {
            header::HOST if authority.is_some_and(|known| known.as_bytes().eq_ignore_ascii_case(value)) => {}
            header::COOKIE => crumbs = true,
            header::CONTENT_LENGTH => {
                chunked = false;
                line("content-length", value, out);
            }
            _ => line(name.as_str(), value, out),
        }
    }
    if crumbs {
        // One field of HTTP/1.1 (RFC 9113, 8.2.3).
        out.extend_from_slice(b"cookie: ");
        for (index, crumb) in parts.headers.get_all(header::COOKIE).iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(crumb.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    if chunked {
        line("transfer-encoding", b"chunked", out);
    }
    out.extend_from_slice(b"\r\n");
    chunked
}

/// Writes the head of an answer that came by HTTP/2. Answers whether its body comes in chunks.
///
/// An answer without a body is given a length only where a reader would wait for one.
pub(crate) fn write_response(
    parts: &response::Parts,
    has_body: bool,
    to_head: bool,
    out: &mut Vec<u8>,
) -> bool {
    let status = parts.status.as_u16();
    write_status_line(crate::codec::Version::Http11, status, out);
    for (name, value) in &parts.headers {
        line(name.as_str(), value.as_bytes(), out);
    }
    let bodiless = to_head || status < 200 || matches!(status, 204 | 304);
    let stated = parts.headers.contains_key(header::CONTENT_LENGTH);
    let chunked = has_body && !stated && !bodiless;
    if chunked {
        line("transfer-encoding", b"chunked", out);
    } else if !stated && !bodiless {
        line("content-length", b"0", out);
    }
    out.extend_from_slice(b"\r\n");
    chunked
}

/// Writes the lines of a trailer section.
pub(crate) fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in trailers {
        line(name.as_str(), value.as_bytes(), out);
    }
}

/// Adds `fields` but for those that speak of one connection only.
fn collect<'b>(fields: impl Iterator<Item = Field<'b>>, into: &mut HeaderMap) -> Result<(), Untranslatable> {
    for field in fields {
        let trailers = field.id == FieldId::Te && field.value.eq_ignore_ascii_case(b"trailers");
        if (field.id.is_hop_by_hop() && !trailers) || field.id == FieldId::Host {
            continue;
        }
        let name = HeaderName::from_bytes(field.name).map_err(|_| Untranslatable)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Untranslatable)?;
        into.append(name, value);
    }
    Ok(())
}

/// The trailer section of a chunked body.
///
/// # Errors
/// A field that HTTP/2 cannot carry.
pub(crate) fn trailers(trailers: crate::codec::Trailers<'_>) -> Result<HeaderMap, Untranslatable> {
    let mut map = HeaderMap::new();
    collect(trailers.iter(), &mut map)?;
    Ok(map)
}

/// The head of an answer.
///
/// # Errors
/// A field that HTTP/2 cannot carry.
pub(crate) fn response(head: &ResponseHead<'_, '_>) -> Result<Response<()>, Untranslatable> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| Untranslatable)?;
    response.headers_mut().reserve(head.fields.len());
    collect(head.fields.iter().copied(), response.headers_mut())?;
    if head.fields.iter().any(|field| field.id == FieldId::GrpcStatus) {
        // An answer of trailers alone has no body whose length could be told.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    Ok(response)
}

/// The head of a request.
///
/// # Errors
/// Something that HTTP/2 cannot carry.
pub(crate) fn request(head: &RequestHead<'_, '_>, scheme: &Scheme) -> Result<Request<()>, Untranslatable> {
    let mut path = String::with_capacity(head.target.path.len() + 16);
    path.push_str(if head.target.form == Form::Asterisk { "*" } else { head.target.path });
    if let Some(query) = head.target.query {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(Authority::try_from(head.host).map_err(|_| Untranslatable)?);
    parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(|_| Untranslatable)?);
    let mut request = Request::new(());
    *request.method_mut() =
        http::Method::from_bytes(head.method_text.as_bytes()).map_err(|_| Untranslatable)?;
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Untranslatable)?;
    request.headers_mut().reserve(head.fields.len());
    collect(head.fields.iter().copied(), request.headers_mut())?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{
        FieldStorage, Framing, Limits, Malformed, Method, Parsed, parse_request, parse_response,
    };

    fn asked(uri: &str, fields: &[(&str, &str)], has_body: bool) -> Vec<u8> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut out = Vec::new();
        write_request(&parts, has_body, &mut out);
        out
    }

    fn read<T>(bytes: &[u8], look: impl FnOnce(&RequestHead<'_, '_>) -> T) -> Result<T, Malformed> {
        let mut storage = FieldStorage::new();
        match parse_request(bytes, &mut storage, &Limits::default())? {
            Parsed::Complete(head) => Ok(look(&head)),
            Parsed::Partial => panic!("a whole head"),
        }
    }

    #[test]
    fn a_request_there_and_back_is_the_same() {
        let fields = [("accept", "*/*"), ("te", "trailers"), ("x-a", "1"), ("x-a", "2")];
        let bytes = asked("http://example.org:81/a/b?c=%20d", &fields, true);
        read(&bytes, |head| {
            assert_eq!((head.host, head.framing), ("example.org:81", Framing::Chunked));
            let request = request(head, &Scheme::HTTP).unwrap();
            assert_eq!(request.uri(), "http://example.org:81/a/b?c=%20d");
            let names: Vec<_> = request.headers().iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["accept", "te", "x-a", "x-a"]);
        })
        .unwrap();
    }

    #[test]
    fn hosts_must_agree() {
        assert!(read(&asked("http://a.org/", &[("host", "A.org")], false), |_| ()).is_ok());
        let two = read(&asked("http://a.org/", &[("host", "b.org")], false), |_| ());
        assert_eq!(two, Err(Malformed::HostDuplicate));
        assert_eq!(read(&asked("/", &[], false), |_| ()), Err(Malformed::HostMissing));
        assert_eq!(read(&asked("/", &[("host", "a.org")], false), |head| head.host.len()), Ok(5));
    }

    #[test]
    fn cookie_crumbs_become_one_cookie() {
        let bytes = asked("http://a/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")], false);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("\r\ncookie: a=1; b=2\r\n") && text.matches("cookie").count() == 1, "{text}");
    }

    #[test]
    fn a_length_is_kept_and_given_once_only() {
        let one = asked("http://a/", &[("content-length", "7")], true);
        assert_eq!(read(&one, |head| head.framing), Ok(Framing::Length(7)));
        let two = asked("http://a/", &[("content-length", "7"), ("content-length", "7")], true);
        assert_eq!(read(&two, |_| ()), Err(Malformed::LengthDuplicate));
        assert_eq!(read(&asked("http://a/", &[], false), |head| head.framing), Ok(Framing::None));
    }

    #[test]
    fn answers_are_framed_as_their_readers_expect() {
        for (status, has_body, stated, to, framing) in [
            (200, true, None, Method::Get, Framing::Chunked),
            (200, false, None, Method::Get, Framing::Length(0)),
            (200, true, Some("3"), Method::Get, Framing::Length(3)),
            (200, false, Some("3"), Method::Head, Framing::None),
            (200, false, None, Method::Head, Framing::None),
            (204, false, None, Method::Get, Framing::None),
            (304, false, Some("9"), Method::Get, Framing::None),
        ] {
            let mut response = Response::builder().status(status);
            if let Some(length) = stated {
                response = response.header("content-length", length);
            }
            let (parts, ()) = response.body(()).unwrap().into_parts();
            let mut out = Vec::new();
            let chunked = write_response(&parts, has_body, to == Method::Head, &mut out);
            let mut storage = FieldStorage::new();
            let Ok(Parsed::Complete(head)) = parse_response(&out, &mut storage, &Limits::default(), to)
            else {
                panic!("{}", String::from_utf8_lossy(&out))
            };
            assert_eq!((head.framing, head.status), (framing, status));
            assert_eq!(chunked, framing == Framing::Chunked);
        }
    }

    #[test]
    fn what_speaks_of_one_connection_stays_behind() {
        let bytes =
            b"HTTP/1.1 200 OK\r\nconnection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\nupgrade: h2c\r\n\
            transfer-encoding: chunked\r\nx: 1\r\n\r\n";
        let mut storage = FieldStorage::new();
        let Ok(Parsed::Complete(head)) = parse_response(bytes, &mut storage, &Limits::default(), Method::Get)
        else {
            panic!("a head")
        };
        let response = response(&head).unwrap();
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x"]);
    }
}
