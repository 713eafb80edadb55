use std::path::PathBuf;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use model::Span;
use proptest::prelude::*;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dns_server::{DnsServer, Reply, ip, srv};
use super::*;
use crate::config::{Dns, EndpointParams, FileSd, Service};

/// A source under way, and what it publishes.
struct Running {
    discovery: watch::Receiver<Discovery>,
    _stop: DropGuard,
}

impl Running {
    fn start(source: Source) -> Self {
        let (discovery, stop) = (source.subscribe(), CancellationToken::new());
        tokio::spawn(source.run(stop.clone()));
        Self { discovery, _stop: stop.drop_guard() }
    }

    async fn until(&mut self, wanted: impl FnMut(&Discovery) -> bool) -> Discovery {
        let seen = tokio::time::timeout(Duration::from_secs(30), self.discovery.wait_for(wanted)).await;
        seen.expect("the awaited state within 30 s").unwrap().clone()
    }

    /// Waits until the set is `wanted` (names, addresses and weights as [`show`] prints them).
    async fn set(&mut self, wanted: &[&str]) {
        self.until(|discovery| show(discovery) == wanted).await;
    }

    async fn trouble(&mut self) -> Discovery {
        self.until(|discovery| discovery.trouble.is_some()).await
    }
}

fn show(discovery: &Discovery) -> Vec<String> {
    let set = discovery.set.iter().flat_map(|set| set.iter());
    set.map(|one| {
        let Discovered { name, address, weight, .. } = one;
        if *name == address.to_string() {
            format!("{name} ×{weight}")
        } else {
            format!("{name}={address} ×{weight}")
        }
    })
    .collect()
}

proptest! {
    /// Whatever a source answers: once there was a set, there is one; it is the last good answer; names are unique; trouble
    /// is shown exactly while the last answer was bad, and every bad answer is counted.
    #[test]
    fn whatever_is_answered_the_last_good_set_stays(
        answers in prop::collection::vec((prop::collection::vec(0..6u16, 0..5), any::<bool>()), 0..20)
    ) {
        let publisher = Publisher::new("cart", "test".to_owned());
        let (mut good, mut failures) = (None, 0);
        for (ports, trouble) in answers {
            let found = |port: &u16| {
                let address = SocketAddr::from(([127, 0, 0, 1], *port));
                Discovered::new(address.to_string(), address, 1)
            };
            let well = publisher.report(ports.iter().map(found).collect(), trouble.then(|| "ill".to_owned()));
            prop_assert_eq!(well, !trouble && !ports.is_empty());
            failures += u64::from(!well);
            if !ports.is_empty() {
                let mut unique = Vec::new();
                ports.iter().for_each(|port| if !unique.contains(port) { unique.push(*port) });
                good = Some(unique);
            }
            let now = publisher.subscribe().borrow().clone();
            let kept = now.set.map(|set| set.iter().map(|one| one.address.port()).collect::<Vec<_>>());
            prop_assert_eq!(&kept, &good);
            prop_assert_eq!(now.trouble.is_some(), !well);
            prop_assert_eq!(now.failures, failures);
        }
    }
}

mod list {
    use super::*;

    fn list(endpoints: &[&str]) -> Service {
        let entry = |address: &&str| EndpointParams { address: (*address).to_owned(), weight: 2 };
        Service { endpoints: endpoints.iter().map(entry).collect(), ..Service::default() }
    }

    #[test]
    fn addresses_are_known_without_a_runtime() {
        let source = Source::new("cart", &list(&["10.0.0.1:80", "[::1]:81", "10.0.0.1:80"]), None);
        assert_eq!(show(&source.subscribe().borrow()), ["10.0.0.1:80 ×2", "[::1]:81 ×2"]);
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_a_wrong_one_does_not_hide_the_others() {
        let mut running =
            Running::start(Source::new("cart", &list(&["localhost:80", "cart.invalid:80"]), None));
        running.set(&["localhost:80=127.0.0.1:80 ×2"]).await;
        let discovery = running.trouble().await;
        assert!(discovery.trouble.unwrap().contains("cart.invalid:80"));
    }

    #[test]
    fn a_name_keeps_its_address_while_it_has_it() {
        let [one, two, six] = ["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"].map(|text| text.parse().unwrap());
        assert_eq!(names::choose(None, &[six, two, one]), Some(two), "IPv4 before IPv6");
        assert_eq!(names::choose(Some(one), &[six, two, one]), Some(one));
        assert_eq!(names::choose(Some(one), &[six, two]), Some(two));
        assert_eq!(names::choose(None, &[six]), Some(six));
        assert_eq!(names::choose(Some(one), &[]), None);
    }
}

mod dns {
    use super::*;

    const HOST: &str = "cart.test.";

    fn dns(server: &DnsServer) -> Dns {
        Dns {
            name: Some(HOST.to_owned()),
            port: Some(80),
            servers: vec![server.address],
            refresh_min: Some(Span::from_millis(5)),
            refresh_max: Some(Span::from_millis(20)),
            ..Dns::default()
        }
    }

    fn start(dns: &Dns) -> Running {
        start_with(DnsSource::new(dns))
    }

    fn start_with(source: DnsSource) -> Running {
        let publisher = Publisher::new("cart", source.to_string());
        Running::start(Source { kind: Kind::Dns(source), publisher })
    }

    fn addresses(ttl: u32, all: &[&str]) -> Reply {
        Reply::Records(ttl, all.iter().map(|text| ip(text)).collect())
    }

    #[tokio::test]
    async fn a_and_aaaa_are_merged_and_changes_are_followed() {
        let server = DnsServer::start().await;
        server.says(HOST, RecordType::A, addresses(60, &["10.0.0.2", "10.0.0.1"]));
        server.says(HOST, RecordType::AAAA, addresses(60, &["::1"]));
        let mut running = start(&dns(&server));
        running.set(&["10.0.0.1:80 ×1", "10.0.0.2:80 ×1", "[::1]:80 ×1"]).await;
        server.says(HOST, RecordType::A, addresses(60, &["10.0.0.3"]));
        server.says(HOST, RecordType::AAAA, Reply::Code(ResponseCode::NoError));
        running.set(&["10.0.0.3:80 ×1"]).await;
        assert_eq!(running.discovery.borrow().failures, 0);
    }

    /// TRAP 17: a time to live of 0 dropped every back end.
    #[tokio::test]
    async fn trap_17_ttl_0_drops_nobody_and_is_asked_again() {
        let server = DnsServer::start().await;
        server.says(HOST, RecordType::A, addresses(0, &["10.0.0.1"]));
        let mut running = start(&dns(&server));
        running.set(&["10.0.0.1:80 ×1"]).await;
        server.asked(6).await;
        assert_eq!(show(&running.discovery.borrow()), ["10.0.0.1:80 ×1"]);
        // And a cached time to live of 0 lived for ever.
        server.says(HOST, RecordType::A, addresses(0, &["10.0.0.2"]));
        running.set(&["10.0.0.2:80 ×1"]).await;
    }

    /// TRAP 17: an empty answer never means "remove all".
    #[tokio::test]
    async fn trap_17_an_answer_without_addresses_keeps_the_stale_set_and_alarms() {
        let server = DnsServer::start().await;
        for code in
            [ResponseCode::NoError, ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::Refused]
        {
            server.says(HOST, RecordType::A, addresses(60, &["10.0.0.1"]));
            server.says(HOST, RecordType::AAAA, Reply::Code(ResponseCode::NoError));
            let mut running = start(&dns(&server));
            running.set(&["10.0.0.1:80 ×1"]).await;
            server.says(HOST, RecordType::A, Reply::Code(code));
            server.says(HOST, RecordType::AAAA, Reply::Code(code));
            let discovery = running.trouble().await;
            assert_eq!(show(&discovery), ["10.0.0.1:80 ×1"], "{code}");
            assert!(discovery.failures >= 1, "{code}");
            // The alarm ends with the trouble.
            server.says(HOST, RecordType::A, addresses(60, &["10.0.0.2"]));
            server.says(HOST, RecordType::AAAA, Reply::Code(ResponseCode::NoError));
            let discovery = running.until(|discovery| discovery.trouble.is_none()).await;
            assert_eq!(show(&discovery), ["10.0.0.2:80 ×1"], "{code}");
        }
    }

    #[tokio::test]
    async fn a_server_that_never_answers_keeps_the_stale_set() {
        let server = DnsServer::start().await;
        server.says(HOST, RecordType::A, addresses(60, &["10.0.0.1"]));
        let mut running = start_with(DnsSource::new(&dns(&server)).with_timeout(Duration::from_millis(100)));
        running.set(&["10.0.0.1:80 ×1"]).await;
        server.says(HOST, RecordType::A, Reply::Silence);
        server.says(HOST, RecordType::AAAA, Reply::Silence);
        assert_eq!(show(&running.trouble().await), ["10.0.0.1:80 ×1"]);
    }

    #[tokio::test]
    async fn a_family_that_fails_keeps_its_own_addresses_only() {
        let server = DnsServer::start().await;
        server.says(HOST, RecordType::A, addresses(60, &["10.0.0.1"]));
        server.says(HOST, RecordType::AAAA, addresses(60, &["::1"]));
        let mut running = start(&dns(&server));
        running.set(&["10.0.0.1:80 ×1", "[::1]:80 ×1"]).await;
        server.says(HOST, RecordType::AAAA, Reply::Code(ResponseCode::ServFail));
        running.trouble().await;
        server.says(HOST, RecordType::A, addresses(60, &["10.0.0.2"]));
        running.set(&["10.0.0.2:80 ×1", "[::1]:80 ×1"]).await;
    }

    #[tokio::test]
    async fn srv_uses_the_lowest_priority_with_weights_and_keeps_targets_that_fail() {
        let server = DnsServer::start().await;
        let service = "_http._tcp.cart.test.";
        let records = [srv(2, 1, 90, "spare.test."), srv(1, 30, 81, "b.test."), srv(1, 0, 80, "a.test.")];
        server.says(service, RecordType::SRV, Reply::Records(0, records.to_vec()));
        server.says("a.test.", RecordType::A, addresses(0, &["10.0.0.1"]));
        server.says("b.test.", RecordType::A, addresses(0, &["10.0.0.2"]));
        server.says("spare.test.", RecordType::A, addresses(0, &["10.0.0.3"]));
        let mut running = start(&Dns { srv: Some(service.to_owned()), ..dns(&server) });
        running.set(&["a.test:80=10.0.0.1:80 ×1", "b.test:81=10.0.0.2:81 ×30"]).await;

        server.says("a.test.", RecordType::A, Reply::Code(ResponseCode::ServFail));
        server.says("b.test.", RecordType::A, addresses(0, &["10.0.0.9"]));
        running.set(&["a.test:80=10.0.0.1:80 ×1", "b.test:81=10.0.0.9:81 ×30"]).await;
        running.trouble().await;

        server.says(service, RecordType::SRV, Reply::Records(0, vec![srv(2, 1, 90, "spare.test.")]));
        running.set(&["spare.test:90=10.0.0.3:90 ×1"]).await;
        server.says(service, RecordType::SRV, Reply::Code(ResponseCode::NoError));
        assert_eq!(show(&running.trouble().await), ["spare.test:90=10.0.0.3:90 ×1"]);
    }

    #[test]
    fn waits_stay_between_their_bounds() {
        let params = Dns {
            refresh_min: Some(Span::from_secs(1)),
            refresh_max: Some(Span::from_secs(30)),
            ..Dns::default()
        };
        let source = DnsSource::new(&params);
        for failures in 0..100 {
            for ttl in [0, 1, 7, 30, 86_400] {
                let wait = source.wait(failures, Duration::from_secs(ttl)).as_secs();
                assert!((1..=30).contains(&wait), "{failures} failures, ttl {ttl}: {wait}");
            }
        }
        assert_eq!(source.wait(0, Duration::from_secs(7)), Duration::from_secs(7));
    }
}

mod file_sd {
    use super::*;

    /// A file in a directory of its own, gone with the test.
    struct Written(PathBuf);

    impl Written {
        fn new(name: &str, content: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("seawall-file-sd-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let written = Self(directory.join(name));
            written.write(content);
            written
        }

        fn write(&self, content: &str) {
            std::fs::write(&self.0, content).unwrap();
        }

        fn source(&self) -> Source {
            let file = FileSd { path: self.0.clone(), refresh: Span::from_millis(5) };
            Source::new("cart", &Service { file: Some(file), ..Service::default() }, None)
        }
    }

    impl Drop for Written {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
        }
    }

    #[tokio::test]
    async fn json_is_read_at_once_and_again_when_it_changes() {
        let file = Written::new("cart.json", r#"[{"targets": ["10.0.0.1:80", "10.0.0.2:80"]}]"#);
        let source = file.source();
        assert_eq!(show(&source.subscribe().borrow()), ["10.0.0.1:80 ×1", "10.0.0.2:80 ×1"]);
        let mut running = Running::start(source);
        file.write(r#"[{"targets": ["10.0.0.3:80"], "labels": {"env": "prod", "__weight__": "5"}}]"#);
        running.set(&["10.0.0.3:80 ×5"]).await;
    }

    #[tokio::test]
    async fn yaml_with_names_and_weights() {
        let text = "- targets: ['localhost:80']\n  labels: {weight: 3}\n- targets:\n    - 10.0.0.1:80\n";
        let file = Written::new("cart.yaml", text);
        Running::start(file.source()).set(&["localhost:80=127.0.0.1:80 ×3", "10.0.0.1:80 ×1"]).await;
    }

    /// What a file of another program says is no instruction to look into this process's environment.
    #[test]
    fn a_dollar_is_a_dollar() {
        let text = "- targets: ['10.0.0.1:80']\n  labels: {pattern: '${PATH}', weight: 2}\n";
        let file = Written::new("dollar.yaml", text);
        assert_eq!(show(&file.source().subscribe().borrow()), ["10.0.0.1:80 ×2"]);
        file.write("- targets: ['${PATH}:80']\n");
        let discovery = file.source().subscribe().borrow().clone();
        assert_eq!(discovery.set.map(|set| set.len()), None);
    }

    #[test]
    fn json_is_read_however_it_is_laid_out() {
        for text in [
            "[{\"targets\":[\"10.0.0.1:80\"],\"labels\":{\"path\":\"a\\/b \\u00e9 \\ud83d\\ude00\",\"weight\":\"2\"}}]",
            "[\n\t{\n\t\t\"targets\": [\n\t\t\t\"10.0.0.1:80\"\n\t\t],\n\t\t\"labels\": {\"weight\": 2}\n\t}\n]\n",
            "[\r\n  {\"labels\" : {\"weight\" : 2},\r\n   \"targets\" : [\"10.0.0.1:80\"]}\r\n]\r\n",
        ] {
            let file = Written::new("layout.json", text);
            let discovery = file.source().subscribe().borrow().clone();
            assert_eq!(show(&discovery), ["10.0.0.1:80 ×2"], "{text}: {:?}", discovery.trouble);
        }
    }

    #[tokio::test]
    async fn a_file_that_is_wrong_empty_or_gone_keeps_the_last_good_set_and_says_why() {
        let good = "- targets: ['10.0.0.1:80']\n";
        let cases = [
            ("", "empty"),
            (" \n", "empty"),
            ("[]", "no target"),
            ("- targets: []", "no target"),
            ("- targets: ['10.0.0.1']", "line 1, column 13: [0].targets[0]: `10.0.0.1` is not `host:port`"),
            ("- targets: ['10.0.0.1:80'", "line "),
            ("- target: ['10.0.0.1:80']", "line 1, column 3: "),
            (
                "- targets: ['10.0.0.2:80']\n  labels: {weight: heavy}",
                "line 2, column 20: [0].labels.weight: \"heavy\" is no whole number",
            ),
            ("- targets: ['a b', c]", "(and 1 more)"),
        ];
        for (wrong, why) in cases {
            let file = Written::new("wrong.yml", good);
            let mut running = Running::start(file.source());
            file.write(wrong);
            let discovery = running.trouble().await;
            assert_eq!(show(&discovery), ["10.0.0.1:80 ×1"], "{wrong:?}");
            assert!(
                discovery.trouble.as_deref().unwrap().contains(why),
                "{wrong:?}: {:?}",
                discovery.trouble
            );
            file.write("- targets: ['10.0.0.2:80']\n");
            running.set(&["10.0.0.2:80 ×1"]).await;
            running.until(|discovery| discovery.trouble.is_none()).await;
        }
        let file = Written::new("gone.yml", good);
        let mut running = Running::start(file.source());
        std::fs::remove_file(&file.0).unwrap();
        let discovery = running.trouble().await;
        assert_eq!(show(&discovery), ["10.0.0.1:80 ×1"]);
        assert!(discovery.trouble.unwrap().contains("cannot open"));
        file.write(good);
        running.until(|discovery| discovery.trouble.is_none()).await;
    }

    /// Half of a YAML list is a valid, shorter list.
    #[test]
    fn a_content_seen_once_does_not_count() {
        let file = Written::new("half.yaml", "- targets:\n  - 10.0.0.1:80\n  - 10.0.0.2:80\n");
        let mut source = FileSource::new(&FileSd { path: file.0.clone(), refresh: Span::from_secs(1) });
        source.first_look(&Publisher::new("cart", String::new()));
        let half = b"- targets:\n  - 10.0.0.1:80\n".to_vec();
        let whole = b"- targets:\n  - 10.0.0.1:80\n  - 10.0.0.3:80\n".to_vec();
        assert_eq!(source.look(half), Ok(file::Look::Changing));
        assert_eq!(source.look(whole.clone()), Ok(file::Look::Changing));
        assert_eq!(source.look(whole.clone()), Ok(file::Look::Taken));
        assert_eq!(source.look(whole), Ok(file::Look::Same));
        assert_eq!(source.names.set()[1].name, "10.0.0.3:80");
    }

    #[test]
    fn a_file_that_is_missing_at_start_is_trouble_not_an_end() {
        let file = FileSd { path: "/nonexistent/cart.json".into(), refresh: Span::from_secs(1) };
        let source = Source::new("cart", &Service { file: Some(file), ..Service::default() }, None);
        let discovery = source.subscribe();
        assert!(discovery.borrow().trouble.is_some() && discovery.borrow().set.is_none());
    }
}

mod registry {
    use model::{Registered, Roster};

    use super::*;

    fn instance(port: u16) -> Arc<Registered> {
        Arc::new(Registered {
            name: format!("cart-{port}"),
            address: SocketAddr::from(([10, 0, 0, 1], port)),
            weight: 3,
            zone: Some("a".to_owned()),
            version: None,
            lame_duck: port == 81,
        })
    }

    fn known(ports: &[u16]) -> Roster {
        Roster { instances: Some(ports.iter().map(|port| instance(*port)).collect()), trouble: None }
    }

    fn source(roster: &watch::Sender<Roster>) -> Source {
        let follow = roster.subscribe();
        let registry: Registry = Arc::new(move |name| {
            assert_eq!(name, "shop");
            follow.clone()
        });
        let service = Service { registry: Some("shop".to_owned()), ..Service::default() };
        Source::new("cart", &service, Some(&registry))
    }

    #[tokio::test]
    async fn what_registered_is_known_at_once_and_followed() {
        let roster = watch::Sender::new(known(&[80, 81]));
        let source = source(&roster);
        assert_eq!(source.what(), "registry shop");
        let now = source.subscribe().borrow().clone();
        assert_eq!(show(&now), ["cart-80=10.0.0.1:80 ×3", "cart-81=10.0.0.1:81 ×3"]);
        let set = now.set.unwrap();
        assert_eq!((set[0].lame_duck, set[1].lame_duck, set[0].zone.as_deref()), (false, true, Some("a")));
        let mut running = Running::start(source);
        roster.send_replace(known(&[80]));
        running.set(&["cart-80=10.0.0.1:80 ×3"]).await;
    }

    /// TRAP 17: neither an empty registry nor one that cannot be reached takes endpoints away.
    #[tokio::test]
    async fn trap_17_a_registry_that_is_empty_or_away_keeps_the_stale_set_and_alarms() {
        let roster = watch::Sender::new(known(&[80]));
        let mut running = Running::start(source(&roster));
        let away = Roster { trouble: Some("not reached".into()), ..known(&[80]) };
        let never_heard = Roster { instances: None, ..away.clone() };
        for ill in [known(&[]), away, never_heard] {
            roster.send_replace(ill);
            let discovery = running.trouble().await;
            assert_eq!(show(&discovery), ["cart-80=10.0.0.1:80 ×3"]);
            roster.send_replace(known(&[80]));
            running.until(|discovery| discovery.trouble.is_none()).await;
        }
    }

    #[test]
    fn nothing_heard_yet_is_no_trouble_and_no_registry_is() {
        let discovery = source(&watch::Sender::default()).subscribe().borrow().clone();
        assert!(discovery.set.is_none() && discovery.trouble.is_none());
        let service = Service { registry: Some("shop".to_owned()), ..Service::default() };
        let discovery = Source::new("cart", &service, None).subscribe().borrow().clone();
        assert!(discovery.trouble.is_some());
    }
}
