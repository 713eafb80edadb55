//! Figures as people read them: three digits that matter, and the unit.

/// Three digits that matter: `0.123`, `1.23`, `12.3`, `123`, `1.23k`, `12.3M`.
pub(super) fn short(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        // What would be rounded up to the next unit belongs there.
        size if size >= 999.5e6 => (value / 1e9, "G"),
        size if size >= 999.5e3 => (value / 1e6, "M"),
        size if size >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 99.95 || scaled == 0.0 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{scaled:.digits$}");
    // A whole number is written as one.
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

/// A count; exact below 10 000.
pub(super) fn count(value: u64) -> String {
    if value < 10_000 { value.to_string() } else { short(value as f64) }
}

/// Events per second.
pub(super) fn rate(per_s: f64) -> String {
    format!("{} /s", short(per_s))
}

/// Milliseconds, or seconds when there are many.
pub(super) fn millis(ms: f64) -> String {
    if ms >= 999.5 { format!("{} s", short(ms / 1e3)) } else { format!("{} ms", short(ms)) }
}

/// A share in percent. Only what is whole or nothing is called 100 % or 0 %.
pub(super) fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    let text = match text.as_str() {
        "100.00" if share < 1.0 => ">99.99",
        "0.00" if share > 0.0 => "<0.01",
        "100.00" => "100",
        "0.00" => "0",
        other => other,
    };
    format!("{text} %")
}

/// How many times.
pub(super) fn times(factor: f64) -> String {
    format!("{factor:.2} ×")
}

/// A point of time or a span, in seconds.
pub(super) fn seconds(s: f64) -> String {
    format!("{} s", (s * 1e3).round() / 1e3)
}

/// How long recovery took.
pub(super) fn recovery(s: Option<f64>) -> String {
    s.map_or_else(|| "never".to_owned(), seconds)
}

/// Something that may not be known.
pub(super) fn maybe(value: Option<f64>, write: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_never_lie_about_all_or_nothing() {
        let cases =
            [0.0, 0.1234, 1.0, 9.996, 99.96, 123.4, 999.4, 999.6, 1_234.0, 12_345.0, 999_600.0, 1.2e9]
                .map(short);
        assert_eq!(
            cases,
            ["0", "0.123", "1", "10", "100", "123", "999", "1k", "1.23k", "12.3k", "1M", "1.2G"]
        );
        let shares = [0.0, 0.000_01, 0.5, 0.999_96, 1.0].map(percent);
        assert_eq!(shares, ["0 %", "<0.01 %", "50.00 %", ">99.99 %", "100 %"]);
        assert_eq!([millis(999.4), millis(999.6), millis(0.5)], ["999 ms", "1 s", "0.5 ms"]);
        assert_eq!([count(9_999), count(10_000)], ["9999", "10k"]);
        assert_eq!([recovery(None), recovery(Some(0.0))], ["never", "0 s"]);
    }
}
