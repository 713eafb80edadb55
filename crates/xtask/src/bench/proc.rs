//! What the kernel says about a process and its children.

use std::fs;
use std::time::Duration;

/// The process and all its descendants.
pub(super) fn tree(root: u32) -> Vec<u32> {
    let pairs: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(pairs.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        next += 1;
    }
    found
}

/// The parent named in `/proc/PID/stat`, whose second field may contain spaces and parentheses.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// CPU time that all threads of the processes have used. Exact only while they sleep: a running thread's own
/// figure is brought up to date at its next tick.
pub(super) fn cpu_time(pids: &[u32]) -> Duration {
    schedstat(pids, 0)
}

/// Time that all threads of the processes were ready to run while something else had their CPU. As exact as
/// [`cpu_time`].
pub(super) fn waited_time(pids: &[u32]) -> Duration {
    schedstat(pids, 1)
}

fn schedstat(pids: &[u32], field: usize) -> Duration {
    let nanos = pids
        .iter()
        .flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten())
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().nth(field)?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanos)
}

/// Resident memory of the processes in bytes; pages that they share count once each.
pub(super) fn resident(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum::<u64>() * 1024
}

/// Open file descriptors of the processes.
pub(super) fn open_files(pids: &[u32]) -> usize {
    pids.iter().map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::thread;
    use testkit::wait::{PATIENCE, wait_until};

    #[test]
    fn a_tree_has_the_children_of_children() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'sleep 1000; :' & wait"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("sh → sh → sleep is up", PATIENCE, || tree(shell.id()).len() == 3);
        for pid in tree(shell.id()) {
            testkit::sys::signal(pid, testkit::sys::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
    }

    #[test]
    fn a_strange_name_does_not_hide_the_parent() {
        assert_eq!(parent("42 (a) b (c)) S 7 1 1"), Some(7));
    }

    #[test]
    fn counts_the_time_of_threads_that_sleep() {
        let own = [std::process::id()];
        let before = cpu_time(&own);
        let spun = thread::spawn(|| {
            let start = testkit::sys::thread_cpu_time();
            while testkit::sys::thread_cpu_time() - start < Duration::from_millis(20) {}
            // Asleep, so that its figure is exact, until it has been read.
            thread::park_timeout(PATIENCE);
        });
        wait_until("its time is counted", PATIENCE, || cpu_time(&own) - before >= Duration::from_millis(20));
        spun.thread().unpark();
        spun.join().unwrap();
        assert!(resident(&own) > 0 && open_files(&own) > 2);
    }
}
