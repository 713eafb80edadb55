//! HTTP/2 on either side of the road.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Response};
use testkit::frames::{Frames, PREFACE, block, encode, flag, kind};
use testkit::tls::Authority;
use testkit::wait::{PATIENCE, wait_until};
use testkit::{Client, Reply, Upstream};

use crate::gate::{Gate, NUMB, RICH, before, refused};
use crate::peer::{Doing, Manners, Peer, ask, block_on, collect, connect, pace, request, reset};

const CALM: u32 = 0xb;

#[test]
fn a_request_by_http2_takes_the_same_road() {
    let upstream = Upstream::start(|_| Reply::ok("hello").header("x-a", "1"));
    let gate = before(&upstream);
    let answer = block_on(async {
        let sender = connect(gate.addr()).await;
        let fields = [("cookie", "a=1"), ("x-b", "2"), ("cookie", "b=2")];
        ask(&sender, request("GET", "/tea?x=y", &fields), None, None).await.unwrap()
    });
    assert_eq!((answer.status, answer.text(), answer.field("x-a")), (200, "hello", Some("1")));
    assert_eq!(answer.field("via"), Some("1.1 seawall"));
    let seen = &upstream.requests()[0];
    assert_eq!((&*seen.method, &*seen.target), ("GET", "/tea?x=y"));
    assert_eq!(seen.headers.get("host"), Some("a.test"));
    assert_eq!(seen.headers.all("cookie").collect::<Vec<_>>(), ["a=1; b=2"]);
    assert_eq!(seen.headers.get("x-b"), Some("2"));
    assert_eq!(gate.metric("seawall_gateway_http2_streams_total", &[]), Some(1.0));
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let upstream = Upstream::start(|request| {
        let body = [request.body(), request.trailers().get("x-sum").unwrap_or("none").as_bytes()].concat();
        Reply::ok(body).chunked().trailer("x-check", "7")
    });
    let gate = before(&upstream);
    let large = Bytes::from(vec![b'x'; 300_000]);
    block_on(async {
        let sender = connect(gate.addr()).await;
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("9"))]);
        let answer =
            ask(&sender, request("POST", "/", &[]), Some(large.clone()), Some(trailers)).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 300_001));
        assert!(answer.body.ends_with(b"x9") && answer.field("x-check") == Some("7"));
        let stated = [("content-length", "5")];
        let answer = ask(&sender, request("POST", "/", &stated), Some("12345".into()), None).await.unwrap();
        assert_eq!(answer.text(), "12345none");
    });
    assert_eq!(upstream.requests()[1].headers.get("content-length"), Some("5"));
    assert_eq!(upstream.requests()[0].headers.get("content-length"), None);
}

#[test]
fn answers_end_as_they_should() {
    let upstream = Upstream::start(|request| match request.path() {
        "/204" => Reply::status(204),
        "/304" => Reply::status(304),
        "/close" => Reply::ok("to the end").until_close(),
        "/cut" => Reply::ok("half").announce_length(100).then_close(),
        "/cut-chunks" => {
            Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").then_close()
        }
        _ => Reply::ok("body").header("x-length", "4"),
    });
    let gate = Gate::with("web", &[upstream.addr()], NUMB).start();
    block_on(async {
        let sender = connect(gate.addr()).await;
        for (method, path, status, body) in [
            ("GET", "/", 200, "body"),
            ("HEAD", "/", 200, ""),
            ("GET", "/204", 204, ""),
            ("GET", "/304", 304, ""),
            ("GET", "/close", 200, "to the end"),
        ] {
            let answer = ask(&sender, request(method, path, &[]), None, None).await.unwrap();
            assert_eq!((answer.status, answer.text()), (status, body), "{method} {path}");
        }
        for path in ["/cut", "/cut-chunks"] {
            let error = ask(&sender, request("GET", path, &[]), None, None).await.unwrap_err();
            assert_eq!(reset(&error), Some(Reason::INTERNAL_ERROR), "{path}: {error}");
        }
        // What happened to one stream is nothing to the others.
        assert_eq!(ask(&sender, request("GET", "/", &[]), None, None).await.unwrap().status, 200);
    });
}

#[test]
fn refusals_come_by_http2_and_leave_the_connection_alone() {
    let upstream = Upstream::constant("ok");
    let gate = Gate::to(&[upstream.addr()])
        .route("match: {path: /only}, service: web")
        .listener("limits: {head: 2KiB}")
        .start();
    block_on(async {
        let sender = connect(gate.addr()).await;
        let answer = ask(&sender, request("GET", "/other", &[]), None, None).await.unwrap();
        assert_eq!((answer.status, answer.field("seawall-reason")), (404, Some("no_route")));
        // An upload that nobody wants is cut, not drained.
        let body = Bytes::from(vec![0; 40_000]);
        let answer = ask(&sender, request("POST", "/other", &[]), Some(body), None).await.unwrap();
        assert_eq!(answer.status, 404);
        assert_eq!(ask(&sender, request("GET", "/only", &[]), None, None).await.unwrap().text(), "ok");
    });
    assert_eq!(refused(&gate, "no_route"), 2.0);
}

#[test]
fn many_streams_share_one_connection() {
    let upstream = Upstream::start(|request| Reply::ok(request.target));
    let gate = before(&upstream);
    block_on(async {
        let sender = connect(gate.addr()).await;
        let mut all = tokio::task::JoinSet::new();
        for number in 0..100 {
            let sender = sender.clone();
            all.spawn(async move {
                let path = format!("/{number}");
                let answer = ask(&sender, request("GET", &path, &[]), None, None).await.unwrap();
                assert_eq!(answer.text(), path);
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
    });
    assert_eq!(gate.metric("seawall_gateway_http2_connections_total", &[]), Some(1.0));
}

#[test]
fn a_client_that_cancels_frees_the_endpoint() {
    let upstream = Upstream::start(|_| Reply::hang());
    let gate = before(&upstream);
    let mut frames = Frames::connect(gate.addr());
    frames.get(1, "/");
    upstream.wait_for_requests(1);
    frames.send(kind::RESET, 0, 1, &8_u32.to_be_bytes());
    wait_until("nothing is under way", PATIENCE, || {
        gate.metric("seawall_gateway_requests_total", &["outcome=\"cancelled\""]) == Some(1.0)
    });
}

#[test]
fn a_slow_reader_holds_a_window_not_a_whole_answer() {
    const LENGTH: u64 = 64 * 1024 * 1024;
    let upstream = Upstream::start(|_| Reply::status(200).fill(LENGTH));
    let gate = Gate::to(&[upstream.addr()]).listener("timeouts: {write: 500ms}").start();
    let mut frames = Frames::connect(gate.addr());
    frames.get(1, "/");
    let mut received = 0;
    let code = frames.find("reset", |frame| {
        received += if frame.kind == kind::DATA { frame.payload.len() } else { 0 };
        (frame.kind == kind::RESET).then(|| frame.code())
    });
    assert_eq!(received, 65_535, "the first window and no more");
    assert_eq!(code, u32::from(Reason::INTERNAL_ERROR));
    let held = gate.metric("seawall_gateway_buffer_bytes", &[]).unwrap();
    assert!(held < 1_000_000.0, "{held}");
    gate.wait_for_metric("seawall_gateway_client_timeouts_total", &["stage=\"write\""], |count| count == 1.0);
}

#[test]
fn a_client_is_told_to_go_and_its_requests_are_served() {
    let held = testkit::Gate::new();
    let hold = held.clone();
    let upstream = Upstream::start(move |_| Reply::ok("late").hold(&hold));
    let mut gate = before(&upstream);
    let mut frames = Frames::connect(gate.addr());
    frames.get(1, "/");
    upstream.wait_for_requests(1);
    gate.signal(libc::SIGTERM);
    let code = frames.find("farewell", |frame| (frame.kind == kind::GOAWAY).then(|| frame.code()));
    assert_eq!(code, 0);
    held.open();
    frames.find("answer", |frame| (frame.kind == kind::DATA && frame.payload == b"late").then_some(()));
    drop(frames);
    assert!(gate.wait().success());
}

#[test]
fn an_idle_connection_is_closed_with_a_farewell() {
    let upstream = Upstream::constant("ok");
    let gate = Gate::to(&[upstream.addr()]).listener("timeouts: {idle: 300ms}").start();
    let mut frames = Frames::connect(gate.addr());
    assert_eq!(frames.farewell(), Some(0));
}

#[test]
fn a_silent_client_is_asked_whether_it_is_there() {
    let upstream = Upstream::start(|_| Reply::hang());
    let gate =
        Gate::to(&[upstream.addr()]).listener("http2: {ping_interval: 100ms, ping_timeout: 200ms}").start();
    let mut frames = Frames::connect(gate.addr());
    frames.get(1, "/");
    frames.find("ping", |frame| (frame.kind == kind::PING && frame.flags & flag::ACK == 0).then_some(()));
    // It does not answer.
    assert_eq!(frames.farewell(), None);
    gate.wait_for_metric("seawall_gateway_requests_total", &["outcome=\"cancelled\""], |count| count == 1.0);
}

#[test]
fn what_is_no_sound_http2_is_refused() {
    let upstream = Upstream::constant("ok");
    let gate = before(&upstream);
    let base = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
    let with = |more: &[(&'static str, &'static str)]| [&base[..], more].concat();
    // Reset, because no such message may exist.
    for fields in [
        with(&[("Upper", "1")]),
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("keep-alive", "1")]),
        with(&[("upgrade", "h2c")]),
        with(&[("proxy-connection", "close")]),
        with(&[("te", "gzip")]),
        with(&[(":path", "/again")]),
        with(&[("x", "1"), (":late", "1")]),
        base[..3].to_vec(),
        base[1..].to_vec(),
        with(&[("content-length", "3")]),
    ] {
        let mut frames = Frames::connect(gate.addr());
        frames.headers(1, &fields, true);
        let code = frames
            .find("reset", |frame| matches!(frame.kind, kind::RESET | kind::GOAWAY).then(|| frame.code()));
        assert_eq!(code, 1, "{fields:?}");
    }
    // Answered, because the message has another reading.
    for fields in [
        with(&[("host", "b.test")]),
        with(&[("host", "a.test"), ("host", "b.test")]),
        with(&[("content-length", "0"), ("content-length", "0")]),
        with(&[("expect", "200-ok")]),
    ] {
        let mut frames = Frames::connect(gate.addr());
        frames.headers(1, &fields, true);
        let bad =
            frames.find("answer", |frame| (frame.kind == kind::HEADERS).then(|| frame.status() != Some(200)));
        assert!(bad, "{fields:?}");
    }
    // A body that is not as long as it says.
    for body in [&b"12"[..], b"1234"] {
        let mut frames = Frames::connect(gate.addr());
        frames.headers(1, &with(&[("content-length", "3")]), false);
        frames.send(kind::DATA, flag::END_STREAM, 1, body);
        let code = frames.find("reset", |frame| (frame.kind == kind::RESET).then(|| frame.code()));
        assert_eq!(code, 1, "{body:?}");
    }
    assert_eq!(upstream.requests().iter().filter(|seen| seen.complete).count(), 0);
}

#[test]
fn a_listener_may_speak_http1_alone() {
    let upstream = Upstream::constant("ok");
    let gate = Gate::to(&[upstream.addr()]).listener("http2: {enabled: false}").start();
    let mut client = Client::connect(gate.addr());
    client.send(PREFACE);
    assert_eq!(client.response().status, 505);
    // A preface is one only where a connection begins.
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    assert_eq!(client.get("/").status, 200);
    client.send(PREFACE);
    assert_eq!(client.response().status, 505);
}

#[test]
fn the_preface_may_come_byte_by_byte() {
    let upstream = Upstream::constant("ok");
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    for byte in PREFACE {
        client.send([*byte]);
    }
    client.send(encode(kind::SETTINGS, 0, 0, &[]));
    let settings = client.exactly(9).unwrap();
    assert_eq!(settings[3], kind::SETTINGS);
}

/// Sends `frame` until the gateway says that it is enough; answers with what code.
fn flood(gate: &testkit::Seawall, mut frame: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    let mut frames = Frames::connect(gate.addr());
    for number in 0..200_000 {
        if !frames.send_raw(&frame(number)) {
            break;
        }
    }
    frames.farewell()
}

fn get_head(stream: u32) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
    encode(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &block(&fields))
}

/// How many floods of a kind were ended.
fn floods(gate: &testkit::Seawall, kind: &str) -> f64 {
    gate.metric("seawall_gateway_http2_floods_total", &[&format!("frame=\"{kind}\"")]).unwrap_or(0.0)
}

#[test]
fn trap_24_rapid_resets_end_the_connection_and_nobody_elses() {
    let upstream = Upstream::constant("ok");
    let gate = before(&upstream);
    let honest = gate.addr();
    let code = flood(&gate, |number| {
        let stream = 2 * number + 1;
        [get_head(stream), encode(kind::RESET, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    assert!(matches!(code, None | Some(CALM)), "{code:?}");
    gate.wait_for_metric("seawall_gateway_connections_open", &[], |open| open == 0.0);
    let ended =
        floods(&gate, "reset") + gate.metric("seawall_gateway_http2_violations_total", &[]).unwrap_or(0.0);
    assert_eq!(ended, 1.0);
    assert!(gate.metric("seawall_gateway_http2_streams_total", &[]).unwrap() < 1000.0);
    assert_eq!(testkit::get(honest, "/").status, 200);
}

#[test]
fn trap_24_floods_of_frames_without_need_end_the_connection() {
    let upstream = Upstream::constant("ok");
    let gate = before(&upstream);
    let frames: [(&str, Vec<u8>); 4] = [
        ("ping", encode(kind::PING, 0, 0, &[7; 8])),
        ("settings", encode(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("priority", encode(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 7])),
        ("unknown", encode(0x7f, 0, 0, &[1])),
    ];
    for (name, frame) in frames {
        let code = flood(&gate, |_| frame.clone());
        assert!(matches!(code, None | Some(CALM)), "{name}: {code:?}");
        assert_eq!(floods(&gate, name), 1.0, "{name}");
    }
}

#[test]
fn trap_24_empty_data_and_tiny_windows_are_bounded() {
    let upstream = Upstream::start(|_| Reply::hang());
    let gate = before(&upstream);
    for (name, frame) in [
        ("empty_data", encode(kind::DATA, 0, 1, &[])),
        ("window_update", encode(kind::WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())),
    ] {
        let code = flood(&gate, |number| {
            if number > 0 {
                return frame.clone();
            }
            let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
            encode(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields))
        });
        assert!(matches!(code, None | Some(CALM)), "{name}: {code:?}");
    }
    let ended = floods(&gate, "empty_data")
        + floods(&gate, "window_update")
        + gate.metric("seawall_gateway_http2_violations_total", &[]).unwrap_or(0.0);
    assert_eq!(ended, 2.0);
}

#[test]
fn trap_24_endless_heads_are_bounded() {
    let upstream = Upstream::constant("ok");
    let gate = before(&upstream);
    // A head that never ends.
    let code = flood(&gate, |number| match number {
        0 => encode(kind::HEADERS, flag::END_STREAM, 1, &block(&[(":method", "GET")])),
        _ => encode(kind::CONTINUATION, 0, 1, &block(&[("x-more", "1234567890")])),
    });
    assert!(matches!(code, None | Some(1 | CALM)), "{code:?}");
    // One that ends, and is far too large: names of the table, repeated, weigh little on the wire.
    let mut frames = Frames::connect(gate.addr());
    let long = "x".repeat(15_000);
    for number in 0..20 {
        let (kind, flags) = match number {
            0 => (kind::HEADERS, flag::END_STREAM),
            19 => (kind::CONTINUATION, flag::END_HEADERS),
            _ => (kind::CONTINUATION, 0),
        };
        let fields = match number {
            0 => block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")]),
            _ => block(&[("x-bomb", &long)]),
        };
        frames.send(kind, flags, 1, &fields);
    }
    let refused = loop {
        match frames.read() {
            Ok(frame) if matches!(frame.kind, kind::RESET | kind::GOAWAY) => break true,
            Ok(frame) if frame.kind == kind::HEADERS => break frame.status() != Some(200),
            Ok(_) => {}
            Err(_) => break true,
        }
    };
    assert!(refused);
    assert_eq!(upstream.request_count(), 0);
    assert_eq!(testkit::get(gate.addr(), "/").status, 200);
}

#[test]
fn trap_24_a_window_that_never_opens_costs_a_time_out() {
    let upstream = Upstream::constant("body");
    let gate = Gate::to(&[upstream.addr()]).listener("timeouts: {write: 300ms}").start();
    // Settings: initial window 0.
    let mut frames = Frames::with_settings(gate.addr(), &[(4, 0)]);
    frames.get(1, "/");
    let code = frames.find("reset", |frame| (frame.kind == kind::RESET).then(|| frame.code()));
    assert_eq!(code, u32::from(Reason::INTERNAL_ERROR));
    gate.wait_for_metric("seawall_gateway_client_timeouts_total", &["stage=\"write\""], |count| count == 1.0);
}

#[test]
fn curl_and_h2load_are_served() {
    let upstream = Upstream::start(|request| Reply::ok(request.body()).header("x-method", request.method));
    // Two hundred at once on a busy machine are more than admission might let in.
    let keys = format!("{NUMB}, admission: {{enabled: false}}");
    let gate = Gate::with("web", &[upstream.addr()], &keys).start();
    let url = format!("http://{}/", gate.addr());
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--http2-prior-knowledge", "--max-time", "20"]);
        let output = command.args(arguments).arg(&url).output().expect("curl can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let plain = curl(&["--include"]);
    assert!(plain.starts_with("HTTP/2 200") && plain.contains("x-method: GET"), "{plain}");
    assert_eq!(curl(&["--data", "tea"]), "tea");
    assert!(curl(&["--head"]).contains("x-method: HEAD"));
    let h2load = testkit::process::find_program("h2load").expect("h2load: cargo xtask test installs it");
    let output =
        Command::new(h2load).args(["-n", "2000", "-c", "4", "-m", "50", &url]).output().expect("h2load");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
}

// Towards endpoints.

const H2: &str = "protocol: h2";

#[test]
fn an_endpoint_is_asked_by_http2() {
    let peer = Peer::echo(Manners::default());
    let gate = Gate::with("web", &[peer.addr()], H2).start();
    let mut client = Client::connect(gate.addr());
    let answer = client.get("/tea?x=y");
    assert_eq!((answer.status, answer.text().as_str()), (200, "GET "));
    assert_eq!(answer.header("x-path"), Some("/tea"));
    assert!(answer.header("got-seawall-deadline-ms").is_some() && answer.header("got-connection").is_none());
    let sent = "POST / HTTP/1.1\r\nhost: b.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntea\r\n0\r\nx-sum: 1\r\n\r\n";
    let answer = client.request(sent);
    assert_eq!((answer.text().as_str(), answer.header("got-authority")), ("POST tea", Some("b.test")));
    assert_eq!(answer.trailers.get("x-sum"), Some("1"));
    let answer = client.request("POST / HTTP/1.1\r\nhost: b.test\r\ncontent-length: 3\r\n\r\nabc");
    assert_eq!((answer.text().as_str(), answer.header("got-content-length")), ("POST abc", Some("3")));
    assert_eq!((peer.connections(), peer.requests()), (1, 3));
}

#[test]
fn requests_share_a_connection_and_respect_the_endpoints_limit() {
    for (streams_max, connections) in [(100, 1), (5, 4)] {
        let (told, gone) =
            (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(std::sync::atomic::AtomicU64::new(0)));
        let (wait, here) = (Arc::clone(&told), Arc::clone(&gone));
        let peer =
            Peer::start(Manners { streams_max, ..Manners::default() }, move |_, mut respond| -> Doing {
                let (wait, here) = (Arc::clone(&wait), Arc::clone(&here));
                Box::pin(async move {
                    // Answers when all twenty are there.
                    if here.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 19 {
                        wait.add_permits(20);
                    }
                    let _ = wait.acquire().await.map(tokio::sync::SemaphorePermit::forget);
                    let _ = respond.send_response(Response::new(()), true);
                })
            });
        let gate = Gate::with("web", &[peer.addr()], H2).start();
        block_on(async {
            let sender = connect(gate.addr()).await;
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..20 {
                let sender = sender.clone();
                all.spawn(
                    async move { ask(&sender, request("GET", "/", &[]), None, None).await.unwrap().status },
                );
            }
            assert!(all.join_all().await.into_iter().all(|status| status == 200));
        });
        assert_eq!((peer.connections(), peer.requests()), (connections, 20));
    }
}

#[test]
fn an_endpoint_that_says_goodbye_costs_no_request() {
    let peer = Peer::echo(Manners { requests_max: 10, ..Manners::default() });
    let gate = Gate::with("web", &[peer.addr()], H2).start();
    block_on(async {
        let sender = connect(gate.addr()).await;
        for batch in 0..10 {
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let sender = sender.clone();
                all.spawn(async move {
                    let answer =
                        ask(&sender, request("POST", "/", &[]), Some("x".into()), None).await.unwrap();
                    (answer.status, answer.body)
                });
            }
            for (status, body) in all.join_all().await {
                assert_eq!((status, &body[..]), (200, &b"POST x"[..]), "batch {batch}");
            }
        }
    });
    assert!(peer.connections() > 1);
}

#[test]
fn what_an_endpoint_refuses_unseen_is_sent_again_whatever_it_is() {
    let refusing = Peer::start(Manners::default(), |_, mut respond| {
        respond.send_reset(Reason::REFUSED_STREAM);
        Box::pin(async {})
    });
    let good = Peer::echo(Manners::default());
    let keys = format!("{H2}, {NUMB}, retry_budget: {RICH}");
    let gate = Gate::with("web", &[refusing.addr(), good.addr()], &keys).start();
    let mut client = Client::connect(gate.addr());
    for _ in 0..10 {
        let answer = client.request("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx");
        assert_eq!((answer.status, answer.text().as_str()), (200, "POST x"));
    }
    assert!(refusing.requests() > 0 && good.requests() == 10);
}

#[test]
fn an_endpoint_that_is_not_there_or_speaks_something_else_is_a_failed_connection() {
    let http1 = Upstream::constant("ok");
    for endpoint in [http1.addr(), testkit::free_port()] {
        let gate = Gate::with("web", &[endpoint], &format!("{H2}, {NUMB}")).start();
        let answer = testkit::get(gate.addr(), "/");
        assert_eq!((answer.status, answer.header("seawall-reason")), (502, Some("connect_failed")));
    }
}

#[test]
fn a_connection_that_dies_fails_every_request_on_it() {
    let peer = Peer::start(Manners::default(), |_, respond| {
        Box::pin(async move {
            std::future::pending::<()>().await;
            drop(respond);
        })
    });
    let gate = Gate::with("web", &[peer.addr()], &format!("{H2}, {NUMB}")).start();
    let (addr, clients) = (gate.addr(), 3);
    let waiting: Vec<_> = (0..clients)
        .map(|_| {
            std::thread::spawn(move || {
                let body = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
                Client::connect(addr).request(body)
            })
        })
        .collect();
    wait_until("all are under way", PATIENCE, || peer.requests() == clients);
    drop(peer);
    for thread in waiting {
        let answer = thread.join().unwrap();
        assert_eq!((answer.status, answer.header("seawall-reason")), (502, Some("upstream_reset")));
    }
    let failures = gate.metric("seawall_gateway_endpoint_failures_total", &[]).unwrap();
    assert_eq!(failures, clients as f64);
}

#[test]
fn a_silent_endpoint_is_asked_whether_it_is_there() {
    // It takes connections and says hello, and nothing ever after.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let keys = format!(
        "{H2}, {NUMB}, retry: {{attempts_max: 1}}, http2: {{ping_interval: 100ms, ping_timeout: 200ms}}"
    );
    let gate = Gate::with("web", &[addr], &keys).start();
    let silent = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = socket.accept().unwrap();
        stream.write_all(&encode(kind::SETTINGS, 0, 0, &[])).unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        heard
    });
    let answer = testkit::get(gate.addr(), "/");
    assert_eq!((answer.status, answer.header("seawall-reason")), (502, Some("upstream_reset")));
    assert!(silent.join().unwrap().len() > PREFACE.len());
}

#[test]
fn a_slow_client_slows_the_endpoint_down() {
    let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let peer = Peer::start(Manners::default(), move |_, mut respond| {
        let count = Arc::clone(&count);
        Box::pin(async move {
            let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
            loop {
                send.reserve_capacity(16_384);
                match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                    Some(Ok(room)) if room > 0 => {
                        count.fetch_add(room as u64, std::sync::atomic::Ordering::Relaxed);
                        if send.send_data(vec![0; room].into(), false).is_err() {
                            return;
                        }
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
        })
    });
    let gate = Gate::with("web", &[peer.addr()], H2).start();
    let mut frames = Frames::connect(gate.addr());
    frames.get(1, "/");
    let mut received = 0;
    frames.find("the first window", |frame| {
        received += if frame.kind == kind::DATA { frame.payload.len() } else { 0 };
        (received == 65_535).then_some(())
    });
    // Both windows, what a worker reads at once, and what lies in between: far from all.
    let bound = 2_000_000;
    testkit::wait::pace(Duration::from_millis(200));
    assert!(sent.load(std::sync::atomic::Ordering::Relaxed) < bound);
    // A little room lets a little more through.
    for stream in [0, 1] {
        frames.send(kind::WINDOW_UPDATE, 0, stream, &30_000_u32.to_be_bytes());
    }
    frames.find("more", |frame| {
        received += if frame.kind == kind::DATA { frame.payload.len() } else { 0 };
        (received == 95_535).then_some(())
    });
}

#[test]
fn a_slow_endpoint_slows_an_upload_down() {
    let peer = Peer::start(Manners::default(), |request, mut respond| {
        Box::pin(async move {
            // It takes nothing until the client has given up pushing.
            let mut recv = request.into_body();
            pace(Duration::from_millis(300)).await;
            let body = collect(&mut recv).await.map_or(0, |(body, _)| body.len());
            let response = Response::builder().header("x-got", body).body(()).expect("a head");
            let _ = respond.send_response(response, true);
        })
    });
    let gate = Gate::with("web", &[peer.addr()], H2).start();
    let answer = block_on(async {
        let sender = connect(gate.addr()).await;
        ask(&sender, request("POST", "/", &[]), Some(vec![1; 5_000_000].into()), None).await.unwrap()
    });
    assert_eq!(answer.field("x-got"), Some("5000000"));
}

// Over TLS.

#[test]
fn with_tls_both_sides_choose_by_alpn() {
    let authority = Authority::new("tests");
    let issued = authority.server(&["shop.example", "127.0.0.1"]);
    let tls = |alpn: &str| {
        let (cert, key) = (issued.cert.display(), issued.key.display());
        format!("tls: {{certificates: [{{cert: '{cert}', key: '{key}'}}]{alpn}}}")
    };
    let upstream = Upstream::start(|request| Reply::ok(request.body()).header("x-method", request.method));
    let inner = Gate::to(&[upstream.addr()]).listener(&tls("")).start();
    let old = Gate::to(&[upstream.addr()]).listener(&tls(", alpn: [http/1.1]")).start();

    // A client that offers both gets HTTP/2, and HTTP/1.1 where that is all there is.
    for (gate, version) in [(&inner, "HTTP/2 200"), (&old, "HTTP/1.1 200")] {
        let port = gate.addr().port();
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--include",
            "--max-time",
            "20",
            "--data",
            "tea",
            "--cacert",
        ]);
        command.arg(authority.file()).arg("--resolve").arg(format!("shop.example:{port}:127.0.0.1"));
        let output =
            command.arg(format!("https://shop.example:{port}/")).output().expect("curl can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with(version) && text.ends_with("tea"), "{text}");
    }

    // So it is towards endpoints.
    for (protocol, endpoint, streams, status) in [
        ("auto", &inner, 4.0, 200),
        ("h2", &inner, 7.0, 200),
        ("h1", &inner, 7.0, 200),
        ("auto", &old, 0.0, 200),
        ("h2", &old, 0.0, 502),
    ] {
        let keys = format!("protocol: {protocol}, {NUMB}, tls: {{ca: '{}'}}", authority.file().display());
        let gate = Gate::with("web", &[endpoint.addr()], &keys).start();
        let mut client = Client::connect(gate.addr());
        for _ in 0..3 {
            assert_eq!(client.get("/").status, status, "{protocol}");
        }
        let counted = endpoint.metric("seawall_gateway_http2_streams_total", &[]);
        assert_eq!(counted, Some(streams), "{protocol}");
    }
}
