use super::super::problem::Place;
use super::super::{Config, Quota, QuotaCost};
use super::{field_name, hash_key, plain_name, policy};
use crate::quota::address;

pub(super) fn check(config: &Config, root: &mut Place<'_>) {
    for (name, quota) in &config.quotas {
        let mut place = root.at("quotas");
        let mut place = place.at(name);
        plain_name(&mut place, name);
        check_one(quota, &mut place);
        if !config.routes.iter().any(|route| route.quota.as_ref() == Some(name)) {
            let remedy = "name it in a route's `quota`, or take it out";
            place.warn(format!("no route uses the quota `{name}`"), remedy);
        }
    }
    for (index, route) in config.routes.iter().enumerate() {
        let Some(name) = &route.quota else { continue };
        let mut place = root.at("routes");
        let mut place = place.item(index);
        let mut place = place.at("quota");
        if !config.quotas.contains_key(name) {
            let remedy = match ::config::nearest(name, config.quotas.keys().map(String::as_str)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "add it under `quotas`".to_owned(),
            };
            place.error(format!("no quota is called `{name}`"), remedy);
        }
        if route.service.is_none() && route.split.is_empty() {
            place.warn("a route without a service spends no quota", "take it out");
        }
    }
}

fn check_one(quota: &Quota, place: &mut Place<'_>) {
    policy(place, quota.params().check());
    hash_key(&mut place.at("by"), &quota.by);
    if let QuotaCost::Header(name) = &quota.cost {
        field_name(&mut place.at("cost").at("header"), name);
    }
    if let Some(Err(error)) = quota.shared.as_deref().map(address) {
        let message = format!("this is no address of a Redis ({error})");
        place.at("shared").error(message, "write one such as redis://10.0.0.5:6379");
    }
}
