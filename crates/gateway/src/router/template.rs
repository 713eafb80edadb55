//! Texts with variables: where to redirect to, what path to ask a service for.

use super::pattern::Fault;
use super::tree::Captures;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    /// The value of a variable of the match.
    Variable(usize),
    /// The request's path and query.
    Request,
}

/// A text in which `{name}` stands for the value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Reads a path, or with `redirect` a location: then `{path}` is the request's path with its query, unless the match
    /// has a variable of that name, and an absolute address is welcome too.
    ///
    /// A location's host is always written out in the configuration: a variable cannot stand in it or continue it.
    pub(super) fn parse(text: &str, names: &[Box<str>], redirect: bool) -> Result<Self, Fault> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (before, variable) = rest.split_at(open);
            let (name, after) = variable
                .strip_prefix('{')
                .and_then(|variable| variable.split_once('}'))
                .ok_or_else(|| {
                    refused(
                        text,
                        "it holds a brace that is not part of a variable",
                        "write { as %7B and } as %7D",
                    )
                })?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            let name = name.strip_suffix("...").unwrap_or(name);
            pieces.push(match names.iter().position(|own| **own == *name) {
                Some(index) => Piece::Variable(index),
                None if redirect && name == "path" => Piece::Request,
                None => {
                    let known = names
                        .iter()
                        .map(|name| format!("{{{name}}}"))
                        .chain(redirect.then(|| "{path}".to_owned()));
                    let known: Vec<_> = known.collect();
                    let remedy = match &*known {
                        [] => "the match's path has no variables; write the text without".to_owned(),
                        known => format!("variables are: {}", known.join(", ")),
                    };
                    return Err(refused(
                        text,
                        &format!("`{{{name}}}` is no variable of the match's path"),
                        &remedy,
                    ));
                }
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        let template = Self { pieces };
        template.check(text, redirect)?;
        Ok(template)
    }

    fn check(&self, text: &str, redirect: bool) -> Result<(), Fault> {
        let odd = |byte: u8| !is_uri_byte(byte) || (!redirect && matches!(byte, b'?' | b'#'));
        let texts = || {
            self.pieces.iter().filter_map(|piece| match piece {
                Piece::Text(text) => Some(text),
                _ => None,
            })
        };
        if texts().any(|text| text.bytes().any(odd)) {
            return Err(refused(text, "it holds a byte that must be escaped", "escape it as %xx"));
        }
        match &*self.pieces {
            [Piece::Text(first), ..] if first.starts_with('/') => {
                if first.starts_with("//") {
                    let remedy =
                        "begin a path with one slash, or write the scheme, such as https://new.example/";
                    return Err(refused(text, "it begins with `//`", remedy));
                }
                Ok(())
            }
            [Piece::Request, ..] => Ok(()),
            [Piece::Text(first), more @ ..] if redirect => {
                let authority = first.strip_prefix("https://").or_else(|| first.strip_prefix("http://"));
                let Some(authority) = authority else { return Err(no_location(text)) };
                let host_ends = authority.find(['/', '?', '#']);
                let host = &authority[..host_ends.unwrap_or(authority.len())];
                let continued =
                    host_ends.is_none() && matches!(more, [Piece::Variable(_), ..] | [Piece::Text(_), ..]);
                if host.is_empty() || host.contains('@') || continued {
                    let remedy = "write the whole host and a slash before the first variable, such as https://new.example/{id}";
                    return Err(refused(text, "its host is not written out", remedy));
                }
                Ok(())
            }
            _ if redirect => Err(no_location(text)),
            _ => Err(refused(text, "it does not begin with `/`", "begin it with a slash")),
        }
    }

    /// Writes the text. Whatever the values, it holds no control byte, space or other byte that no address may hold, and a
    /// path begins with exactly one slash, so that it cannot name a host.
    pub(super) fn write(&self, path: &str, query: Option<&str>, captures: &Captures, out: &mut Vec<u8>) {
        let start = out.len();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Variable(index) => write_path_bytes(captures.get(*index, path), out),
                Piece::Request => {
                    write_path_bytes(path, out);
                    if let Some(query) = query {
                        out.push(b'?');
                        query
                            .bytes()
                            .for_each(|byte| write_escaped(byte, is_uri_byte(byte) && byte != b'#', out));
                    }
                }
            }
        }
        let slashes = out[start..].iter().take_while(|byte| **byte == b'/').count();
        if slashes > 1 {
            out.drain(start..start + slashes - 1);
        }
    }
}

fn write_path_bytes(text: &str, out: &mut Vec<u8>) {
    text.bytes().for_each(|byte| write_escaped(byte, is_uri_byte(byte) && !matches!(byte, b'?' | b'#'), out));
}

fn write_escaped(byte: u8, plain: bool, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if plain {
        out.push(byte);
    } else {
        out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// Bytes that may stand in an address (RFC 3986): reserved, unreserved, and `%`.
fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte)
}

fn refused(text: &str, why: &str, remedy: &str) -> Fault {
    (format!("`{text}` cannot be used: {why}"), remedy.to_owned())
}

fn no_location(text: &str) -> Fault {
    refused(
        text,
        "it is no location",
        "write a path that begins with `/`, {path}, or an address such as https://new.example/",
    )
}
