//! The kinds of traffic that a gateway is measured under.

use testkit::load::Pace;

/// One kind of traffic.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) connections: usize,
    path: &'static str,
    browser: bool,
    per_second: Option<f64>,
}

/// Every kind, in the order of the report.
pub(super) const SHAPES: [Shape; 5] = [
    Shape {
        name: "min64",
        about: "Host only, 200 B answer, 64 connections, closed loop",
        connections: 64,
        path: "/",
        browser: false,
        per_second: None,
    },
    Shape {
        name: "brw64",
        about: "browser's head, 200 B answer, 64 connections, closed loop",
        connections: 64,
        path: "/api/v1/service7/items?page=2",
        browser: true,
        per_second: None,
    },
    Shape {
        name: "brw16k",
        about: "browser's head, 16 KiB answer, 64 connections, closed loop",
        connections: 64,
        path: "/16k/image",
        browser: true,
        per_second: None,
    },
    Shape {
        name: "brw4",
        about: "browser's head, 200 B answer, 4 connections, closed loop",
        connections: 4,
        path: "/api/v1/service7/items?page=2",
        browser: true,
        per_second: None,
    },
    Shape {
        name: "rate5k",
        about: "browser's head, 200 B answer, 5 000 requests/s at random (Poisson), open loop over 64 connections",
        connections: 64,
        path: "/api/v1/service7/items?page=2",
        browser: true,
        per_second: Some(5000.0),
    },
];

/// The kind called `name`.
pub(super) fn named(name: &str) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.name == name)
}

/// What a browser sends beside `Host`.
const BROWSER: &str = "\
Connection: keep-alive\r\n\
sec-ch-ua: \"Chromium\";v=\"124\", \"Not-A.Brand\";v=\"99\"\r\n\
sec-ch-ua-mobile: ?0\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36\r\n\
sec-ch-ua-platform: \"Linux\"\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: navigate\r\n\
Referer: https://www.example.com/shop/start\r\n\
Accept-Encoding: gzip, deflate, br\r\n\
Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Cookie: session=3f2a9c1be7d04a55b8c6d1e0f9a7b342; theme=dark; consent=1\r\n";

impl Shape {
    /// The request, in full.
    pub(super) fn request(&self) -> Vec<u8> {
        let headers = if self.browser { BROWSER } else { "" };
        format!("GET {} HTTP/1.1\r\nHost: www.example.com\r\n{headers}\r\n", self.path).into_bytes()
    }

    /// When requests are sent in round `round`; every proxy meets the same arrivals in the same round.
    pub(super) fn pace(&self, round: usize) -> Pace {
        match self.per_second {
            Some(per_second) => Pace::Poisson { per_second, seed: round as u64 },
            None => Pace::Closed,
        }
    }

    /// Whether latencies mean something: in a closed loop they only mirror the throughput.
    pub(super) fn is_open(&self) -> bool {
        self.per_second.is_some()
    }
}
