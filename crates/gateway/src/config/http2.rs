use model::{ByteSize, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// HTTP/2 towards clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ListenerHttp2")]
pub struct ListenerHttp2 {
    /// Whether clients without TLS may speak it, by beginning with its preface (h2c with prior knowledge). With TLS,
    /// `tls.alpn` says what is offered.
    pub enabled: bool,
    /// Requests under way at once on one connection.
    pub streams_max: u32,
    /// Bytes of one request's body that may be on their way before the endpoint has taken any. At most 2GiB − 1.
    pub stream_window: ByteSize,
    /// The same for all requests of a connection together.
    pub connection_window: ByteSize,
    /// Frames that a client may send without need (resets, pings, settings, priorities, empty data, window updates) before
    /// its connection is closed with `ENHANCE_YOUR_CALM`. A reset counts ten. Each second earns 100, each answered request
    /// 10, each 512 bytes sent 1, up to this number again.
    pub credit: u32,
    /// After this much silence, while requests are under way, the client is asked whether it is still there; 0s: never.
    pub ping_interval: Span,
    /// A client that does not answer that within this time is gone.
    pub ping_timeout: Span,
}

impl Default for ListenerHttp2 {
    fn default() -> Self {
        Self {
            enabled: true,
            streams_max: 100,
            stream_window: ByteSize::kib(64),
            connection_window: ByteSize::kib(1024),
            credit: 1000,
            ping_interval: Span::from_secs(60),
            ping_timeout: Span::from_secs(20),
        }
    }
}

/// HTTP/2 towards endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ServiceHttp2")]
pub struct UpstreamHttp2 {
    /// Requests under way at once on one connection, where the endpoint does not allow fewer. Beyond it another connection
    /// is opened.
    pub streams_max: u32,
    /// Bytes of one answer's body that may be on their way before the client has taken any. At most 2GiB − 1.
    pub stream_window: ByteSize,
    /// The same for all answers of a connection together.
    pub connection_window: ByteSize,
    /// Frames that an endpoint may send without need before its connection is closed; counted as for listeners.
    pub credit: u32,
    /// After this much silence, while requests are under way, the endpoint is asked whether it is still there; 0s: never.
    pub ping_interval: Span,
    /// An endpoint that does not answer that within this time is gone.
    pub ping_timeout: Span,
}

impl Default for UpstreamHttp2 {
    fn default() -> Self {
        Self {
            streams_max: 100,
            stream_window: ByteSize::kib(64),
            connection_window: ByteSize::kib(1024),
            credit: 10_000,
            ping_interval: Span::from_secs(30),
            ping_timeout: Span::from_secs(10),
        }
    }
}

/// What endpoints are spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2: by prior knowledge without TLS, by ALPN with it.
    H2,
    /// What the endpoint chooses by ALPN; HTTP/1.1 without TLS.
    #[default]
    Auto,
}
