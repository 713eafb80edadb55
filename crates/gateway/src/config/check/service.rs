use std::collections::HashSet;
use std::net::Ipv6Addr;

use model::Span;
use policy::balance::{Balance, HashKey};

use super::super::problem::Place;
use super::super::{Config, Dns, HealthCheck, Service, UpstreamHttp2, UpstreamTimeouts};
use super::{cookie_name, hash_key, listener, not_zero, plain_name, policy};
use crate::router::pattern::is_host_name;

pub(super) fn check(name: &str, service: &Service, place: &mut Place<'_>) {
    plain_name(place, name);
    check_source(service, place);
    check_balance(service, place);
    let UpstreamHttp2 { streams_max, stream_window, connection_window, .. } = service.http2;
    listener::http2(&mut place.at("http2"), streams_max, stream_window, connection_window);
    if let Some(tls) = &service.tls {
        super::tls::service(tls, &mut place.at("tls"));
    }
    if service.active_per_endpoint == 0 {
        let mut place = place.at("active_per_endpoint");
        place.error("with 0 requests no endpoint is ever asked", "allow some, such as 10000");
    }
    if service.tunnels_max == 0 {
        let mut place = place.at("tunnels_max");
        place.error("with 0 every upgrade is refused", "allow some, such as 10000");
    }
    if let Some(health) = &service.health {
        let mut place = place.at("health");
        policy(&mut place, health.timing.check());
        if let HealthCheck::Http(path) = &health.check {
            request_path(&mut place.at("path"), path);
        }
    }
    policy(&mut place.at("ejection"), service.ejection.check());
    policy(&mut place.at("breaker"), service.breaker.check());
    policy(&mut place.at("endpoint_breaker"), service.endpoint_breaker.check());
    policy(&mut place.at("bulkhead"), service.bulkhead.check());
    policy(&mut place.at("admission"), service.admission.check());
    policy(&mut place.at("throttle"), service.throttle.check());
    policy(&mut place.at("retry_advice"), service.retry_advice.check());
    policy(&mut place.at("retry"), service.retry.check());
    check_timeouts(service, place);
    listener::head(&mut place.at("response_head_max"), service.response_head_max);
}

/// Reports what does not go together with how the service is used.
pub(super) fn check_use(config: &Config, name: &str, service: &Service, place: &mut Place<'_>) {
    let routed = config.routes.iter().any(|route| {
        route.service.as_deref() == Some(name) || route.split.iter().any(|part| part.service == name)
    });
    if service.proxy_protocol.is_some() {
        if routed {
            let remedy = "give TCP listeners a service of their own; endpoints learn a request's client from `x-forwarded-for`";
            let message = "requests of many clients share a connection, which can say only one";
            place.at("proxy_protocol").error(message, remedy);
        }
        if service.health.as_ref().is_some_and(|health| health.check != HealthCheck::Tcp) {
            let remedy = "take `path` out, so that it is checked whether endpoints accept connections";
            place.at("health").at("path").error("checks over HTTP do not begin with a PROXY header", remedy);
        }
    }
    let passed_on = |tcp: &super::super::Tcp| tcp.services().any(|service| service == name);
    if !config.listeners.iter().filter_map(|listener| listener.tcp.as_ref()).any(passed_on) {
        return;
    }
    let message = match &service.balance {
        Balance::Prequal(_) => "`prequal` needs answers that tell an endpoint's load".to_owned(),
        Balance::WeightedByLoad(_) => {
            "`weighted_by_load` needs answers that tell an endpoint's load".to_owned()
        }
        Balance::RingHash(ring) if ring.key != HashKey::ClientAddress => {
            "a connection has no such key".to_owned()
        }
        Balance::Maglev(maglev) if maglev.key != HashKey::ClientAddress => {
            "a connection has no such key".to_owned()
        }
        _ if service.sticky.is_some() => {
            let remedy = "take it out, or balance by `ring_hash` or `maglev` with the key `client_address`";
            place.at("sticky").error("a TCP listener's connections have no cookies", remedy);
            return;
        }
        _ => return,
    };
    let remedy = "for a TCP listener's connections write `least_loaded`, or hash by `client_address`";
    place.at("balance").error(message, remedy);
}

fn check_source(service: &Service, place: &mut Place<'_>) {
    let sources = [
        ("endpoints", !service.endpoints.is_empty()),
        ("dns", service.dns.is_some()),
        ("file", service.file.is_some()),
        ("registry", service.registry.is_some()),
    ];
    let given: Vec<_> = sources.into_iter().filter_map(|(key, given)| given.then_some(key)).collect();
    match &*given {
        [_] => {}
        [] => place.error(
            "the service does not say where its endpoints are",
            "give exactly one of `endpoints`, `dns`, `file` and `registry`",
        ),
        several => place.error(
            format!("the service finds its endpoints in more than one way: `{}`", several.join("`, `")),
            "keep one of them",
        ),
    }
    let mut seen = HashSet::new();
    for (index, endpoint) in service.endpoints.iter().enumerate() {
        let mut place = place.at("endpoints");
        let mut place = place.item(index);
        let address = &endpoint.address;
        match host_and_port(address) {
            Ok(parsed) if seen.insert(parsed.clone()) => {}
            Ok(_) => {
                place.error(format!("the endpoint {address} stands here twice"), "use its weight instead")
            }
            Err(remedy) => place.error(format!("`{address}` is no endpoint"), remedy),
        }
    }
    if !service.endpoints.is_empty() && service.endpoints.iter().all(|endpoint| endpoint.weight == 0) {
        place
            .at("endpoints")
            .error("all weights are 0, so nobody gets a request", "give at least one endpoint a weight");
    }
    if let Some(name) = &service.registry {
        registered_name(&mut place.at("registry"), name);
    }
    if let Some(zone) = &service.zone {
        let mut place = place.at("zone");
        if zone.is_empty() || zone.chars().any(|c| c.is_whitespace() || c.is_control()) {
            place.error(
                format!("{zone:?} is no zone"),
                "write a word, such as eu-1a, as endpoints register it",
            );
        } else if service.registry.is_none() {
            place.error(
                "only registered endpoints say in which zone they stand",
                "use `registry`, or take `zone` out",
            );
        }
    }
    if let Some(dns) = &service.dns {
        check_dns(dns, &mut place.at("dns"));
    }
    if let Some(file) = &service.file {
        let mut place = place.at("file");
        if file.path.as_os_str().is_empty() {
            place.at("path").error("the file has no name", "name a file in Prometheus' file_sd format");
        }
        not_zero(&mut place, [("refresh", file.refresh)]);
    }
}

/// As the registry has it: a DNS label.
fn registered_name(place: &mut Place<'_>, name: &str) {
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !fits {
        place.error(
            format!("`{name}` cannot be the name of a registered service"),
            "write 1 to 63 of a-z, 0-9 and -, such as cart",
        );
    }
}

fn check_dns(dns: &Dns, place: &mut Place<'_>) {
    match (&dns.name, &dns.srv) {
        (Some(name), None) => {
            dns_name(&mut place.at("name"), name);
            if dns.port.is_none_or(|port| port == 0) {
                place.error(
                    "addresses from DNS need a port",
                    "add `port`, or use `srv`, whose records hold it",
                );
            }
        }
        (None, Some(srv)) => {
            dns_name(&mut place.at("srv"), srv);
            if dns.port.is_some() {
                place.at("port").error("SRV records hold the port", "take `port` out");
            }
        }
        (None, None) => place.error("no name is looked up", "give exactly one of `name` and `srv`"),
        (Some(_), Some(_)) => place.error("two names are looked up", "keep one of `name` and `srv`"),
    }
    let given = [("refresh_min", dns.refresh_min), ("refresh_max", dns.refresh_max)];
    for (key, span) in given {
        if span.is_some_and(Span::is_zero) {
            place.at(key).error("name servers would be asked all the time", "give it a length, such as 1s");
        }
    }
    if let (Some(min), Some(max)) = (dns.refresh_min, dns.refresh_max)
        && min > max
    {
        let message = format!("`refresh_min` ({min}) is longer than `refresh_max` ({max})");
        place.at("refresh_min").error(message, "make it shorter");
    }
}

fn dns_name(place: &mut Place<'_>, name: &str) {
    if !is_host_name(name.strip_suffix('.').unwrap_or(name)) {
        let remedy =
            "write a name without scheme and port, such as cart.internal or _http._tcp.cart.internal";
        place.error(format!("`{name}` is no name to look up"), remedy);
    }
}

/// An endpoint's host in lower case and its port, or how to write it.
fn host_and_port(text: &str) -> Result<(String, u16), &'static str> {
    const WANTED: &str = "write host:port, such as 10.0.0.1:8080, cart.internal:8080 or [::1]:8080";
    if text.contains("://") {
        return Err("write host:port without a scheme, such as cart.internal:8080");
    }
    let (host, port) = text.rsplit_once(':').ok_or(WANTED)?;
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = match address {
        Some(address) => address.parse::<Ipv6Addr>().map_err(|_| WANTED)?.to_string(),
        None if is_host_name(host) => host.to_ascii_lowercase(),
        None => return Err(WANTED),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok((host, port)),
        _ => Err("write a port from 1 to 65535 after the host"),
    }
}

fn check_balance(service: &Service, place: &mut Place<'_>) {
    let hashed = match &service.balance {
        Balance::RingHash(ring) => Some(("ring_hash", &ring.key)),
        Balance::Maglev(maglev) => Some(("maglev", &maglev.key)),
        _ => None,
    };
    if let Some((kind, key)) = hashed {
        hash_key(&mut place.at("balance").at(kind).at("key"), key);
    }
    if let Balance::Prequal(prequal) = &service.balance
        && let Some(path) = &prequal.probe_path
    {
        request_path(&mut place.at("balance").at("prequal").at("probe_path"), path);
    }
    if let Some(sticky) = &service.sticky {
        let mut place = place.at("sticky");
        cookie_name(&mut place.at("cookie"), &sticky.cookie);
        if sticky.max_age.is_some_and(Span::is_zero) {
            let mut place = place.at("max_age");
            place.error("a cookie of age 0 is dropped at once", "give it a length, or take it out");
        }
        if let Some((kind, _)) = hashed {
            let message = format!("`sticky` and `{kind}` both say which endpoint a client gets");
            place.error(message, "take `sticky` out, or balance by load, such as `least_loaded`");
        }
    }
}

fn request_path(place: &mut Place<'_>, path: &str) {
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        place.error(format!("{path:?} is no path to ask for"), "write a path such as /healthz");
    }
}

fn check_timeouts(service: &Service, place: &mut Place<'_>) {
    let timeouts = &service.timeouts;
    let UpstreamTimeouts { connect, attempt, request, body, idle, tunnel, deadline_margin } = *timeouts;
    // A default does not contradict what was written: the shorter of the two simply holds.
    let default = UpstreamTimeouts::default();
    {
        let mut place = place.at("timeouts");
        not_zero(&mut place, [("connect", connect), ("attempt", attempt), ("request", request)]);
        not_zero(&mut place, [("body", body), ("idle", idle), ("tunnel", tunnel)]);
        if attempt > request && attempt != default.attempt {
            let message = format!("an attempt may take {attempt}, longer than the whole request ({request})");
            let remedy = "make `attempt` shorter than `request`, so that another attempt has time";
            place.at("attempt").error(message, remedy);
        }
        if connect > attempt && connect != default.connect {
            let message = format!("connecting may take {connect}, longer than the whole attempt ({attempt})");
            place.at("connect").error(message, "make `connect` shorter than `attempt`");
        }
        if deadline_margin >= request && deadline_margin != default.deadline_margin {
            let message = format!("a margin of {deadline_margin} leaves nothing of the request's {request}");
            place.at("deadline_margin").error(message, "make it a small part of `request`, such as 2ms");
        }
    }
    if let Some(attempt) = service.retry.attempt_timeout
        && attempt > request
    {
        let message = format!("an attempt may take {attempt}, longer than the whole request ({request})");
        let remedy = "make it shorter than `timeouts.request`, so that another attempt has time";
        place.at("retry").at("attempt_timeout").error(message, remedy);
    }
}
