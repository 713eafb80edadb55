//! Clients that prove who they are.

use testkit::tls::{Authority, Trust};
use testkit::{Upstream, request};

use super::{SHOP, shop, show, tls};
use crate::gate::Gate;

const ANN: &str = "spiffe://shop.example/ann";
const BEN: &str = "spiffe://shop.example/ben";

#[test]
fn only_clients_with_a_good_certificate_come_in_where_one_is_required() {
    let (authority, issued) = shop();
    let strangers = Authority::new("strangers");
    let upstream = Upstream::constant("here");
    let keys =
        tls(&[&issued], &format!("client_ca: '{}', identity_header: X-Client", show(&authority.file())));
    let seawall = Gate::to(&[upstream.addr()]).listener(&keys).start();
    let refused = |trust: Trust| {
        // In TLS 1.3 a client learns only after its handshake that it was refused.
        trust
            .connect(seawall.addr(), SHOP)
            .and_then(|mut client| client.try_request("GET / HTTP/1.1\r\nHost: test\r\n\r\n"))
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        refused(Trust::speaking(&authority, None, &[version])).expect_err("a certificate is required");
        let stranger = strangers.client(ANN);
        refused(Trust::speaking(&authority, Some(&stranger), &[version])).expect_err("a stranger");
    }
    assert_eq!(upstream.request_count(), 0);

    let ann = authority.client(ANN);
    let mut client = Trust::of(&authority, Some(&ann)).connect(seawall.addr(), SHOP).expect("a session");
    let asked = "GET / HTTP/1.1\r\nHost: test\r\nx-client: spiffe://shop.example/root\r\nX-CLIENT: x\r\n\r\n";
    assert_eq!(client.request(asked).status, 200);
    let seen = &upstream.requests()[0].headers;
    assert_eq!(seen.all("x-client").collect::<Vec<_>>(), [ANN]);
    let failed = |reason: &str| {
        let label = format!("reason=\"{reason}\"");
        seawall.metric("seawall_gateway_tls_handshakes_failed_total", &[&label]).unwrap_or(0.0)
    };
    assert_eq!(failed("certificate") + failed("authority"), 4.0);
    seawall.stop();
}

#[test]
fn who_a_client_is_decides_where_it_goes_and_how_much_it_may_ask() {
    let (authority, issued) = shop();
    let (for_ann, for_all, for_none) =
        (Upstream::constant("ann"), Upstream::constant("known"), Upstream::constant("nobody"));
    let keys = tls(
        &[&issued],
        &format!(
            "client_ca: '{}', client_auth: optional, identity_header: x-client",
            show(&authority.file())
        ),
    );
    let seawall = Gate::default()
        .service("ann", &[for_ann.addr()], "")
        .service("known", &[for_all.addr()], "")
        .service("nobody", &[for_none.addr()], "")
        .route(&format!("match: {{identity: {{exact: '{ANN}'}}, path: /who}}, service: ann"))
        .route("match: {identity: {prefix: 'spiffe://shop.example/'}, path: /who}, service: known")
        .route("match: {path: /who}, service: nobody")
        .route(
            "match: {path: /limited}, service: known, rate_limit: {by: identity, per_sec: 0.001, burst: 1}",
        )
        .route("match: {path: /header, headers: {x-client: {present: true}}}, service: ann")
        .route("match: {path: /header}, service: nobody")
        .listener(&keys)
        .start();
    let connect = |trust: &Trust| trust.connect(seawall.addr(), SHOP).expect("a session");
    let (ann, ben) = (authority.client(ANN), authority.client(BEN));
    let ann = Trust::of(&authority, Some(&ann));
    let ben = Trust::of(&authority, Some(&ben));
    let none = Trust::of(&authority, None);
    for (trust, expected) in [(&ann, "ann"), (&ben, "known"), (&none, "nobody")] {
        assert_eq!(connect(trust).get("/who").text(), expected);
    }
    // A resumed session is that of the same client.
    assert_eq!(connect(&ben).get("/who").text(), "known");
    // Each has its own allowance.
    for trust in [&ann, &ben] {
        assert_eq!(connect(trust).get("/limited").status, 200);
        assert_eq!(connect(trust).get("/limited").status, 429);
    }
    // What a client writes in the header is not there for routes either.
    let forged = "GET /header HTTP/1.1\r\nHost: test\r\nX-Client: spiffe://shop.example/ann\r\n\r\n";
    assert_eq!(connect(&none).request(forged).text(), "nobody");
    seawall.stop();
}

#[test]
fn nobody_forges_an_identity_at_another_listener() {
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let keys =
        tls(&[&issued], &format!("client_ca: '{}', identity_header: x-client", show(&authority.file())));
    let seawall =
        Gate::to(&[upstream.addr()]).trusting().listener(&keys).batch(", trusted: [127.0.0.0/8]").start();
    let plain = seawall.listeners()[1];
    let asked = "GET / HTTP/1.1\r\nHost: test\r\nX-Client: spiffe://shop.example/ann\r\n\r\n";
    assert_eq!(request(plain, asked).status, 200);
    assert_eq!(upstream.requests()[0].headers.get("x-client"), None);
    seawall.stop();
}
