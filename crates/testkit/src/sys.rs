//! The few system calls that the standard library does not offer.
//!
//! `unsafe` because they are foreign functions; each takes only plain values, or pointers to locals that outlive the
//! call.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

/// Ask a process to finish.
pub const SIGTERM: i32 = libc::SIGTERM;
/// End a process without asking.
pub const SIGKILL: i32 = libc::SIGKILL;
/// Leave at once; PostgreSQL shuts down without tidying up.
pub const SIGQUIT: i32 = libc::SIGQUIT;
/// Interrupt, as Ctrl-C does.
pub const SIGINT: i32 = libc::SIGINT;
/// Hang-up; many programs read their configuration again.
pub const SIGHUP: i32 = libc::SIGHUP;
/// Freeze a process: its sockets stay open and nobody answers.
pub const SIGSTOP: i32 = libc::SIGSTOP;
/// Thaw it.
pub const SIGCONT: i32 = libc::SIGCONT;

/// What a non-blocking `connect` fails with while it is still under way.
pub const IN_PROGRESS: i32 = libc::EINPROGRESS;

/// Sends `signal` to the process `pid`.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: plain values.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Pins the calling thread, and whatever it starts afterwards, to one CPU.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: `cpu_set_t` is a bit set for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `cpu` lies inside the set, which outlives both calls.
    check(unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    })
    .map(drop)
}

/// Raises the limit of open files towards `wanted`, as far as the system allows; answers what holds now.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= wanted {
        return Ok(limit.rlim_cur);
    }
    let raised = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
    // SAFETY: `raised` outlives the call. Raising the hard limit needs a privilege; without it the hard limit will do.
    if check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) }).is_ok() {
        return Ok(wanted);
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// Lets a later `bind` to an address with port 0 leave the port open until `connect`, which then needs one that is
/// free towards its destination only. A port chosen by `bind` is free towards everybody, so that the few ten thousand
/// of them, each held for a minute after its connection has ended, run out for every program of the machine.
pub fn choose_port_at_connect(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` outlives the call, and its size is given.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            ptr::from_ref(&on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Lets the calling thread's waits end as precisely as the kernel can, instead of up to 50 µs late.
pub fn precise_timers() {
    // SAFETY: plain values. Without it waits are only a little late.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
}

/// CPU time that the calling thread has used.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call; the clock exists on every Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What to be woken for. Level-triggered; a hang-up or error always wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// There is something to read, or the peer has finished.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
}

impl Interest {
    /// Reading only.
    pub const READ: Interest = Interest { read: true, write: false };
    /// Writing only.
    pub const WRITE: Interest = Interest { read: false, write: true };
    /// Neither: errors only.
    pub const NONE: Interest = Interest { read: false, write: false };

    fn bits(self) -> u32 {
        let mut bits = 0;
        if self.read {
            bits |= libc::EPOLLIN as u32;
        }
        if self.write {
            bits |= libc::EPOLLOUT as u32;
        }
        bits
    }
}

/// An epoll instance whose events carry a number that the caller chose.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// Room for the events of one wait.
pub struct Events {
    buffer: Box<[libc::epoll_event]>,
    ready: usize,
}

impl Events {
    /// Room for `most` events a wait.
    #[must_use]
    pub fn with_room(most: usize) -> Self {
        Self { buffer: vec![libc::epoll_event { events: 0, u64: 0 }; most].into(), ready: 0 }
    }

    /// The numbers of those that are ready.
    pub fn tokens(&self) -> impl Iterator<Item = usize> + '_ {
        self.buffer[..self.ready].iter().map(|event| event.u64 as usize)
    }
}

impl Epoll {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain values; the descriptor is ours alone.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: as above.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches `source` under the number `token`. Closing the source ends the watch.
    pub fn add(&self, source: &impl AsRawFd, token: usize, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source, token, interest)
    }

    /// Changes what a watched source wakes for.
    pub fn change(&self, source: &impl AsRawFd, token: usize, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, source, token, interest)
    }

    fn control(&self, verb: i32, source: &impl AsRawFd, token: usize, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token as u64 };
        // SAFETY: `event` outlives the call; a wrong descriptor is an error, not undefined.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), verb, source.as_raw_fd(), &raw mut event) })
            .map(drop)
    }

    /// Waits until something is ready or `limit` has passed (`None`: for ever). An interrupted wait is an empty one.
    pub fn wait(&self, events: &mut Events, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.map(|limit| libc::timespec {
            tv_sec: limit.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(limit.subsec_nanos()),
        });
        let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        let room = i32::try_from(events.buffer.len()).unwrap_or(i32::MAX);
        // SAFETY: the buffer holds `room` events and outlives the call, as does `limit`; no signal mask is given.
        let ready = check(unsafe {
            libc::epoll_pwait2(self.0.as_raw_fd(), events.buffer.as_mut_ptr(), room, limit, ptr::null())
        });
        events.ready = match ready {
            Ok(ready) => ready as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(())
    }
}

fn check(answer: i32) -> io::Result<i32> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
