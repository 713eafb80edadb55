//! Who is there under which name.
//!
//! An instance is a key `registry/SERVICE/INSTANCE` that ends with its registrant's session; what it says is a [`Record`].
//! A [`Registrar`] keeps one there; a [`Directory`] follows them all and tells, service by service, whoever asks.
//!
//! **What the directory tells is not what the engine says, but what is safe to believe.** A registry that is ill says "gone"
//! far more often than a service really loses its instances: sessions run out together when the engine pauses, the network
//! splits or a health check asks for something broken. So each service's instances go through a [`Roll`], which holds back
//! departures that come in bulk and never lets the last instance go unconfirmed; and while the engine cannot be reached,
//! what was known stays.

mod directory;
mod registrar;
mod roll;

pub use directory::{Directory, Listed, ServiceStatus};
pub use registrar::Registrar;
pub use roll::{Held, HoldParams, Roll};

use std::net::SocketAddr;

use model::Registered;
use serde::{Deserialize, Serialize};

/// What the keys of all instances begin with.
pub const PREFIX: &str = "registry/";
/// Longest name of an instance, zone or version.
pub const TEXT_MAX: usize = 128;
/// Largest weight.
pub const WEIGHT_MAX: u32 = 65_535;

/// What an instance says of itself, as the engine keeps it.
///
/// Fields that this version does not know are ignored, so that fleets can be upgraded one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it is.
    pub address: SocketAddr,
    /// Relative to the service's other instances.
    #[serde(default = "weight_default")]
    pub weight: u32,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether it wants no new requests because it is about to leave.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lame_duck: bool,
}

fn weight_default() -> u32 {
    1
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// What is wrong with a name or a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not a name that DNS can carry.
    #[error("`{0}` is no service name: 1 to 63 of a-z, 0-9 and -, not at its ends, so that DNS can carry it")]
    Service(String),
    /// Not the name of an instance.
    #[error("`{0}` is no instance name: 1 to {TEXT_MAX} of letters, digits and . _ : - [ ]")]
    Instance(String),
    /// A zone or version that is empty, too long or has odd characters.
    #[error("the {0} must have 1 to {TEXT_MAX} printable characters without spaces")]
    Text(&'static str),
    /// A weight beyond what DNS can carry.
    #[error("the weight must be at most {WEIGHT_MAX}")]
    Weight,
    /// An address that nobody can connect to.
    #[error("`{0}` is no address to connect to: it needs a host's own address and a port")]
    Address(SocketAddr),
}

/// Whether `name` may be a service: a DNS label, so that every registered service has a name there.
///
/// # Errors
/// [`Invalid::Service`].
pub fn check_service(name: &str) -> Result<(), Invalid> {
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits { Ok(()) } else { Err(Invalid::Service(name.to_owned())) }
}

/// Whether `name` may be an instance; addresses may.
///
/// # Errors
/// [`Invalid::Instance`].
pub fn check_instance(name: &str) -> Result<(), Invalid> {
    let fits = (1..=TEXT_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-[]".contains(&byte));
    if fits { Ok(()) } else { Err(Invalid::Instance(name.to_owned())) }
}

impl Record {
    /// At this address, with nothing else said.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self { address, weight: 1, zone: None, version: None, lame_duck: false }
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.address.port() == 0 || self.address.ip().is_unspecified() || self.address.ip().is_multicast()
        {
            return Err(Invalid::Address(self.address));
        }
        if self.weight > WEIGHT_MAX {
            return Err(Invalid::Weight);
        }
        for (what, text) in [("zone", &self.zone), ("version", &self.version)] {
            let fits = |text: &String| {
                (1..=TEXT_MAX).contains(&text.len())
                    && text.chars().all(|c| !c.is_whitespace() && !c.is_control())
            };
            if !text.as_ref().is_none_or(fits) {
                return Err(Invalid::Text(what));
            }
        }
        Ok(())
    }

    fn named(self, name: &str) -> Registered {
        let Self { address, weight, zone, version, lame_duck } = self;
        Registered { name: name.to_owned(), address, weight, zone, version, lame_duck }
    }
}

/// The key of an instance.
#[must_use]
pub fn key(service: &str, instance: &str) -> String {
    format!("{PREFIX}{service}/{instance}")
}

/// Service and instance of a key; none when it is no instance's.
fn parse_key(key: &str) -> Option<(&str, &str)> {
    let (service, instance) = key.strip_prefix(PREFIX)?.split_once('/')?;
    (check_service(service).is_ok() && check_instance(instance).is_ok()).then_some((service, instance))
}

/// An instance as the engine has it; none when it makes no sense.
fn parse(key: &str, value: &str) -> Option<(String, Registered)> {
    let (service, instance) = parse_key(key)?;
    let record: Record = serde_json::from_str(value).ok()?;
    record.check().ok()?;
    Some((service.to_owned(), record.named(instance)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_dns_and_keys_can_carry() {
        for good in ["cart", "a", "cart-2", "0x"] {
            assert_eq!(check_service(good), Ok(()));
        }
        for bad in ["", "-a", "a-", "Cart", "a.b", "a/b", "ä", &"a".repeat(64)] {
            assert!(check_service(bad).is_err(), "{bad}");
        }
        for good in ["10.0.0.1:80", "[::1]:80", "cart_1"] {
            assert_eq!(check_instance(good), Ok(()));
        }
        for bad in ["", "a/b", "a b", &"a".repeat(TEXT_MAX + 1)] {
            assert!(check_instance(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn records_of_newer_versions_are_read_and_senseless_ones_are_not() {
        let read = |value: &str| parse("registry/cart/one", value).map(|(_, registered)| registered);
        let registered = read(r#"{"address":"10.0.0.1:80","colour":"blue"}"#).unwrap();
        assert_eq!((registered.name.as_str(), registered.weight, registered.lame_duck), ("one", 1, false));
        for bad in [
            "",
            "{}",
            r#"{"address":"0.0.0.0:80"}"#,
            r#"{"address":"10.0.0.1:0"}"#,
            r#"{"address":"10.0.0.1:80","weight":65536}"#,
            r#"{"address":"10.0.0.1:80","zone":""}"#,
            r#"{"address":"10.0.0.1:80","version":"a b"}"#,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(parse("registry/Cart/one", r#"{"address":"10.0.0.1:80"}"#), None);
    }
}
