//! On the engine of another process, over its socket; and over TCP with the token.

use std::time::Duration;

use coord::{Coord, Event, Failure, LeaseOptions, Refusal, Update};
use testkit::TempDir;
use tokio::net::{TcpListener, UnixListener};

const TTL: Duration = Duration::from_secs(60);

fn serve(dir: &TempDir) -> (Coord, Coord) {
    let kept = Coord::in_memory();
    let socket = dir.path().join("coord.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let routes = coord::http::routes(kept.clone(), None);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (kept, Coord::at_socket(&socket, Duration::from_secs(20)))
}

#[tokio::test]
async fn another_process_has_leases_watches_and_refusals_alike() {
    let dir = TempDir::new("remote");
    let (kept, far) = serve(&dir);
    let mut watch = far.watch("lease/a b%");
    assert!(matches!(watch.next().await, Update::All { entries, .. } if entries.is_empty()));
    let session = far.session(TTL).await.unwrap();
    let lease = session.acquire("a b%", &LeaseOptions::default()).await.unwrap();
    assert_eq!(kept.holder("a b%").await.unwrap().unwrap().token, Some(lease.token()));
    let Update::Changed(events) = watch.next().await else { panic!("a change") };
    assert!(matches!(&events[..], [Event::Put { entry }] if entry.key == "lease/a b%"), "{events:?}");
    kept.break_lease("a b%", lease.token()).await.unwrap();
    lease.broken().await;
    let late = far.put("state", "late", Some(lease.guard())).await.unwrap_err();
    assert!(matches!(late, Failure::Refused(Refusal::Superseded { .. })), "{late}");
    let long = far.put(&"k".repeat(1000), "", None).await.unwrap_err();
    assert!(matches!(long, Failure::Refused(Refusal::Invalid { .. })), "{long}");
    let position = far.list("").await.unwrap().position;
    let foreign = coord::Position { history: position.history ^ 1, ..position };
    assert_eq!(
        far.engine().changes(String::new(), foreign).await.unwrap_err(),
        Failure::Behind { from: foreign }
    );
}

#[tokio::test]
async fn over_tcp_nobody_gets_in_without_the_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = coord::http::routes(Coord::in_memory(), Some("secret".to_owned()));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let ask = move |token: &'static str| {
        tokio::task::spawn_blocking(move || {
            let body = r#"{"do":"list","prefix":""}"#;
            let length = body.len();
            let head =
                format!("POST /api/coord HTTP/1.1\r\nhost: x\r\n{token}content-length: {length}\r\n\r\n");
            testkit::Client::connect(address).request(format!("{head}{body}")).status
        })
    };
    for wrong in ["", "authorization: Bearer secrex\r\n", "authorization: secret\r\n"] {
        assert_eq!(ask(wrong).await.unwrap(), 401, "{wrong}");
    }
    assert_eq!(ask("authorization: Bearer secret\r\n").await.unwrap(), 200);
}
