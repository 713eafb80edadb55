//! What the script does to the fleet, in words and in time.

use std::time::Duration;

use super::Event;
use crate::Scenario;
use crate::scenario::{Arrival, Endpoints, Fault, Point, Service, What};

/// The time from the first disturbance to the end of the last; all zero without any.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Disturbed {
    pub(super) from: Duration,
    pub(super) to: Duration,
}

/// One thing that the script does.
struct Scene {
    from: Duration,
    to: Duration,
    what: String,
}

/// The script, in the order of its beginnings.
pub(super) fn events(scenario: &Scenario) -> Vec<Event> {
    let event = |scene: Scene| Event {
        from_s: scene.from.as_secs_f64(),
        to_s: scene.to.as_secs_f64(),
        what: scene.what,
    };
    scenes(scenario).into_iter().map(event).collect()
}

/// When the script disturbs the fleet.
pub(super) fn disturbed(scenario: &Scenario) -> Disturbed {
    let scenes = scenes(scenario);
    let (from, to) = (scenes.iter().map(|scene| scene.from).min(), scenes.iter().map(|scene| scene.to).max());
    Disturbed { from: from.unwrap_or_default(), to: to.unwrap_or_default() }
}

fn scenes(scenario: &Scenario) -> Vec<Scene> {
    let end = scenario.duration.get();
    let mut scenes: Vec<Scene> = scenario.faults.iter().map(|fault| of_fault(scenario, fault)).collect();
    scenes.extend(
        scenario.traffic.iter().filter_map(|(name, traffic)| of_arrival(name, &traffic.arrival, end)),
    );
    for scene in &mut scenes {
        scene.from = scene.from.min(end);
        scene.to = scene.to.min(end);
    }
    // What lies behind the end never happens.
    scenes.retain(|scene| scene.from < end);
    scenes.sort_by_key(|scene| (scene.from, scene.to));
    scenes
}

fn of_fault(scenario: &Scenario, fault: &Fault) -> Scene {
    let service = scenario.services.get(&fault.service);
    let struck = service.map_or(1, |service| struck(&fault.endpoints, service));
    let from = fault.at.get();
    let restart = match &fault.what {
        What::BadVersion { restart, .. } => restart.get(),
        _ => Duration::ZERO,
    };
    let to = match fault.r#for {
        Some(span) => {
            let after_the_last = fault.stagger.get().saturating_mul(struck.saturating_sub(1));
            from.saturating_add(span.get()).saturating_add(after_the_last).saturating_add(restart)
        }
        None => Duration::MAX,
    };
    Scene { from, to, what: words(fault, service, struck) }
}

/// How many endpoints are struck.
fn struck(endpoints: &Endpoints, service: &Service) -> u32 {
    let all = service.endpoints;
    match endpoints {
        Endpoints::All => all,
        Endpoints::Count(count) => (*count).min(all),
        Endpoints::Share(share) => (share.get() * f64::from(all)).ceil() as u32,
        Endpoints::Zone(zone) => {
            let zones = service.zones.len().max(1);
            let dealt = |index: &u32| service.zones.get(*index as usize % zones) == Some(zone);
            (0..all).filter(dealt).count() as u32
        }
        Endpoints::Index(_) => 1,
    }
}

fn words(fault: &Fault, service: Option<&Service>, struck: u32) -> String {
    let all = service.map_or(1, |service| service.endpoints);
    let name = &fault.service;
    let (whom, many) = match &fault.endpoints {
        _ if all == 1 => (format!("{name}: it"), false),
        Endpoints::Zone(zone) => (format!("{name}: zone {zone} ({struck} of {all} endpoints)"), false),
        Endpoints::Index(index) => (format!("{name}: endpoint {index}"), false),
        _ if struck == all => (format!("{name}: all {all} endpoints"), true),
        _ => (format!("{name}: {struck} of {all} endpoints"), struck != 1),
    };
    let verb = |one: &str, several: &str| if many { several.to_owned() } else { one.to_owned() };
    let percent = |ratio: model::Ratio| format!("{} %", (ratio.get() * 1_000.0).round() / 10.0);
    let what = match &fault.what {
        What::Die => verb("dies", "die"),
        What::Slow(factor) => format!("{} {factor} × as slow", verb("is", "are")),
        What::Fail(share) => format!("{} {} of requests", verb("fails", "fail"), percent(*share)),
        What::BlackHole => {
            format!("{} requests and never {}", verb("accepts", "accept"), verb("answers", "answer"))
        }
        What::Pause => verb("stands still", "stand still"),
        What::Capacity(share) => {
            format!("{} left with {} of {} workers", verb("is", "are"), percent(*share), verb("its", "their"))
        }
        What::LameDuck => format!("{} for no new requests", verb("asks", "ask")),
        What::BadVersion { fail, slow, .. } => {
            format!("{} a bad version: {} fail, {slow} × as slow", verb("gets", "get"), percent(*fail))
        }
    };
    let only = fault.traffic.as_ref().map_or_else(String::new, |traffic| format!(" ({traffic} only)"));
    let rolling = if fault.stagger.is_zero() || struck < 2 { "" } else { ", one after the other" };
    format!("{whom} {what}{only}{rolling}")
}

/// The time in which a traffic asks for clearly more than usual, if there is one.
fn of_arrival(name: &str, arrival: &Arrival, end: Duration) -> Option<Scene> {
    let rate = |per_sec: f64| format!("{} /s", (per_sec * 10.0).round() / 10.0);
    match arrival {
        Arrival::Spike { base, peak, at, r#for } if peak > base => Some(Scene {
            from: at.get(),
            to: at.get().saturating_add(r#for.get()),
            what: format!("{name}: {} instead of {}", rate(*peak), rate(*base)),
        }),
        Arrival::Herd { count, at, within } => Some(Scene {
            from: at.get(),
            to: at.get().saturating_add(within.get()),
            what: format!("{name}: {count} requests within {within}"),
        }),
        Arrival::Steps(points) => hill(name, points, end, true),
        Arrival::Points(points) => hill(name, points, end, false),
        _ => None,
    }
}

/// The time in which a rate is more than half-way from its lowest to its highest value. Nothing when they hardly differ, or
/// when it does not come down again: that is growth.
fn hill(name: &str, points: &[Point], end: Duration, steps: bool) -> Option<Scene> {
    let rates = || points.iter().map(|point| point.per_sec);
    let (low, high) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
    let middle = f64::midpoint(low, high);
    if high <= 1.2 * low || points.last()?.per_sec > middle {
        return None;
    }
    let above = |point: &&Point| point.per_sec > middle;
    let first = points.iter().position(|point| above(&point))?;
    let last = points.iter().rposition(|point| above(&point))?;
    // Between two points the rate is a line, unless each holds until the next.
    let crossing = |from: &Point, to: &Point| {
        let (start, span) = (from.at.get(), to.at.get().saturating_sub(from.at.get()));
        let share = ((middle - from.per_sec) / (to.per_sec - from.per_sec)).clamp(0.0, 1.0);
        start + span.mul_f64(share)
    };
    let from = match first.checked_sub(1) {
        Some(before) if !steps => crossing(&points[before], &points[first]),
        None => Duration::ZERO,
        Some(_) => points[first].at.get(),
    };
    let to = match points.get(last + 1) {
        Some(next) if steps => next.at.get(),
        Some(next) => crossing(&points[last], next),
        None => end,
    };
    let rate = |per_sec: f64| (per_sec * 10.0).round() / 10.0;
    Some(Scene { from, to, what: format!("{name}: up to {} /s instead of {} /s", rate(high), rate(low)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use model::{Ratio, Span};

    fn fault(at: u64, span: Option<u64>, endpoints: Endpoints, what: What) -> Fault {
        Fault {
            at: Span::from_secs(at),
            r#for: span.map(Span::from_secs),
            service: "cart".to_owned(),
            endpoints,
            stagger: Span::from_millis(0),
            traffic: None,
            what,
        }
    }

    fn told(scenario: &Scenario) -> String {
        let line = |event: &Event| format!("{}–{} {}\n", event.from_s, event.to_s, event.what);
        events(scenario).iter().map(line).collect()
    }

    fn scenario(faults: Vec<Fault>) -> Scenario {
        let zones = ["a", "b", "c"].map(str::to_owned).to_vec();
        let service = Service { endpoints: 10, zones, ..Service::default() };
        Scenario { services: [("cart".to_owned(), service)].into(), faults, ..Scenario::default() }
    }

    #[test]
    fn every_fault_reads_as_a_sentence() {
        let mut rolling = fault(
            40,
            Some(5),
            Endpoints::Count(3),
            What::BadVersion { fail: Ratio::percent(20), slow: 2.0, restart: Span::from_secs(1) },
        );
        rolling.stagger = Span::from_secs(2);
        let mut one_route = fault(7, Some(1), Endpoints::Index(4), What::BlackHole);
        one_route.traffic = Some("checkout".to_owned());
        let scenario = scenario(vec![
            rolling,
            fault(10, Some(20), Endpoints::Zone("b".into()), What::Die),
            fault(5, None, Endpoints::All, What::Slow(10.0)),
            fault(6, Some(1), Endpoints::Share(Ratio::percent(25)), What::Fail(Ratio::percent(50))),
            one_route,
            fault(8, Some(1), Endpoints::Count(1), What::Pause),
            fault(9, Some(1), Endpoints::All, What::Capacity(Ratio::percent(50))),
            fault(11, Some(1), Endpoints::Count(2), What::LameDuck),
            fault(90, Some(1), Endpoints::All, What::Die),
        ]);
        expect![[r#"
            5–60 cart: all 10 endpoints are 10 × as slow
            6–7 cart: 3 of 10 endpoints fail 50 % of requests
            7–8 cart: endpoint 4 accepts requests and never answers (checkout only)
            8–9 cart: 1 of 10 endpoints stands still
            9–10 cart: all 10 endpoints are left with 50 % of their workers
            10–30 cart: zone b (3 of 10 endpoints) dies
            11–12 cart: 2 of 10 endpoints ask for no new requests
            40–50 cart: 3 of 10 endpoints get a bad version: 20 % fail, 2 × as slow, one after the other
        "#]]
        .assert_eq(&told(&scenario));
        assert_eq!(
            disturbed(&scenario),
            Disturbed { from: Duration::from_secs(5), to: Duration::from_secs(60) }
        );
    }

    #[test]
    fn only_more_than_usual_is_told_of_traffic() {
        let point = |(at, per_sec): (u64, f64)| Point { at: Span::from_secs(at), per_sec };
        let spike = Arrival::Spike {
            base: 100.0,
            peak: 1_200.0,
            at: Span::from_secs(20),
            r#for: Span::from_secs(10),
        };
        let arrivals = [
            ("a", spike),
            ("b", Arrival::Herd { count: 500, at: Span::from_secs(3), within: Span::from_millis(500) }),
            ("c", Arrival::Points([(0, 40.0), (25, 80.0), (50, 40.0)].map(point).to_vec())),
            ("d", Arrival::Steps([(0, 10.0), (10, 100.0), (30, 90.0), (50, 10.0)].map(point).to_vec())),
            ("growth", Arrival::Points([(0, 10.0), (60, 100.0)].map(point).to_vec())),
            ("steady", Arrival::Steps([(0, 100.0), (10, 110.0), (30, 100.0)].map(point).to_vec())),
            ("usual", Arrival::Constant { per_sec: 5.0 }),
        ];
        let traffic = arrivals.into_iter().map(|(name, arrival)| {
            (name.to_owned(), crate::scenario::Traffic { arrival, ..Default::default() })
        });
        let scenario = Scenario { traffic: traffic.collect(), ..Scenario::default() };
        expect![[r#"
            3–3.5 b: 500 requests within 500ms
            10–50 d: up to 100 /s instead of 10 /s
            12.5–37.5 c: up to 80 /s instead of 40 /s
            20–30 a: 1200 /s instead of 100 /s
        "#]]
        .assert_eq(&told(&scenario));
        assert_eq!(disturbed(&Scenario::default()), Disturbed::default());
    }
}
