//! What must not stand in a source file.

use super::Complaint;

/// A file that no longer fits in one head.
const LINES_MAX: usize = 900;

/// Files that may contain `unsafe`; each says why.
const UNSAFE_FILES: [&str; 2] = ["crates/testkit/src/alloc.rs", "crates/testkit/src/sys.rs"];

/// Rooms that metrics are named after, and `process` and `config`, which belong to the whole.
const METRIC_ROOMS: [&str; 11] = [
    "gateway", "monitor", "coord", "respond", "release", "front", "drill", "plan", "store", "process",
    "config",
];

// Written in two parts, so that this file does not contain what it forbids.
const UNFINISHED: [&str; 6] = [
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
    concat!("db", "g!("),
    concat!("#[", "ignore"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
];
const UNSAFE: [&str; 2] = [concat!("allow(unsafe", "_code"), concat!("expect(unsafe", "_code")];
const METRIC: &str = concat!("\"seawall", "_");
const SLEEPS: [&str; 3] =
    [concat!("thread::", "sleep"), concat!("time::", "sleep("), concat!("sleep", "_until(")];
const IMPURE: [&str; 8] =
    ["std::time", "SystemTime", "std::net", "std::thread", "std::fs", "Mutex", "RwLock", "tokio"];
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Checks one Rust file.
pub(super) fn check(path: &str, text: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        complaints.push(Complaint::new(
            path,
            1,
            format!("{lines} lines; split it by idea below {LINES_MAX}"),
        ));
    }
    let tests_from = tests_from(path, text);
    let is_pure = path.starts_with("crates/policy/src/") || path.starts_with("crates/model/src/");
    for (line, text) in (1..).zip(text.lines()) {
        let mut complain = |message: String| complaints.push(Complaint::new(path, line, message));
        if let Some(found) = find(&UNFINISHED, text) {
            complain(format!("`{found}`: nothing unfinished, nothing skipped"));
        }
        if find(&UNSAFE, text).is_some() && !UNSAFE_FILES.contains(&path) {
            complain(
                "`unsafe` is allowed in the files that tidy/sources.rs lists, and only there".to_owned(),
            );
        }
        for name in bad_metrics(text) {
            complain(format!("metric `{name}` is not named seawall_<room>_<noun>…"));
        }
        if text.trim_start().starts_with("//") {
            continue;
        }
        let in_tests = line >= tests_from;
        if in_tests
            && !path.starts_with("crates/testkit/")
            && let Some(found) = find(&SLEEPS, text)
        {
            complain(format!("`{found}` in a test: wait on a state instead"));
        }
        if is_pure
            && !in_tests
            && let Some(found) = find(&IMPURE, text)
        {
            complain(format!("`{found}`: decisions are pure; pass facts and time in"));
        }
    }
    complaints
}

/// Paths that exist on one machine only, in any file.
pub(super) fn machine_paths(path: &str, text: &str) -> Vec<Complaint> {
    (1..)
        .zip(text.lines())
        .filter_map(|(line, text)| find(&MACHINE_PATHS, text).map(|found| (line, found)))
        .map(|(line, found)| Complaint::new(path, line, format!("`{found}` is a path of one machine")))
        .collect()
}

fn find<'a>(words: &[&'a str], text: &str) -> Option<&'a str> {
    words.iter().copied().find(|word| text.contains(word))
}

/// The line from which on a file consists of tests; past its end when it has none.
fn tests_from(path: &str, text: &str) -> usize {
    if path.contains("/tests/") || path.ends_with("/tests.rs") {
        return 1;
    }
    let module = |line: &str| line.starts_with("mod tests {") || line.starts_with("mod properties {");
    text.lines().position(module).map_or(usize::MAX, |index| index + 1)
}

/// String literals that begin like a metric's name and go on unlike one.
fn bad_metrics(line: &str) -> Vec<&str> {
    line.match_indices(METRIC)
        .map(|(at, _)| &line[at + 1..])
        .map(|rest| rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default())
        .filter(|name| {
            let parts: Vec<_> = name.split('_').collect();
            let lower = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            parts.len() < 3 || !lower || parts.contains(&"") || !METRIC_ROOMS.contains(&parts[1])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(path, text).iter().map(|complaint| complaint.line).collect()
    }

    #[test]
    fn nothing_unfinished_passes() {
        for word in UNFINISHED {
            assert_eq!(
                lines("crates/gateway/src/a.rs", &format!("fn a() {{\n    {word}\n}}\n")),
                [2],
                "{word}"
            );
        }
    }

    #[test]
    fn tests_do_not_sleep_but_the_testkit_may() {
        let text = format!("fn a() {{ {0}(x) }}\nmod tests {{\n    {0}(x);\n}}\n", SLEEPS[0]);
        assert_eq!(lines("crates/gateway/src/a.rs", &text), [3]);
        assert_eq!(lines("crates/seawall/tests/a.rs", &text), [1, 3]);
        assert_eq!(lines("crates/testkit/src/a.rs", &text), [0; 0]);
    }

    #[test]
    fn decisions_read_no_clock_and_take_no_lock() {
        let text = "/// Needs no Mutex.\nuse std::time::Instant;\nuse core::time::Duration;\nlet m: Mutex<u8>;\n\
            mod tests {\n    use std::thread;\n}\n";
        assert_eq!(lines("crates/policy/src/a.rs", text), [2, 4]);
        assert_eq!(lines("crates/model/src/a.rs", text), [2, 4]);
        assert_eq!(lines("crates/gateway/src/a.rs", text), [0; 0]);
    }

    #[test]
    fn unsafe_stays_where_it_is_listed() {
        for allowance in UNSAFE {
            let text = format!("#![{allowance})]\n");
            assert_eq!(lines("crates/gateway/src/a.rs", &text), [1]);
            assert_eq!(lines(UNSAFE_FILES[0], &text), [0; 0]);
        }
    }

    #[test]
    fn long_files_are_split() {
        assert_eq!(lines("crates/a/src/a.rs", &"\n".repeat(LINES_MAX)), [0; 0]);
        assert_eq!(lines("crates/a/src/a.rs", &"\n".repeat(LINES_MAX + 1)), [1]);
    }

    #[test]
    fn metrics_are_named_after_their_room() {
        let named = |name: &str| bad_metrics(&format!("let a = {:?};", name)).len();
        assert_eq!(named(concat!("seawall", "_gateway_requests_total")), 0);
        assert_eq!(named(concat!("seawall", "_requests_total")), 1);
        assert_eq!(named(concat!("seawall", "_gateway")), 1);
        assert_eq!(named(concat!("seawall", "_gateway_Requests")), 1);
        assert_eq!(named(concat!("seawall", "_gateway__x")), 1);
    }

    #[test]
    fn paths_of_one_machine_are_found_in_any_file() {
        for path in MACHINE_PATHS {
            assert_eq!(machine_paths("README.md", &format!("see\n{path}x\n")).len(), 1);
        }
        assert_eq!(machine_paths("README.md", "a network/route"), []);
    }
}
