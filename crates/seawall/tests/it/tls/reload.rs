//! Certificates that change while everything runs.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use testkit::tls::Trust;
use testkit::wait::PATIENCE;
use testkit::{Upstream, get, request, wait_until};

use super::{SHOP, shop, tls};
use crate::gate::Gate;

const LOADS: &str = "seawall_gateway_tls_certificate_reloads_total";

#[test]
fn certificates_change_under_load_and_no_request_or_connection_is_lost() {
    const RENEWALS: u32 = 5;
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let seawall = Gate::to(&[upstream.addr()]).workers(2).listener(&tls(&[&issued], "")).start();
    let (addr, stop) = (seawall.addr(), Arc::new(AtomicBool::new(false)));
    let fresh = Arc::new(AtomicU64::new(0));
    // Some keep their connection from the first to the last, others make a new one for each request.
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (trust, stop, fresh) = (Trust::of(&authority, None), Arc::clone(&stop), Arc::clone(&fresh));
            thread::spawn(move || {
                let mut kept = trust.connect(addr, SHOP).expect("a session");
                while !stop.load(Relaxed) {
                    if number % 2 == 0 {
                        assert_eq!(kept.get("/").status, 200);
                    } else {
                        assert_eq!(trust.connect(addr, SHOP).expect("a session").get("/").status, 200);
                        fresh.fetch_add(1, Relaxed);
                    }
                }
                assert_eq!(kept.get("/").status, 200, "the first connection still stands");
            })
        })
        .collect();
    let trust = Trust::of(&authority, None);
    let mut shown = trust.connect(addr, SHOP).expect("a session").shown();
    for number in 1..=RENEWALS {
        authority.renew(&issued, &[SHOP]);
        seawall.wait_for_metric(LOADS, &["result=\"ok\""], |loads| loads == f64::from(number));
        let now = Trust::of(&authority, None).connect(addr, SHOP).expect("a session").shown();
        assert_ne!(now, shown, "the new certificate is shown");
        shown = now;
        let before = fresh.load(Relaxed);
        wait_until("new connections are made meanwhile", PATIENCE, || fresh.load(Relaxed) > before);
    }
    stop.store(true, Relaxed);
    for client in clients {
        client.join().expect("no request failed");
    }
    assert_eq!(seawall.metric(LOADS, &["result=\"refused\""]), Some(0.0));
    seawall.stop();
}

#[test]
fn a_bad_new_certificate_is_refused_and_the_old_one_keeps_serving() {
    let (authority, issued) = shop();
    let expired = authority.expired(&[SHOP]);
    let upstream = Upstream::constant("here");
    let seawall = Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "")).start();
    let shown = || Trust::of(&authority, None).connect(seawall.addr(), SHOP).expect("a session").shown();
    let first = shown();
    let [old_cert, old_key] = [&issued.cert, &issued.key].map(|path| fs::read(path).expect("a file"));
    let mut refused = 0.0;
    let expired = [&expired.cert, &expired.key].map(|path| fs::read(path).expect("a file"));
    for (cert, key, why) in [
        (b"nothing".as_slice(), old_key.as_slice(), "holds no certificate"),
        (&expired[0], &old_key, "is not that of the certificate"),
        (&expired[0], &expired[1], "expired at"),
    ] {
        fs::write(&issued.key, key).and_then(|()| fs::write(&issued.cert, cert)).expect("writable files");
        // Both files may be seen one after the other.
        seawall.wait_for_metric(LOADS, &["result=\"refused\""], |now| now > refused);
        let admin = seawall.admin();
        let asked = format!("GET /api/status HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        let status = || request(admin, &asked).text();
        wait_until("the status says why", PATIENCE, || status().contains(why));
        refused = seawall.metric(LOADS, &["result=\"refused\""]).expect("a figure");
        assert_eq!(shown(), first);
        assert_eq!(seawall.metric("seawall_gateway_tls_certificates_current", &[]), Some(0.0));
    }
    fs::write(&issued.key, &old_key)
        .and_then(|()| fs::write(&issued.cert, &old_cert))
        .expect("writable files");
    seawall.wait_for_metric("seawall_gateway_tls_certificates_current", &[], |current| current == 1.0);
    assert_eq!(shown(), first);
    seawall.stop();
}

#[test]
fn when_a_certificate_expires_is_shown() {
    let (_authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let seawall = Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "")).start();
    let expiry = "seawall_gateway_tls_certificate_expiry_timestamp_seconds";
    let path = format!("certificate=\"{}\"", issued.cert.display());
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs_f64();
    let left = seawall.metric(expiry, &[&path]).expect("a figure") - now;
    assert!((90.0..=90.5).contains(&(left / 86_400.0)), "{left} s");
    let output = crate::run(&["status", "--admin", &seawall.admin().to_string()]);
    let said = crate::text(&output.stdout);
    assert!(said.contains(SHOP) && said.contains("in 90d"), "{said}");
    seawall.stop();
}

#[test]
fn a_listener_turns_to_tls_by_a_reload_and_tickets_do_not_get_round_new_demands() {
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let plain = Gate::to(&[upstream.addr()]);
    let seawall = plain.start();
    let mut kept = testkit::Client::connect(seawall.addr());
    assert_eq!(kept.get("/").status, 200);
    seawall.reload(&Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "")).yaml());
    assert_eq!(kept.get("/").status, 200, "an open connection stays as it is");
    let trust = Trust::of(&authority, None);
    for _ in 0..2 {
        assert_eq!(trust.connect(seawall.addr(), SHOP).expect("a session").get("/").status, 200);
    }
    let demand = format!("client_ca: '{}'", authority.file().display());
    seawall.reload(&Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], &demand)).yaml());
    let asked = trust
        .connect(seawall.addr(), SHOP)
        .and_then(|mut client| client.try_request("GET / HTTP/1.1\r\nHost: test\r\n\r\n"));
    asked.expect_err("a session without a certificate is not resumed where one is required");
    seawall.reload(&plain.yaml());
    assert_eq!(get(seawall.addr(), "/").status, 200);
    seawall.stop();
}
