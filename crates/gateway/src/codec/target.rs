//! Request targets and authorities.

use std::net::Ipv6Addr;

use super::Malformed;
use super::class::{is_host_name, path_end};

/// How a target was written (RFC 9112, 3.2). The fourth form, `authority`, belongs to the refused CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/path?query`.
    Origin,
    /// `http://authority/path?query`.
    Absolute,
    /// `*`, with OPTIONS only.
    Asterisk,
}

/// Scheme of an absolute target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

/// A request target, split but not normalised: escapes are neither decoded nor checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'b> {
    /// How it was written.
    pub form: Form,
    /// Scheme of an absolute target.
    pub scheme: Option<Scheme>,
    /// Authority of an absolute target, never empty, without user information.
    pub authority: Option<&'b str>,
    /// Begins with `/`, or is `*` (also for OPTIONS of an absolute target without a path, RFC 9112, 3.2.4).
    pub path: &'b str,
    /// What stands after the first `?`, if there is one.
    pub query: Option<&'b str>,
    /// Path and query as one text, ready for a request line in origin form.
    pub path_and_query: &'b str,
}

impl<'b> Target<'b> {
    /// Splits a target that holds target bytes only. `options` tells whether the method is OPTIONS.
    #[inline]
    pub(super) fn parse(text: &'b str, options: bool) -> Result<Self, Malformed> {
        if text.starts_with('/') {
            return Self::of_path(Form::Origin, None, None, text);
        }
        if text == "*" {
            return Self::of_path(Form::Asterisk, None, None, text);
        }
        Self::absolute(text, options)
    }

    fn absolute(text: &'b str, options: bool) -> Result<Self, Malformed> {
        let (scheme, rest) = strip_scheme(text).ok_or(Malformed::Target)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let host = authority(host.as_bytes())?;
        let path = match path {
            "" if options => "*",
            "" => "/",
            path => path,
        };
        Self::of_path(Form::Absolute, Some(scheme), Some(host), path)
    }

    #[inline]
    fn of_path(
        form: Form,
        scheme: Option<Scheme>,
        authority: Option<&'b str>,
        path_and_query: &'b str,
    ) -> Result<Self, Malformed> {
        let end = path_end(path_and_query.as_bytes());
        let (path, rest) = path_and_query.split_at(end);
        // An absolute target may lack a path before its query; no client writes that, and refusing it keeps
        // `path_and_query` one text.
        if path.is_empty() {
            return Err(Malformed::Target);
        }
        let query = match rest {
            "" => None,
            rest => Some(rest.strip_prefix('?').ok_or(Malformed::Target)?),
        };
        Ok(Self { form, scheme, authority, path, query, path_and_query })
    }
}

fn strip_scheme(text: &str) -> Option<(Scheme, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    if scheme.eq_ignore_ascii_case("http") {
        Some((Scheme::Http, rest))
    } else if scheme.eq_ignore_ascii_case("https") {
        Some((Scheme::Https, rest))
    } else {
        None
    }
}

/// Checks `host [":" port]`: a name of unreserved characters, an IPv4 or a bracketed IPv6 address, a port in range.
#[inline]
pub(super) fn authority(bytes: &[u8]) -> Result<&str, Malformed> {
    let text = str::from_utf8(bytes).map_err(|_| Malformed::Host)?;
    if is_host_name(bytes) || is_address_or_port(text) {
        return Ok(text);
    }
    Err(if text.contains('@') { Malformed::Userinfo } else { Malformed::Host })
}

/// Whether this is a host with a port, or an IPv6 address with or without one.
fn is_address_or_port(text: &str) -> bool {
    let port = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, port))) if address.parse::<Ipv6Addr>().is_ok() => port,
        Some(_) => return false,
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if !is_host_name(name.as_bytes()) {
                return false;
            }
            port
        }
    };
    port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| {
            digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        })
}
