use super::super::problem::Place;
use super::super::{ClientAuth, ListenerTls, ServiceTls};
use super::{field_name, not_zero};
use crate::codec::FieldId;

pub(super) fn listener(tls: &ListenerTls, place: &mut Place<'_>) {
    if tls.certificates.is_empty() {
        let remedy = "add one, such as `- {cert: shop.pem, key: shop.key}`";
        place.at("certificates").error("TLS needs a certificate", remedy);
    }
    match (tls.client_auth, &tls.client_ca) {
        (Some(ClientAuth::Optional | ClientAuth::Required), None) => {
            let remedy = "name the file with the authorities that vouch for clients in `client_ca`";
            place.at("client_auth").error("nobody vouches for clients", remedy);
        }
        (Some(ClientAuth::None), Some(_)) => {
            let remedy = "write `client_auth: optional` or `required`, or take `client_ca` out";
            place.at("client_auth").error("clients are never asked for the certificate", remedy);
        }
        _ => {}
    }
    if let Some(name) = &tls.identity_header {
        let mut place = place.at("identity_header");
        field_name(&mut place, name);
        if FieldId::of(name.to_ascii_lowercase().as_bytes()) != FieldId::Other {
            let remedy = "choose a name of its own, such as x-client-identity";
            place.error(format!("`{name}` has a meaning of its own"), remedy);
        }
        if tls.client_auth_in_force() == ClientAuth::None {
            let remedy = "ask clients for a certificate with `client_ca`";
            place.error("no client proves who it is", remedy);
        }
    }
    if tls.alpn.is_empty() {
        let remedy = "write `alpn: [h2, http/1.1]`, or take the key out";
        place.at("alpn").error("no protocol is offered", remedy);
    }
    if let Some(twice) = tls.alpn.iter().enumerate().find(|(index, one)| tls.alpn[..*index].contains(one)) {
        place.at("alpn").item(twice.0).error("the protocol stands here twice", "keep one of them");
    }
    not_zero(place, [("handshake_timeout", tls.handshake_timeout)]);
    if tls.handshakes_max == 0 {
        let remedy = "allow some, such as 10000";
        place.at("handshakes_max").error("with 0 handshakes every client is refused", remedy);
    }
}

pub(super) fn service(tls: &ServiceTls, place: &mut Place<'_>) {
    if let Some(name) = &tls.server_name
        && crate::tls::server_name(name).is_none()
    {
        let remedy = "write a host name, such as cart.internal, or an address";
        place.at("server_name").error(format!("`{name}` can stand in no certificate"), remedy);
    }
    if !tls.verify {
        let remedy = "name the authority that vouches for endpoints in `ca`, and take `verify` out";
        place.at("verify").warn("endpoints are not asked to prove who they are: anybody can pretend", remedy);
    }
}
