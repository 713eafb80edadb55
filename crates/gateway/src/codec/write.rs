//! Writing heads and chunk framing into a buffer, without allocation beyond the buffer's own.

use super::{Trailers, Version};

/// Appends a number in decimal.
#[inline]
pub fn write_decimal(number: u64, out: &mut Vec<u8>) {
    write_digits(number, 10, out);
}

/// Appends a number in lower-case hexadecimal.
#[inline]
pub fn write_hex(number: u64, out: &mut Vec<u8>) {
    write_digits(number, 16, out);
}

#[inline]
fn write_digits(mut number: u64, base: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the size line of a chunk. The data and a CRLF must follow.
///
/// `size` must not be 0, which would end the body: that is what [`write_last_chunk`] is for.
#[inline]
pub fn write_chunk_size(size: u64, out: &mut Vec<u8>) {
    debug_assert!(size > 0, "a chunk of size 0 ends the body");
    write_hex(size, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a chunked body: the last chunk, the trailers and the empty line.
#[inline]
pub fn write_last_chunk(trailers: Trailers<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a field line. Name and value must be sound: a token, and no control bytes.
#[inline]
pub fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    debug_assert!(super::class::is_token(name), "a field name is a token");
    debug_assert_eq!(super::class::value_end(value, 0), value.len(), "a field value holds no control byte");
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a status line with the usual reason phrase.
pub fn write_status_line(version: Version, status: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(version.as_str().as_bytes());
    out.push(b' ');
    write_decimal(u64::from(status), out);
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The usual reason phrase of a status (RFC 9110, 15; RFC 6585; RFC 8297); empty for one that has none.
#[must_use]
pub const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}
