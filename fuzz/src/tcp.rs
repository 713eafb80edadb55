//! What comes before anything else on a connection that is passed on as it is.

use gateway::config::ProxyVersion;
use gateway::tcp::{HEADER_MAX, HELLO_MAX, Header, parse_client_hello, parse_header, write_header};

/// A TLS ClientHello: verdicts are final and come in time, and names are names.
///
/// # Panics
/// When the parser breaks one of these promises.
pub fn client_hello(data: &[u8]) {
    let whole = parse_client_hello(data);
    for end in (0..data.len()).step_by(data.len() / 100 + 1) {
        let early = parse_client_hello(&data[..end]);
        assert!(early == Ok(None) || early == whole, "after {end} bytes {early:?}, after all {whole:?}");
    }
    assert!(data.len() < HELLO_MAX || whole != Ok(None), "a hello is not waited for without end");
    if let Ok(Some(hello)) = whole
        && let Some(name) = hello.server_name
    {
        assert!(!name.is_empty() && name.len() <= 253);
        assert!(name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        }));
    }
}

/// A PROXY header: verdicts are final and come in time, and what was read can be written and read again.
///
/// # Panics
/// When the parser breaks one of these promises.
pub fn proxy_header(data: &[u8]) {
    let whole = parse_header(data);
    for end in (0..data.len()).step_by(data.len() / 100 + 1) {
        let early = parse_header(&data[..end]);
        assert!(
            early == Ok(Header::Partial) || early == whole,
            "after {end} bytes {early:?}, after all {whole:?}"
        );
    }
    assert!(
        data.len() < HEADER_MAX || whole != Ok(Header::Partial),
        "a header is not waited for without end"
    );
    let Ok(Header::Complete { len, ends }) = whole else { return };
    assert!(len > 0 && len <= data.len() && len <= HEADER_MAX);
    let Some(ends) = ends else { return };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let mut again = Vec::new();
        write_header(version, &ends, &mut again);
        let Ok(Header::Complete { len, ends: Some(second) }) = parse_header(&again) else {
            panic!("written again it is none: {ends:?}");
        };
        assert_eq!(len, again.len());
        for (first, second) in [(ends.source, second.source), (ends.destination, second.destination)] {
            assert_eq!(
                (first.ip().to_canonical(), first.port()),
                (second.ip().to_canonical(), second.port())
            );
        }
    }
}
