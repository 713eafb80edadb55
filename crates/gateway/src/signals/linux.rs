//! The kernel's files.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Readings;
use super::parse::{self, Limit};

/// A file is there and does not say what it should, or may not be read.
struct Wrong;

/// What a file says; nothing when it is not there.
type Found<T> = Result<Option<T>, Wrong>;

/// Reads what Linux says of this process and its host: a dozen small files, so about once a second and never on the
/// way of a request.
///
/// A limit that is not there limits nothing: the process is measured against the next wider one (control group, then
/// CPU affinity or the host's memory). A file that is there and is not understood makes its signal unknown: guessing a
/// wider limit would hide that the narrower one is exhausted. On other systems everything is unknown.
///
/// Control groups of both versions are looked up from the process's own group to the root, and the narrowest limit
/// counts; what others in a wider group use is not seen.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self { root: PathBuf::from("/") }
    }
}

impl Host {
    /// Reads everything anew.
    #[must_use]
    pub fn read(&self) -> Readings {
        let dirs = self.group_dirs();
        let stat = self.read_file("proc/self/stat", parse::cpu_time);
        Readings {
            cpu_time: known(stat),
            cpus: known(self.cpus(&dirs)),
            memory: known(self.memory(&dirs)),
            waited: known(self.waited(&dirs)),
            runnable: known(self.runnable()),
        }
    }

    /// The smaller of what the affinity and the control groups allow.
    fn cpus(&self, dirs: &Result<Vec<PathBuf>, Wrong>) -> Found<f64> {
        let affinity = self.read_file("proc/self/status", parse::cpus_allowed)?.map(f64::from);
        let quota = narrowest(dirs, |dir| match self.read_file(dir.join("cpu.max"), parse::cpu_max)? {
            Some(limit) => Ok(Some(limit)),
            None => self.cfs(dir),
        })?;
        Ok(affinity.into_iter().chain(quota).reduce(f64::min))
    }

    /// The quota of a version 1 group, in CPUs.
    fn cfs(&self, dir: &Path) -> Found<Limit<f64>> {
        match self.read_file(dir.join("cpu.cfs_quota_us"), parse::cfs_quota)? {
            Some(Limit::At(quota)) => {
                let period =
                    self.read_file(dir.join("cpu.cfs_period_us"), parse::cfs_period)?.ok_or(Wrong)?;
                Ok(Some(Limit::At(quota / period)))
            }
            unlimited => Ok(unlimited),
        }
    }

    /// What the process holds, and the smaller of what control groups allow and what the host could still give it.
    fn memory(&self, dirs: &Result<Vec<PathBuf>, Wrong>) -> Found<(u64, u64)> {
        let Some(resident) = self.read_file("proc/self/status", parse::resident)? else { return Ok(None) };
        let available = self.read_file("proc/meminfo", parse::available)?;
        let allowed =
            narrowest(dirs, |dir| match self.read_file(dir.join("memory.max"), parse::memory_max)? {
                Some(limit) => Ok(Some(limit)),
                None => self.read_file(dir.join("memory.limit_in_bytes"), parse::memory_max),
            })?;
        let host = available.map(|available| resident.saturating_add(available));
        Ok(host.into_iter().chain(allowed).min().map(|max| (resident, max)))
    }

    /// Waiting in the process's own group, where a quota shows too; else anywhere on the host.
    fn waited(&self, dirs: &Result<Vec<PathBuf>, Wrong>) -> Found<Duration> {
        let own = dirs.as_ref().map_err(|_| Wrong)?.iter().map(|dir| dir.join("cpu.pressure"));
        for path in own.chain([self.root.join("proc/pressure/cpu")]) {
            if let Some(waited) = self.read_file(path, parse::waited)? {
                return Ok(Some(waited));
            }
        }
        Ok(None)
    }

    fn runnable(&self) -> Found<f64> {
        let runnable = self.read_file("proc/loadavg", parse::runnable)?;
        let online = self.read_file("sys/devices/system/cpu/online", parse::cpu_list)?;
        // One of them is the thread that reads this.
        Ok(runnable
            .zip(online)
            .map(|(runnable, online)| f64::from(runnable.saturating_sub(1)) / f64::from(online)))
    }

    /// Where limits of the process may stand: its groups, each followed by those around it. In a container the path
    /// may not exist, because the container's own group is mounted as the root.
    fn group_dirs(&self) -> Result<Vec<PathBuf>, Wrong> {
        let owned = |text: &str| {
            let groups = parse::groups(text)?.into_iter();
            Some(
                groups
                    .map(|(controllers, path)| (controllers.to_owned(), path.to_owned()))
                    .collect::<Vec<_>>(),
            )
        };
        let groups = self.read_file("proc/self/cgroup", owned)?.unwrap_or_default();
        let mounts = self.root.join("sys/fs/cgroup");
        let dirs = groups.iter().flat_map(|(controllers, path)| {
            let mounted: &[&str] = match controllers.as_str() {
                "" => &["", "unified"],
                controllers if controllers.split(',').any(|one| one == "cpu") => &["cpu"],
                "memory" => &["memory"],
                _ => &[],
            };
            let around = Path::new(path).ancestors().filter_map(|group| group.strip_prefix("/").ok());
            let around: Vec<PathBuf> = around.map(Path::to_owned).collect();
            mounted.iter().flat_map(move |mount| {
                around.clone().into_iter().map(move |group| Path::new(mount).join(group))
            })
        });
        Ok(dirs.map(|dir| mounts.join(dir)).collect())
    }

    fn read_file<T>(&self, path: impl AsRef<Path>, parse: impl Fn(&str) -> Option<T>) -> Found<T> {
        match fs::read_to_string(self.root.join(path)) {
            Ok(text) => parse(&text).map(Some).ok_or(Wrong),
            // Pressure files are there and unsupported when the kernel was started without it.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => Ok(None),
            Err(_) => Err(Wrong),
        }
    }
}

fn known<T>(found: Found<T>) -> Option<T> {
    found.ok().flatten()
}

/// The smallest limit that stands in any of the directories.
fn narrowest<T: PartialOrd>(
    dirs: &Result<Vec<PathBuf>, Wrong>,
    limit: impl Fn(&Path) -> Found<Limit<T>>,
) -> Found<T> {
    let mut narrowest = None;
    for dir in dirs.as_ref().map_err(|_| Wrong)? {
        if let Some(Limit::At(limit)) = limit(dir)?
            && narrowest.as_ref().is_none_or(|narrowest| limit < *narrowest)
        {
            narrowest = Some(limit);
        }
    }
    Ok(narrowest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::temp::TempDir;

    /// A process of 64 MiB on a host of two CPUs with 1 GiB left, in no group.
    const PLAIN: [(&str, &str); 6] = [
        ("proc/self/stat", "7 (x) S 1 2 3 0 -1 4 9 0 0 0 100 100 0 0 20"),
        ("proc/self/status", "VmRSS:\t65536 kB\nCpus_allowed_list:\t0-1\n"),
        ("proc/self/cgroup", "0::/a/b\n3:cpu,cpuacct:/a\n2:memory:/gone/c\n"),
        ("proc/meminfo", "MemAvailable: 1048576 kB\n"),
        ("proc/loadavg", "0.5 0.5 0.5 4/118 20841\n"),
        ("sys/devices/system/cpu/online", "0-1\n"),
    ];
    const MIB: u64 = 1 << 20;

    /// Reads the plain process's files with `more` over them; an empty one is taken away.
    fn read(more: &[(&str, &str)]) -> Readings {
        let dir = TempDir::new("signals");
        for (path, text) in PLAIN.iter().chain(more) {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        for (path, _) in more.iter().filter(|(_, text)| text.is_empty()) {
            fs::remove_file(dir.path().join(path)).unwrap();
        }
        Host { root: dir.path().to_owned() }.read()
    }

    #[test]
    fn without_limits_the_host_is_the_limit() {
        let expected = Readings {
            cpu_time: Some(Duration::from_secs(2)),
            cpus: Some(2.0),
            memory: Some((64 * MIB, 1_088 * MIB)),
            waited: None,
            runnable: Some(1.5),
        };
        assert_eq!(read(&[]), expected);
        let unlimited = [
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n"),
        ];
        assert_eq!(read(&unlimited), expected);
    }

    #[test]
    fn the_narrowest_group_around_the_process_counts() {
        let seen = read(&[
            ("sys/fs/cgroup/a/b/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "134217728\n"),
            ("sys/fs/cgroup/a/b/cpu.pressure", "some avg10=0.00 total=5000\n"),
            ("proc/pressure/cpu", "some avg10=0.00 total=9000\n"),
        ]);
        assert_eq!((seen.cpus, seen.memory), (Some(0.5), Some((64 * MIB, 128 * MIB))));
        assert_eq!(seen.waited, Some(Duration::from_millis(5)));
    }

    #[test]
    fn groups_of_version_1_count_too_also_where_the_path_is_not_mounted() {
        let seen = read(&[
            ("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "25000\n"),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "50000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n"),
            ("proc/pressure/cpu", "some avg10=0.00 total=9000\n"),
        ]);
        assert_eq!((seen.cpus, seen.memory), (Some(0.5), Some((64 * MIB, 128 * MIB))));
        assert_eq!(seen.waited, Some(Duration::from_millis(9)));
    }

    #[test]
    fn missing_files_leave_their_signals_unknown_and_no_others() {
        assert_eq!(read(&[("proc/self/stat", "")]).cpu_time, None);
        assert_eq!(read(&[("proc/loadavg", "")]).runnable, None);
        assert_eq!(read(&[("sys/devices/system/cpu/online", "")]).runnable, None);
        assert_eq!(read(&[("proc/meminfo", "")]).memory, None, "no limit is known");
        let seen = read(&[("proc/self/status", "")]);
        assert_eq!((seen.cpus, seen.memory), (None, None));
        assert!(seen.cpu_time.is_some() && seen.runnable.is_some());
        let seen = read(&[("proc/self/cgroup", "")]);
        assert!(seen.cpus == Some(2.0) && seen.memory.is_some());
    }

    #[test]
    fn a_limit_that_is_not_understood_is_not_replaced_by_a_wider_one() {
        assert_eq!(read(&[("sys/fs/cgroup/a/b/cpu.max", "lots")]).cpus, None);
        assert_eq!(read(&[("sys/fs/cgroup/a/memory.max", "5G")]).memory, None);
        assert_eq!(read(&[("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "50000")]).cpus, None, "no period");
        assert_eq!(read(&[("proc/pressure/cpu", "none")]).waited, None);
        let seen = read(&[("proc/self/cgroup", "garbage")]);
        assert_eq!((seen.cpus, seen.memory, seen.waited), (None, None, None));
        assert!(seen.cpu_time.is_some() && seen.runnable.is_some());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_host_says_something() {
        let seen = Host::default().read();
        assert!(seen.cpu_time.is_some());
        assert!(seen.memory.is_some_and(|(held, max)| 0 < held && held <= max), "{seen:?}");
        assert!(seen.cpus.is_some_and(|cpus| cpus > 0.0), "{seen:?}");
    }
}
