//! One spelling for each path, so that no route can be passed by writing its path in another way.

/// The path is no path that every reader understands alike; the request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It does not begin with `/`.
    #[error("the path does not begin with `/`")]
    NotRooted,
    /// A byte that no path may hold unescaped: control, space, backslash, `?`, `#`, or outside ASCII.
    #[error("the path holds a byte that must be escaped")]
    Byte,
    /// `%` without two hexadecimal digits after it.
    #[error("the path holds a broken escape")]
    Escape,
    /// An escaped slash, backslash or NUL: a separator to one reader and a letter to the next.
    #[error("the path holds an escaped slash, backslash or NUL")]
    HiddenByte,
    /// `..` with nothing left to climb.
    #[error("the path climbs above its root")]
    AboveRoot,
    /// `..;x` or `.;x`: a dot segment to readers that drop parameters, a name to all others.
    #[error("the path holds a dot segment with parameters")]
    DotParameter,
}

/// The one spelling of `path` that routes are matched against **and endpoints are sent**: dot segments are removed
/// (RFC 3986, 5.2.4), runs of slashes merged, escaped unreserved characters (letters, digits, `-._~`) written plainly.
/// Other escapes stay as they came. `*` stays `*`.
///
/// A path that is in that spelling already, as almost every one is, costs one scan and is returned itself; only
/// another one is written to `scratch`. The answer is therefore what must go upstream: the original unless it was changed,
/// else the changed one, never a spelling that was not matched.
///
/// # Errors
/// [`BadPath`] when readers could disagree on what it means. Fails closed.
pub fn normalise<'p>(path: &'p str, scratch: &'p mut String) -> Result<&'p str, BadPath> {
    if is_plain(path.as_bytes()) {
        return Ok(path);
    }
    match path.strip_prefix('/') {
        Some(rest) => rewrite(rest, scratch)?,
        None if path == "*" => return Ok(path),
        None => return Err(BadPath::NotRooted),
    }
    Ok(if scratch == path { path } else { scratch })
}

/// Whether a scan finds nothing that could need a change. Never true wrongly; false for a few paths that need none.
fn is_plain(path: &[u8]) -> bool {
    let [b'/', rest @ ..] = path else { return false };
    let mut before = b'/';
    for &byte in rest {
        if !PLAIN[usize::from(byte)] || (before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

/// Bytes that may stand in a path as they are: RFC 3986 `pchar` and `/`, and the few that clients send all the same.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        plain[byte] = !matches!(byte as u8, b'%' | b'\\' | b'?' | b'#');
        byte += 1;
    }
    plain
};

fn rewrite(rest: &str, out: &mut String) -> Result<(), BadPath> {
    out.clear();
    out.push('/');
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        decode_unreserved(segment, out)?;
        match &out[start..] {
            "" | "." => out.truncate(start),
            ".." => {
                let parent = out[..start - 1].rfind('/').ok_or(BadPath::AboveRoot)?;
                out.truncate(parent + 1);
            }
            named if named.starts_with(".;") || named.starts_with("..;") => {
                return Err(BadPath::DotParameter);
            }
            _ if segments.peek().is_some() => out.push('/'),
            _ => {}
        }
    }
    Ok(())
}

fn decode_unreserved(segment: &str, out: &mut String) -> Result<(), BadPath> {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            if !PLAIN[usize::from(byte)] {
                return Err(BadPath::Byte);
            }
            out.push(char::from(byte));
            at += 1;
            continue;
        }
        match escaped(&bytes[at..]).ok_or(BadPath::Escape)? {
            b'/' | b'\\' | 0 => return Err(BadPath::HiddenByte),
            decoded if decoded.is_ascii_alphanumeric() || b"-._~".contains(&decoded) => {
                out.push(char::from(decoded));
            }
            _ => out.push_str(&segment[at..at + 3]),
        }
        at += 3;
    }
    Ok(())
}

/// The byte that `%xx` at the start of `bytes` stands for.
pub(super) fn escaped(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match *bytes {
        [b'%', high, low, ..] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(path: &str) -> Result<String, BadPath> {
        normalise(path, &mut String::new()).map(str::to_owned)
    }

    #[test]
    fn a_plain_path_is_returned_itself() {
        for path in
            ["/", "/cart/", "/a/b.c/d;v=1/@x:y", "/a..b/c.", "/.well-known/x", "/a%20b/%C3%a9", "*", "/a/..b"]
        {
            let mut scratch = String::new();
            assert!(std::ptr::eq(normalise(path, &mut scratch).unwrap(), path), "{path}");
        }
    }

    #[test]
    fn no_spelling_of_admin_passes_its_route() {
        for path in [
            "/./admin",
            "//admin",
            "/%61dmin",
            "/%61%64%6D%69%6e",
            "/x/../admin",
            "/x/%2e%2E/admin",
            "/%2e/admin",
            "/.//admin",
            "/x//..//admin",
            "/a/b/../../admin",
        ] {
            assert_eq!(normal(path).as_deref(), Ok("/admin"), "{path}");
        }
    }

    #[test]
    fn dot_segments_at_the_end_leave_a_directory() {
        for (path, expected) in
            [("/a/.", "/a/"), ("/a/b/..", "/a/"), ("/a/..", "/"), ("/a//", "/a/"), ("//", "/")]
        {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_readers_could_disagree_on_is_refused() {
        for (path, why) in [
            ("/public/..%2fadmin", BadPath::HiddenByte),
            ("/a%2Fb", BadPath::HiddenByte),
            ("/a%5cb", BadPath::HiddenByte),
            ("/a%00", BadPath::HiddenByte),
            ("/a\\b", BadPath::Byte),
            ("/a b", BadPath::Byte),
            ("/a\r\nx: y", BadPath::Byte),
            ("/caf\u{e9}", BadPath::Byte),
            ("/a#b", BadPath::Byte),
            ("/a%", BadPath::Escape),
            ("/a%2", BadPath::Escape),
            ("/a%zz", BadPath::Escape),
            ("/a%+1", BadPath::Escape),
            ("/..", BadPath::AboveRoot),
            ("/a/../../b", BadPath::AboveRoot),
            ("/%2e%2e/b", BadPath::AboveRoot),
            ("/public/..;/admin", BadPath::DotParameter),
            ("/public/%2e.;x=1/admin", BadPath::DotParameter),
            ("admin", BadPath::NotRooted),
            ("", BadPath::NotRooted),
        ] {
            assert_eq!(normal(path), Err(why), "{path}");
        }
    }

    fn paths() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "/", ".", "..", "a", "b;", "%2e", "%2E", "%61", "%25", "%2f", "%41", "%c3%A9", "%",
            "\\", "~", "*",
        ]);
        prop::collection::vec(piece, 0..14).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent_and_lets_only_one_spelling_through(path in paths()) {
            if let Ok(once) = normal(&path) {
                prop_assert_eq!(normal(&once), Ok(once.clone()));
                prop_assert!(once.starts_with('/') && !once.contains("//") && !once.contains('\\'));
                prop_assert!(!once.split('/').any(|segment| matches!(segment, "." | "..")));
                let lower = once.to_ascii_lowercase();
                for hidden in ["%2e", "%2f", "%5c", "%00", "%61", "%41"] {
                    prop_assert!(!lower.contains(hidden), "{}", once);
                }
            }
        }

        #[test]
        fn any_text_is_either_refused_or_normal(path in "\\PC{0,20}") {
            if let Ok(once) = normal(&path) {
                prop_assert_eq!(normal(&once), Ok(once));
            }
        }
    }
}
