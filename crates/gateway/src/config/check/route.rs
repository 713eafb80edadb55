use std::collections::BTreeSet;

use super::super::problem::Place;
use super::super::{Config, Measure, Route};
use super::{field_name, hash_key, policy};
use crate::router::Router;

pub(super) fn check(config: &Config, root: &mut Place<'_>) {
    let mut place = root.at("routes");
    if config.routes.is_empty() && config.takes_requests() {
        place.warn(
            "no route takes any request, so each is answered 404",
            "add a route, such as `- service: cart`",
        );
    }
    for (index, route) in config.routes.iter().enumerate() {
        check_one(config, route, &mut place.item(index));
    }
    // Unknown services have been reported, with a better remedy than the router knows.
    if let Err(problems) = Router::build(&config.routes, |_| Some(0)) {
        root.extend(problems);
    }
}

fn check_one(config: &Config, route: &Route, place: &mut Place<'_>) {
    if let Some(service) = &route.service {
        known(config, service, &mut place.at("service"));
    }
    for (index, target) in route.split.iter().enumerate() {
        known(config, &target.service, &mut place.at("split").item(index).at("service"));
    }
    if let Some(key) = &route.split_by {
        hash_key(&mut place.at("split_by"), key);
    }
    if route.timeout.is_some_and(model::Span::is_zero) {
        let mut place = place.at("timeout");
        place.error(
            "a request without time fails every time",
            "give it a length, or take it out for the service's",
        );
    }
    if route.long_poll && route.hedge.is_some() {
        let mut place = place.at("long_poll");
        place.error("an answer that waits for news is late by intention", "take `hedge` or `long_poll` out");
    }
    if let Some(retry) = &route.retry {
        policy(&mut place.at("retry"), retry.check());
        if let (Some(attempt), Some(request)) = (retry.attempt_timeout, route.timeout)
            && attempt > request
        {
            let message = format!("an attempt may take {attempt}, longer than the whole request ({request})");
            let remedy = "make it shorter than the route's `timeout`, so that another attempt has time";
            place.at("retry").at("attempt_timeout").error(message, remedy);
        }
    }
    if let Some(hedge) = &route.hedge {
        policy(&mut place.at("hedge"), hedge.check());
    }
    if let Some(limit) = &route.rate_limit {
        let mut place = place.at("rate_limit");
        policy(&mut place, limit.limit.check());
        hash_key(&mut place.at("by"), &limit.by);
        if let Some(name) = &limit.cost_header {
            field_name(&mut place.at("cost_header"), name);
        }
    }
}

pub(super) fn known(config: &Config, name: &str, place: &mut Place<'_>) {
    if config.services.contains_key(name) {
        return;
    }
    let names = || config.services.keys().map(String::as_str);
    let remedy = match (::config::nearest(name, names()), names().next()) {
        (Some(meant), _) => format!("did you mean `{meant}`?{}", listed(config)),
        (None, Some(_)) => format!("name one that exists.{}", listed(config)),
        (None, None) => "add it under `services`".to_owned(),
    };
    place.error(format!("no service is called `{name}`"), remedy);
}

/// As many names as a reader takes in.
fn listed(config: &Config) -> String {
    const SHOWN: usize = 10;
    let names: Vec<_> = config.services.keys().take(SHOWN).map(String::as_str).collect();
    let more = if config.services.len() > SHOWN { ", …" } else { "" };
    format!(" Services are: {}{more}", names.join(", "))
}

/// Warns of services that no route sends anything to.
pub(super) fn find_unused_services(config: &Config, place: &mut Place<'_>) {
    let in_split =
        |route: &Route| route.split.iter().map(|target| target.service.clone()).collect::<Vec<_>>();
    let routed = config.routes.iter().flat_map(|route| route.service.iter().cloned().chain(in_split(route)));
    let measures =
        config.services.values().flat_map(|service| service.modes.values()).flat_map(|mode| &mode.measures);
    let stand_ins = measures.filter_map(|measure| match measure {
        Measure::Service(name) => Some(name.clone()),
        _ => None,
    });
    let passed_on = config.listeners.iter().filter_map(|listener| listener.tcp.as_ref());
    let passed_on = passed_on.flat_map(|tcp| tcp.services().cloned());
    let used: BTreeSet<String> = routed.chain(stand_ins).chain(passed_on).collect();
    for name in config.services.keys().filter(|name| !used.contains(*name)) {
        place
            .at(name)
            .warn(format!("no route uses the service `{name}`"), "add a route, or take the service out");
    }
}
