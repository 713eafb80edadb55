//! What the record of a load says. Pure: requests in, figures out.

use std::time::Duration;

use testkit::load::Histogram;
use testkit::load::surge::{Request, Verdict};

/// How long a client waits, counted from when its request was due. An answer that comes later is no good to anybody,
/// whichever attempt it answers.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The classes, by name, in the order of their importance.
pub(super) const CLASSES: [&str; 4] = ["CRITICAL_PLUS", "CRITICAL", "SHEDDABLE_PLUS", "SHEDDABLE"];
/// An arrival that the generator noticed later than this is one that the proxy met at another time than intended.
const LATE: Duration = Duration::from_millis(5);
/// The share of such arrivals from which on a row measures the generator.
const LATE_MAX: f64 = 0.01;
/// Recovered is a second that is like any other: this share of it is answered in time,
const RECOVERED_GOOD: f64 = 0.95;
const RECOVERED_SPAN: Duration = Duration::from_secs(1);
/// … and its 99th percentile is at most so many times the unloaded one.
const RECOVERED_SLOWER_MAX: f64 = 3.0;
/// How precisely the moment of recovery is looked for.
const RECOVERED_STEP: Duration = Duration::from_millis(100);

/// A count for each class.
pub(super) type ByClass = [u64; CLASSES.len()];

/// What came of the requests of a span.
#[derive(Clone, Debug, Default)]
pub(super) struct Judgement {
    pub(super) offered: ByClass,
    /// Answered with 2xx in time.
    pub(super) good: ByClass,
    pub(super) attempts: u64,
    pub(super) refused: u64,
    pub(super) timed_out: u64,
    pub(super) broken: u64,
    /// Answered with 2xx, too late.
    pub(super) too_late: u64,
    pub(super) unsent: u64,
    pub(super) late: u64,
    /// Of the good ones.
    pub(super) latency: Histogram,
}

impl Judgement {
    pub(super) fn of<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Self {
        let mut judgement = Self::default();
        for request in requests {
            judgement.offered[request.class] += 1;
            judgement.attempts += u64::from(request.attempts);
            judgement.late += u64::from(request.late > LATE);
            match request.verdict {
                Verdict::Ok if is_good(request) => {
                    judgement.good[request.class] += 1;
                    judgement.latency.record(request.ended.saturating_sub(request.due));
                }
                Verdict::Ok => judgement.too_late += 1,
                Verdict::Refused => judgement.refused += 1,
                Verdict::TimedOut | Verdict::Pending => judgement.timed_out += 1,
                Verdict::Broken => judgement.broken += 1,
                Verdict::Unsent => judgement.unsent += 1,
            }
        }
        judgement
    }

    pub(super) fn offered(&self) -> u64 {
        self.offered.iter().sum()
    }

    pub(super) fn good(&self) -> u64 {
        self.good.iter().sum()
    }

    /// The share of arrivals that the generator noticed late.
    pub(super) fn late_share(&self) -> f64 {
        self.late as f64 / (self.offered() as f64).max(1.0)
    }

    /// Why the figures say nothing about the proxy, if so.
    pub(super) fn invalid(&self) -> Option<String> {
        if self.unsent > 0 {
            return Some(format!("{} requests could not be sent: no descriptor or port left", self.unsent));
        }
        let late = self.late_share();
        (late > LATE_MAX).then(|| format!("the generator noticed {:.1} % of the arrivals late", 100.0 * late))
    }
}

fn is_good(request: &Request) -> bool {
    request.latency().is_some_and(|latency| latency <= PATIENCE)
}

/// Those of `requests` (in the order of arrival) that were due in `from..until`.
pub(super) fn due_in(requests: &[Request], from: Duration, until: Duration) -> &[Request] {
    let first = requests.partition_point(|request| request.due < from);
    let end = requests.partition_point(|request| request.due < until);
    &requests[first..end.max(first)]
}

/// From `ended`, the end of an overload, to the beginning of the first second that is like any other. `None` when
/// there was none by `now`.
pub(super) fn recovered(
    requests: &[Request],
    ended: Duration,
    now: Duration,
    unloaded_p99: Duration,
) -> Option<Duration> {
    let mut from = ended;
    while from + RECOVERED_SPAN <= now {
        let second = due_in(requests, from, from + RECOVERED_SPAN);
        let is_open = |request: &Request| request.verdict == Verdict::Pending && request.due + PATIENCE > now;
        if second.iter().any(is_open) {
            return None;
        }
        let judgement = Judgement::of(second);
        let is_fast = judgement.latency.quantile(0.99) <= unloaded_p99.mul_f64(RECOVERED_SLOWER_MAX);
        if is_fast && judgement.good() as f64 >= RECOVERED_GOOD * judgement.offered() as f64 {
            return Some(from - ended);
        }
        from += RECOVERED_STEP;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn request(due: u64, ended: u64, verdict: Verdict) -> Request {
        Request { class: 1, due: ms(due), late: ms(0), attempts: 1, ended: ms(ended), verdict }
    }

    #[test]
    fn an_answer_after_the_clients_patience_is_not_good() {
        let requests = [
            request(0, 1000, Verdict::Ok),
            request(0, 1001, Verdict::Ok),
            request(0, 5, Verdict::Refused),
            request(0, 1000, Verdict::TimedOut),
        ];
        let judgement = Judgement::of(&requests);
        assert_eq!((judgement.offered[1], judgement.good[1]), (4, 1));
        assert_eq!((judgement.too_late, judgement.refused, judgement.timed_out), (1, 1, 1));
        assert_eq!(judgement.latency.count(), 1);
        assert_eq!(judgement.invalid(), None);
    }

    #[test]
    fn trap_37_a_generator_that_falls_behind_makes_the_row_invalid() {
        let mut requests = vec![request(0, 5, Verdict::Ok); 100];
        requests[0].late = ms(6);
        assert_eq!(Judgement::of(&requests).invalid(), None);
        requests[1].late = ms(6);
        assert!(Judgement::of(&requests).invalid().is_some_and(|why| why.contains("2.0 %")));
        requests.truncate(1);
        requests[0] = request(0, 0, Verdict::Unsent);
        assert!(Judgement::of(&requests).invalid().is_some_and(|why| why.contains("could not be sent")));
    }

    #[test]
    fn a_span_holds_what_was_due_in_it() {
        let requests = [0, 10, 10, 20].map(|due| request(due, due, Verdict::Ok));
        assert_eq!(due_in(&requests, ms(10), ms(20)).len(), 2);
        assert_eq!(due_in(&requests, ms(0), ms(100)).len(), 4);
        assert_eq!(due_in(&requests, ms(30), ms(20)).len(), 0);
    }

    /// One request every 10 ms after an overload that ended at 1 000 ms.
    fn after(verdict: impl Fn(u64) -> (u64, Verdict)) -> Vec<Request> {
        (0..500)
            .map(|index| {
                let (took, verdict) = verdict(10 * index);
                request(1000 + 10 * index, 1000 + 10 * index + took, verdict)
            })
            .collect()
    }

    #[test]
    fn recovery_counts_to_the_first_good_second() {
        let judge = |requests: &[Request], now| recovered(requests, ms(1000), ms(now), ms(20));
        let at_once = after(|_| (20, Verdict::Ok));
        assert_eq!(judge(&at_once, 1999), None, "a second has not passed");
        assert_eq!(judge(&at_once, 2000), Some(ms(0)));
        let refusing = after(|since| (20, if since < 1500 { Verdict::Refused } else { Verdict::Ok }));
        // Five of a hundred may fail.
        assert_eq!(judge(&refusing, 6000), Some(ms(1500)));
        let slow = after(|since| (if since < 2000 { 61 } else { 60 }, Verdict::Ok));
        assert_eq!(judge(&slow, 6000), Some(ms(2000)));
        assert_eq!(judge(&after(|_| (0, Verdict::TimedOut)), 6000), None);
    }

    #[test]
    fn recovery_waits_for_what_may_still_be_answered() {
        let judge = |requests: &[Request], now| recovered(requests, ms(1000), ms(now), ms(20));
        let mut requests = after(|_| (20, Verdict::Ok));
        requests[50].verdict = Verdict::Pending;
        assert_eq!(judge(&requests, 2000), None);
        // Its client has given up by then: it is one of a hundred that failed.
        assert_eq!(judge(&requests, 2500), Some(ms(0)));
    }
}
