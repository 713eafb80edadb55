//! What a figure was measured on.

use std::fs;
use std::process::Command;

use crate::run::read;

/// CPU of the proxy under test.
pub(super) const PROXY_CPU: usize = 0;

/// CPU of everything else: another one where there is one.
pub(super) fn load_cpu() -> usize {
    // `available_parallelism` counts only the CPUs that the calling thread is pinned to.
    usize::from(processors().len() > 1)
}

/// The model of each CPU.
fn processors() -> Vec<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of =
        |line: &str| Some(line.strip_prefix("model name")?.trim_start_matches([' ', '\t', ':']).to_owned());
    cpuinfo.lines().filter_map(of).collect()
}

/// The machine, and what is built, by name.
pub(super) fn facts() -> [(&'static str, String); 3] {
    let models = processors();
    let model = models.first().map_or("unknown CPU", String::as_str);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    let machine = format!("{} × {model}, {} MiB, Linux {}", models.len().max(1), kib / 1024, kernel.trim());
    [
        ("machine", machine),
        ("Seawall", version("git", &["describe", "--always", "--dirty"])),
        ("rustc", version("rustc", &["--version"])),
    ]
}

/// Prints the machine, and what is built: the head of every report.
pub(super) fn print_header(name: &str) {
    println!("# bench {name}\n");
    for (name, fact) in facts() {
        println!("- {name}: {fact}");
    }
}

/// The first line that a program says of its version.
pub(super) fn version(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args).current_dir(crate::run::root());
    // nginx says it on its standard error.
    let said = command.output().map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&said)
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("unknown")
        .trim()
        .to_owned()
}

/// Builds the release binary with `features` into `target_dir` below `target`; answers its path.
pub(super) fn build_seawall(features: &str, target_dir: &str) -> Result<String, String> {
    let dir = crate::run::root().join("target").join(target_dir);
    let dir_text = dir.to_string_lossy().into_owned();
    let mut words = vec!["build", "--quiet", "--release", "--package", "seawall", "--bin", "seawall"];
    if !features.is_empty() {
        words.extend(["--features", features, "--target-dir", &dir_text]);
    }
    read(&mut crate::run::cargo(&words))?;
    let built = if features.is_empty() { crate::run::root().join("target") } else { dir };
    Ok(built.join("release/seawall").to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use testkit::sys::pin_to_cpu;

    #[test]
    fn a_pinned_thread_still_knows_the_other_cpu() {
        let free = load_cpu();
        let pinned = thread::spawn(move || {
            pin_to_cpu(PROXY_CPU).unwrap();
            load_cpu()
        });
        assert_eq!(pinned.join().unwrap(), free);
    }
}
