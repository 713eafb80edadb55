//! Which request goes where, and what becomes of it on the way.

use std::collections::HashMap;

use testkit::{Client, Reply, Seawall, Upstream, get};

use crate::gate::{Gate, before, plain, reason, refusal, refused};

/// Upstreams that answer with their own name.
fn named<const N: usize>(names: [&'static str; N]) -> [Upstream; N] {
    names.map(Upstream::constant)
}

fn ask(gate: &Seawall, method: &str, host: &str, target: &str, lines: &str) -> String {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n");
    let response = Client::connect(gate.addr()).request(request);
    match response.status {
        200 => response.text(),
        status => format!("{status} {}", response.header("seawall-reason").unwrap_or_default()),
    }
}

#[test]
fn requests_go_where_the_most_specific_route_says() {
    let [a, b, c, d, e, f] = named(["host", "wild", "exact", "below", "method", "rest"]);
    let gate = Gate::with("host", &[a.addr()], "")
        .service("wild", &[b.addr()], "")
        .service("exact", &[c.addr()], "")
        .service("below", &[d.addr()], "")
        .service("method", &[e.addr()], "")
        .service("rest", &[f.addr()], "")
        .route("service: rest")
        .route("match: {host: shop.example}, service: host")
        .route("match: {host: '*.shop.example'}, service: wild")
        .route("match: {path: /cart}, service: exact")
        .route("match: {path: /cart/}, service: below")
        .route("match: {path: /cart/, methods: [POST]}, service: method")
        .start();
    for (method, host, target, expected) in [
        ("GET", "shop.example", "/", "host"),
        ("GET", "SHOP.Example:8080", "/", "host"),
        ("GET", "a.b.shop.example", "/", "wild"),
        ("GET", "notshop.example", "/", "rest"),
        ("GET", "other", "/cart", "exact"),
        ("GET", "other", "/cart/", "below"),
        ("GET", "other", "/cart/a/b?c=d", "below"),
        ("POST", "other", "/cart/a", "method"),
        ("GET", "other", "/cartoon", "rest"),
        ("GET", "other", "/Cart", "rest"),
    ] {
        assert_eq!(ask(&gate, method, host, target, ""), expected, "{method} {host} {target}");
    }
}

#[test]
fn conditions_on_headers_and_query_hold_all_together() {
    let [a, b] = named(["chosen", "rest"]);
    let gate = Gate::with("chosen", &[a.addr()], "")
        .service("rest", &[b.addr()], "")
        .route("service: rest")
        .route("match: {path: /s, headers: {x-client: {prefix: mobile-}}, query: {debug: {present: false}, q: {any_of: [a, b]}}}, service: chosen")
        .start();
    for (target, lines, expected) in [
        ("/s?q=a", "X-Client: mobile-2\r\n", "chosen"),
        ("/s?x&q=b&y=", "x-CLIENT: mobile-\r\n", "chosen"),
        ("/s?q=c", "X-Client: mobile-2\r\n", "rest"),
        ("/s?q=a&debug", "X-Client: mobile-2\r\n", "rest"),
        ("/s?q=a&debug=1", "X-Client: mobile-2\r\n", "rest"),
        ("/s?q=a", "X-Client: desktop\r\n", "rest"),
        ("/s?q=a", "", "rest"),
    ] {
        assert_eq!(ask(&gate, "GET", "h", target, lines), expected, "{target} {lines}");
    }
}

#[test]
fn paths_are_rewritten_and_queries_kept() {
    let upstream = Upstream::start(|request| {
        Reply::ok(format!("{} {}", request.headers.get("host").unwrap_or_default(), request.target))
    });
    let gate = Gate::to(&[upstream.addr()])
        .route("match: {path: /shop/}, service: web, rewrite: {prefix: /, host: shop.internal}")
        .route("match: {path: '/users/{id}/orders/{order}'}, service: web, rewrite: {path: '/o/{order}/of/{id}'}")
        .route("match: {path: '/files/{path...}'}, service: web, rewrite: {path: '/f/{path}'}")
        .start();
    for (target, expected) in [
        ("/shop/cart?x=1", "shop.internal /cart?x=1"),
        ("/shop/", "shop.internal /"),
        ("/users/7/orders/8?page=2", "h /o/8/of/7?page=2"),
        ("/users/a%20b/orders/8", "h /o/8/of/a%20b"),
        ("/files/a/b.txt", "h /f/a/b.txt"),
    ] {
        assert_eq!(ask(&gate, "GET", "h", target, ""), expected, "{target}");
    }
}

#[test]
fn redirects_and_fixed_answers_need_no_service() {
    let gate = Gate::default()
        .route("match: {host: old.example}, redirect: {to: 'https://new.example{path}', status: 301}")
        .route("match: {path: '/u/{id}'}, redirect: {to: '/users/{id}'}")
        .route("match: {path: /robots.txt}, answer: {status: 200, body: 'Disallow: /', content_type: text/robots}")
        .route("match: {path: /gone}, answer: {status: 410}, response_headers: {set: {x-why: moved}}")
        .start();
    let mut client = Client::connect(gate.addr());
    let response = client.request("GET /a?b=c HTTP/1.1\r\nHost: old.example\r\n\r\n");
    assert_eq!((response.status, response.header("location")), (301, Some("https://new.example/a?b=c")));
    let response = client.get("/u/7");
    assert_eq!((response.status, response.header("location")), (308, Some("/users/7")));
    let response = client.get("/robots.txt");
    assert_eq!(
        (response.text().as_str(), response.header("content-type")),
        ("Disallow: /", Some("text/robots"))
    );
    client.send(plain("HEAD", "/robots.txt", ""));
    let head = client.response_to_head();
    assert_eq!((head.status, head.header("content-length")), (200, Some("11")));
    let response = client.get("/gone");
    assert_eq!((response.status, response.header("x-why")), (410, Some("moved")));
}

#[test]
fn a_redirect_carries_no_line_that_the_client_wrote() {
    let gate = Gate::default().route("match: {path: '/u/{id...}'}, redirect: {to: '/users/{id}'}").start();
    for target in ["/u/%0d%0aSet-Cookie:%20a=b", "/u//evil.example", "/u/%2f%2fevil.example"] {
        let response = get(gate.addr(), target);
        assert!(!response.headers.has("set-cookie"), "{response:?}");
        if let Some(location) = response.header("location") {
            assert!(location.starts_with("/users/"), "{response:?}");
        }
    }
}

#[test]
fn a_user_stays_on_one_side_of_a_split() {
    let [stable, canary] = named(["stable", "canary"]);
    let gate = |weights: [u32; 2]| {
        Gate::with("stable", &[stable.addr()], "")
            .service("canary", &[canary.addr()], "")
            .route(&format!(
                "split: [{{service: stable, weight: {}}}, {{service: canary, weight: {}}}], split_by: {{cookie: user}}",
                weights[0], weights[1]
            ))
    };
    let running = gate([80, 20]).start();
    let side = |user: usize| ask(&running, "GET", "h", "/", &format!("Cookie: a=b; user=u{user}; c=d\r\n"));
    let sides: Vec<_> = (0..200).map(side).collect();
    let on_canary = sides.iter().filter(|side| *side == "canary").count();
    assert!((15..=70).contains(&on_canary), "{on_canary} of 200 users");
    assert_eq!((0..200).map(side).collect::<Vec<_>>(), sides);
    // Trap 19: more weight only adds users.
    let wider = gate([60, 40]).start();
    for (user, before) in sides.iter().enumerate() {
        let now = ask(&wider, "GET", "h", "/", &format!("Cookie: user=u{user}\r\n"));
        assert!(before == "stable" || now == "canary", "user {user} left the canary");
    }
}

#[test]
fn a_weight_of_nothing_gets_nothing() {
    let [stable, canary] = named(["stable", "canary"]);
    let gate = Gate::with("stable", &[stable.addr()], "")
        .service("canary", &[canary.addr()], "")
        .route("split: [{service: stable, weight: 1}, {service: canary, weight: 0}]")
        .start();
    for _ in 0..50 {
        assert_eq!(get(gate.addr(), "/").text(), "stable");
    }
}

#[test]
fn headers_are_changed_both_ways() {
    let upstream = Upstream::start(|_| {
        Reply::ok("tea").header("Server", "secret/1").header("X-Keep", "1").header("X-Set", "theirs")
    });
    let gate = Gate::to(&[upstream.addr()])
        .route(
            "service: web, request_headers: {remove: [x-debug], set: {x-tenant: main}, add: {x-more: b}}, \
            response_headers: {remove: [server], set: {x-set: ours}, add: {x-keep: '2'}}",
        )
        .start();
    let lines = "X-Debug: 1\r\nX-DEBUG: 2\r\nX-Tenant: evil\r\nX-More: a\r\n";
    let response = Client::connect(gate.addr()).request(plain("GET", "/", lines));
    let seen = &upstream.requests()[0].headers;
    assert!(!seen.has("x-debug"), "{seen:?}");
    assert_eq!(seen.all("x-tenant").collect::<Vec<_>>(), ["main"]);
    assert_eq!(seen.all("x-more").collect::<Vec<_>>(), ["a", "b"]);
    assert!(!response.headers.has("server"));
    assert_eq!(response.headers.all("x-set").collect::<Vec<_>>(), ["ours"]);
    assert_eq!(response.headers.all("x-keep").collect::<Vec<_>>(), ["1", "2"]);
}

#[test]
fn what_no_route_takes_is_refused_with_its_reason() {
    let upstream = Upstream::constant("tea");
    let gate =
        Gate::to(&[upstream.addr()]).route("match: {path: /a, methods: [GET, PUT]}, service: web").start();
    let response = get(gate.addr(), "/b");
    assert_eq!(refusal(&response), (404, "no_route"));
    let response = Client::connect(gate.addr()).request(plain("DELETE", "/a", ""));
    assert_eq!(refusal(&response), (405, "method_not_allowed"));
    let mut allowed: Vec<_> = response.header("allow").expect("a list").split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "PUT"]);
    assert_eq!((refused(&gate, "no_route"), refused(&gate, "method_not_allowed")), (1.0, 1.0));
    assert_eq!(upstream.request_count(), 0);
}

#[test]
fn no_other_spelling_of_a_path_passes_its_route() {
    let [upstream] = named(["open"]);
    let gate = Gate::to(&[upstream.addr()])
        .route("match: {path: /}, service: web")
        .route("match: {path: /admin/}, answer: {status: 403}")
        .route("match: {path: /admin}, answer: {status: 403}")
        .start();
    for target in [
        "/admin",
        "/admin/",
        "/admin/x",
        "//admin/x",
        "/./admin/x",
        "/x/../admin/x",
        "/%61dmin/x",
        "/%2e/admin/x",
        "/x/%2e%2e/admin/x",
        "/x//..//admin",
        "/admin//x",
        "http://h/admin/x",
        "http://h//admin/x",
        "/admin/?a=b",
        "/%61%64%6d%69%6e",
    ] {
        assert!(ask(&gate, "GET", "h", target, "").starts_with("403"), "{target}");
    }
    for target in [
        "/x/..%2fadmin",
        "/..;/admin",
        "/x/..;a=b/admin",
        "/%2e%2e/admin",
        "/../admin",
        "/a%5c..%5cadmin",
        "/admin%00",
        "/%",
        "/x\\admin",
    ] {
        let answer = ask(&gate, "GET", "h", target, "");
        assert!(["400 bad_path", "400 malformed"].contains(&answer.as_str()), "{target}: {answer}");
    }
    assert_eq!(upstream.request_count(), 0);
    // What is passed on is what was matched.
    assert_eq!(ask(&gate, "GET", "h", "/a/./b/../c//d%7e?q=../x", ""), "open");
    assert_eq!(upstream.requests()[0].target, "/a/c/d~?q=../x");
}

#[test]
fn an_untrusted_client_cannot_say_who_it_is() {
    let upstream = Upstream::constant("tea");
    let gate = before(&upstream);
    let lines = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
        Forwarded: for=1.2.3.4\r\nSeawall-Criticality: CRITICAL_PLUS\r\nSeawall-Attempt: 9\r\n";
    Client::connect(gate.addr()).request(plain("GET", "/", lines));
    let seen = &upstream.requests()[0].headers;
    assert_eq!(seen.all("x-forwarded-for").collect::<Vec<_>>(), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto").collect::<Vec<_>>(), ["http"]);
    assert_eq!(seen.all("x-forwarded-host").collect::<Vec<_>>(), ["test"]);
    assert!(!seen.has("forwarded"), "{seen:?}");
    assert_eq!(seen.all("seawall-attempt").collect::<Vec<_>>(), ["1"]);
    assert_eq!(seen.all("seawall-criticality").collect::<Vec<_>>(), ["CRITICAL"]);
}

#[test]
fn a_trusted_client_is_believed_and_added_to() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).trusting().start();
    let lines =
        "X-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n";
    Client::connect(gate.addr()).request(plain("GET", "/", lines));
    Client::connect(gate.addr()).request(plain("GET", "/", "Forwarded: for=1.2.3.4;proto=https\r\n"));
    let requests = upstream.requests();
    let seen = &requests[0].headers;
    assert_eq!(seen.all("x-forwarded-for").collect::<Vec<_>>(), ["1.2.3.4, 5.6.7.8, 127.0.0.1"]);
    assert_eq!(seen.get("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.get("x-forwarded-host"), Some("shop.example"));
    let seen = &requests[1].headers;
    assert!(
        seen.get("forwarded").is_some_and(|value| value.starts_with("for=1.2.3.4;proto=https, ")),
        "{seen:?}"
    );
    assert!(seen.get("forwarded").is_some_and(|value| value.contains("127.0.0.1")), "{seen:?}");
}

#[test]
fn the_way_is_written_into_via() {
    let upstream = Upstream::start(|_| Reply::ok("tea").header("Via", "1.1 inner"));
    let gate = before(&upstream);
    let response = Client::connect(gate.addr()).request(plain("GET", "/", "Via: 1.0 outer\r\n"));
    assert_eq!(upstream.requests()[0].headers.all("via").collect::<Vec<_>>(), ["1.0 outer", "1.1 seawall"]);
    assert_eq!(response.headers.all("via").collect::<Vec<_>>(), ["1.1 inner", "1.1 seawall"]);
    let gate = Gate::with("web", &[upstream.addr()], "via: false").start();
    assert_eq!(get(gate.addr(), "/").headers.all("via").collect::<Vec<_>>(), ["1.1 inner"]);
}

#[test]
fn every_refusal_of_a_route_is_counted_once() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).route("match: {path: /a, methods: [GET]}, service: web").start();
    let mut counts: HashMap<String, f64> = HashMap::new();
    for (method, target) in [("GET", "/b"), ("POST", "/a"), ("GET", "/b"), ("GET", "/%zz")] {
        let response = Client::connect(gate.addr()).request(plain(method, target, ""));
        *counts.entry(reason(&response).to_owned()).or_default() += 1.0;
    }
    assert_eq!(counts.len(), 3);
    for (reason, count) in counts {
        assert_eq!(refused(&gate, &reason), count, "{reason}");
    }
}
