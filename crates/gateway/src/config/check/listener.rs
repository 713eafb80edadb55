use model::ByteSize;

use super::super::problem::Place;
use super::super::{Config, Listener, ListenerHttp2, ProxyProtocol, Role, Tcp};
use super::{not_zero, plain_name, route};
use crate::codec::FIELDS_MAX;
use crate::router::pattern::is_host_name;

/// Largest head that any limit allows.
pub(super) const HEAD_MAX: ByteSize = ByteSize::kib(64);

pub(super) fn check(config: &Config, place: &mut Place<'_>) {
    let listeners = &config.listeners;
    if listeners.is_empty() {
        place.error("nothing listens for requests", "add a listener, such as `- address: 0.0.0.0:8080`");
    }
    for (index, listener) in listeners.iter().enumerate() {
        let mut place = place.item(index);
        check_one(listener, &mut place);
        if let Some(tcp) = &listener.tcp {
            check_tcp(config, listener, tcp, &mut place);
        }
        let earlier = listeners[..index].iter();
        if let Some(other) = earlier.clone().find(|other| overlap(other, listener)) {
            let message = if other.address == listener.address {
                format!("two listeners have the address {}", listener.address)
            } else {
                format!("{} and {} take the same port of the same addresses", other.address, listener.address)
            };
            place.at("address").error(message, "give each listener a port of its own");
        }
        if let Some(name) = &listener.name
            && earlier.clone().any(|other| other.name.as_ref() == Some(name))
        {
            place
                .at("name")
                .error(format!("two listeners are called `{name}`"), "give each a name of its own");
        }
    }
}

/// Whether one takes connections that the other one asks for. Each port 0 becomes a port of its own.
fn overlap(a: &Listener, b: &Listener) -> bool {
    let (a, b) = (a.address, b.address);
    let either_any = a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || either_any)
}

fn check_one(listener: &Listener, place: &mut Place<'_>) {
    if let Some(name) = &listener.name {
        plain_name(&mut place.at("name"), name);
    }
    for (index, network) in listener.trusted.iter().enumerate() {
        if matches!(&*network.to_string(), "0.0.0.0/0" | "::/0") {
            let remedy = "name the networks of the proxies in front; anybody can now choose its address and its criticality";
            place.at("trusted").item(index).warn(format!("{network} trusts everybody"), remedy);
        }
    }
    if listener.proxy_protocol != ProxyProtocol::Off && listener.trusted.is_empty() {
        let remedy = "name the networks of the proxies in front under `trusted`";
        place.at("proxy_protocol").error("nobody is trusted to say whose connection it is", remedy);
    }
    if let Some(tls) = &listener.tls {
        super::tls::listener(tls, &mut place.at("tls"));
        if listener.proxy_protocol != ProxyProtocol::Off {
            let remedy = "let the proxy in front end TLS, or pass it on through a `tcp` listener";
            place.at("proxy_protocol").error("a header before TLS is not read", remedy);
        }
        if listener.tcp.is_some() {
            let remedy = "take `tls` out: a `tcp` listener passes TLS on as it is";
            place.at("tls").error("a `tcp` listener does not end TLS", remedy);
        }
    }
    if let Some(redirect) = &listener.https_redirect {
        let mut place = place.at("https_redirect");
        if listener.tls.is_some() {
            place.error(
                "a listener with TLS would send its clients to where they are",
                "put `https_redirect` on a listener without TLS",
            );
        }
        if redirect.port == 0 {
            place
                .at("port")
                .error("nobody can be sent to port 0", "write the port that clients see, such as 443");
        }
        if !matches!(redirect.status, 301 | 302 | 307 | 308) {
            let message = format!("{} is no status of a redirect that keeps the path", redirect.status);
            place.at("status").error(message, "write 308, or 301, 302 or 307");
        }
    }
    if let Some(fuse) = &listener.fuse {
        let mut place = place.at("fuse");
        if listener.role != Role::Batch {
            place.error("only a batch listener has a fuse", "write `role: batch`, or take the fuse out");
        }
        if fuse.connections == 0 {
            let mut place = place.at("connections");
            place.error("with 0 connections every request is refused", "allow a few, such as 8");
        }
        if fuse.waiting_max > 0 {
            not_zero(&mut place, [("wait_max", fuse.wait_max)]);
        }
    }
    if listener.connections_max == 0 {
        let mut place = place.at("connections_max");
        place.error("with 0 connections every client is refused", "allow some, such as 100000");
    }
    let timeouts = &listener.timeouts;
    let waits = [
        ("head", timeouts.head),
        ("idle", timeouts.idle),
        ("body", timeouts.body),
        ("write", timeouts.write),
    ];
    not_zero(&mut place.at("timeouts"), waits);
    let ListenerHttp2 { streams_max, stream_window, connection_window, .. } = listener.http2;
    http2(&mut place.at("http2"), streams_max, stream_window, connection_window);
    let limits = &listener.limits;
    let mut place = place.at("limits");
    head(&mut place.at("head"), limits.head);
    if !(1..=FIELDS_MAX).contains(&(limits.fields as usize)) {
        let message = format!("{} is no usable limit of fields", limits.fields);
        place.at("fields").error(message, format!("write a number from 1 to {FIELDS_MAX}"));
    }
}

fn check_tcp(config: &Config, listener: &Listener, tcp: &Tcp, place: &mut Place<'_>) {
    if listener.role == Role::Batch {
        place.at("role").error("batch listeners are for requests", "take `role` or `tcp` out");
    }
    let mut place = place.at("tcp");
    match (&tcp.service, tcp.sni.is_empty()) {
        (Some(_), true) if tcp.default.is_some() => {
            place.at("default").error("`service` gets every connection already", "take `default` out");
        }
        (None, true) => {
            place.error("it is not said where connections go", "give `service`, or names under `sni`")
        }
        (Some(_), false) => {
            place.error("`service` and `sni` both say where connections go", "keep one of them")
        }
        _ => {}
    }
    for (key, name) in [("service", &tcp.service), ("default", &tcp.default)] {
        if let Some(name) = name {
            route::known(config, name, &mut place.at(key));
        }
    }
    for (name, service) in &tcp.sni {
        let mut place = place.at("sni");
        let mut place = place.at(name);
        route::known(config, service, &mut place);
        let plain = name.strip_prefix("*.").unwrap_or(name);
        if !is_host_name(plain) || plain.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let remedy = "write it in lower case, such as shop.example or *.shop.example";
            place.error(format!("`{name}` is no name of a server"), remedy);
        }
    }
}

/// Reports what HTTP/2 has no numbers for.
pub(super) fn http2(place: &mut Place<'_>, streams_max: u32, stream: ByteSize, connection: ByteSize) {
    if streams_max == 0 {
        place.at("streams_max").error("with 0 streams nothing can be asked", "allow some, such as 100");
    }
    for (key, window) in [("stream_window", stream), ("connection_window", connection)] {
        if !(1..1 << 31).contains(&window.get()) {
            let message = format!("{window} is no usable window");
            place.at(key).error(message, "write a size from 1 byte to less than 2GiB, such as 64KiB");
        }
    }
}

/// Reports a limit of heads that is none.
pub(super) fn head(place: &mut Place<'_>, limit: ByteSize) {
    if limit.get() == 0 || limit > HEAD_MAX {
        let message = format!("{limit} is no usable limit of heads");
        place.error(message, format!("write a size up to {HEAD_MAX}, such as 32KiB"));
    }
}
