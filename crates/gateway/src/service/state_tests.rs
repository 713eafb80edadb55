//! What follows from which facts, in virtual time.

use std::time::Duration;

use model::{Ratio, Span, Verdict};
use policy::Ended;
use policy::admission::AdmissionParams;
use policy::ejection::EjectionParams;
use policy::endpoint::Endpoint;
use policy::limit::LimitParams;
use proptest::prelude::*;

use super::services::Process;
use super::state::{Moment, State};
use super::*;
use crate::config::{Health, HealthCheck};
use crate::discover::{Discovered, Discovery};
use crate::health::Answer;

const SECOND: Duration = Duration::from_secs(1);

/// A service whose time the test turns.
struct Bench {
    state: State,
    service: Service,
    moment: Moment,
    _notices: tokio::sync::mpsc::Receiver<Notice>,
}

impl Bench {
    fn new(params: config::Service, endpoints: usize) -> Self {
        let moment = Moment { now: model::Instant::from_secs(1_000), at: model::Timestamp::default() };
        let process = Process { workers: 2, seed: 7, host: 11 };
        let mut state = State::new("cart".into(), Arc::new(params), process, Clock::new(), moment.now);
        state.on_discovery(discovery(&names(endpoints)), moment);
        let (sender, notices) = tokio::sync::mpsc::channel(64);
        let service = Service::new("cart", 0, state.view(moment), sender);
        Self { state, service, moment, _notices: notices }
    }

    /// A step at the present moment, with the view that follows from it.
    fn step<T>(&mut self, step: impl FnOnce(&mut State, Moment) -> T) -> T {
        let answer = step(&mut self.state, self.moment);
        if let Some(view) = self.state.poll_view(self.moment) {
            self.service.publish(view);
        }
        answer
    }

    /// Time passes, and whatever is due by itself happens at its time. Checks are answered by `answer`; answers how
    /// many were sent at which time.
    fn pass(&mut self, span: Duration, answer: impl Fn(&str) -> Answer) -> Vec<model::Instant> {
        let end = self.moment.now.after(span);
        let mut sent = Vec::new();
        loop {
            self.step(State::advance);
            for due in self.state.poll_checks(self.moment.now) {
                sent.push(self.moment.now);
                let answer = answer(&due.address.to_string());
                self.step(|state, moment| state.on_answer(due.target, &answer, moment));
            }
            let next = self.state.poll_timeout();
            if next > end {
                self.moment.now = end;
                return sent;
            }
            self.moment.now = self.moment.now.max(next);
        }
    }

    fn quietly(&mut self, span: Duration) {
        self.pass(span, |_| Answer::Healthy);
    }

    fn target(&self, index: usize) -> Arc<Target> {
        Arc::clone(&self.service.view().targets[index])
    }

    fn endpoint(&self, index: usize) -> Arc<Endpoint> {
        Arc::clone(&self.target(index).endpoint)
    }

    fn attempts(&self, index: usize, count: usize, latency: Duration, verdict: impl Fn(usize) -> Verdict) {
        for attempt in 0..count {
            self.endpoint(index).on_start(self.moment.now);
            self.endpoint(index).on_end(self.moment.now, Ended { latency, verdict: verdict(attempt) });
        }
    }

    fn available(&self) -> usize {
        self.service.view().fleet.endpoints().iter().filter(|endpoint| endpoint.available()).count()
    }

    fn told(&self) -> Vec<(Option<String>, What)> {
        self.state.events().into_iter().map(|event| (event.endpoint, event.what)).collect()
    }
}

fn names(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("10.0.{}.{}:80", number / 256, number % 256)).collect()
}

fn discovery(names: &[String]) -> Discovery {
    let found = |name: &String| Discovered::new(name.clone(), name.parse().unwrap(), 1);
    Discovery { set: Some(names.iter().map(found).collect()), ..Discovery::default() }
}

/// TRAP 17's counterpart for those who leave in good order: no new request once the registry says so.
#[test]
fn a_registered_lame_duck_gets_nothing_until_it_is_one_no_longer() {
    let mut bench = Bench::new(checked(), 3);
    let all = names(3);
    let with_lame = |lame: bool| {
        let mut found = discovery(&all).set.unwrap().to_vec();
        found[1].lame_duck = lame;
        Discovery { set: Some(found.into()), ..Discovery::default() }
    };
    bench.quietly(SECOND);
    bench.step(|state, moment| state.on_discovery(with_lame(true), moment));
    assert_eq!(bench.available(), 2, "at once");
    // Neither time nor a good health answer lifts what its registration says.
    bench.quietly(SECOND * 100);
    assert_eq!(bench.available(), 2);
    bench.step(|state, moment| state.on_discovery(with_lame(false), moment));
    bench.quietly(SECOND);
    assert_eq!(bench.available(), 3);
    let told: Vec<_> = bench.told().into_iter().filter(|(name, _)| name.as_ref() == Some(&all[1])).collect();
    assert_eq!(told.last().unwrap().1, What::LameDuckEnded);
}

#[test]
fn the_own_zone_has_all_requests_while_half_of_it_is_available() {
    let mut bench =
        Bench::new(config::Service { zone: Some("a".to_owned()), ..config::Service::default() }, 1);
    let all = names(6);
    let mut found = discovery(&all).set.unwrap().to_vec();
    for (number, one) in found.iter_mut().enumerate() {
        one.zone = Some(if number < 4 { "a" } else { "b" }.to_owned());
    }
    let set = Discovery { set: Some(found.clone().into()), ..Discovery::default() };
    bench.step(|state, moment| state.on_discovery(set, moment));
    let shared = |bench: &Bench| bench.service.view().targets.len();
    bench.quietly(SECOND);
    assert_eq!(shared(&bench), 4);
    let left = |bench: &Bench| bench.told().iter().filter(|(_, what)| *what == What::ZoneLeft).count();
    let before = left(&bench);
    for (disabled, wanted) in [(2, 4), (3, 6)] {
        for name in &all[..disabled] {
            bench.step(|state, moment| state.set_disabled(name, true, moment));
        }
        bench.quietly(SECOND);
        assert_eq!(shared(&bench), wanted, "{disabled} of 4 taken out");
    }
    assert_eq!(left(&bench), before + 1);
    bench.step(|state, moment| state.set_disabled(&all[0], false, moment));
    bench.quietly(SECOND);
    assert_eq!(shared(&bench), 4);
    // A zone in which nobody stands is no reason to have nobody.
    let set = Discovery { set: Some(found[4..].into()), ..Discovery::default() };
    bench.step(|state, moment| state.on_discovery(set, moment));
    bench.quietly(SECOND);
    assert_eq!(shared(&bench), 2);
}

#[test]
fn the_limit_of_a_cold_cluster_is_sought_anew() {
    let mut bench = Bench::new(config::Service::default(), 3);
    let defaults = AdmissionParams::default();
    let initial = defaults.limit.first();
    let limit = |bench: &Bench| bench.service.view().entrance.limit();
    let learn = |bench: &Bench, found: u32| {
        let limit = LimitParams { min: found, max: found, ..defaults.limit.clone() };
        let entrance = &bench.service.view().entrance;
        entrance.reconfigure(&AdmissionParams { limit, ..defaults.clone() });
        entrance.reconfigure(&defaults);
    };
    let cold = |bench: &Bench| bench.told().iter().filter(|(_, what)| *what == What::Cold).count();
    let all = names(9);
    learn(&bench, 5_000);
    // One by one, each ramped up before the next one comes: somebody is always warm.
    for first in 1..=3 {
        bench.quietly(SECOND * 11);
        let set = discovery(&all[first..first + 3]);
        bench.step(|state, moment| state.on_discovery(set, moment));
    }
    bench.quietly(SECOND * 60);
    assert_eq!((limit(&bench), cold(&bench)), (5_000, 0));
    // All at once.
    bench.step(|state, moment| state.on_discovery(discovery(&all[6..]), moment));
    bench.quietly(SECOND);
    assert_eq!((limit(&bench), cold(&bench)), (initial, 1));
    // What is learned of the new ones stays, whatever else is published while they are young.
    learn(&bench, 4_000);
    bench.step(|state, moment| state.set_disabled(&all[6], true, moment));
    bench.quietly(SECOND);
    assert_eq!((limit(&bench), cold(&bench)), (4_000, 1));
    // Restarted in place: nobody serves, then somebody comes back.
    bench.quietly(SECOND * 60);
    for disabled in [true, false] {
        for name in &all[6..] {
            bench.step(|state, moment| state.set_disabled(name, disabled, moment));
        }
        bench.quietly(SECOND);
    }
    assert_eq!((limit(&bench), cold(&bench)), (initial, 2));
    // A limit that fell below its beginning is no reason to let in more.
    learn(&bench, 3);
    bench.step(|state, moment| state.on_discovery(discovery(&all[..3]), moment));
    bench.quietly(SECOND);
    assert_eq!((limit(&bench), cold(&bench)), (3, 2));
}

fn failed(_: &str) -> Answer {
    Answer::Failed("it answered 500".to_owned())
}

fn checked() -> config::Service {
    let health = Health { check: HealthCheck::Http("/".to_owned()), ..Health::default() };
    config::Service { health: Some(health), ..config::Service::default() }
}

#[test]
fn an_empty_or_missing_answer_never_empties_the_fleet() {
    let mut bench = Bench::new(config::Service::default(), 3);
    let before = bench.service.version();
    let trouble = Discovery { trouble: Some("SERVFAIL".into()), failures: 1, ..Discovery::default() };
    bench.step(|state, moment| state.on_discovery(trouble, moment));
    bench.quietly(SECOND);
    assert_eq!(bench.service.view().targets.len(), 3);
    assert_eq!(bench.service.version(), before, "nothing changed for workers");
    let status = bench.state.status("cart", bench.moment.now);
    assert_eq!((status.discovery.trouble.as_deref(), status.discovery.known), (Some("SERVFAIL"), 3));
}

#[test]
fn those_who_stay_keep_what_was_learnt_and_another_address_is_another_target() {
    let mut bench = Bench::new(config::Service::default(), 3);
    bench.attempts(2, 10, SECOND, |_| Verdict::Success);
    let (gone, stays) = (bench.target(0), bench.target(2));
    gone.endpoint.on_start(bench.moment.now);
    let mut next = names(3);
    next[0] = "10.9.9.9:80".to_owned();
    next.reverse();
    bench.step(|state, moment| state.on_discovery(discovery(&next), moment));
    bench.quietly(SECOND);
    let view = bench.service.view();
    assert_eq!(view.targets.iter().map(|target| target.endpoint.name()).collect::<Vec<_>>(), next);
    assert!(Arc::ptr_eq(&view.targets[0], &stays));
    assert_eq!(view.targets[0].endpoint.totals().successes, 10);
    assert!(view.targets.iter().all(|target| target.id != gone.id));
    assert_eq!(gone.endpoint.active(), 1, "the request under way goes on");

    let mut moved = discovery(&next);
    moved.set = moved.set.map(|set| {
        let mut set = set.to_vec();
        set[0].address = "10.8.8.8:80".parse().unwrap();
        set.into()
    });
    bench.step(|state, moment| state.on_discovery(moved, moment));
    bench.quietly(SECOND);
    assert_ne!(bench.target(0).id, stays.id);
}

#[test]
fn changes_at_the_same_time_are_published_together_and_what_must_not_wait_does_not() {
    let mut bench = Bench::new(checked(), 20);
    bench.quietly(SECOND);
    let before = bench.service.version();
    for count in (10..20).rev() {
        bench.step(|state, moment| state.on_discovery(discovery(&names(count)), moment));
    }
    bench.quietly(SECOND);
    assert_eq!(bench.service.version(), before + 2, "the first at once, the others together");
    let before = bench.service.version();
    let target = bench.target(3);
    target.endpoint.set_unavailable(policy::Unavailable::LameDuck, true);
    bench.step(|state, moment| state.on_notice(Notice::LameDuck { target: target.id }, moment));
    assert_eq!(bench.service.version(), before + 1);
    assert_eq!(bench.service.view().fleet.candidates().len(), 9);
}

/// TRAP 12: three hosts at 67 % must not all be ejected.
#[test]
fn trap_12_not_everybody_is_ejected() {
    let mut bench = Bench::new(config::Service::default(), 3);
    for _ in 0..20 {
        for index in 0..3 {
            bench.attempts(index, 100, SECOND, |attempt| {
                [Verdict::Success, Verdict::Failure][usize::from(attempt % 3 != 0)]
            });
            let target = bench.target(index).id;
            bench.step(|state, moment| state.on_notice(Notice::Failing { target }, moment));
        }
        assert!(bench.available() >= 2);
        assert!(bench.service.view().fleet.candidates().len() >= 2);
        bench.quietly(5 * SECOND);
    }
    assert!(bench.told().iter().any(|(_, what)| *what == What::Ejected), "the worst one was");
}

/// TRAP 12: the panic threshold says whether it fails open or closed, and shows it.
#[test]
fn trap_12_panic_fails_as_stated_and_is_shown() {
    for (panic_below, candidates) in [(Ratio::percent(34), 3), (Ratio::ZERO, 0)] {
        let mut bench = Bench::new(config::Service { panic_below, ..checked() }, 3);
        bench.pass(60 * SECOND, failed);
        assert_eq!(bench.available(), 0);
        let view = bench.service.view();
        assert_eq!(view.fleet.candidates().len(), candidates);
        let open = candidates > 0;
        assert_eq!(bench.state.status("cart", bench.moment.now).panicking, open);
        assert_eq!(bench.told().contains(&(None, What::PanicEntered)), open);
        bench.quietly(60 * SECOND);
        assert_eq!(bench.told().contains(&(None, What::PanicLeft)), open);
        assert_eq!(bench.service.view().fleet.candidates().len(), 3);
    }
}

/// TRAP 13: latency ejection is relative.
#[test]
fn trap_13_when_all_are_slow_nobody_is_ejected() {
    let mut bench = Bench::new(config::Service::default(), 4);
    let interval = |bench: &mut Bench, latencies: [u64; 4]| {
        for (index, secs) in latencies.into_iter().enumerate() {
            bench.attempts(index, 100, Duration::from_secs(secs), |_| Verdict::Success);
        }
        bench.quietly(11 * SECOND);
    };
    interval(&mut bench, [9, 9, 9, 9]);
    interval(&mut bench, [30, 28, 31, 29]);
    assert_eq!(bench.available(), 4);
    interval(&mut bench, [1, 1, 1, 20]);
    assert!(bench.told().contains(&(Some(names(4).remove(3)), What::Ejected)));
}

/// TRAP 14: a newcomer, and whoever comes back, gets some traffic at once and all of it later.
#[test]
fn trap_14_who_joins_or_comes_back_starts_slowly() {
    let mut bench = Bench::new(checked(), 4);
    let sick = names(4).remove(0);
    bench.quietly(60 * SECOND);
    bench.pass(60 * SECOND, |address| if address == sick { failed(address) } else { Answer::Healthy });
    assert_eq!((bench.available(), bench.endpoint(0).available()), (3, false));
    bench.step(|state, moment| state.on_discovery(discovery(&names(5)), moment));
    let share = |bench: &Bench, index: usize| {
        let view = bench.service.view();
        view.fleet.ramp_share(view.fleet.endpoint(index as u32), bench.moment.now)
    };
    let newcomer = share(&bench, 4);
    assert!(newcomer > 0.0 && newcomer < 0.5, "{newcomer}");
    while !bench.endpoint(0).available() {
        bench.quietly(Duration::from_millis(10));
    }
    bench.quietly(Duration::from_millis(100));
    let returned = share(&bench, 0);
    assert!(returned > 0.0 && returned < 0.6, "{returned}");
    assert!((share(&bench, 1) - 1.0).abs() < 1e-9);
    bench.quietly(20 * SECOND);
    assert!((share(&bench, 0) - 1.0).abs() < 1e-9 && (share(&bench, 4) - 1.0).abs() < 1e-9);
}

/// TRAP 15: health checks N × M at once.
#[test]
fn trap_15_checks_are_spread() {
    let mut bench = Bench::new(checked(), 500);
    let sent = bench.pass(5 * SECOND, |_| Answer::Healthy);
    assert!(sent.len() >= 400, "{}", sent.len());
    let at_once = |from: &model::Instant| {
        sent.iter().filter(|at| *at >= from && **at < from.after(Duration::from_millis(500))).count()
    };
    let most = sent.iter().map(at_once).max().unwrap();
    assert!(most <= 100, "{most} of {} within a tenth of the interval", sent.len());
}

/// TRAP 15: suppressed while real traffic succeeds, and only then.
#[test]
fn trap_15_traffic_that_succeeds_makes_checks_needless() {
    let tcp = Health { check: HealthCheck::Tcp, ..Health::default() };
    let mut bench = Bench::new(config::Service { health: Some(tcp), ..config::Service::default() }, 2);
    let mut sent = 0;
    for _ in 0..600 {
        bench.attempts(0, 1, SECOND, |_| Verdict::Success);
        bench.attempts(1, 1, SECOND, |_| Verdict::Success);
        sent += bench.pass(SECOND / 10, failed).len();
    }
    assert_eq!((sent, bench.available()), (0, 2));
    for _ in 0..600 {
        bench.attempts(0, 1, SECOND, |_| Verdict::Failure);
        sent += bench.pass(SECOND / 10, failed).len();
    }
    assert!(sent > 10, "{sent}");
    assert!(!bench.endpoint(0).available());
}

/// TRAP 15, but an endpoint that says lame duck in its health answer alone is heard.
#[test]
fn trap_15_under_good_traffic_few_http_checks_are_sent_and_only_lame_ducks_count() {
    let mut bench = Bench::new(checked(), 1);
    let mut under_good_traffic = |answer: &Answer| {
        let mut sent = 0;
        for _ in 0..600 {
            bench.attempts(0, 1, SECOND, |_| Verdict::Success);
            sent += bench.pass(SECOND / 10, |_| answer.clone()).len();
            if !bench.endpoint(0).available() {
                break;
            }
        }
        (sent, bench.endpoint(0).reasons().collect::<Vec<_>>())
    };
    let (sent, reasons) = under_good_traffic(&failed(""));
    assert!((1..=4).contains(&sent), "{sent} of 12");
    assert_eq!(reasons, []);
    assert_eq!(under_good_traffic(&Answer::LameDuck), (1, vec![policy::Unavailable::LameDuck]));
}

/// TRAP 15: a starved prober must not mark the world dead.
#[test]
fn trap_15_a_starved_prober_condemns_nobody() {
    let mut bench = Bench::new(checked(), 10);
    for _ in 0..10 {
        bench.moment.now = bench.moment.now.after(60 * SECOND);
        let due = bench.state.poll_checks(bench.moment.now);
        assert_eq!(due.len(), 10);
        for due in due {
            bench.step(|state, moment| state.on_answer(due.target, &failed(""), moment));
        }
    }
    assert_eq!(bench.available(), 10);
    bench.pass(60 * SECOND, failed);
    assert_eq!(bench.available(), 0, "a prober that is well is believed");
}

/// TRAP 16: limits doubled when a server leaves maintenance.
#[test]
fn trap_16_limits_are_not_doubled_by_maintenance_or_reload() {
    let params = config::Service { active_per_endpoint: 2, ..checked() };
    let mut bench = Bench::new(params.clone(), 1);
    let name = names(1).remove(0);
    let now = bench.moment.now;
    assert!(bench.endpoint(0).try_start(now) && bench.endpoint(0).try_start(now));
    assert!(bench.step(|state, moment| state.set_disabled(&name, true, moment)));
    assert!(bench.service.view().fleet.candidates().is_empty());
    assert!(bench.step(|state, moment| state.set_disabled(&name, false, moment)));
    assert!(!bench.endpoint(0).try_start(now), "after maintenance");
    let params = config::Service { via: false, ..params };
    bench.step(|state, moment| state.on_params(Arc::new(params.clone()), moment));
    assert!(!bench.endpoint(0).try_start(now), "after a reload");
    let params = config::Service { active_per_endpoint: 3, ..params };
    bench.step(|state, moment| state.on_params(Arc::new(params), moment));
    assert!(bench.endpoint(0).try_start(now), "after it was raised");
    assert!(!bench.endpoint(0).try_start(now), "by one");
}

#[test]
fn a_disabled_endpoint_stays_out_when_it_leaves_and_comes_back() {
    let mut bench = Bench::new(config::Service::default(), 2);
    let name = names(2).remove(1);
    assert!(bench.step(|state, moment| state.set_disabled(&name, true, moment)));
    assert!(!bench.step(|state, moment| state.set_disabled("nobody", true, moment)));
    for count in [1, 2] {
        bench.step(|state, moment| state.on_discovery(discovery(&names(count)), moment));
        bench.quietly(SECOND);
    }
    assert_eq!(bench.available(), 1);
    assert!(bench.step(|state, moment| state.set_disabled(&name, false, moment)));
    assert_eq!(bench.available(), 2);
}

#[test]
fn a_lame_duck_that_no_check_asks_is_tried_again_and_may_say_so_again() {
    let mut bench = Bench::new(config::Service::default(), 2);
    for _ in 0..2 {
        // The worker's notice may be lost: the mark alone is enough.
        bench.endpoint(0).set_unavailable(policy::Unavailable::LameDuck, true);
        bench.quietly(11 * SECOND);
        assert_eq!(bench.available(), 1);
        assert_eq!(bench.service.view().fleet.candidates(), [1]);
        bench.quietly(member::LAME_DUCK_LAPSE);
        assert_eq!(bench.available(), 2);
        assert_eq!(bench.service.view().fleet.candidates(), [0, 1]);
    }
    let ducks = bench.told().iter().filter(|(_, what)| *what == What::LameDuck).count();
    assert_eq!(ducks, 2);
}

#[test]
fn a_late_notice_does_not_bring_a_lame_duck_back() {
    let mut bench = Bench::new(checked(), 2);
    let target = bench.target(0).id;
    bench.step(|state, moment| state.on_notice(Notice::LameDuck { target }, moment));
    assert_eq!(bench.available(), 2);
}

#[test]
fn a_streak_ejects_at_once_and_time_brings_back() {
    let mut bench = Bench::new(config::Service::default(), 3);
    let target = bench.target(1);
    for _ in 0..4 {
        assert!(!target.streak.on_end(Verdict::Failure));
    }
    assert!(target.streak.on_end(Verdict::Failure));
    bench.step(|state, moment| state.on_notice(Notice::Failing { target: target.id }, moment));
    assert_eq!(bench.service.view().fleet.candidates(), [0, 2]);
    let status = bench.state.status("cart", bench.moment.now);
    assert!(status.endpoints[1].reasons[0].why.starts_with("consecutive_failures, for "));
    bench.quietly(11 * SECOND);
    assert_eq!(bench.service.view().fleet.candidates(), [0, 1, 2]);
    assert_eq!(target.streak.failures(), 0);
    let name = target.endpoint.name().to_owned();
    let told = bench.told();
    assert!(told.ends_with(&[(Some(name.clone()), What::Ejected), (Some(name), What::Returned)]), "{told:?}");
}

#[test]
fn a_lost_notice_of_a_streak_is_made_up_for_at_the_next_interval() {
    let mut bench = Bench::new(config::Service::default(), 3);
    for _ in 0..5 {
        let _ = bench.target(1).streak.on_end(Verdict::Failure);
    }
    bench.quietly(11 * SECOND);
    assert!(!bench.endpoint(1).available());
}

#[test]
fn a_reload_replaces_what_it_changes_and_nothing_else() {
    let params = checked();
    let mut bench = Bench::new(params.clone(), 3);
    let before = bench.service.view();
    let change = |bench: &mut Bench, params: config::Service| {
        bench.step(|state, moment| state.on_params(Arc::new(params), moment));
        bench.service.view()
    };
    let kept = |before: &View, after: &View| {
        (
            Arc::ptr_eq(&before.breaker, &after.breaker),
            Arc::ptr_eq(&before.retry_budget, &after.retry_budget),
            Arc::ptr_eq(&before.bulkhead, &after.bulkhead),
            Arc::ptr_eq(&before.targets[0], &after.targets[0]),
        )
    };
    let mut next = params.clone();
    next.via = false;
    let after = change(&mut bench, next.clone());
    assert!(!after.params.via && after.version > before.version);
    assert_eq!(kept(&before, &after), (true, true, true, true));

    bench.state.force(None, Some(policy::breaker::Force::Open), bench.moment);
    next.breaker.calls_min = 99;
    let with_breaker = change(&mut bench, next.clone());
    assert_eq!(kept(&after, &with_breaker), (false, true, true, true));
    assert_eq!(with_breaker.breaker.forced(), policy::breaker::Force::Open, "the operator's word stands");

    next.bulkhead.active_max = 5;
    next.retry_budget.floor_per_sec = 9;
    let with_bounds = change(&mut bench, next.clone());
    assert_eq!(kept(&with_breaker, &with_bounds), (true, false, false, true));

    next.endpoint_breaker.calls_min = 99;
    let reguarded = change(&mut bench, next);
    assert_eq!(kept(&with_bounds, &reguarded), (true, true, true, false));
    assert_eq!(reguarded.targets[0].id, before.targets[0].id, "pooled connections stay its own");
    assert!(Arc::ptr_eq(&reguarded.targets[0].endpoint, &before.targets[0].endpoint));
}

#[test]
fn turning_ejection_or_checks_off_lets_everybody_in_again() {
    let mut bench = Bench::new(checked(), 4);
    bench.pass(60 * SECOND, |address| if address == names(4)[0] { failed(address) } else { Answer::Healthy });
    let target = bench.target(1).id;
    bench.step(|state, moment| state.on_notice(Notice::Failing { target }, moment));
    assert_eq!(bench.available(), 2);
    let ejection = EjectionParams { enabled: false, ..EjectionParams::default() };
    let params = config::Service { health: None, ejection, ..checked() };
    bench.step(|state, moment| state.on_params(Arc::new(params), moment));
    assert_eq!(bench.service.view().fleet.candidates().len(), 4);
    assert!(bench.pass(60 * SECOND, failed).is_empty());
    bench.step(|state, moment| state.on_notice(Notice::Failing { target }, moment));
    assert_eq!(bench.available(), 4);
}

#[test]
fn a_lame_duck_is_not_forgotten_when_checks_are_turned_off() {
    let mut bench = Bench::new(checked(), 2);
    bench.endpoint(0).set_unavailable(policy::Unavailable::LameDuck, true);
    bench.step(State::advance);
    bench.step(|state, moment| state.on_params(Arc::new(config::Service::default()), moment));
    assert_eq!(bench.available(), 1);
    bench.quietly(member::LAME_DUCK_LAPSE);
    assert_eq!(bench.available(), 2);
}

#[test]
fn a_subset_is_kept_in_order_and_hardly_changes() {
    let mut params = config::Service::default();
    (params.subset.size, params.subset.client) = (10, Some(3));
    let mut bench = Bench::new(params, 100);
    let chosen = |bench: &Bench| -> Vec<String> {
        bench.service.view().targets.iter().map(|target| target.endpoint.name().to_owned()).collect()
    };
    let before = chosen(&bench);
    assert_eq!(before.len(), 10);
    let order = |name: &String| names(101).iter().position(|other| other == name);
    assert!(before.is_sorted_by_key(order));
    bench.step(|state, moment| state.on_discovery(discovery(&names(101)), moment));
    bench.quietly(SECOND);
    let stayed = chosen(&bench).iter().filter(|name| before.contains(name)).count();
    assert!(stayed >= 8, "{stayed}");
    assert_eq!(bench.state.status("cart", bench.moment.now).discovery.known, 101);
}

#[test]
fn many_who_join_at_once_are_told_of_in_one_event() {
    let mut bench = Bench::new(config::Service::default(), 300);
    assert_eq!(bench.told(), [(None, What::Joined)]);
    bench.step(|state, moment| state.on_discovery(discovery(&names(301)), moment));
    assert_eq!(bench.told().len(), 2);
    assert!(bench.told()[1].0.is_some());
}

#[test]
fn events_are_bounded() {
    let mut bench = Bench::new(config::Service::default(), 1);
    let name = names(1).remove(0);
    for round in 0..1_000 {
        bench.step(|state, moment| state.set_disabled(&name, round % 2 == 0, moment));
    }
    assert_eq!(bench.told().len(), 256);
}

#[test]
fn dead_endpoints_beyond_the_bound_of_concurrent_checks_are_found_all_the_same() {
    let mut params = checked();
    if let Some(health) = &mut params.health {
        health.timing.interval = Span::from_secs(5);
    }
    let mut bench = Bench::new(params, 600);
    bench.moment.now = bench.moment.now.after(6 * SECOND);
    let first = bench.state.poll_checks(bench.moment.now);
    assert_eq!(first.len(), 256);
    assert!(bench.state.poll_checks(bench.moment.now).is_empty());
    assert!(bench.state.poll_timeout() > bench.moment.now, "it does not spin meanwhile");
    for due in first {
        bench.step(|state, moment| state.on_answer(due.target, &Answer::Healthy, moment));
    }
    assert_eq!(bench.state.poll_checks(bench.moment.now).len(), 256);
}

/// Something that happens to a service.
#[derive(Clone, Debug)]
enum Fact {
    Discovered(usize),
    NoAnswer,
    Streak(usize),
    LameDuck(usize),
    Disabled(usize, bool),
    Passes(u64, bool),
    Reloaded(bool),
}

fn fact() -> impl Strategy<Value = Fact> {
    prop_oneof![
        (1..12usize).prop_map(Fact::Discovered),
        Just(Fact::NoAnswer),
        (0..12usize).prop_map(Fact::Streak),
        (0..12usize).prop_map(Fact::LameDuck),
        (0..12usize, any::<bool>()).prop_map(|(index, disabled)| Fact::Disabled(index, disabled)),
        (0..20u64, any::<bool>()).prop_map(|(secs, well)| Fact::Passes(secs, well)),
        any::<bool>().prop_map(Fact::Reloaded),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens, in whatever order: the service keeps endpoints, its views are whole, ejection stays within its
    /// share, what is shown is what holds, and once everybody is well all are in again.
    #[test]
    fn views_are_whole_and_everything_heals(facts in prop::collection::vec(fact(), 0..40)) {
        let mut bench = Bench::new(checked(), 5);
        for fact in facts {
            let some = |bench: &Bench, index: usize| {
                let view = bench.service.view();
                Arc::clone(&view.targets[index % view.targets.len()])
            };
            match fact {
                Fact::Discovered(count) => {
                    bench.step(|state, moment| state.on_discovery(discovery(&names(count)), moment));
                }
                Fact::NoAnswer => bench.step(|state, moment| state.on_discovery(Discovery::default(), moment)),
                Fact::Streak(index) => {
                    let target = some(&bench, index).id;
                    bench.step(|state, moment| state.on_notice(Notice::Failing { target }, moment));
                }
                Fact::LameDuck(index) => {
                    some(&bench, index).endpoint.set_unavailable(policy::Unavailable::LameDuck, true);
                }
                Fact::Disabled(index, disabled) => {
                    let target = some(&bench, index);
                    bench.step(|state, moment| state.set_disabled(target.endpoint.name(), disabled, moment));
                }
                Fact::Passes(secs, well) => {
                    let answer = if well { Answer::Healthy } else { failed("") };
                    bench.pass(Duration::from_secs(secs), |_| answer.clone());
                }
                Fact::Reloaded(via) => {
                    let params = config::Service { via, ..checked() };
                    bench.step(|state, moment| state.on_params(Arc::new(params), moment));
                }
            }
            let view = bench.service.view();
            let count = view.targets.len();
            prop_assert!(count > 0);
            prop_assert_eq!(view.version, bench.service.version());
            prop_assert_eq!(view.fleet.endpoints().len(), count);
            for (target, endpoint) in view.targets.iter().zip(view.fleet.endpoints()) {
                prop_assert!(Arc::ptr_eq(&target.endpoint, endpoint));
            }
            let ids: std::collections::BTreeSet<u64> = view.targets.iter().map(|target| target.id).collect();
            prop_assert_eq!(ids.len(), count);
        }
        // The last changes are published, and what is shown is what holds.
        bench.pass(SECOND, |_| Answer::Healthy);
        let status = bench.state.status("cart", bench.moment.now);
        for (shown, target) in status.endpoints.iter().zip(&bench.service.view().targets) {
            let holds: Vec<_> = target.endpoint.reasons().map(reason_name).collect();
            let mut reasons: Vec<_> = shown.reasons.iter().map(|reason| reason.reason).collect();
            reasons.sort_by_key(|reason| holds.iter().position(|held| held == reason));
            prop_assert_eq!(reasons, holds);
        }
        // Faults end, operators relent: it must converge.
        for name in names(12) {
            bench.step(|state, moment| state.set_disabled(&name, false, moment));
        }
        bench.pass(Duration::from_secs(3_600), |_| Answer::Healthy);
        let view = bench.service.view();
        prop_assert_eq!(view.fleet.candidates().len(), view.targets.len());
    }
}

/// A service whose mode `less` has these keys.
fn with_mode(keys: serde_json::Value) -> config::Service {
    let modes = serde_json::json!({"modes": {"less": keys}});
    serde_json::from_value(modes).unwrap()
}

fn in_force(bench: &Bench) -> bool {
    bench.state.status("cart", bench.moment.now).modes[0].active
}

#[test]
fn a_mode_holds_while_a_fresh_report_speaks_for_it_and_fails_towards_doing_everything() {
    let mode = serde_json::json!({
        "utilization": {"enter": 0.9}, "enter_after": "2s", "leave_after": "5s", "measures": ["no_retries"],
    });
    let mut bench = Bench::new(with_mode(mode), 2);
    let report = |bench: &Bench, utilization: f64| {
        let report = policy::Report { cpu_utilization: Some(utilization), ..policy::Report::default() };
        bench.endpoint(1).on_report(bench.moment.now, &report);
    };
    report(&bench, 0.95);
    bench.quietly(SECOND);
    assert!(!in_force(&bench), "not for long enough");
    bench.quietly(SECOND * 2);
    assert!(in_force(&bench));
    // Between the two thresholds nothing changes.
    for _ in 0..10 {
        report(&bench, 0.8);
        bench.quietly(SECOND);
    }
    assert!(in_force(&bench));
    // It says nothing more: its last word is soon too old.
    bench.quietly(SECOND * 20);
    assert!(!in_force(&bench));
    let told: Vec<_> = bench.told().into_iter().map(|(_, what)| what).collect();
    assert!(told.ends_with(&[What::ModeEntered, What::ModeLeft]), "{told:?}");
}

#[test]
fn the_first_view_knows_a_forced_mode_and_reloads_keep_what_is_in_force() {
    let mode = |force: &str, every: &str| {
        with_mode(serde_json::json!({
            "force": force, "leave_after": every, "measures": ["no_retries"],
        }))
    };
    let mut bench = Bench::new(mode("on", "10s"), 1);
    let held = |bench: &Bench| {
        let view = bench.service.view();
        let modes = view.degradation.as_ref().expect("modes");
        modes.look(0, &mut policy::Rng::with_seed(1)).is_some()
    };
    assert!(held(&bench));
    let reload = |bench: &mut Bench, params: config::Service| {
        bench.step(|state, moment| state.on_params(Arc::new(params), moment));
    };
    // Left to itself again, it is left when the figures have let it for a while.
    reload(&mut bench, mode("auto", "10s"));
    assert!(held(&bench));
    bench.quietly(SECOND * 11);
    assert!(!held(&bench));
    reload(&mut bench, mode("on", "10s"));
    assert!(held(&bench));
    reload(&mut bench, mode("off", "10s"));
    assert!(!held(&bench));
    let status = bench.state.status("cart", bench.moment.now).modes.remove(0);
    assert_eq!((status.entered, status.requests, status.exercised), (2, 3, 0));
    reload(&mut bench, config::Service::default());
    assert!(bench.service.view().degradation.is_none());
}
