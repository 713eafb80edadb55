//! The rules of the codec, one test each, and the promises of its doc comments.

mod bodies;
mod properties;
mod requests;
mod responses;
mod targets;
mod writing;

use super::{FieldStorage, Limits, Malformed, Method, Parsed, RequestHead, ResponseHead};

/// What a request of these bytes is refused for. Panics when it is not.
fn refused(request: &str) -> Malformed {
    let bytes = request.as_bytes();
    match super::parse_request(bytes, &mut FieldStorage::new(), &Limits::default()) {
        Err(malformed) => malformed,
        other => panic!("{request:?} was not refused: {other:?}"),
    }
}

/// Parses these bytes as a whole request head and looks at it.
fn request<T>(request: &str, look: impl FnOnce(RequestHead<'_, '_>) -> T) -> T {
    let mut storage = FieldStorage::new();
    match super::parse_request(request.as_bytes(), &mut storage, &Limits::default()) {
        Ok(Parsed::Complete(head)) => look(head),
        other => panic!("{request:?} was not accepted: {other:?}"),
    }
}

/// What a response of these bytes to `to` is refused for. Panics when it is not.
fn refused_response(response: &str, to: Method) -> Malformed {
    let bytes = response.as_bytes();
    match super::parse_response(bytes, &mut FieldStorage::new(), &Limits::default(), to) {
        Err(malformed) => malformed,
        other => panic!("{response:?} was not refused: {other:?}"),
    }
}

/// Parses these bytes as a whole response head to `to` and looks at it.
fn response<T>(response: &str, to: Method, look: impl FnOnce(ResponseHead<'_, '_>) -> T) -> T {
    let mut storage = FieldStorage::new();
    match super::parse_response(response.as_bytes(), &mut storage, &Limits::default(), to) {
        Ok(Parsed::Complete(head)) => look(head),
        other => panic!("{response:?} was not accepted: {other:?}"),
    }
}
