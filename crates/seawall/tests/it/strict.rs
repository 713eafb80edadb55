//! Strictness: what two readers could understand differently is refused, the connection closed, and nothing passed on.

use testkit::{Client, Reply, Upstream};

use crate::gate::{Gate, Manual, before, plain, posting, refusal, refused};

/// Requests that no strict reader accepts: what is wrong, the answer's status, and the request.
const CLASSICS: &[(&str, u16, &str)] = &[
    (
        "length_with_coding",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    ),
    (
        "length_with_coding",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
    ),
    (
        "length_duplicate",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ),
    (
        "length_duplicate",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    ),
    ("length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello"),
    ("length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello"),
    ("length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\nhello"),
    ("length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello"),
    ("length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello"),
    ("length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello"),
    ("length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nhello"),
    ("coding", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("coding", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("coding", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("coding", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    (
        "coding_duplicate",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("coding_unexpected", 400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (
        "control_in_value",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
    ),
    ("control_in_value", 400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    ("space_before_colon", 400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("obs_fold", 400, "POST / HTTP/1.1\r\nHost: a\r\nX: a\r\n Content-Length: 5\r\n\r\nhello"),
    ("obs_fold", 400, "GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n"),
    ("name_empty", 400, "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
    ("name", 400, "GET / HTTP/1.1\r\nHost: a\r\nX(y): x\r\n\r\n"),
    ("name", 400, "GET / HTTP/1.1\r\nHost: a\r\nNoColon\r\n\r\n"),
    ("bare_lf", 400, "GET / HTTP/1.1\nHost: a\n\n"),
    ("bare_lf", 400, "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
    ("bare_cr", 400, "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"),
    ("host_missing", 400, "GET / HTTP/1.1\r\nX: y\r\n\r\n"),
    ("host_duplicate", 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("host", 400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("host", 400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("userinfo", 400, "GET http://me:you@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("fragment", 400, "GET /#top HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("target", 400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("target", 400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("target", 400, "GET /caf\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("target", 400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("request_line", 400, "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("request_line", 400, "GET /\r\nHost: a\r\n\r\n"),
    ("connect", 501, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
    ("version", 400, "GET / http/1.1\r\nHost: a\r\n\r\n"),
    ("version_unsupported", 505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("version_unsupported", 505, "PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("expect", 417, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-maybe\r\nContent-Length: 5\r\n\r\nhello"),
    (
        "upgrade_with_body",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
    ),
    ("connection", 400, "GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n"),
    (
        "chunk_extension",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "chunk_size",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "chunk_size",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "chunk_size",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "chunk_end",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
    ),
    ("bare_lf", 400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
    ("obs_fold", 400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n X: y\r\n\r\n"),
];

#[test]
fn trap_21_nothing_ambiguous_passes() {
    let upstream = Upstream::constant("smuggled");
    let gate = before(&upstream);
    let malformed = |rule: &str| {
        let label = format!("reason=\"{rule}\"");
        gate.metric("seawall_gateway_malformed_requests_total", &[&label]).expect("a figure for each rule")
    };
    for (rule, status, request) in CLASSICS {
        let counted = malformed(rule);
        let mut client = Client::connect(gate.addr());
        client.send(request);
        client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = client.response();
        assert_eq!(refusal(&response), (*status, "malformed"), "{request:?}");
        assert_eq!(response.text(), format!("malformed: {rule}\n"), "{request:?}");
        assert!(response.headers.lists("connection", "close"), "{request:?}");
        assert!(client.is_closed_by_server(), "{request:?}");
        assert_eq!(malformed(rule), counted + 1.0, "{request:?}");
    }
    assert_eq!(refused(&gate, "malformed"), CLASSICS.len() as f64);
    assert_eq!((upstream.request_count(), upstream.connections()), (0, 0));
}

#[test]
fn trap_21_a_body_that_turns_wrong_half_way_never_looks_whole_to_the_endpoint() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (mut client, mut seen) = upstream
        .exchange(&gate, "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n");
    assert_eq!(seen.exactly(9).expect("a chunk"), b"4\r\nwell\r\n");
    client.send("4;evil=1\r\nwell\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n");
    let response = client.response();
    assert_eq!(refusal(&response), (400, "malformed"));
    assert!(client.is_closed_by_server() && seen.is_closed_by_server());
    let counted = gate.metric("seawall_gateway_malformed_requests_total", &["reason=\"chunk_extension\""]);
    assert_eq!(counted, Some(1.0));
}

#[test]
fn one_empty_line_before_a_request_is_forgiven() {
    let upstream = Upstream::constant("tea");
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    assert_eq!(client.get("/").text(), "tea");
    assert_eq!(client.request(format!("\r\n{}", plain("GET", "/", ""))).text(), "tea");
}

/// What a client hopes to slip in as the body of a request that nobody reads.
const POISON: &str = "GET /poison HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn trap_22_an_unread_body_never_becomes_the_next_request() {
    let upstream = Upstream::constant("poisoned");
    let gate = Gate::to(&[upstream.addr()])
        .listener("limits: {body: 1KiB}")
        .route("match: {path: /old}, redirect: {to: /new}")
        .route("match: {path: /fixed}, answer: {status: 200, body: fixed}")
        .route("match: {path: /poison}, service: web")
        .route("match: {path: /limited}, service: web, rate_limit: {per_sec: 0.001, burst: 1}")
        .route("match: {path: /small}, service: web, body_max: 10")
        .route("match: {path: /read, methods: [GET]}, service: web")
        .start();
    assert_eq!(Client::connect(gate.addr()).get("/limited").status, 200);
    let before = upstream.request_count();
    let cases = [
        ("/old", 308),
        ("/fixed", 200),
        ("/none", 404),
        ("/limited", 429),
        ("/small", 413),
        ("/read", 405),
        ("/a%2fb", 400),
    ];
    for (target, status) in cases {
        let together = posting("POST", target, POISON);
        for request in [together.as_str(), together.strip_suffix(POISON).expect("the body")] {
            let mut client = Client::connect(gate.addr());
            client.send(request);
            let response = client.response();
            assert_eq!(response.status, status, "{target}");
            assert!(response.headers.lists("connection", "close"), "{target}: {response:?}");
            // The body comes late, when the gateway has long answered.
            let _ = client.try_send(POISON);
            assert!(client.is_closed_by_server(), "{target}");
        }
        let chunks = format!(
            "POST {target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{POISON}\r\n0\r\n\r\n",
            POISON.len()
        );
        let mut client = Client::connect(gate.addr());
        client.send(chunks);
        assert_eq!(client.response().status, status, "{target}, chunked");
        assert!(client.is_closed_by_server(), "{target}, chunked");
    }
    assert_eq!(upstream.request_count(), before);
}

#[test]
fn trap_22_a_refusal_without_a_body_keeps_the_connection() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()])
        .route("match: {path: /old}, redirect: {to: /new}")
        .route("match: {path: /new}, service: web")
        .start();
    let mut client = Client::connect(gate.addr());
    for (target, status) in [("/old", 308), ("/none", 404), ("/new", 200), ("/%zz", 400), ("/new", 200)] {
        assert_eq!(client.get(target).status, status, "{target}");
    }
}

/// Answers that no strict reader accepts.
const WRONG_ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
    "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/2 200\r\n\r\n",
    "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
    "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
    "SSH-2.0-OpenSSH_9.2\r\n",
];

#[test]
fn trap_21_a_wrong_answer_is_not_passed_on_and_its_connection_not_used_again() {
    for answer in WRONG_ANSWERS {
        let upstream =
            Upstream::start(
                move |request| {
                    if request.path() == "/fine" { Reply::ok("fine") } else { Reply::raw(answer) }
                },
            );
        let gate = before(&upstream);
        let mut client = Client::connect(gate.addr());
        assert_eq!(client.get("/fine").text(), "fine");
        assert_eq!(refusal(&client.get("/")), (502, "upstream_malformed"), "{answer:?}");
        assert_eq!(client.get("/fine").text(), "fine", "{answer:?}");
        assert_eq!(upstream.connections(), 2, "{answer:?}");
        assert_eq!(upstream.request_count(), 3, "a wrong answer is not asked for again: {answer:?}");
        assert_eq!(refused(&gate, "upstream_malformed"), 1.0);
    }
}

#[test]
fn trap_21_chunks_that_turn_wrong_half_way_cut_the_answer() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ""));
    seen.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n");
    client.head().expect("the head");
    assert_eq!(client.exactly(9).expect("a chunk"), b"4\r\nwell\r\n");
    seen.send("zz\r\nno\r\n0\r\n\r\n");
    assert!(client.is_closed_by_server() && seen.is_closed_by_server());
}

#[test]
fn trap_21_bytes_that_nobody_asked_for_are_nobodys_answer() {
    const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    // In one write with the answer: what comes later races with the next request, whoever looks.
    let upstream =
        Upstream::start(|_| Reply::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine{POISON}")));
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "fine");
    }
    assert_eq!(upstream.connections(), 3);

    // The same, some time after the answer.
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let mut client = Client::connect(gate.addr());
    client.send(plain("GET", "/", ""));
    let mut first = upstream.accept();
    first.head().expect("the request");
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine");
    assert_eq!(client.response().text(), "fine");
    first.send(POISON);
    client.send(plain("GET", "/", ""));
    let mut second = upstream.accept();
    second.head().expect("the request");
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnew!");
    assert_eq!(client.response().text(), "new!");
}

#[test]
fn fields_of_one_hop_stay_on_that_hop() {
    let upstream = Upstream::start(|_| {
        Reply::ok("tea")
            .header("Connection", "X-Internal, keep-alive")
            .header("X-Internal", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Authenticate", "Basic")
            .header("X-Public", "1")
    });
    let gate = before(&upstream);
    let lines = "Connection: X-Secret, Keep-Alive, x-other\r\nX-Secret: 1\r\nX-OTHER: 2\r\nKeep-Alive: timeout=5\r\n\
        TE: trailers\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-Public: 1\r\n";
    let response = Client::connect(gate.addr()).request(plain("GET", "/", lines));
    let seen = &upstream.requests()[0].headers;
    for name in ["connection", "x-secret", "x-other", "keep-alive", "te", "proxy-connection", "upgrade"] {
        assert!(!seen.has(name), "{name}: {seen:?}");
    }
    assert_eq!(seen.get("x-public"), Some("1"));
    for name in ["connection", "x-internal", "keep-alive"] {
        assert!(!response.headers.has(name), "{name}: {response:?}");
    }
    assert_eq!(response.header("x-public"), Some("1"));
}

#[test]
fn a_client_cannot_list_away_what_the_gateway_says() {
    let upstream = Upstream::constant("tea");
    let gate = before(&upstream);
    let lines = "Connection: close, X-Forwarded-For, Host, Content-Length, Seawall-Attempt, Via\r\n";
    let request = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n{lines}\r\nhi");
    assert_eq!(Client::connect(gate.addr()).request(request).status, 200);
    let seen = &upstream.requests()[0];
    for name in ["x-forwarded-for", "host", "content-length", "seawall-attempt", "via"] {
        assert!(seen.headers.has(name), "{name}: {seen:?}");
    }
    assert_eq!(seen.body, b"hi");
}
