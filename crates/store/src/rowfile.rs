//! Rows as bytes, the same for both engines, so that equal records have equal hashes.
//!
//! A row is its values one after the other: a tag, then eight bytes for a number, or a length of four bytes and so many bytes
//! for text and blobs. All numbers are little-endian. A file is rows without anything between them.

use std::io::{self, Read};

use crate::value::Value;

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

/// The longest text or blob: what SQLite takes by default.
const LENGTH_MAX: u32 = 1_000_000_000;

/// Appends `row` to `out`.
pub(crate) fn encode(row: &[Value], out: &mut Vec<u8>) {
    for value in row {
        let (tag, bytes): (u8, &[u8]) = match value {
            Value::Null => {
                out.push(NULL);
                continue;
            }
            Value::Integer(value) => {
                out.push(INTEGER);
                out.extend(value.to_le_bytes());
                continue;
            }
            Value::Real(value) => {
                out.push(REAL);
                out.extend(value.to_bits().to_le_bytes());
                continue;
            }
            Value::Text(value) => (TEXT, value.as_bytes()),
            Value::Blob(value) => (BLOB, value),
        };
        out.push(tag);
        // Longer than 4 GB is more than either engine holds.
        out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(bytes);
    }
}

/// Reads the next row of so many columns; `None` at the end of the file.
pub(crate) fn decode(columns: usize, from: &mut impl Read) -> io::Result<Option<Vec<Value>>> {
    let mut row = Vec::with_capacity(columns);
    for at in 0..columns {
        let mut tag = [0];
        if at == 0 && from.read(&mut tag)? == 0 {
            return Ok(None);
        } else if at > 0 {
            from.read_exact(&mut tag)?;
        }
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        row.push(match tag[0] {
            NULL => Value::Null,
            INTEGER => Value::Integer(i64::from_le_bytes(array(from)?)),
            REAL => Value::Real(f64::from_bits(u64::from_le_bytes(array(from)?))),
            tag @ (TEXT | BLOB) => {
                let length = u32::from_le_bytes(array(from)?);
                if length > LENGTH_MAX {
                    return Err(wrong("a value is longer than any can be"));
                }
                // Grows with what is there, so that a wrong length asks for no memory.
                let mut bytes = Vec::new();
                from.take(length.into()).read_to_end(&mut bytes)?;
                if bytes.len() != length as usize {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if tag == BLOB {
                    Value::Blob(bytes)
                } else {
                    Value::Text(String::from_utf8(bytes).map_err(|_| wrong("a text is no UTF-8"))?)
                }
            }
            _ => return Err(wrong("a value of unknown kind")),
        });
    }
    Ok(Some(row))
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            proptest::num::f64::NORMAL.prop_map(Value::Real),
            ".{0,40}".prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn rows_come_back_as_they_were(rows in proptest::collection::vec(proptest::collection::vec(value(), 3), 0..20)) {
            let mut bytes = Vec::new();
            rows.iter().for_each(|row| encode(row, &mut bytes));
            let mut from = bytes.as_slice();
            let mut found = Vec::new();
            while let Some(row) = decode(3, &mut from).unwrap() {
                found.push(row);
            }
            prop_assert_eq!(found, rows);
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_trusted(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut from = bytes.as_slice();
            while let Ok(Some(row)) = decode(3, &mut from) {
                prop_assert_eq!(row.len(), 3);
            }
        }
    }
}
