//! What `/metrics` says, whatever clients do.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use testkit::{Client, Seawall, Upstream, get, request};

use super::{COMMON, SEAWALL};

fn page(seawall: &Seawall, accept: &str) -> String {
    let ask = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    request(seawall.admin(), &ask).text()
}

/// One sample: its name, its labels in order, its value.
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Everything that tells it from the others of its name, but for `le`.
    fn series(&self) -> String {
        let labels: Vec<_> = self.labels.iter().filter(|(key, _)| key != "le").collect();
        format!("{}{labels:?}", self.name)
    }
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Reads a line by the grammar of the exposition format; panics at what breaks it.
fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let name = &line[..end];
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    let mut rest = &line[end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label), "{line}");
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().unwrap_or_else(|| panic!("an open quote: {line}")) {
                    (at, '"') => break at,
                    (_, '\\') => match characters.next().unwrap_or_else(|| panic!("{line}")).1 {
                        'n' => value.push('\n'),
                        c @ ('\\' | '"') => value.push(c),
                        c => panic!("escaped {c}: {line}"),
                    },
                    (_, c) => value.push(c),
                }
            };
            labels.push((label.to_owned(), value));
            rest = after[end + 1..].strip_prefix(',').unwrap_or(&after[end + 1..]);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    let value =
        if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap_or_else(|_| panic!("{line}")) };
    Sample { name: name.to_owned(), labels, value }
}

/// Holds a page to the rules of its format, as `promtool check metrics` would; answers its samples.
fn check(page: &str, openmetrics: bool) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut current = String::new();
    let mut seen = HashSet::new();
    let text = if openmetrics {
        page.strip_suffix("# EOF\n").expect("OpenMetrics ends with # EOF")
    } else {
        assert!(!page.contains("# EOF"));
        page
    };
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helped.contains(name), "no help before {line}");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            name.clone_into(&mut current);
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let sample = sample(line);
            let kind = families.get(&current).unwrap_or_else(|| panic!("no type before {line}"));
            let suffixes: &[&str] = match kind.as_str() {
                "counter" if openmetrics => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            let fits = suffixes.iter().any(|suffix| sample.name == format!("{current}{suffix}"));
            assert!(fits, "{line} stands among the samples of {current}");
            assert!(kind != "counter" || openmetrics || sample.name.ends_with("_total"), "{line}");
            assert!(seen.insert(format!("{}{:?}", sample.name, sample.labels)), "twice: {line}");
            samples.push(sample);
        }
    }
    check_histograms(&families, &samples);
    samples
}

fn check_histograms(families: &BTreeMap<String, String>, samples: &[Sample]) {
    for family in families.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
        let mut buckets: HashMap<String, Vec<(f64, f64)>> = HashMap::new();
        let mut counts = HashMap::new();
        for sample in samples {
            let series = |suffix: &str| sample.series().replacen(&format!("{family}{suffix}"), "", 1);
            if sample.name == format!("{family}_bucket") {
                let bound = sample.label("le").expect("a bound");
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a number") };
                buckets.entry(series("_bucket")).or_default().push((bound, sample.value));
            } else if sample.name == format!("{family}_count") {
                counts.insert(series("_count"), sample.value);
            }
        }
        assert!(!buckets.is_empty(), "{family} has no bucket");
        for (series, buckets) in buckets {
            let cumulative = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            assert!(cumulative, "{family}{series}: {buckets:?}");
            let last = buckets.last().expect("a bucket");
            assert_eq!((last.0, Some(&last.1)), (f64::INFINITY, counts.get(&series)), "{family}{series}");
        }
    }
}

fn series(samples: &[Sample]) -> BTreeSet<String> {
    samples.iter().map(|sample| format!("{}{:?}", sample.name, sample.labels)).collect()
}

const ROUTES: &str = "routes:\n  - {name: 'say \"hello\" \\ back', match: {path: /hello}, service: shop}\n  \
                      - service: shop\n";

fn start(upstream: &Upstream) -> Seawall {
    Seawall::start(
        SEAWALL,
        &format!(
            "{COMMON}listeners: [{{address: '127.0.0.1:0', name: door}}]\n{ROUTES}services: {{shop: {{endpoints: ['{}']}}}}\n",
            upstream.addr()
        ),
    )
}

#[test]
fn both_formats_keep_their_rules() {
    let upstream = Upstream::constant("here");
    let seawall = start(&upstream);
    for path in ["/", "/hello", "/%zz"] {
        let _ = get(seawall.addr(), path);
    }
    // A request is counted just after its answer has gone out.
    seawall.wait_for_metric("seawall_gateway_requests_total", &[], |count| count == 2.0);
    let plain = check(&page(&seawall, "text/plain"), false);
    let open = check(&page(&seawall, "application/openmetrics-text"), true);
    assert!(plain.len() > 50, "only {} samples", plain.len());
    // Bounds are written differently; everything else is the same.
    let unbounded = |samples: &[Sample]| samples.iter().map(Sample::series).collect::<BTreeSet<_>>();
    assert_eq!(unbounded(&plain), unbounded(&open));
    let odd = plain.iter().any(|sample| sample.label("route") == Some("say \"hello\" \\ back"));
    assert!(odd, "a route's name survives its escaping");
    seawall.stop();
}

#[test]
fn no_client_can_make_a_series() {
    let upstream = Upstream::constant("here");
    let seawall = start(&upstream);
    let hostile = |round: u32| {
        let mut client = Client::connect(seawall.addr());
        for request in [
            format!("GET /{round}/x HTTP/1.1\r\nHost: host-{round}.example\r\n\r\n"),
            format!("BREW{round} / HTTP/1.1\r\nHost: a\r\n\r\n"),
            format!(
                "GET /hello?{round} HTTP/1.1\r\nHost: a\r\nUser-Agent: agent-{round}\r\nseawall-criticality: C{round}\r\n\r\n"
            ),
            format!("GET / HTTP/1.1\r\nHost: a\r\nTraceparent: {round}\r\nCookie: a={round}\r\n\r\n"),
        ] {
            let _ = client.request(request);
        }
        let _ = Client::connect(seawall.addr()).try_request(format!("N{round}NSENSE\r\n\r\n"));
        let _ = Client::connect(seawall.addr())
            .try_request(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +{round}\r\n\r\n"));
    };
    hostile(0);
    let before = series(&check(&page(&seawall, "text/plain"), false));
    (1..200).for_each(hostile);
    let after = series(&check(&page(&seawall, "text/plain"), false));
    assert_eq!(before, after);
    seawall.stop();
}
