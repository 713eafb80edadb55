//! Deadlines as headers carry them: what is left, in milliseconds or as gRPC writes it.
//!
//! A header that makes no sense is ignored, as if it were absent: it must neither fail the request nor grant it
//! unlimited time. The caller's configuration says how much may be asked for at most.

use core::fmt;
use core::time::Duration;

/// Longest text that a deadline is written as: the digits of the largest number.
const TEXT_MAX: usize = 20;

/// Most digits that gRPC allows.
const GRPC_DIGITS_MAX: usize = 8;

/// Units of `grpc-timeout`, finest first, in nanoseconds.
const GRPC_UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// Reads what is left from a number of milliseconds, capped at `max`. `None` unless the value consists of digits and
/// fits 64 bits: signs, fractions, units, blanks and garbage are ignored. Zero means that nothing is left.
#[must_use]
pub fn parse_millis(value: &[u8], max: Duration) -> Option<Duration> {
    Some(Duration::from_millis(digits(value)?).min(max))
}

/// Reads a `grpc-timeout`, capped at `max`: at most eight digits and a unit, as in `10S` or `100m`. `None` for
/// anything else.
///
/// Source: gRPC over HTTP/2, "Requests".
#[must_use]
pub fn parse_grpc_timeout(value: &[u8], max: Duration) -> Option<Duration> {
    let (unit, number) = value.split_last()?;
    let (_, size) = GRPC_UNITS.iter().find(|(name, _)| name == unit)?;
    if number.len() > GRPC_DIGITS_MAX {
        return None;
    }
    // Eight digits of hours do not fit 64 bits of nanoseconds, but they are above any cap.
    Some(Duration::from_nanos(digits(number)?.saturating_mul(*size)).min(max))
}

/// Writes `left` as a number of milliseconds, rounded down, so that the next hop never gets more than there is.
#[must_use]
pub fn format_millis(left: Duration) -> Text {
    Text::new(u64::try_from(left.as_millis()).unwrap_or(u64::MAX), None)
}

/// Writes `left` as a `grpc-timeout` in the finest unit that needs no more than eight digits, rounded down.
#[must_use]
pub fn format_grpc_timeout(left: Duration) -> Text {
    let nanos = left.as_nanos();
    let limit = 10u128.pow(GRPC_DIGITS_MAX as u32);
    let fits = GRPC_UNITS.iter().find(|(_, size)| nanos / u128::from(*size) < limit);
    let (unit, number) = match fits {
        Some((unit, size)) => (*unit, nanos / u128::from(*size)),
        None => (b'H', limit - 1),
    };
    Text::new(number as u64, Some(unit))
}

fn digits(value: &[u8]) -> Option<u64> {
    let add = |number: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    if value.is_empty() { None } else { value.iter().try_fold(0, add) }
}

/// A short header value that lives on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text {
    bytes: [u8; TEXT_MAX],
    /// Where the text begins; it ends with the array.
    begin: u8,
}

impl Text {
    fn new(mut number: u64, unit: Option<u8>) -> Self {
        let mut bytes = [b'0'; TEXT_MAX];
        let mut begin = TEXT_MAX;
        if let Some(unit) = unit {
            begin -= 1;
            bytes[begin] = unit;
        }
        loop {
            begin -= 1;
            bytes[begin] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { bytes, begin: begin as u8 };
            }
        }
    }

    /// The text: ASCII letters and digits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.begin)..]
    }

    /// The text as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const MAX: Duration = Duration::from_secs(60);

    #[test]
    fn trap_7_negative_and_garbage_deadlines_are_ignored() {
        for bad in
            ["", "-1", "+5", " 5", "5 ", "1.5", "1e3", "0x10", "ten", "5ms", "99999999999999999999", "٣"]
        {
            assert_eq!(parse_millis(bad.as_bytes(), MAX), None, "{bad}");
        }
        for bad in
            ["", "S", "-1S", "+1S", " 1S", "1 S", "1.5S", "123456789m", "10", "10s", "10ms", "1SS", "n"]
        {
            assert_eq!(parse_grpc_timeout(bad.as_bytes(), MAX), None, "{bad}");
        }
    }

    #[test]
    fn trap_7_nobody_gets_more_than_the_cap() {
        assert_eq!(parse_millis(b"18446744073709551615", MAX), Some(MAX));
        assert_eq!(parse_grpc_timeout(b"99999999H", MAX), Some(MAX));
    }

    #[test]
    fn reads_and_writes_what_the_specification_shows() {
        assert_eq!(parse_grpc_timeout(b"10S", MAX), Some(Duration::from_secs(10)));
        assert_eq!(parse_grpc_timeout(b"100m", MAX), Some(Duration::from_millis(100)));
        assert_eq!(parse_grpc_timeout(b"0m", MAX), Some(Duration::ZERO));
        assert_eq!(parse_millis(b"250", MAX), Some(Duration::from_millis(250)));
        assert_eq!(format_grpc_timeout(Duration::from_millis(100)).as_str(), "100000u");
        assert_eq!(format_grpc_timeout(Duration::MAX).as_str(), "99999999H");
        assert_eq!(format_millis(Duration::from_micros(2_999)).as_str(), "2");
        assert_eq!(format_millis(Duration::MAX).as_str(), "18446744073709551615");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_and_is_never_more(nanos: u64) {
            let left = Duration::from_nanos(nanos);
            let text = format_grpc_timeout(left);
            let read = parse_grpc_timeout(text.as_bytes(), Duration::MAX).unwrap();
            prop_assert!(text.as_bytes().len() <= 9 && read <= left, "{text}");
            // Eight digits lose at most one in ten million, and a coarser unit at most sixty times that.
            prop_assert!((left - read).as_nanos() <= left.as_nanos() / 100_000, "{text}");
            let millis = parse_millis(format_millis(left).as_bytes(), Duration::MAX).unwrap();
            prop_assert_eq!(millis.as_millis(), left.as_millis());
        }

        #[test]
        fn survives_any_bytes(value in prop::collection::vec(any::<u8>(), 0..30)) {
            let value: Vec<u8> = value;
            for read in [parse_millis(&value, MAX), parse_grpc_timeout(&value, MAX)].into_iter().flatten() {
                prop_assert!(read <= MAX);
            }
        }
    }
}
