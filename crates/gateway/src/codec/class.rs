//! Which byte may stand where, and how far a run of such bytes goes.

/// `tchar` of RFC 9110, 5.6.2: methods, field names, connection options.
const TOKEN: u8 = 1;
/// What may stand in a request target: visible ASCII but for `"`, `#`, `<` and `>`, which no URI holds unescaped.
const TARGET: u8 = 2;
/// What may stand in a path: as in a target, but without the query's `?` and without the back quote.
const PATH: u8 = 8;
/// What may stand in a host name: unreserved characters. Escapes and sub-delimiters, legal but unused, are not among them.
const HOST: u8 = 4;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0x21_u8;
    while byte < 0x7f {
        let mut class = 0;
        if byte.is_ascii_alphanumeric() || in_set(byte, b"!#$%&'*+-.^_`|~") {
            class |= TOKEN;
        }
        if !in_set(byte, b"\"#<>") {
            class |= TARGET;
            if !in_set(byte, b"?`") {
                class |= PATH;
            }
        }
        if byte.is_ascii_alphanumeric() || in_set(byte, b"-._~") {
            class |= HOST;
        }
        classes[byte as usize] = class;
        byte += 1;
    }
    classes
};

const fn in_set(byte: u8, set: &[u8]) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

/// Index of the first byte at or after `from` that is not of `class`; the length when all are.
#[inline]
fn run(bytes: &[u8], from: usize, class: u8) -> usize {
    let rest = &bytes[from..];
    from + rest.iter().position(|&byte| CLASSES[byte as usize] & class == 0).unwrap_or(rest.len())
}

/// End of the token that begins at `from`.
#[inline]
pub(super) fn token_end(bytes: &[u8], from: usize) -> usize {
    run(bytes, from, TOKEN)
}

/// End of the request target that begins at `from`.
#[inline]
pub(super) fn target_end(bytes: &[u8], from: usize) -> usize {
    run(bytes, from, TARGET)
}

/// End of the path that a target's path and query begin with.
#[inline]
pub(super) fn path_end(bytes: &[u8]) -> usize {
    run(bytes, 0, PATH)
}

/// Whether all bytes make up one host name (or an IPv4 address).
#[inline]
pub(super) fn is_host_name(bytes: &[u8]) -> bool {
    !bytes.is_empty() && run(bytes, 0, HOST) == bytes.len()
}

/// Whether all bytes make up one token.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && token_end(bytes, 0) == bytes.len()
}

/// Whether the byte may not stand in a field value: controls but for the tab, and DEL. Bytes from 0x80 on are opaque.
const fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Index of the first control byte at or after `from`, which is where a sound field value ends.
///
/// Eight bytes at a time: `below` marks bytes under 0x20, `delete` those equal to 0x7f, each in the byte's top bit.
/// Borrows make marks above the first true one unreliable, so only the lowest is used and then looked at again.
#[inline]
pub(super) fn value_end(bytes: &[u8], from: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES << 7;
    let mut at = from;
    while let Some(eight) = bytes.get(at..at + 8).and_then(|slice| <[u8; 8]>::try_from(slice).ok()) {
        let word = u64::from_le_bytes(eight);
        let below = word.wrapping_sub(ONES * 0x20) & !word & TOPS;
        let flipped = word ^ (ONES * 0x7f);
        let delete = flipped.wrapping_sub(ONES) & !flipped & TOPS;
        let marks = below | delete;
        if marks == 0 {
            at += 8;
            continue;
        }
        at += (marks.trailing_zeros() / 8) as usize;
        if is_control(bytes[at]) {
            return at;
        }
        at += 1;
    }
    let rest = &bytes[at.min(bytes.len())..];
    at + rest.iter().position(|&byte| is_control(byte)).unwrap_or(rest.len())
}

/// Without the spaces and tabs around it (OWS, RFC 9110, 5.6.3).
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    trim_end(bytes)
}

/// Without the spaces and tabs after it.
#[inline]
pub(super) fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn value_end_finds_the_first_control_byte(bytes in prop::collection::vec(prop_oneof![0x20..=0xff_u8, any::<u8>()], 0..80), from in 0..80usize) {
            let from = from.min(bytes.len());
            let expected = bytes[from..].iter().position(|b| is_control(*b)).map_or(bytes.len(), |n| from + n);
            prop_assert_eq!(value_end(&bytes, from), expected);
        }
    }
}
