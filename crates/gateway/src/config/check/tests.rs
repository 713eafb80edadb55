use expect_test::{Expect, expect};
use model::{ByteSize, Span};
use serde_json::{Value, json};

use super::super::{Severity, *};

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// A configuration as short as one can be, with some keys of it replaced.
fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config {
        listeners: vec![Listener::at("0.0.0.0:8080".parse().unwrap())],
        routes: vec![read(&json!({"service": "cart"}))],
        services: [("cart".to_owned(), read(&json!({"endpoints": ["10.0.0.1:8080", "cart.internal:80"]})))]
            .into(),
        ..Config::default()
    };
    change(&mut config);
    config
}

fn check(change: impl FnOnce(&mut Config), expected: &Expect) {
    let problems: Vec<_> = config(change).problems().iter().map(ToString::to_string).collect();
    expected.assert_eq(&problems.join("\n"));
}

fn service(value: &Value, expected: &Expect) {
    check(|config| _ = config.services.insert("cart".into(), read(value)), expected);
}

fn route(value: &Value, expected: &Expect) {
    check(
        |config| config.routes = vec![read(value), read(&json!({"service": "cart", "match": {"host": "z"}}))],
        expected,
    );
}

#[test]
fn a_short_file_has_no_problems() {
    check(|_| {}, &expect![""]);
    service(&json!({"dns": {"name": "cart.internal", "port": 80}}), &expect![""]);
    service(&json!({"dns": {"srv": "_http._tcp.cart.internal."}}), &expect![""]);
    service(&json!({"file": {"path": "cart.json"}}), &expect![""]);
    service(&json!({"endpoints": ["[::1]:80", "h:80"], "timeouts": {"request": "1s"}}), &expect![""]);
}

#[test]
fn only_batch_listeners_have_fuses_and_these_let_something_through() {
    let listeners = |keys: &Value| {
        let mut keys = keys.clone();
        keys["address"] = json!("0.0.0.0:8080");
        let listeners = vec![read(&keys)];
        config(|config| config.listeners = listeners)
            .problems()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let none = Vec::<String>::new();
    assert_eq!(listeners(&json!({"role": "batch"})), none);
    assert_eq!(listeners(&json!({"role": "batch", "fuse": {"waiting_max": 0, "wait_max": "0s"}})), none);
    assert_eq!(
        listeners(&json!({"fuse": {}})),
        ["listeners[0].fuse: only a batch listener has a fuse; write `role: batch`, or take the fuse out"]
    );
    assert_eq!(
        listeners(&json!({"role": "batch", "fuse": {"connections": 0, "wait_max": "0s"}})),
        [
            "listeners[0].fuse.connections: with 0 connections every request is refused; allow a few, such as 8",
            "listeners[0].fuse.wait_max: a wait of 0 fails every time; give it a length, such as 10s",
        ]
    );
}

#[test]
fn listeners_do_not_overlap() {
    let at = |addresses: &[&str]| -> Vec<Listener> {
        addresses.iter().map(|address| Listener::at(address.parse().unwrap())).collect()
    };
    check(
        |config| config.listeners.clear(),
        &expect![
            "listeners: nothing listens for requests; add a listener, such as `- address: 0.0.0.0:8080`"
        ],
    );
    check(
        |config| config.listeners = at(&["0.0.0.0:80", "127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:81"]),
        &expect![[r#"
            listeners[1].address: 0.0.0.0:80 and 127.0.0.1:80 take the same port of the same addresses; give each listener a port of its own
            listeners[3].address: two listeners have the address 127.0.0.1:81; give each listener a port of its own"#]],
    );
    check(
        |config| config.listeners = at(&["127.0.0.1:0", "127.0.0.1:0", "10.0.0.1:80", "127.0.0.1:80"]),
        &expect![""],
    );
}

#[test]
fn listeners_have_usable_bounds() {
    check(
        |config| {
            let listener = &mut config.listeners[0];
            listener.connections_max = 0;
            listener.timeouts.head = Span::default();
            listener.limits.head = ByteSize::kib(65);
            listener.limits.fields = 129;
            listener.trusted = vec!["0.0.0.0/0".parse().unwrap()];
        },
        &expect![[r#"
            listeners[0].trusted[0]: 0.0.0.0/0 trusts everybody; name the networks of the proxies in front; anybody can now choose its address and its criticality
            listeners[0].connections_max: with 0 connections every client is refused; allow some, such as 100000
            listeners[0].timeouts.head: a wait of 0 fails every time; give it a length, such as 10s
            listeners[0].limits.head: 65KiB is no usable limit of heads; write a size up to 64KiB, such as 32KiB
            listeners[0].limits.fields: 129 is no usable limit of fields; write a number from 1 to 128"#]],
    );
}

#[test]
fn an_unknown_service_is_answered_with_the_known_ones() {
    route(
        &json!({"service": "crat"}),
        &expect!["routes[0].service: no service is called `crat`; did you mean `cart`? Services are: cart"],
    );
    route(
        &json!({"split": [{"service": "users", "weight": 1}]}),
        &expect![
            "routes[0].split[0].service: no service is called `users`; name one that exists. Services are: cart"
        ],
    );
}

#[test]
fn a_route_does_exactly_one_possible_thing() {
    route(
        &json!({}),
        &expect![
            "routes[0]: the route does not say what becomes of its requests; give exactly one of `service`, `split`, `redirect` and `answer`"
        ],
    );
    route(
        &json!({"service": "cart", "redirect": {"to": "/"}}),
        &expect![
            "routes[0]: the route does more than one thing: `service`, `redirect`; keep one of them, or make several routes"
        ],
    );
    route(
        &json!({"split": [{"service": "cart", "weight": 0}]}),
        &expect![
            "routes[0].split: all weights are 0, so nobody gets a request; give at least one service a weight"
        ],
    );
    route(
        &json!({"redirect": {"to": "//evil", "status": 200}, "rewrite": {"prefix": "/"}}),
        &expect![[r#"
            routes[0].rewrite: no service is asked, so there is nothing to rewrite; take `rewrite` out
            routes[0].redirect.status: 200 is no status of a redirect; use 301, 302, 303, 307 or 308
            routes[0].redirect.to: `//evil` cannot be used: it begins with `//`; begin a path with one slash, or write the scheme, such as https://new.example/"#]],
    );
    route(
        &json!({"answer": {"status": 199, "content_type": "a\nb"}}),
        &expect![[r#"
            routes[0].answer.status: 199 is no status of an answer; use a status from 200 to 599
            routes[0].answer.content_type: "a\nb" is no content type; write one such as text/html; charset=utf-8"#]],
    );
}

#[test]
fn routes_have_usable_parameters() {
    route(
        &json!({
            "service": "cart", "timeout": "0", "split_by": {"cookie": "a b"},
            "retry": {"attempts_max": 0}, "hedge": {"delay": "0"},
            "rate_limit": {"by": {"header": ""}, "per_sec": -1.0, "cost_header": "x:"},
        }),
        &expect![[r#"
            routes[0].split_by.cookie: `a b` is no name of a cookie; a name is made of letters, digits and !#$%&'*+-.^_`|~
            routes[0].timeout: a request without time fails every time; give it a length, or take it out for the service's
            routes[0].retry.attempts_max: `attempts_max` is out of range; must be between 1 (no retries) and 10, such as 3
            routes[0].hedge.delay: `delay` is out of range; must be longer than 0, or absent: with 0 every request is sent twice
            routes[0].rate_limit.per_sec: `per_sec` is out of range; -1 is no usable rate: between 0.000001 and 100000000, such as 100
            routes[0].rate_limit.by.header: `` is no name of a header field; a name is made of letters, digits and !#$%&'*+-.^_`|~
            routes[0].rate_limit.cost_header: `x:` is no name of a header field; a name is made of letters, digits and !#$%&'*+-.^_`|~
            routes[0].split_by: there is no `split` to pin users in; take `split_by` out, or add `split`"#]],
    );
}

#[test]
fn quotas_are_usable_and_known() {
    check(
        |config| {
            config.quotas.insert("lost".into(), read(&json!({"limit": 1, "per": "1s"})));
            let bad = json!({
                "limit": 0, "per": "0s", "by": {"header": ""}, "cost": {"header": "x:"}, "shared": "10.0.0.1:6379",
            });
            config.quotas.insert("bad".into(), read(&bad));
            config.routes = vec![
                read(&json!({"service": "cart", "quota": "bda"})),
                read(&json!({"match": {"path": "/x"}, "answer": {"status": 200}, "quota": "bad"})),
            ];
        },
        &expect![[r#"
            quotas.bad.limit: `limit` is out of range; 0 is no usable quota: more than 0, such as 10000
            quotas.bad.per: `per` is out of range; must be longer than 0, such as 60s
            quotas.bad.by.header: `` is no name of a header field; a name is made of letters, digits and !#$%&'*+-.^_`|~
            quotas.bad.cost.header: `x:` is no name of a header field; a name is made of letters, digits and !#$%&'*+-.^_`|~
            quotas.bad.shared: this is no address of a Redis (Redis URL did not parse - InvalidClientConfig); write one such as redis://10.0.0.5:6379
            quotas.lost: no route uses the quota `lost`; name it in a route's `quota`, or take it out
            routes[0].quota: no quota is called `bda`; did you mean `bad`?
            routes[1].quota: a route without a service spends no quota; take it out"#]],
    );
}

#[test]
fn two_routes_have_neither_the_same_name_nor_the_same_match() {
    check(
        |config| {
            let route: Route = read(&json!({"name": "a", "service": "cart"}));
            config.routes = vec![route.clone(), route];
        },
        &expect![[r#"
            routes[1].name: two routes are called `a`; give each a name of its own
            routes[1].match: the routes `a` (routes[0]) and `a` (routes[1]) match the same requests; take one out, or give one a condition that the other lacks"#]],
    );
}

#[test]
fn a_service_finds_its_endpoints_in_exactly_one_way() {
    service(
        &json!({}),
        &expect![
            "services.cart: the service does not say where its endpoints are; give exactly one of `endpoints`, `dns`, `file` and `registry`"
        ],
    );
    service(
        &json!({"endpoints": ["h:1"], "file": {"path": "x"}}),
        &expect![
            "services.cart: the service finds its endpoints in more than one way: `endpoints`, `file`; keep one of them"
        ],
    );
    service(
        &json!({"dns": {}}),
        &expect!["services.cart.dns: no name is looked up; give exactly one of `name` and `srv`"],
    );
    service(
        &json!({"dns": {"name": "a b", "refresh_min": "5s", "refresh_max": "1s"}}),
        &expect![[r#"
            services.cart.dns.name: `a b` is no name to look up; write a name without scheme and port, such as cart.internal or _http._tcp.cart.internal
            services.cart.dns: addresses from DNS need a port; add `port`, or use `srv`, whose records hold it
            services.cart.dns.refresh_min: `refresh_min` (5s) is longer than `refresh_max` (1s); make it shorter"#]],
    );
}

#[test]
fn endpoints_are_hosts_with_ports_each_once() {
    service(
        &json!({"endpoints": ["H:1", "h:1", "http://h:1", "h", "h:0", "h:+1", "::1:80", "[::1]:80", "[0::1]:80", "h/x:1"]}),
        &expect![[r#"
            services.cart.endpoints[1]: the endpoint h:1 stands here twice; use its weight instead
            services.cart.endpoints[2]: `http://h:1` is no endpoint; write host:port without a scheme, such as cart.internal:8080
            services.cart.endpoints[3]: `h` is no endpoint; write host:port, such as 10.0.0.1:8080, cart.internal:8080 or [::1]:8080
            services.cart.endpoints[4]: `h:0` is no endpoint; write a port from 1 to 65535 after the host
            services.cart.endpoints[5]: `h:+1` is no endpoint; write a port from 1 to 65535 after the host
            services.cart.endpoints[6]: `::1:80` is no endpoint; write host:port, such as 10.0.0.1:8080, cart.internal:8080 or [::1]:8080
            services.cart.endpoints[8]: the endpoint [0::1]:80 stands here twice; use its weight instead
            services.cart.endpoints[9]: `h/x:1` is no endpoint; write host:port, such as 10.0.0.1:8080, cart.internal:8080 or [::1]:8080"#]],
    );
    service(
        &json!({"endpoints": [{"address": "h:1", "weight": 0}]}),
        &expect![
            "services.cart.endpoints: all weights are 0, so nobody gets a request; give at least one endpoint a weight"
        ],
    );
}

#[test]
fn services_do_not_contradict_themselves() {
    service(
        &json!({
            "endpoints": ["h:1"], "active_per_endpoint": 0,
            "balance": {"ring_hash": {"key": {"header": "a b"}}}, "sticky": {"cookie": "a;b", "max_age": "0"},
            "health": {"path": "healthz", "interval": "0"},
            "timeouts": {"connect": "0", "attempt": "10s", "request": "5s"}, "retry": {"attempt_timeout": "6s"},
            "breaker": {"calls_min": 0}, "response_head_max": 0,
        }),
        &expect![[r#"
            services.cart.balance.ring_hash.key.header: `a b` is no name of a header field; a name is made of letters, digits and !#$%&'*+-.^_`|~
            services.cart.sticky.cookie: `a;b` is no name of a cookie; a name is made of letters, digits and !#$%&'*+-.^_`|~
            services.cart.sticky.max_age: a cookie of age 0 is dropped at once; give it a length, or take it out
            services.cart.sticky: `sticky` and `ring_hash` both say which endpoint a client gets; take `sticky` out, or balance by load, such as `least_loaded`
            services.cart.active_per_endpoint: with 0 requests no endpoint is ever asked; allow some, such as 10000
            services.cart.health.interval: `interval` is out of range; must be longer than 0, such as 5s
            services.cart.health.path: "healthz" is no path to ask for; write a path such as /healthz
            services.cart.breaker.calls_min: `calls_min` is out of range; must be at least 1, such as 20
            services.cart.timeouts.connect: a wait of 0 fails every time; give it a length, such as 10s
            services.cart.timeouts.attempt: an attempt may take 10s, longer than the whole request (5s); make `attempt` shorter than `request`, so that another attempt has time
            services.cart.retry.attempt_timeout: an attempt may take 6s, longer than the whole request (5s); make it shorter than `timeouts.request`, so that another attempt has time
            services.cart.response_head_max: 0 is no usable limit of heads; write a size up to 64KiB, such as 32KiB"#]],
    );
}

#[test]
fn what_nobody_uses_is_a_warning() {
    let problems = config(|config| config.routes.clear()).problems();
    assert!(problems.iter().all(|problem| problem.severity == Severity::Warning), "{problems:?}");
    check(
        |config| config.routes.clear(),
        &expect![[r#"
            routes: no route takes any request, so each is answered 404; add a route, such as `- service: cart`
            services.cart: no route uses the service `cart`; add a route, or take the service out"#]],
    );
}

#[test]
fn the_process_has_usable_bounds() {
    check(
        |config| {
            config.limits.buffers = ByteSize::new(0);
            config.workers = 1025;
            config.access_log.to = AccessLogTarget::File("".into());
        },
        &expect![[r#"
            limits.buffers: without buffers every request is refused; give some memory, such as 512MiB
            access_log.to: the access log's file has no name; name the file
            workers: 1025 workers are more than 1024; write 0 for one worker on each core"#]],
    );
}

#[test]
fn modes_do_something_and_lead_somewhere() {
    service(
        &json!({"endpoints": ["h:80"], "modes": {
            "a b": {"shed": {"enter": 0.5}},
            "answers": {"force": "on", "measures": [{"answer": {"status": 99}}, {"service": "cart"}]},
            "exercised": {"exercise": {"share": 0.5, "every": "10s", "for": "100ms"}, "measures": ["no_retries"]},
            "idle": {"measures": ["no_hedging"]},
            "inverted": {"shed": {"enter": 0.2, "leave": 0.4}, "measures": ["no_retries", "no_retries"]},
            "nowhere": {"force": "on", "measures": [{"service": "crat"}, {"body_max": "0"}]},
            "seventh": {"force": "off", "measures": ["no_hedging"]},
        }}),
        &expect![[r#"
            services.cart.modes: 7 modes are more than 6; join some: a mode may have several measures
            services.cart.modes.a b: `a b` is no name of a mode; write letters, digits, `-`, `_` and `.`: it goes into the `seawall-mode` header
            services.cart.modes.a b: the mode leaves nothing out; give it `measures`, such as `[no_retries, no_hedging]`
            services.cart.modes.answers.measures[0].answer.status: 99 is no status of an answer; use a status from 200 to 599
            services.cart.modes.answers.measures[1].service: `cart` cannot stand in for itself; name another service that answers more cheaply
            services.cart.modes.answers.measures[1].service: `answer` and `service` both say who answers; keep one of them
            services.cart.modes.exercised.exercise: `exercise` is out of range; `share` must be at most 0.1: this is a drill, not an outage
            services.cart.modes.exercised.exercise.for: an exercise this short may be missed; make `for` 1s or longer
            services.cart.modes.idle: nothing ever enters the mode; give it `utilization` or `shed`, or say `force: off` if only operators enter it
            services.cart.modes.inverted.shed: `shed` is out of range; `leave` must lie between 0 and `enter`, or the mode is entered and left at once
            services.cart.modes.inverted.measures[1]: `no_retries` stands here twice; keep one of them
            services.cart.modes.nowhere.measures[0].service: no service is called `crat`; did you mean `cart`? Services are: cart
            services.cart.modes.nowhere.measures[1].body_max: 0 is no bound; give it a size, such as 64KiB"#]],
    );
    service(
        &json!({"endpoints": ["h:80"], "modes": {
            "less": {"utilization": {"enter": 0.9}, "exercise": {"share": 0.01, "every": "1h", "for": "1m"},
                "measures": ["no_retries", {"drop_class": "SHEDDABLE"}, {"answer": {"status": 200, "body": "later"}}]},
        }}),
        &expect![""],
    );
}

#[test]
fn tls_says_what_it_needs() {
    use crate::config::{ClientAuth, HttpsRedirect, ListenerTls, ServiceTls};
    let tls = |change: fn(&mut ListenerTls)| {
        let problems = config(|config| {
            let mut tls = ListenerTls::with("shop.pem", "shop.key");
            change(&mut tls);
            config.listeners[0].tls = Some(tls);
        });
        problems.problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(tls(|_| {}), "");
    assert_eq!(tls(|tls| tls.client_ca = Some("ca.pem".into())), "");
    for (change, place) in [
        ((|tls| tls.certificates.clear()) as fn(&mut ListenerTls), "certificates: TLS needs a certificate"),
        (|tls| tls.client_auth = Some(ClientAuth::Required), "client_auth: nobody vouches for clients"),
        (
            |tls| (tls.client_ca, tls.client_auth) = (Some("ca.pem".into()), Some(ClientAuth::None)),
            "client_auth: clients are never asked",
        ),
        (|tls| tls.identity_header = Some("x-client".into()), "identity_header: no client proves who it is"),
        (
            |tls| (tls.client_ca, tls.identity_header) = (Some("ca.pem".into()), Some("Cookie".into())),
            "identity_header: `Cookie` has a meaning of its own",
        ),
        (|tls| tls.alpn.clear(), "alpn: no protocol is offered"),
        (|tls| tls.handshakes_max = 0, "handshakes_max: with 0 handshakes"),
        (|tls| tls.handshake_timeout = Span::from_secs(0), "handshake_timeout: a wait of 0"),
    ] {
        let problems = tls(change);
        assert!(problems.starts_with(&format!("listeners[0].tls.{place}")), "{problems}");
    }
    let both = config(|config| {
        config.listeners[0].tls = Some(ListenerTls::with("shop.pem", "shop.key"));
        config.listeners[0].https_redirect = Some(HttpsRedirect { port: 0, status: 200 });
    });
    assert_eq!(both.problems().len(), 3);
    let name = config(|config| {
        let service = config.services.values_mut().next().expect("a service");
        service.tls = Some(ServiceTls { server_name: Some("no name".into()), ..ServiceTls::default() });
    });
    assert!(
        name.problems()[0].to_string().contains("tls.server_name: `no name` can stand in no certificate")
    );
}
