//! `seawall explain`: which route and policies a request would get, and why. Offline.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use gateway::config::{Action, Config, Fuse, Measure, Mode, ProxyProtocol, Route, Service, SplitTarget};
use gateway::router::{Query, Router, path};
use model::Criticality;
use policy::degrade::{Exercise, Force};

use crate::cli::{Failure, say};
use crate::config;

/// What `seawall explain` is told.
#[derive(Debug, Args)]
pub struct Explain {
    /// The configuration file.
    file: PathBuf,
    /// The request's method.
    method: String,
    /// The request's URL, such as `http://shop.example/cart?x=1`; for a connection to a TCP listener `tcp://shop.example:443`,
    /// with the server's name and the listener's port, and any method.
    url: String,
    /// A header field of the request. May be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A name that the client proves with its certificate, such as spiffe://shop.example/ann; may be repeated.
    #[arg(long, value_name = "NAME")]
    identity: Vec<String>,
}

/// As much of a request as routing looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The authority that is asked.
    pub host: String,
    /// The path, without the query.
    pub path: String,
    /// The query, without its `?`.
    pub query: Option<String>,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Names that the client proves with its certificate.
    pub identity: Vec<Box<str>>,
}

impl Request {
    /// A request as the command line gives it. A `host` field has the last word on the host.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(method: &str, url: &str, headers: &[String]) -> Result<Self, String> {
        let token = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        };
        if !token(method) {
            return Err(format!("`{method}` is no method; expected one such as GET"));
        }
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let rest =
            rest.ok_or_else(|| format!("`{url}` is no URL; expected one such as http://shop.example/cart"))?;
        let rest = rest.split('#').next().unwrap_or_default();
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(split);
        if authority.is_empty() || authority.contains('@') {
            return Err(format!("`{url}` names no host; expected one such as http://shop.example/cart"));
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let fields = headers.iter().map(|field| match field.split_once(':') {
            Some((name, value)) if token(name.trim()) => {
                Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            }
            _ => Err(format!("`{field}` is no header field; expected `name: value`")),
        });
        let headers = fields.collect::<Result<Vec<_>, _>>()?;
        let host = headers.iter().find(|(name, _)| name == "host").map(|(_, host)| host.clone());
        Ok(Self {
            method: method.to_owned(),
            host: host.unwrap_or_else(|| authority.to_owned()),
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            query,
            headers,
            identity: Vec::new(),
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Prints which route takes the request, and why.
///
/// # Errors
/// When the file or the request makes no sense.
pub fn run(args: &Explain) -> Result<(), Failure> {
    let loaded = config::check(&args.file).map_err(|errors| Failure::Input(errors.to_string()))?;
    if let Some(authority) = args.url.strip_prefix("tcp://") {
        return connection(&loaded.config().gateway(), authority)
            .map_err(Failure::Input)
            .and_then(|text| say(&text));
    }
    let mut request = Request::parse(&args.method, &args.url, &args.headers).map_err(Failure::Input)?;
    request.identity = args.identity.iter().map(|name| name.as_str().into()).collect();
    say(explain(&loaded.config().gateway(), &request).map_err(Failure::Input)?.trim_end())
}

/// What the request would get, and why, for people.
///
/// # Errors
/// When the gateway would refuse the request's path, or the routes are wrong.
pub fn explain(config: &Config, request: &Request) -> Result<String, String> {
    let index = |name: &str| config.services.keys().position(|service| service == name);
    let router = Router::build(&config.routes, index)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let mut scratch = String::new();
    let path = path::normalise(&request.path, &mut scratch)
        .map_err(|bad| format!("the path `{}` would be refused with 400: {bad}", request.path))?;
    let header = |name: &str| request.header(name).map(str::as_bytes);
    let explanation = router.explain(&Query {
        host: &request.host,
        method: &request.method,
        path,
        query: request.query.as_deref(),
        header: &header,
        identity: &request.identity,
    });
    let mut text = explanation.to_string();
    if let Some(winner) = &explanation.route {
        describe(&mut text, config, &config.routes[winner.index], request);
    }
    Ok(text)
}

/// Which service gets a connection to the port of `authority` whose client asks for its host, if it asks in TLS.
///
/// # Errors
/// When no TCP listener has that port.
pub fn connection(config: &Config, authority: &str) -> Result<String, String> {
    let wanted = || format!("`tcp://{authority}` is no address; expected one such as tcp://shop.example:443");
    let (name, port) = authority.rsplit_once(':').ok_or_else(wanted)?;
    let port: u16 = port.parse().map_err(|_| wanted())?;
    let mut text = String::new();
    for listener in config.listeners.iter().filter(|listener| listener.address.port() == port) {
        let Some(tcp) = &listener.tcp else { continue };
        let mut line = |what: &str, says: String| {
            let _ = writeln!(text, "{what:12} {says}");
        };
        line("listener", listener.name.clone().unwrap_or_else(|| listener.address.to_string()));
        match listener.proxy_protocol {
            ProxyProtocol::Off => {}
            ProxyProtocol::Optional => {
                line("  proxy", "a trusted peer may say whose connection it is".to_owned())
            }
            ProxyProtocol::Required => {
                line("  proxy", "only trusted peers, which must say whose connection it is".to_owned());
            }
        }
        let name = name.to_ascii_lowercase();
        let Some((name, service)) =
            tcp.find(Some(&name)).and_then(|name| config.services.get_key_value(name))
        else {
            line("refused", format!("no server is called {name} here, and there is no `default`"));
            continue;
        };
        line("service", format!("{name}: {}, balanced by {}", source(service), word(&service.balance)));
        let (attempts, connect) = (service.retry.attempts_max, service.timeouts.connect);
        line(
            "  attempts",
            format!("up to {attempts} when an endpoint does not accept, each up to {connect}"),
        );
        line("  idle", format!("closed after {} without a byte", service.timeouts.tunnel));
        let bulkhead = &service.bulkhead;
        line("  bulkhead", format!("{} open, {} waiting", bulkhead.active_max, bulkhead.waiting_max));
        if let Some(version) = &service.proxy_protocol {
            line("  proxy", format!("endpoints are told whose connection it is ({})", word(version)));
        }
    }
    match text.is_empty() {
        true => Err(format!("no TCP listener has port {port}")),
        false => Ok(text),
    }
}

/// How a service's endpoints are talked to.
fn secured(tls: &gateway::config::ServiceTls) -> String {
    if !tls.verify {
        return "endpoints are believed whoever they are".to_owned();
    }
    let by = tls.ca.file().map_or_else(
        || "the authorities that the system trusts".to_owned(),
        |file| file.display().to_string(),
    );
    let name = tls.server_name.as_deref().unwrap_or("the host that each is called by");
    format!("endpoints must prove to be {name}, by {by}")
}

/// Methods that may be repeated without a second effect (RFC 9110, 9.2.2).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

fn describe(text: &mut String, config: &Config, route: &Route, request: &Request) {
    let mut line = |what: &str, says: String| {
        let _ = writeln!(text, "{what:12} {says}");
    };
    let services: Vec<&str> = match route.action() {
        Some(Action::Service(name)) => vec![name],
        Some(Action::Split(targets)) => {
            line("split", shares(targets));
            targets.iter().map(|target| target.service.as_str()).collect()
        }
        Some(Action::Redirect(redirect)) => {
            line("redirect", format!("{} to {}", redirect.status, redirect.to));
            return;
        }
        Some(Action::Answer(answer)) => {
            line("answer", format!("{} with {} bytes", answer.status, answer.body.len()));
            return;
        }
        None => return,
    };
    match route.criticality {
        Some(class) => {
            line("criticality", format!("{class}, from the route; a trusted caller may name another"))
        }
        None => line(
            "criticality",
            format!("{}, the default; a trusted caller may name another", Criticality::default()),
        ),
    }
    for listener in &config.listeners {
        if let Some(Fuse { connections, waiting_max, wait_max }) = listener.fuse_in_force() {
            let at = listener.name.clone().unwrap_or_else(|| listener.address.to_string());
            let class = Criticality::SheddablePlus;
            line(
                "batch",
                format!(
                    "through {at}: at most {class}; {connections} under way over all services, {waiting_max} waiting up to {wait_max}; no hedge"
                ),
            );
        }
    }
    if let Some(limit) = &route.rate_limit {
        let (rate, burst) = (limit.limit.per_sec, limit.limit.burst);
        line("rate limit", format!("{rate} a second, {burst} at once, per {}", key(&limit.by)));
    }
    if let Some((name, quota)) = route.quota.as_ref().and_then(|name| config.quotas.get_key_value(name)) {
        let shared = if quota.shared.is_some() { ", shared by all gateways" } else { "" };
        line("quota", format!("{name}: {} in {}, per {}{shared}", quota.limit, quota.per, key(&quota.by)));
    }
    for name in services {
        if let Some(service) = config.services.get(name) {
            line("service", format!("{name}: {}, balanced by {}", source(service), word(&service.balance)));
            if let Some(tls) = &service.tls {
                line("  tls", secured(tls));
            }
            let (timeout, from) = match route.timeout {
                Some(timeout) => (timeout, "the route's timeout"),
                None => (service.timeouts.request, "the service's timeouts.request"),
            };
            line(
                "  deadline",
                format!(
                    "{timeout}, from {from}; a trusted caller's {} may shorten it",
                    "seawall-deadline-ms"
                ),
            );
            let (retry, from) = match &route.retry {
                Some(retry) => (retry, "route"),
                None => (&service.retry, "service"),
            };
            let repeatable = IDEMPOTENT.contains(&request.method.as_str()) || retry.non_idempotent;
            let when =
                if repeatable { "when one fails" } else { "only when the endpoint has certainly not acted" };
            let each = retry.attempt_timeout.unwrap_or(service.timeouts.attempt);
            line(
                "  attempts",
                format!("up to {}, {when}, each up to {each} (from the {from})", retry.attempts_max),
            );
            match &route.hedge {
                Some(hedge) => {
                    let delay = hedge.delay.map_or_else(
                        || format!("the latency that {} of attempts stay below", percent(hedge.quantile)),
                        |delay| delay.to_string(),
                    );
                    line("  hedge", format!("a second attempt after {delay}"));
                }
                None => line("  hedge", "never".to_owned()),
            }
            let bulkhead = &service.bulkhead;
            line(
                "  bulkhead",
                format!("{} under way, {} waiting", bulkhead.active_max, bulkhead.waiting_max),
            );
            let breaker = &service.breaker;
            line(
                "  breaker",
                match breaker.enabled {
                    true => format!(
                        "opens when {} of at least {} calls fail",
                        percent(breaker.failure_rate),
                        breaker.calls_min
                    ),
                    false => "off".to_owned(),
                },
            );
            for (name, mode) in &service.modes {
                line("  mode", format!("{name} ({}): {}", entered(mode), done(mode)));
            }
        }
    }
}

/// When a mode is in force.
fn entered(mode: &Mode) -> String {
    let params = &mode.params;
    match params.force {
        Force::On => return "forced on".to_owned(),
        Force::Off => return "forced off".to_owned(),
        Force::Auto => {}
    }
    let figures = [("utilization", params.utilization), ("shed", params.shed), ("burn", params.burn)];
    let triggers = figures
        .into_iter()
        .filter_map(|(name, threshold)| Some(format!("{name} is {} or more", threshold?.enter)));
    match triggers.collect::<Vec<_>>().as_slice() {
        [] => "never entered by itself".to_owned(),
        triggers => format!("when {} for {}", triggers.join(" or "), params.enter_after),
    }
}

/// What a mode does.
fn done(mode: &Mode) -> String {
    let mut done: Vec<_> = mode.measures.iter().map(Measure::describe).collect();
    if let Some(Exercise { share, every, lasts }) = mode.params.exercise {
        done.push(format!("exercised on {} of requests for {lasts} in each {every}", percent(share)));
    }
    done.join(", ")
}

fn shares(targets: &[SplitTarget]) -> String {
    let total: u64 = targets.iter().map(|target| u64::from(target.weight)).sum();
    let share = |target: &SplitTarget| f64::from(target.weight) * 100.0 / (total.max(1) as f64);
    let shares: Vec<_> =
        targets.iter().map(|target| format!("{} {:.1} %", target.service, share(target))).collect();
    shares.join(", ")
}

fn percent(ratio: model::Ratio) -> String {
    format!("{} %", (ratio.get() * 1_000.0).round() / 10.0)
}

fn key(key: &policy::balance::HashKey) -> String {
    use policy::balance::HashKey;
    match key {
        HashKey::Header(name) => format!("header `{name}`"),
        HashKey::Cookie(name) => format!("cookie `{name}`"),
        HashKey::ClientAddress => "client address".to_owned(),
        HashKey::Path => "path".to_owned(),
        HashKey::Identity => "identity".to_owned(),
    }
}

fn source(service: &Service) -> String {
    if let Some(dns) = &service.dns {
        let name = dns.name.as_deref().or(dns.srv.as_deref()).unwrap_or_default();
        return format!("endpoints from DNS ({name})");
    }
    if let Some(file) = &service.file {
        return format!("endpoints from `{}`", file.path.display());
    }
    match service.endpoints.as_slice() {
        [only] => only.address.clone(),
        several => format!("{} endpoints", several.len()),
    }
}

/// The name that a choice has in the file.
fn word(choice: &impl serde::Serialize) -> String {
    match serde_json::to_value(choice) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(serde_json::Value::Object(entries)) => entries.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const FILE: &str = "
routes:
  - name: cart-writes
    match: {host: shop.example, path: /cart/, methods: [POST]}
    service: cart
    criticality: CRITICAL_PLUS
    timeout: 2s
    rate_limit: {by: {header: x-user}, per_sec: 5, burst: 10}
  - name: cart
    match: {host: shop.example, path: /cart/}
    split: [{service: cart, weight: 9}, {service: cart-canary, weight: 1}]
    hedge: {}
  - name: old
    match: {path: /old}
    redirect: {to: /new}
services:
  cart:
    endpoints: [10.0.0.1:8080, 10.0.0.2:8080]
    modes:
      brownout:
        shed: {enter: 0.2}
        exercise: {share: 0.01, every: 1h, for: 1m}
        measures: [no_hedging, {drop_class: SHEDDABLE_PLUS}]
  cart-canary: {dns: {name: canary.internal, port: 80}, balance: {ring_hash: {key: path}}, breaker: {enabled: false}}
";

    fn ask(method: &str, url: &str) -> String {
        let loaded = config::read("test.yaml", FILE).unwrap_or_else(|errors| panic!("{errors}"));
        let request = Request::parse(method, url, &[]).unwrap();
        explain(&loaded.config().gateway(), &request).unwrap()
    }

    #[test]
    fn says_route_service_policies_and_why() {
        expect![[r#"
            route cart-writes
            + cart-writes (host shop.example, path /cart/): takes the request
                method is one of POST: yes
            - cart (host shop.example, path /cart/): it has fewer conditions
            criticality  CRITICAL_PLUS, from the route; a trusted caller may name another
            rate limit   5 a second, 10 at once, per header `x-user`
            service      cart: 2 endpoints, balanced by least_loaded
              deadline   2s, from the route's timeout; a trusted caller's seawall-deadline-ms may shorten it
              attempts   up to 3, only when the endpoint has certainly not acted, each up to 15s (from the service)
              hedge      never
              bulkhead   10000 under way, 0 waiting
              breaker    opens when 50 % of at least 20 calls fail
              mode       brownout (when shed is 0.2 or more for 5s): does not hedge, refuses SHEDDABLE_PLUS and below, exercised on 1 % of requests for 1m in each 1h
        "#]].assert_eq(&ask("POST", "http://shop.example/cart/items?x=1"));
        expect![[r#"
            route cart
            - cart-writes (host shop.example, path /cart/): a condition does not hold
                method is one of POST: no
            + cart (host shop.example, path /cart/): takes the request
            split        cart 90.0 %, cart-canary 10.0 %
            criticality  CRITICAL, the default; a trusted caller may name another
            service      cart: 2 endpoints, balanced by least_loaded
              deadline   30s, from the service's timeouts.request; a trusted caller's seawall-deadline-ms may shorten it
              attempts   up to 3, when one fails, each up to 15s (from the service)
              hedge      a second attempt after the latency that 95 % of attempts stay below
              bulkhead   10000 under way, 0 waiting
              breaker    opens when 50 % of at least 20 calls fail
              mode       brownout (when shed is 0.2 or more for 5s): does not hedge, refuses SHEDDABLE_PLUS and below, exercised on 1 % of requests for 1m in each 1h
            service      cart-canary: endpoints from DNS (canary.internal), balanced by ring_hash
              deadline   30s, from the service's timeouts.request; a trusted caller's seawall-deadline-ms may shorten it
              attempts   up to 3, when one fails, each up to 15s (from the service)
              hedge      a second attempt after the latency that 95 % of attempts stay below
              bulkhead   10000 under way, 0 waiting
              breaker    off
        "#]].assert_eq(&ask("GET", "http://SHOP.example:8080/cart/items"));
        expect![[r#"
            route old
            + old (host any host, path /old): takes the request
            redirect     308 to /new
        "#]]
        .assert_eq(&ask("GET", "http://shop.example/old"));
        expect![[r#"
            no route
        "#]]
        .assert_eq(&ask("GET", "http://elsewhere.example/nothing"));
    }

    #[test]
    fn says_what_batch_jobs_get() {
        let file = "listeners: [{address: '127.0.0.1:80'}, {address: '127.0.0.1:81', name: jobs, role: batch, fuse: {connections: 4}}]\n\
                    services: {cart: {endpoints: ['10.0.0.1:80']}}\n";
        let loaded = config::read("test.yaml", file).unwrap_or_else(|errors| panic!("{errors}"));
        let request = Request::parse("GET", "http://shop.example/", &[]).unwrap();
        let text = explain(&loaded.config().gateway(), &request).unwrap();
        let batch: Vec<_> = text.lines().filter(|line| line.starts_with("batch")).collect();
        let expected = "batch        through jobs: at most SHEDDABLE_PLUS; 4 under way over all services, 1000 waiting up to 30s; no hedge";
        assert_eq!(batch, [expected], "{text}");
    }

    #[test]
    fn requests_are_read_as_people_write_them() {
        let request = |url: &str, headers: &[&str]| {
            let headers: Vec<_> = headers.iter().map(|&field| field.to_owned()).collect();
            Request::parse("GET", url, &headers)
        };
        let plain = request("http://shop.example", &[]).unwrap();
        assert_eq!((plain.host.as_str(), plain.path.as_str(), plain.query), ("shop.example", "/", None));
        let full = request("https://shop:8443/a/b?c=/d?e#f", &["Host: other", "X-A:  b "]).unwrap();
        assert_eq!(
            (full.host.as_str(), full.path.as_str(), full.query.as_deref()),
            ("other", "/a/b", Some("c=/d?e"))
        );
        assert_eq!(full.header("x-a"), Some("b"));
        assert_eq!(request("http://x?q", &[]).unwrap().path, "/");
        for bad in ["shop.example/cart", "/cart", "", "http://", "http:///cart", "http://user@x/", "ftp://x/"]
        {
            assert!(request(bad, &[]).is_err(), "{bad}");
        }
        assert!(request("http://x/", &["no colon"]).is_err());
        assert!(Request::parse("GE T", "http://x/", &[]).is_err());
    }
}
