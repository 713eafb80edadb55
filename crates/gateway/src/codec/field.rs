//! Fields, and the ids by which the rest of the gateway knows them.

use smallvec::SmallVec;

/// Most fields that a head can ever have, whatever the limits say.
pub const FIELDS_MAX: usize = 128;

/// One field of a head, borrowed from the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'b> {
    /// Which field it is, so that nobody compares names again.
    pub id: FieldId,
    /// As received, a token: case is not normalised.
    pub name: &'b [u8],
    /// Without white space around it. Holds no control byte but the tab; bytes from 0x80 on are opaque.
    pub value: &'b [u8],
    /// The whole line with its CRLF, sound enough to be sent on as it is.
    pub line: &'b [u8],
}

/// Room for the fields of one head. Creating it costs nothing: it is not cleared and never touches the heap.
#[derive(Debug, Default)]
pub struct FieldStorage<'b> {
    pub(super) fields: SmallVec<[Field<'b>; FIELDS_MAX]>,
}

impl FieldStorage<'_> {
    /// Empty room.
    #[inline]
    #[must_use]
    pub fn new() -> Self {
        Self { fields: SmallVec::new() }
    }
}

macro_rules! field_ids {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)+) => {
        /// The fields that the gateway treats specially.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FieldId {
            $($(#[doc = $doc])+ $variant,)+
            /// A field that nothing here knows but that `Connection` names: hop-by-hop, not to be forwarded. A field
            /// with an id of its own keeps that id, so that nobody strips `Host` or `X-Forwarded-For` by naming it.
            Listed,
            /// Any other field, forwarded as it is.
            Other,
        }

        impl FieldId {
            /// Every id that stands for one name.
            pub const NAMED: &[Self] = &[$(Self::$variant),+];

            /// The field's name in lower case; empty for [`Listed`](Self::Listed) and [`Other`](Self::Other).
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ Self::Listed | Self::Other => "" }
            }
        }
    };
}

field_ids! {
    /// Routing: written anew from [`RequestHead::host`](super::RequestHead::host).
    Host = "host";
    /// Hop-by-hop.
    Connection = "connection";
    /// Framing.
    ContentLength = "content-length";
    /// Framing.
    TransferEncoding = "transfer-encoding";
    /// `100-continue` or refused.
    Expect = "expect";
    /// Hop-by-hop; see [`RequestHead::upgrade`](super::RequestHead::upgrade).
    Upgrade = "upgrade";
    /// Hop-by-hop.
    KeepAlive = "keep-alive";
    /// Hop-by-hop; only `trailers` may be sent on, anew.
    Te = "te";
    /// Names the fields of the trailer section.
    Trailer = "trailer";
    /// Hop-by-hop by custom.
    ProxyConnection = "proxy-connection";
    /// Hop-by-hop.
    ProxyAuthenticate = "proxy-authenticate";
    /// Hop-by-hop.
    ProxyAuthorization = "proxy-authorization";
    /// RFC 7239.
    Forwarded = "forwarded";
    /// Client addresses as earlier hops saw them.
    XForwardedFor = "x-forwarded-for";
    /// Scheme as the first hop saw it.
    XForwardedProto = "x-forwarded-proto";
    /// Host as the first hop saw it.
    XForwardedHost = "x-forwarded-host";
    /// Port as the first hop saw it.
    XForwardedPort = "x-forwarded-port";
    /// Client address as one earlier hop saw it.
    XRealIp = "x-real-ip";
    /// Hops passed.
    Via = "via";
    /// Cookies of the client.
    Cookie = "cookie";
    /// Cookie of the server.
    SetCookie = "set-cookie";
    /// What the body is.
    ContentType = "content-type";
    /// How a gRPC call ended.
    GrpcStatus = "grpc-status";
    /// Deadline of a gRPC call.
    GrpcTimeout = "grpc-timeout";
    /// ORCA load report of an endpoint.
    EndpointLoadMetrics = "endpoint-load-metrics";
    /// When to come back.
    RetryAfter = "retry-after";
    /// When the message was made.
    Date = "date";
    /// What made the response.
    Server = "server";
    /// Deadline that is left, in milliseconds.
    SeawallDeadlineMs = "seawall-deadline-ms";
    /// Criticality class of the request.
    SeawallCriticality = "seawall-criticality";
    /// Which attempt of the request this is.
    SeawallAttempt = "seawall-attempt";
    /// The endpoint asks for no new requests.
    SeawallLameDuck = "seawall-lame-duck";
    /// Whether the answer allows retrying.
    SeawallRetry = "seawall-retry";
    /// Why Seawall itself refused.
    SeawallReason = "seawall-reason";
}

impl FieldId {
    /// The id of a field name in any case.
    #[inline]
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        use FieldId::*;
        let candidates: &[Self] = match name.len() {
            2 => &[Te],
            3 => &[Via],
            4 => &[Host, Date],
            6 => &[Cookie, Expect, Server],
            7 => &[Upgrade, Trailer],
            9 => &[Forwarded, XRealIp],
            10 => &[Connection, KeepAlive, SetCookie],
            11 => &[RetryAfter, GrpcStatus],
            12 => &[ContentType, GrpcTimeout],
            13 => &[SeawallRetry],
            14 => &[ContentLength, SeawallReason],
            15 => &[XForwardedFor, SeawallAttempt],
            16 => &[XForwardedHost, XForwardedPort, ProxyConnection],
            17 => &[TransferEncoding, XForwardedProto, SeawallLameDuck],
            18 => &[ProxyAuthenticate],
            19 => &[ProxyAuthorization, SeawallDeadlineMs, SeawallCriticality],
            21 => &[EndpointLoadMetrics],
            _ => return Other,
        };
        candidates.iter().copied().find(|id| name.eq_ignore_ascii_case(id.name().as_bytes())).unwrap_or(Other)
    }

    /// Whether the field speaks about one connection only, and must not be sent on as it is (RFC 9110, 7.6.1).
    #[must_use]
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyAuthenticate
                | Self::ProxyAuthorization
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Listed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_field_is_found_in_any_case() {
        for &id in FieldId::NAMED {
            assert_eq!(FieldId::of(id.name().as_bytes()), id);
            assert_eq!(FieldId::of(id.name().to_ascii_uppercase().as_bytes()), id);
        }
        assert_eq!(FieldId::of(b"accept"), FieldId::Other);
        assert_eq!(FieldId::of(b""), FieldId::Other);
    }
}
