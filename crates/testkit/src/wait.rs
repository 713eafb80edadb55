//! Waiting on a state instead of sleeping.

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for what should happen at once. Generous, because machines that run tests are busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(5);

/// Returns as soon as `state` holds. Panics with `what` when it does not within `limit`.
pub fn wait_until(what: &str, limit: Duration, mut state: impl FnMut() -> bool) {
    wait_for(what, limit, || state().then_some(()));
}

/// Returns the first answer that `probe` gives. Panics with `what` when it gives none within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} in vain until {what}");
        thread::sleep(POLL);
    }
}

/// Lets `span` pass between two pieces that a slow client or back end sends: its own pace is what is tested. Never to wait
/// until something has happened; that is [`wait_until`].
pub fn pace(span: Duration) {
    thread::sleep(span);
}

/// A loopback address that nobody listens on at the moment. Another process may take it: prefer port 0 where the
/// program under test can report what it got.
#[must_use]
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free loopback port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_once_the_state_holds() {
        let mut asked = 0;
        wait_until("asked three times", PATIENCE, || {
            asked += 1;
            asked == 3
        });
        assert_eq!(asked, 3);
    }

    #[test]
    #[should_panic(expected = "in vain until pigs fly")]
    fn says_what_never_came() {
        wait_until("pigs fly", Duration::ZERO, || false);
    }

    #[test]
    fn a_free_port_refuses_connections() {
        assert!(std::net::TcpStream::connect(free_port()).is_err());
    }
}
