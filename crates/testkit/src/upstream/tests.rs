use super::*;
use crate::client::{Client, get, try_get};

fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}

#[test]
fn keeps_connections_and_counts_them() {
    let upstream = Upstream::constant("hello");
    let mut client = Client::connect(upstream.addr());
    assert_eq!(client.get("/1").text(), "hello");
    assert_eq!(client.get("/2").text(), "hello");
    assert_eq!(get(upstream.addr(), "/3").text(), "hello");
    let seen: Vec<_> =
        upstream.requests().into_iter().map(|request| (request.target, request.connection)).collect();
    assert_eq!(seen, [("/1".to_owned(), 0), ("/2".to_owned(), 0), ("/3".to_owned(), 1)]);
    assert_eq!(upstream.connections(), 2);
    drop(client);
    wait_until("all are closed", PATIENCE, || upstream.open_connections() == 0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start(|request| Reply::ok(request.target));
    let mut client = Client::connect(upstream.addr());
    client.send("GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
    assert_eq!((client.response().text(), client.response().text()), ("/a".to_owned(), "/b".to_owned()));
}

#[test]
fn echoes_head_and_body_in_both_framings() {
    let upstream = Upstream::echo();
    let mut client = Client::connect(upstream.addr());
    let sent = "POST /x HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(client.request(sent).text(), sent);
    let chunked = "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nT: 1\r\n\r\n";
    assert!(client.request(chunked).text().ends_with("\r\n\r\nhi"));
    assert_eq!(upstream.requests()[1].trailers.get("t"), Some("1"));
    assert!(upstream.requests().iter().all(|request| request.complete && request.body == b"hi"));
}

#[test]
fn chunks_trailers_and_hints_arrive() {
    let upstream = Upstream::start(|_| {
        Reply::status(201)
            .interim(103, &[("Link", "</s.css>")])
            .chunk("ab")
            .chunk("")
            .chunk("c")
            .trailer("Sum", "3")
    });
    let response = get(upstream.addr(), "/");
    assert_eq!((response.status, response.text().as_str()), (201, "abc"));
    assert_eq!(response.trailers.get("sum"), Some("3"));
    assert_eq!(response.interim[0].0, 103);
    assert_eq!(response.interim[0].1.get("link"), Some("</s.css>"));
}

#[test]
fn a_head_request_gets_no_body() {
    let upstream = Upstream::constant("hello");
    let mut client = Client::connect(upstream.addr());
    let response = client.request("HEAD / HTTP/1.1\r\n\r\n");
    assert_eq!((response.header("content-length"), response.text().as_str()), (Some("5"), ""));
    assert_eq!(client.get("/").text(), "hello");
}

#[test]
fn invites_a_body_that_waits_for_it() {
    let upstream = Upstream::echo();
    let mut client = Client::connect(upstream.addr());
    client.send("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.head().unwrap().line, "HTTP/1.1 100 Continue");
    client.send("hi");
    assert!(client.response().text().ends_with("hi"));
}

#[test]
fn answers_early_and_then_reads_the_body() {
    let upstream = Upstream::start(|_| Reply::status(413).early());
    let mut client = Client::connect(upstream.addr());
    client.send("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.response().status, 413);
    assert!(!upstream.requests()[0].complete);
    client.send("hi");
    assert_eq!(client.get("/").status, 413, "the connection is in step");
}

#[test]
fn a_gate_holds_the_head_and_the_body_back() {
    let (head, body) = (Gate::new(), Gate::new());
    let (head_gate, body_gate) = (head.clone(), body.clone());
    let upstream =
        Upstream::start(move |_| Reply::ok("a").hold(&head_gate).pause_until(&body_gate).chunk("b"));
    let mut client = Client::connect(upstream.addr());
    client.send("GET / HTTP/1.1\r\n\r\n");
    upstream.wait_for_requests(1);
    assert!(client.is_quiet_for(Duration::from_millis(20)));
    head.open();
    assert_eq!(client.head().unwrap().headers.get("content-length"), Some("2"));
    assert_eq!(client.exactly(1).unwrap(), b"a");
    assert!(client.is_quiet_for(Duration::from_millis(20)));
    body.open();
    assert_eq!(client.exactly(1).unwrap(), b"b");
}

#[test]
fn misbehaves_as_told() {
    let upstream = Upstream::start(|request| match request.target {
        "/close" => Reply::close(),
        "/reset" => Reply::reset(),
        "/cut-head" => Reply::ok("hello").cut_after(10),
        "/cut-body" => Reply::ok("hello").announce_length(9).then_close(),
        "/cut-reset" => Reply::ok("hello").announce_length(9).then_reset(),
        "/junk" => Reply::raw("nonsense\r\n\r\n"),
        _ => Reply::ok("x").extra("unasked"),
    });
    let outcome = |path| try_get(upstream.addr(), path).unwrap_err().kind();
    assert_eq!(outcome("/close"), io::ErrorKind::UnexpectedEof);
    assert_eq!(outcome("/reset"), io::ErrorKind::ConnectionReset);
    assert_eq!(outcome("/cut-head"), io::ErrorKind::UnexpectedEof);
    assert_eq!(outcome("/cut-body"), io::ErrorKind::UnexpectedEof);
    assert_eq!(outcome("/junk"), io::ErrorKind::InvalidData);

    let mut client = Client::connect(upstream.addr());
    client.send("GET /cut-reset HTTP/1.1\r\n\r\n");
    let error = client.try_response().unwrap_err();
    assert!(is_reset(&error), "{error}");

    let mut client = Client::connect(upstream.addr());
    assert_eq!(client.get("/extra").text(), "x");
    assert_eq!(client.exactly(7).unwrap(), b"unasked");
}

#[test]
fn an_upgrade_echoes_until_the_client_finishes() {
    let upstream = Upstream::start(|_| Reply::echo_tunnel("websocket"));
    let mut client = Client::connect(upstream.addr());
    let response = client.request("GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!((response.status, response.header("upgrade")), (101, Some("websocket")));
    client.send(b"\0raw\xff");
    assert_eq!(client.exactly(5).unwrap(), b"\0raw\xff");
    client.finish_sending();
    assert!(client.is_closed_by_server());
}

#[test]
fn stops_with_everything_open_and_starts_again_at_its_address() {
    let upstream = Upstream::start(|request| match request.target {
        "/hang" => Reply::hang(),
        "/slow" => Reply::ok("x").delay(Duration::from_secs(3600)),
        "/unread" => Reply::hang().never_read(),
        _ => Reply::ok("up"),
    });
    for round in 0..3 {
        let mut clients: Vec<_> = ["/hang", "/slow", "/unread"]
            .into_iter()
            .map(|path| {
                let mut client = Client::connect(upstream.addr());
                client.send(format!("POST {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n"));
                client
            })
            .collect();
        upstream.wait_for_requests(3);
        if round == 1 {
            upstream.kill();
            for client in &mut clients {
                let error = client.try_response().unwrap_err();
                assert!(is_reset(&error), "{error}");
            }
        } else {
            upstream.stop();
            assert!(clients.iter_mut().all(Client::is_closed_by_server));
        }
        assert!(Client::try_connect(upstream.addr()).is_err());
        assert_eq!(upstream.open_connections(), 0);
        upstream.start_again();
        assert_eq!(get(upstream.addr(), "/").text(), "up");
        upstream.forget_requests();
    }
}

#[test]
fn health_is_toggled_and_not_recorded() {
    let upstream = Upstream::constant("x");
    assert_eq!(get(upstream.addr(), HEALTH_PATH).status, 200);
    upstream.set_health(503);
    assert_eq!(get(upstream.addr(), HEALTH_PATH).status, 503);
    assert_eq!((upstream.health_checks(), upstream.request_count()), (2, 0));
}

#[test]
fn a_filler_body_is_as_long_as_said() {
    let upstream = Upstream::start(|request| {
        let reply = Reply::status(200).fill(100_000);
        if request.target == "/chunked" { reply.chunked() } else { reply }
    });
    assert_eq!(get(upstream.addr(), "/").body.len(), 100_000);
    assert_eq!(get(upstream.addr(), "/chunked").body.len(), 100_000);
}
