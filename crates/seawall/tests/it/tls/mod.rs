//! TLS, towards clients and towards endpoints.

mod hostile;
mod identity;
mod judges;
mod reload;
mod serving;
mod upstream;

use std::path::Path;

use testkit::tls::{Authority, Issued};

/// A name for most certificates.
const SHOP: &str = "shop.example";

/// A listener's key `tls` with these certificates and further keys.
fn tls(issued: &[&Issued], more: &str) -> String {
    let certificates: Vec<_> = issued
        .iter()
        .map(|one| format!("{{cert: '{}', key: '{}'}}", show(&one.cert), show(&one.key)))
        .collect();
    let comma = if more.is_empty() { "" } else { ", " };
    format!("tls: {{certificates: [{}]{comma}{more}}}", certificates.join(", "))
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

/// An authority, and a certificate of its for [`SHOP`].
fn shop() -> (Authority, Issued) {
    let authority = Authority::new("tests");
    let issued = authority.server(&[SHOP]);
    (authority, issued)
}
