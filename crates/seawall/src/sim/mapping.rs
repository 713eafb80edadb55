//! A gateway's configuration in the place of the policies that a scenario gives its services.
//!
//! The simulator knows the policies of a service under the names that `seawall.yaml` has for them, so they are carried over
//! by name, and whatever has no counterpart is told instead of being dropped in silence.

use std::collections::BTreeSet;
use std::path::Path;

use ::config::{Source, load_verbatim, nearest};
use ::sim::Scenario;
use ::sim::scenario::{ClassShare, RoutePolicies, ServicePolicies};
use gateway::config::{Action, Config, Route, Service};
use serde_json::Value;

use super::scenario::Played;
use crate::cli::Failure;
use crate::config;

/// Parts of a service of which the simulator knows some keys and not others.
const PARTLY_KNOWN: [&str; 2] = ["timeouts", "health"];

/// Keys of a service that say where its endpoints are.
const SOURCES: [&str; 3] = ["endpoints", "dns", "file"];

/// Takes endpoints, policies and routes of `file` over into what is to be played.
///
/// Services of the same name belong together. With `service`, or when only one service is configured, that one takes the
/// place of the service that the scenario's traffic asks for.
pub(super) fn put_in_place(played: &mut Played, file: &Path, service: Option<&str>) -> Result<(), Failure> {
    let loaded = config::check(file).map_err(|errors| Failure::Input(errors.to_string()))?;
    let gateway = loaded.config().gateway();
    let name = file
        .file_name()
        .map_or_else(|| file.display().to_string(), |name| name.to_string_lossy().into_owned());
    let refuse = |message: String| Failure::Input(format!("{}: {message}", file.display()));
    let pairs = pairs(&played.scenario, &gateway, service).map_err(refuse)?;

    let mut notes = vec![format!(
        "policies of {} are those of {name}",
        listed(pairs.iter().map(|(simulated, _)| simulated))
    )];
    for (simulated, configured) in &pairs {
        carry_over(&mut played.scenario, simulated, configured, &gateway, &mut notes);
    }
    let rest: Vec<_> = played
        .scenario
        .services
        .keys()
        .filter(|name| !pairs.iter().any(|(known, _)| known == *name))
        .collect();
    if !rest.is_empty() {
        notes.push(format!("{} stays as the scenario says: it is not in {name}", listed(rest.into_iter())));
    }
    if played.scenario.gateways == 0 {
        played.scenario.gateways = 1;
        notes.push("the scenario has no gateway: one was put before its services".to_owned());
    }
    let default = Config::default();
    for (key, differs) in [
        ("retry_budget of the process", gateway.retry_budget != default.retry_budget),
        ("limits of the process", gateway.limits != default.limits),
    ] {
        if differs {
            notes.push(format!("{key}: not simulated"));
        }
    }

    // What fits the scenario's own fleet need not fit this one: an endpoint that a fault names may not be there.
    let source =
        Source::new(&played.name, serde_json::to_string(&played.scenario).expect("a scenario is plain data"));
    if let Err(errors) = load_verbatim::<Scenario>(&source) {
        let errors: Vec<_> = errors
            .iter()
            .map(|error| format!("{}: {}; {}", error.path, error.message, error.remedy))
            .collect();
        return Err(refuse(format!(
            "the scenario {} does not fit this configuration: {}",
            played.name,
            errors.join("\n")
        )));
    }
    played.name = format!("{} with {name}", played.name);
    played.notes.extend(notes);
    Ok(())
}

/// Which service of the scenario is which of the configuration.
fn pairs(
    scenario: &Scenario,
    gateway: &Config,
    service: Option<&str>,
) -> Result<Vec<(String, String)>, String> {
    let configured = || gateway.services.keys().map(String::as_str);
    if let Some(service) = service
        && !gateway.services.contains_key(service)
    {
        let remedy = match nearest(service, configured()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("services are: {}", configured().collect::<Vec<_>>().join(", ")),
        };
        return Err(format!("--service: no service is called `{service}`; {remedy}"));
    }
    let same: Vec<_> = scenario
        .services
        .keys()
        .filter(|name| gateway.services.contains_key(*name) && service.is_none_or(|service| service == *name))
        .map(|name| (name.clone(), name.clone()))
        .collect();
    if !same.is_empty() {
        return Ok(same);
    }
    let service = match (service, gateway.services.len()) {
        (Some(service), _) => service,
        (None, 1) => gateway.services.keys().next().map(String::as_str).unwrap_or_default(),
        (None, _) => {
            return Err(format!(
                "none of its services ({}) is in the scenario ({}); say with --service which of them is meant",
                listed(gateway.services.keys()),
                listed(scenario.services.keys()),
            ));
        }
    };
    let asked: BTreeSet<_> = scenario.traffic.values().map(|traffic| &traffic.service).collect();
    match asked.len() {
        1 => Ok(asked.into_iter().map(|name| (name.clone(), service.to_owned())).collect()),
        _ => Err(format!(
            "the scenario's traffic asks for several services ({}), so `{service}` can take the place of none; give them the \
             names that they have in the configuration",
            listed(asked.into_iter()),
        )),
    }
}

fn carry_over(
    scenario: &mut Scenario,
    simulated: &str,
    configured: &str,
    gateway: &Config,
    notes: &mut Vec<String>,
) {
    let Some(service) = gateway.services.get(configured) else { return };
    if let Some(target) = scenario.services.get_mut(simulated) {
        match u32::try_from(service.endpoints.len()) {
            Ok(endpoints @ 1..) => target.endpoints = endpoints,
            _ => notes.push(format!(
                "{configured}: its endpoints are found while running; the scenario's number of {} is used",
                target.endpoints
            )),
        }
        if service.endpoints.windows(2).any(|pair| pair[0].weight != pair[1].weight) {
            notes.push(format!(
                "{configured}: its endpoints have different weights; they are simulated with equal ones"
            ));
        }
        target.policies =
            policies(service, &mut |key| notes.push(format!("{configured}: {key} is not simulated")));
    }
    for (name, traffic) in scenario.traffic.iter_mut().filter(|(_, traffic)| traffic.service == simulated) {
        let Some((route, others)) = route(name, configured, &gateway.routes) else {
            traffic.route = RoutePolicies::default();
            continue;
        };
        if others > 0 {
            let route = route.name.as_deref().unwrap_or("the first one");
            notes.push(format!(
                "traffic {name}: {} routes lead to {configured}, and none has its name; {route} is used",
                others + 1
            ));
        }
        traffic.route = RoutePolicies {
            timeout: route.timeout,
            retry: route.retry.clone(),
            hedge: route.hedge.clone(),
            rate_limit: route.rate_limit.as_ref().map(|limit| limit.limit.clone()),
        };
        match (route.criticality, traffic.classes.as_mut_slice()) {
            (Some(class), [only]) => *only = ClassShare { class, share: only.share },
            (Some(class), _) => {
                notes.push(format!("traffic {name}: keeps its mix of classes instead of the route's {class}"))
            }
            (None, _) => {}
        }
    }
}

/// The route that a traffic takes to a service: the one of its name, or else the first; and how many others there are then.
fn route<'a>(traffic: &str, service: &str, routes: &'a [Route]) -> Option<(&'a Route, usize)> {
    let leads_there = |route: &&Route| match route.action() {
        Some(Action::Service(name)) => name == service,
        Some(Action::Split(targets)) => targets.iter().any(|target| target.service == service),
        _ => false,
    };
    let named = routes.iter().filter(leads_there).find(|route| route.name.as_deref() == Some(traffic));
    let mut all = routes.iter().filter(leads_there);
    named.map(|route| (route, 0)).or_else(|| all.next().map(|route| (route, all.count())))
}

/// A service's policies for the simulator. `lost` is told each key that was given a value and has no counterpart.
fn policies(service: &Service, lost: &mut dyn FnMut(&str)) -> ServicePolicies {
    let default = Service { health: Some(gateway::config::Health::default()), ..Service::default() };
    let [theirs, default] = [service, &default].map(plain);
    let mut known = plain(&ServicePolicies::default());
    let mut inner = plain(&ServicePolicies { health: Some(Default::default()), ..Default::default() });
    let (Value::Object(theirs), Value::Object(known)) = (theirs, &mut known) else {
        return ServicePolicies::default();
    };
    // What the file cannot say the gateway does not do.
    for (_, policy) in known.iter_mut().filter(|(key, _)| !theirs.contains_key(*key)) {
        if let Some(enabled) = policy.get_mut("enabled") {
            *enabled = Value::Bool(false);
        }
    }
    for (key, value) in theirs {
        if SOURCES.contains(&key.as_str()) {
            continue;
        }
        if !known.contains_key(&key) {
            if value != default[&key] {
                lost(&key);
            }
            continue;
        }
        let value = match value {
            Value::Object(parts) if PARTLY_KNOWN.contains(&key.as_str()) => {
                let mut target = inner[&key].take();
                for (part, value) in parts {
                    match target.get_mut(&part) {
                        Some(place) => *place = value,
                        None if value != default[&key][&part] => lost(&format!("{key}.{part}")),
                        None => {}
                    }
                }
                target
            }
            value => value,
        };
        known.insert(key, value);
    }
    serde_json::from_value(Value::Object(std::mem::take(known)))
        .expect("the same names mean the same in both")
}

fn plain(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("a configuration is plain data")
}

fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Service {
        let text = format!("services: {{cart: {{endpoints: ['10.0.0.1:80'], {text}}}}}");
        let loaded = config::read("test.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
        loaded.config().services["cart"].clone()
    }

    #[test]
    fn every_policy_of_a_service_is_carried_over_or_told() {
        // What only the simulator knows, what stands at the route in `seawall.yaml`, and what the gateway does not do.
        let [theirs, ours] = [plain(&Service::default()), plain(&ServicePolicies::default())];
        let ours = ours.as_object().unwrap().keys();
        let only_ours: Vec<_> = ours.filter(|key| theirs.get(key.as_str()).is_none()).collect();
        assert_eq!(only_ours, ["enabled", "endpoint_breaker_per_route", "hedge"]);
        let mut lost = Vec::new();
        let service = service(
            "balance: round_robin, panic_below: 0.2, health: {path: /up, interval: 7s}, via: false, \
             retry: {attempts_max: 5}, retry_budget: {ratio: 0.3}, bulkhead: {active_max: 40}, breaker: {enabled: false}, \
             timeouts: {attempt: 3s, connect: 2s}, sticky: {cookie: c}, admission: {limit: {max: 7777}}, \
             throttle: {multiplier: 1.7}, retry_advice: {retry_share: 0.4}",
        );
        let policies = policies(&service, &mut |key| lost.push(key.to_owned()));
        assert_eq!(policies.balance, service.balance);
        assert_eq!(policies.panic_below, service.panic_below);
        assert_eq!(policies.retry, service.retry);
        assert_eq!(policies.retry_budget.as_ref(), Some(&service.retry_budget));
        assert_eq!(policies.bulkhead, service.bulkhead);
        assert_eq!(policies.breaker, service.breaker);
        assert_eq!(policies.admission, service.admission);
        assert_eq!(policies.throttle, service.throttle);
        assert_eq!(policies.retry_advice, service.retry_advice);
        assert!(policies.enabled && policies.admission.enabled && policies.throttle.enabled);
        assert_eq!(policies.timeouts.attempt, service.timeouts.attempt);
        assert_eq!(policies.health.unwrap().interval.to_string(), "7s");
        lost.sort_unstable();
        assert_eq!(lost, ["health.path", "sticky", "timeouts.connect", "via"]);
    }

    #[test]
    fn defaults_lose_nothing() {
        let policies = policies(&service(""), &mut |key| panic!("{key}"));
        assert_eq!(policies.panic_below, Service::default().panic_below);
        assert_eq!(policies.health, None);
    }
}
