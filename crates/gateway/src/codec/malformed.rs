//! Why a message is refused.

use std::fmt;

macro_rules! malformed {
    ($($(#[doc = $doc:literal])+ $variant:ident, $name:literal, $status:literal;)+) => {
        /// Why a message is refused: its framing or meaning could be read in two ways, or it exceeds a limit.
        ///
        /// The connection it came on must be closed after the answer, because where the next message begins is not
        /// known. A malformed *response* is answered with 502 whatever [`status`](Self::status) says.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Malformed { $($(#[doc = $doc])+ $variant,)+ }

        impl Malformed {
            /// Every reason there is, so that metrics can be declared before anything happens.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Stable name in snake case: a metric label and the value of the reason header.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// Status to answer a request with that is refused for this.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }
        }
    };
}

malformed! {
    /// LF without CR before it, anywhere in a head, size line or trailer.
    BareLf, "bare_lf", 400;
    /// CR without LF after it.
    BareCr, "bare_cr", 400;
    /// The request line is not `method SP target SP version CRLF` with single spaces. More than one empty line
    /// before it counts here too (one is tolerated, RFC 9112, 2.2).
    RequestLine, "request_line", 400;
    /// The status line is not `version SP status [SP reason] CRLF`.
    StatusLine, "status_line", 400;
    /// `CONNECT`: Seawall is not a forward proxy.
    Connect, "connect", 501;
    /// The target holds a byte no URI holds, or is in no known form: not `/…`, `http(s)://…` nor `OPTIONS *`.
    Target, "target", 400;
    /// The request line alone exceeds the head's limit.
    TargetTooLong, "target_too_long", 414;
    /// The target has a fragment.
    Fragment, "fragment", 400;
    /// The authority carries user information.
    Userinfo, "userinfo", 400;
    /// Where the version belongs stands something else.
    Version, "version", 400;
    /// A version other than HTTP/1.0 and HTTP/1.1, such as the preface of HTTP/2.
    VersionUnsupported, "version_unsupported", 505;
    /// The status is not a number from 100 to 599.
    Status, "status", 400;
    /// The head exceeds [`Limits::head_bytes`](super::Limits::head_bytes).
    HeadTooLarge, "head_too_large", 431;
    /// The head has more fields than [`Limits::fields_max`](super::Limits::fields_max).
    FieldsTooMany, "fields_too_many", 431;
    /// A line that continues the one before it, by beginning with white space.
    ObsFold, "obs_fold", 400;
    /// White space between a field's name and its colon.
    SpaceBeforeColon, "space_before_colon", 400;
    /// A field without a name.
    NameEmpty, "name_empty", 400;
    /// A field name that is not a token, or a line without a colon.
    Name, "name", 400;
    /// NUL or another control byte in a field value.
    ControlInValue, "control_in_value", 400;
    /// An HTTP/1.1 request without `Host`.
    HostMissing, "host_missing", 400;
    /// More than one `Host`, equal or not.
    HostDuplicate, "host_duplicate", 400;
    /// `Host` or the target's authority is not a host name or address with an optional port.
    Host, "host", 400;
    /// `Content-Length` is not a plain decimal number without sign or leading zeros, of at most 18 digits.
    Length, "length", 400;
    /// More than one `Content-Length`, equal or not.
    LengthDuplicate, "length_duplicate", 400;
    /// `Content-Length` together with `Transfer-Encoding`.
    LengthWithCoding, "length_with_coding", 400;
    /// A positive `Content-Length` on a 1xx or 204 response.
    LengthUnexpected, "length_unexpected", 400;
    /// A `Transfer-Encoding` that is not exactly `chunked`.
    Coding, "coding", 501;
    /// More than one `Transfer-Encoding`.
    CodingDuplicate, "coding_duplicate", 400;
    /// `Transfer-Encoding` where there can be none: in HTTP/1.0, or on a 1xx or 204 response.
    CodingUnexpected, "coding_unexpected", 400;
    /// `Connection` is not a list of tokens.
    Connection, "connection", 400;
    /// An expectation other than `100-continue`.
    Expect, "expect", 417;
    /// More than one `Upgrade`.
    UpgradeDuplicate, "upgrade_duplicate", 400;
    /// A request to switch protocols that also carries a body: where the new protocol starts is ambiguous.
    UpgradeWithBody, "upgrade_with_body", 400;
    /// A chunk size that is not 1 to 16 hexadecimal digits and CRLF.
    ChunkSize, "chunk_size", 400;
    /// A chunk extension.
    ChunkExtension, "chunk_extension", 400;
    /// A chunk's data is not followed by CRLF.
    ChunkEnd, "chunk_end", 400;
    /// The trailer section exceeds [`Limits::trailer_bytes`](super::Limits::trailer_bytes).
    TrailersTooLarge, "trailers_too_large", 431;
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed message: {}", self.name())
    }
}

impl std::error::Error for Malformed {}
