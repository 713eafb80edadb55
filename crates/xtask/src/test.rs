//! Every test, with what they need.

use std::process::Command;

use testkit::process::find_program;
use testkit::sys::raise_open_files;

use crate::args::Args;
use crate::run::{cargo, command, read, root, show, succeeds};
use crate::tidy;

/// Programs that whole-binary tests start, and the Debian packages that hold them.
const NEEDED: [(&str, &str); 9] = [
    ("createdb", "postgresql"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("h2load", "nghttp2-client"),
    ("nginx", "nginx-light"),
    ("openssl", "openssl"),
    ("redis-server", "redis-server"),
];

/// Descriptors that the tests with tens of thousands of idle connections want, on both of their ends.
const OPEN_FILES: u64 = 200_000;

/// Installs, tidies, then hands over to the test runner, whose summary comes last. `args` go to the runner.
pub(crate) fn run(args: Args) -> Result<(), String> {
    install()?;
    match raise_open_files(OPEN_FILES) {
        Ok(allowed) if allowed < OPEN_FILES => {
            println!("test: only {allowed} open files are allowed; tests with many connections use fewer");
        }
        Ok(_) => {}
        Err(error) => println!("test: the limit of open files cannot be raised: {error}"),
    }
    tidy::run()?;
    let rest = args.rest();
    if succeeds(&mut cargo(&["nextest", "--version"])) {
        // The runner knows no documentation tests: they go first, so that its summary is the last word.
        if rest.is_empty() {
            show(&mut cargo(&["test", "--quiet", "--workspace", "--doc"]))?;
        }
        return show(cargo(&["nextest", "run", "--workspace"]).args(rest))
            .map_err(|_| "tests failed".to_owned());
    }
    plain(&rest)
}

/// `cargo test` prints a summary per binary; this adds them up.
fn plain(rest: &[String]) -> Result<(), String> {
    println!("test: cargo-nextest is not installed; using cargo test");
    let mut run = cargo(&["test", "--workspace", "--no-fail-fast"]);
    let output = run
        .args(rest)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run cargo test: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let total = add_up(&text);
    println!("\ntest: {} passed, {} failed, {} ignored", total.passed, total.failed, total.ignored);
    if output.status.success() && total.failed == 0 { Ok(()) } else { Err("tests failed".to_owned()) }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Total {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Adds up the `test result:` lines.
fn add_up(text: &str) -> Total {
    let mut total = Total::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("test result: ")) {
        let counts = line.split_once(". ").map_or(line, |(_, counts)| counts);
        for (count, what) in counts.split(';').filter_map(|part| part.trim().split_once(' ')) {
            let Ok(count) = count.parse::<u64>() else { continue };
            match what {
                "passed" => total.passed += count,
                "failed" => total.failed += count,
                "ignored" => total.ignored += count,
                _ => {}
            }
        }
    }
    total
}

/// Installs the programs that are missing.
fn install() -> Result<(), String> {
    let missing: Vec<_> = NEEDED.iter().filter(|(program, _)| find_program(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    let by_hand =
        format!("the tests need {0}: install them (Debian: apt-get install {0})", packages.join(" "));
    if find_program("apt-get").is_none() {
        return Err(by_hand);
    }
    println!("test: installing {}", packages.join(" "));
    administrator(&["apt-get", "update", "-qq"]).map_err(|error| format!("{by_hand}: {error}"))?;
    // A policy that forbids it keeps the package from starting a service of its own.
    let guard = find_program("policy-rc.d").is_none() && NoServices::forbid().is_ok();
    let mut words = vec![
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
    ];
    words.extend(&packages);
    let installed = administrator(&words);
    if guard {
        NoServices::lift();
    }
    installed.map_err(|error| format!("{by_hand}: {error}"))
}

/// Runs a command as the administrator, if we are or may become one.
fn administrator(words: &[&str]) -> Result<(), String> {
    if read(&mut command("id", &["-u"]))?.trim() == "0" {
        return show(Command::new(words[0]).args(&words[1..]).current_dir(root()));
    }
    show(command("sudo", &["-n"]).args(words))
}

/// Debian's switch that keeps packages from starting services while they are installed.
struct NoServices;

impl NoServices {
    const PATH: &str = "/usr/sbin/policy-rc.d";

    fn forbid() -> Result<(), String> {
        administrator(&[
            "sh",
            "-c",
            &format!("printf '#!/bin/sh\\nexit 101\\n' >{0} && chmod +x {0}", Self::PATH),
        ])
    }

    fn lift() {
        if let Err(error) = administrator(&["rm", "-f", Self::PATH]) {
            eprintln!("test: remove {} by hand: {error}", Self::PATH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_the_summaries_of_all_binaries() {
        let text = "running 2 tests\ntest a ... ok\n\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\n\
            test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        assert_eq!(add_up(text), Total { passed: 5, failed: 1, ignored: 1 });
    }
}
