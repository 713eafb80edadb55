//! What other implementations say: curl and openssl.

use std::io::Write;
use std::process::{Command, Stdio};

use testkit::process::find_program;
use testkit::{Seawall, Upstream};

use super::{SHOP, shop, show, tls};
use crate::gate::Gate;

/// What `openssl s_client` says of a session with these options, having said `said` in it.
fn s_client(seawall: &Seawall, options: &[&str], said: &str) -> String {
    let program = find_program("openssl").expect("openssl is installed by `cargo xtask test`");
    let mut child = Command::new(program)
        .args(["s_client", "-connect", &seawall.addr().to_string(), "-servername", SHOP])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl can be started");
    // It may have ended already: the handshake was refused.
    let _ = child.stdin.take().expect("piped").write_all(said.as_bytes());
    let output = child.wait_with_output().expect("openssl ends");
    crate::text(&output.stderr) + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn curl_is_served_and_told_when_the_name_is_wrong() {
    let curl = find_program("curl").expect("curl is installed by `cargo xtask test`");
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let seawall = Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "")).start();
    let port = seawall.addr().port();
    let ask = |name: &str, option: &str| {
        let resolve = format!("{name}:{port}:127.0.0.1");
        let url = format!("https://{name}:{port}/");
        let mut command = Command::new(&curl);
        command.args(["-sS", "--http1.1", option, "--cacert", &show(&authority.file())]);
        command.args(["--resolve", &resolve, &url]).output().expect("curl can be started")
    };
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let output = ask(SHOP, version);
        assert_eq!(crate::text(&output.stdout), "here", "{}", crate::text(&output.stderr));
    }
    // CURLE_PEER_FAILED_VERIFICATION.
    assert_eq!(ask("other.example", "--tlsv1.2").status.code(), Some(60));
    seawall.stop();
}

#[test]
fn old_versions_weak_ciphers_compression_and_renegotiation_are_refused() {
    let (_authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let seawall = Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "")).start();
    let agreed = |said: &str| said.contains("Cipher is ") && !said.contains("Cipher is (NONE)");
    // The judge itself must be able to agree on something.
    for (version, expected) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = s_client(&seawall, &[version], "");
        assert!(agreed(&said) && said.contains(expected), "{said}");
        assert!(said.contains("Compression: NONE") || !said.contains("Compression:"), "{said}");
    }
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(&seawall, &[version, "-cipher", "ALL:@SECLEVEL=0"], "");
        assert!(!agreed(&said), "{version}: {said}");
    }
    // Without forward secrecy, without authentication, with block modes, with old ciphers.
    for ciphers in ["kRSA", "AES128-SHA", "ECDHE+SHA", "DHE", "aNULL", "eNULL", "3DES", "CAMELLIA", "PSK"] {
        let list = format!("{ciphers}:@SECLEVEL=0");
        let said = s_client(&seawall, &["-tls1_2", "-cipher", &list], "");
        assert!(!agreed(&said), "{ciphers}: {said}");
    }
    // `R` on a line of its own asks for a new handshake within the session.
    let said =
        s_client(&seawall, &["-tls1_2"], "R\nGET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert!(said.contains("RENEGOTIATING") && !said.contains("200 OK"), "{said}");
    seawall.stop();

    let newest = Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "minimum: '1.3'")).start();
    assert!(!agreed(&s_client(&newest, &["-tls1_2"], "")));
    assert!(agreed(&s_client(&newest, &["-tls1_3"], "")));
    newest.stop();
}

#[test]
fn a_stapled_response_is_handed_out() {
    let (_authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let dir = testkit::TempDir::new("ocsp");
    // Whether it is any good is between the authority and the client; it is passed on as it is.
    let response = dir.write("response.der", "\u{1}staple\u{2}");
    let keys = format!(
        "tls: {{certificates: [{{cert: '{}', key: '{}', ocsp: '{}'}}]}}",
        show(&issued.cert),
        show(&issued.key),
        show(&response)
    );
    let seawall = Gate::to(&[upstream.addr()]).listener(&keys).start();
    let said = s_client(&seawall, &["-status", "-msg"], "");
    let hex: Vec<String> = "\u{1}staple\u{2}".bytes().map(|byte| format!("{byte:02x}")).collect();
    let dump: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(dump.contains(&hex.join(" ")), "{said}");
    seawall.stop();
}
