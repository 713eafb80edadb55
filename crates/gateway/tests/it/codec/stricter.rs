//! Where the codec refuses more than hyper does.

use gateway::codec::Malformed;

/// A difference that is allowed: what the codec refuses, what hyper does instead, and a message that shows it.
pub(super) struct Stricter {
    pub(super) reason: Malformed,
    pub(super) hyper: &'static str,
    pub(super) example: &'static str,
}

const fn stricter(reason: Malformed, hyper: &'static str, example: &'static str) -> Stricter {
    Stricter { reason, hyper, example }
}

/// What the codec refuses in a request and hyper does not always refuse.
pub(super) const STRICTER_REQUESTS: &[Stricter] = &[
    stricter(Malformed::BareLf, "ends head lines at LF alone", "GET / HTTP/1.1\nHost: a\n\n"),
    stricter(
        Malformed::RequestLine,
        "skips many empty lines before it",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    stricter(Malformed::Connect, "serves CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
    stricter(
        Malformed::Target,
        "accepts `GET *`, bare hosts, other schemes, braces",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    stricter(Malformed::Fragment, "cuts fragments off", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    stricter(Malformed::Userinfo, "accepts user information", "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    stricter(Malformed::Host, "does not look at Host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    stricter(Malformed::HostMissing, "does not look at Host", "GET / HTTP/1.1\r\n\r\n"),
    stricter(
        Malformed::HostDuplicate,
        "does not look at Host",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ),
    stricter(
        Malformed::Length,
        "accepts leading zeros",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 01\r\n\r\nx",
    ),
    stricter(
        Malformed::LengthDuplicate,
        "accepts equal lengths",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    ),
    stricter(
        Malformed::LengthWithCoding,
        "lets the coding win",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::Coding,
        "accepts lists that end in `chunked`",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::CodingDuplicate,
        "looks at the last of several fields",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::Connection,
        "ignores odd options",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n",
    ),
    stricter(
        Malformed::Expect,
        "ignores odd expectations",
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: luck\r\n\r\n",
    ),
    stricter(
        Malformed::UpgradeDuplicate,
        "does not look at Upgrade",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\nUpgrade: c\r\n\r\n",
    ),
    stricter(
        Malformed::UpgradeWithBody,
        "does not look at Upgrade",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: b\r\nContent-Length: 1\r\n\r\nx",
    ),
    stricter(
        Malformed::ChunkExtension,
        "skips extensions",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::ChunkSize,
        "accepts any number of leading zeros",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\nx\r\n0\r\n\r\n",
    ),
];

/// What the codec refuses in a response and hyper does not always refuse.
pub(super) const STRICTER_RESPONSES: &[Stricter] = &[
    stricter(Malformed::BareLf, "ends head lines at LF alone", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
    stricter(
        Malformed::Version,
        "skips empty lines before it",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    stricter(Malformed::Status, "accepts statuses up to 999", "HTTP/1.1 600 x\r\nContent-Length: 0\r\n\r\n"),
    stricter(Malformed::Length, "accepts leading zeros", "HTTP/1.1 200 OK\r\nContent-Length: 01\r\n\r\nx"),
    stricter(
        Malformed::LengthDuplicate,
        "accepts equal lengths",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    ),
    stricter(
        Malformed::LengthWithCoding,
        "lets the coding win",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::LengthUnexpected,
        "ignores the length where there is no body",
        "HTTP/1.1 204 x\r\nContent-Length: 1\r\n\r\n",
    ),
    stricter(
        Malformed::Coding,
        "reads until the connection closes",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    ),
    stricter(
        Malformed::CodingDuplicate,
        "looks at the last of several fields",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::CodingUnexpected,
        "ignores the coding where there is no body",
        "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    stricter(
        Malformed::Connection,
        "ignores odd options",
        "HTTP/1.1 200 OK\r\nConnection: a b\r\nContent-Length: 0\r\n\r\n",
    ),
    stricter(
        Malformed::ChunkExtension,
        "skips extensions",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::ChunkSize,
        "accepts any number of leading zeros",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\nx\r\n0\r\n\r\n",
    ),
];

/// Whether the list of allowed differences has this reason.
pub(super) fn allowed(list: &[Stricter], reason: Malformed) -> bool {
    list.iter().any(|stricter| stricter.reason == reason)
}
