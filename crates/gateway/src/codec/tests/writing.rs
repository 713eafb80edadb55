use proptest::prelude::*;

use crate::codec::{
    Trailers, Version, reason, write_chunk_size, write_decimal, write_field, write_hex, write_last_chunk,
    write_status_line,
};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("what is written here is ASCII")
}

#[test]
fn writes_lines() {
    assert_eq!(
        written(|out| write_status_line(Version::Http11, 503, out)),
        "HTTP/1.1 503 Service Unavailable\r\n"
    );
    assert_eq!(written(|out| write_status_line(Version::Http10, 299, out)), "HTTP/1.0 299 \r\n");
    assert_eq!(written(|out| write_field(b"Date", b"now", out)), "Date: now\r\n");
    assert_eq!(written(|out| write_chunk_size(0x1a, out)), "1a\r\n");
    assert_eq!(written(|out| write_last_chunk(Trailers::default(), out)), "0\r\n\r\n");
    assert_eq!(reason(418), "");
}

proptest! {
    #[test]
    fn numbers_are_written_as_everybody_writes_them(number in any::<u64>(), shift in 0..64u32) {
        let number = number >> shift;
        prop_assert_eq!(written(|out| write_decimal(number, out)), number.to_string());
        prop_assert_eq!(written(|out| write_hex(number, out)), format!("{number:x}"));
    }
}
