//! The kernel's text, one function for each file. `None`: it does not say what it should.

use std::time::Duration;

/// What a control group allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit<T> {
    None,
    At(T),
}

/// Clock ticks per second in `/proc/PID/stat`: fixed for programs on every architecture that matters, whatever the
/// kernel's own tick.
const USER_HZ: u64 = 100;

/// CPU time of a process, from `/proc/PID/stat`: fields 14 and 15. Field 2 may contain spaces and parentheses.
pub(super) fn cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()?.checked_add(ticks()?)?;
    Some(Duration::from_millis(ticks.checked_mul(1_000 / USER_HZ)?))
}

/// The CPUs that a process may run on, from `/proc/PID/status`.
pub(super) fn cpus_allowed(status: &str) -> Option<u32> {
    cpu_list(field(status, "Cpus_allowed_list:")?)
}

/// Resident bytes of a process, from `/proc/PID/status`.
pub(super) fn resident(status: &str) -> Option<u64> {
    kib(field(status, "VmRSS:")?)
}

/// Bytes that can still be had without swapping, from `/proc/meminfo`.
pub(super) fn available(meminfo: &str) -> Option<u64> {
    kib(field(meminfo, "MemAvailable:")?)
}

/// How many CPUs a list such as `0-3,8` names.
pub(super) fn cpu_list(list: &str) -> Option<u32> {
    list.trim().split(',').try_fold(0u32, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Tasks that could run, from `/proc/loadavg`: the first number of the fourth field.
pub(super) fn runnable(loadavg: &str) -> Option<u32> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

/// Time in which some task waited, from a pressure file.
pub(super) fn waited(pressure: &str) -> Option<Duration> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split_whitespace().find_map(|field| field.strip_prefix("total="))?;
    Some(Duration::from_micros(total.parse().ok()?))
}

/// The groups that a process is in, from `/proc/PID/cgroup`: controllers (none in version 2) and path.
pub(super) fn groups(cgroup: &str) -> Option<Vec<(&str, &str)>> {
    let group = |line| -> Option<(&str, &str)> {
        let (controllers, path) = str::split_once(line, ':')?.1.split_once(':')?;
        path.starts_with('/').then_some((controllers, path))
    };
    cgroup.lines().map(group).collect()
}

/// CPUs' worth of time, from `cpu.max`: quota and period.
pub(super) fn cpu_max(text: &str) -> Option<Limit<f64>> {
    let (quota, period) = text.trim().split_once(' ')?;
    let period = positive(period)?;
    match quota {
        "max" => Some(Limit::None),
        quota => Some(Limit::At(positive(quota)? / period)),
    }
}

/// CPU time per period, from `cpu.cfs_quota_us`: -1 is no limit.
pub(super) fn cfs_quota(text: &str) -> Option<Limit<f64>> {
    match text.trim() {
        "-1" => Some(Limit::None),
        quota => positive(quota).map(Limit::At),
    }
}

/// A span in microseconds, from `cpu.cfs_period_us`.
pub(super) fn cfs_period(text: &str) -> Option<f64> {
    positive(text.trim())
}

/// Bytes, from `memory.max` or `memory.limit_in_bytes`, whose "no limit" is a number larger than any memory.
pub(super) fn memory_max(text: &str) -> Option<Limit<u64>> {
    match text.trim() {
        "max" => Some(Limit::None),
        bytes => bytes.parse().ok().map(Limit::At),
    }
}

fn positive(text: &str) -> Option<f64> {
    text.parse::<u64>().ok().filter(|number| *number > 0).map(|number| number as f64)
}

/// What follows `name` on its line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

fn kib(text: &str) -> Option<u64> {
    text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &str = "4711 (a b) c) S 1 2 3 0 -1 4194304 97 0 0 0 250 50 7 7 20 0 1 0 205036 3133440 358 0";
    const STATUS: &str = "Name:\tseawall\nVmHWM:\t    9999 kB\nVmRSS:\t    1636 kB\nCpus_allowed:\tf0\nCpus_allowed_list:\t4-7,9\n";

    #[test]
    fn a_process_says_what_it_uses() {
        assert_eq!(cpu_time(STAT), Some(Duration::from_secs(3)));
        assert_eq!(cpus_allowed(STATUS), Some(5));
        assert_eq!(resident(STATUS), Some(1636 * 1024));
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   22018488 kB\n"), Some(22_018_488 * 1024));
        assert_eq!(runnable("0.51 0.89 0.58 3/118 20841\n"), Some(3));
        let pressure = "some avg10=1.28 avg60=2.40 avg300=4.92 total=41948794\nfull avg10=0.00 total=7\n";
        assert_eq!(waited(pressure), Some(Duration::from_micros(41_948_794)));
    }

    #[test]
    fn groups_of_both_versions_are_told_apart() {
        let text = "8:pids:/\n4:cpu,cpuacct:/docker/a:b\n0::/user.slice\n";
        let expected = vec![("pids", "/"), ("cpu,cpuacct", "/docker/a:b"), ("", "/user.slice")];
        assert_eq!(groups(text), Some(expected));
        assert_eq!(groups(""), Some(vec![]));
        assert_eq!(groups("0::no path"), None);
        assert_eq!(groups("garbage"), None);
    }

    #[test]
    fn limits_are_numbers_or_none() {
        assert_eq!(cpu_max("max 100000\n"), Some(Limit::None));
        assert_eq!(cpu_max("250000 100000\n"), Some(Limit::At(2.5)));
        assert_eq!(cfs_quota("-1\n"), Some(Limit::None));
        assert_eq!(cfs_quota("50000\n"), Some(Limit::At(50_000.0)));
        assert_eq!(cfs_period("100000\n"), Some(100_000.0));
        assert_eq!(memory_max("max\n"), Some(Limit::None));
        assert_eq!(memory_max("536870912\n"), Some(Limit::At(536_870_912)));
        assert_eq!(memory_max("9223372036854771712\n"), Some(Limit::At(9_223_372_036_854_771_712)));
    }

    #[test]
    fn garbage_is_no_number() {
        for text in ["", "max", "100000", "-5 100000", "0 100000", "1 0", "max 0", "max max", "1e5 100000"] {
            assert_eq!(cpu_max(text), None, "{text:?}");
        }
        for text in ["", "-2", "0", "max", "1.5"] {
            assert_eq!(cfs_quota(text), None, "{text:?}");
        }
        for text in ["", "-1", "Max", "5G", "1 2"] {
            assert_eq!(memory_max(text), None, "{text:?}");
        }
        for text in ["", "3-1", "-", "a", "1,", "0-4294967295", "0x1"] {
            assert_eq!(cpu_list(text), None, "{text:?}");
        }
        for text in ["", "VmRSS:", "VmRSS: 5", "VmRSS: x kB", "VmRSS: 99999999999999999999 kB"] {
            assert_eq!(resident(text), None, "{text:?}");
        }
        for text in ["", "4711 (a", "4711 (a) S 1 2", "1 (a) S 1 2 3 0 -1 4 97 0 0 0 -1 5"] {
            assert_eq!(cpu_time(text), None, "{text:?}");
        }
        for text in ["", "0.1 0.2 0.3", "0.1 0.2 0.3 118 5", "0.1 0.2 0.3 -1/118 5"] {
            assert_eq!(runnable(text), None, "{text:?}");
        }
        for text in ["", "some avg10=1.0", "full total=5", "some total=-5", "some total="] {
            assert_eq!(waited(text), None, "{text:?}");
        }
    }

    proptest! {
        /// Parsers answer; they never panic, and limits are usable as divisors.
        #[test]
        fn any_text_is_answered(text in "[ -~\n]{0,80}", numbers in "[0-9 /:,.()a-z=-]{0,60}") {
            for text in [&text, &numbers] {
                let _ = (cpu_time(text), cpus_allowed(text), resident(text), available(text), groups(text));
                let _ = (cpu_list(text), runnable(text), waited(text), memory_max(text));
                for limit in [cpu_max(text), cfs_quota(text), cfs_period(text).map(Limit::At)].into_iter().flatten() {
                    prop_assert!(limit == Limit::None || matches!(limit, Limit::At(cpus) if cpus > 0.0));
                }
            }
        }
    }
}
