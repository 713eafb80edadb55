//! The root configuration: everything that a file may say.

use std::net::{Ipv4Addr, SocketAddr};

use gateway::config::{
    AccessLog, Drain, Listener, PathElement, ProcessLimits, Quota, Route, Service, Severity,
};
use gateway::signals::SignalParams;
use policy::budget::RetryBudgetParams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::StoreParams;

mod load;

pub use load::{Errors, Loaded, check, load, read, schema};

/// A configuration file. Every key has a default; a useful file names services and, when there are several, routes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where requests come in. Absent: 127.0.0.1:8080.
    pub listeners: Vec<Listener>,
    /// Which request goes where; the most specific match wins, whatever the order. A file with exactly one service may
    /// leave them out: then everything goes to that service. Listeners with `tcp` need none.
    pub routes: Vec<Route>,
    /// The services, by name.
    pub services: std::collections::BTreeMap<String, Service>,
    /// What customers may spend over all gateways, by name. Routes name them.
    pub quotas: std::collections::BTreeMap<String, Quota>,
    /// Retries that the whole process may add, beside the budget of each service.
    pub retry_budget: RetryBudgetParams,
    /// Bounds of the process.
    pub limits: ProcessLimits,
    /// How the utilisation of the process and its host is judged, by which services cut lower classes.
    pub pressure: SignalParams,
    /// One line of JSON for each finished request.
    pub access_log: AccessLog,
    /// How the process leaves.
    pub drain: Drain,
    /// Worker threads; 0 means one for each core that the process may use.
    pub workers: u32,
    /// Which engine keeps what the fleet agrees on: leases, registrations and worker numbers of ids. Absent: registrations and
    /// numbers are kept in memory, and there are no leases.
    pub coord: Option<coord::CoordParams>,
    /// The registry of services: when departures are held back. Absent: there is one if a service takes its endpoints from it,
    /// or if there is `dns` or `ids`.
    pub registry: Option<coord::registry::HoldParams>,
    /// A name server for registered services. Absent: none.
    pub dns: Option<coord::dns::DnsParams>,
    /// Ids that are unique across the fleet. Absent: none are given out.
    pub ids: Option<coord::ids::IdParams>,
    /// The admin pages.
    pub admin: Admin,
    /// Where records are kept: the audit log of changes, and what later rooms keep. Absent: nowhere.
    pub store: Option<StoreParams>,
}

/// Where the admin pages and metrics are served. They have no login and show every endpoint: keep them on loopback or on a
/// network that only operators reach. On a loopback address they also take registrations of services; nothing else can be
/// changed through them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Whether they are served at all.
    pub enabled: bool,
    /// Address and port. Port 0 lets the system choose one.
    pub address: SocketAddr,
    /// Host names by which browsers and scrapers may ask for them, beside `localhost` and plain addresses. Any other name
    /// is refused, so that no web page can read them through a name that it controls (DNS rebinding).
    pub hosts: Vec<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { enabled: true, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9901)), hosts: Vec::new() }
    }
}

/// Where a gateway listens that was not told.
pub(crate) const LISTEN_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

impl Default for Config {
    fn default() -> Self {
        let gateway = gateway::config::Config::default();
        Self {
            listeners: vec![Listener::at(LISTEN_DEFAULT)],
            routes: gateway.routes,
            services: gateway.services,
            quotas: gateway.quotas,
            retry_budget: gateway.retry_budget,
            limits: gateway.limits,
            pressure: gateway.pressure,
            access_log: gateway.access_log,
            drain: gateway.drain,
            workers: gateway.workers,
            coord: None,
            registry: None,
            dns: None,
            ids: None,
            admin: Admin::default(),
            store: None,
        }
    }
}

impl Config {
    /// What `seawall up --to a,b` means: one service with these endpoints and every default.
    ///
    /// Active TCP checks are on, because nobody is there to say how else to notice that an endpoint came back.
    #[must_use]
    pub fn forward_to(endpoints: &[String]) -> Self {
        let endpoints = endpoints
            .iter()
            .map(|address| gateway::config::EndpointParams { address: address.clone(), weight: 1 })
            .collect();
        let service =
            Service { endpoints, health: Some(gateway::config::Health::default()), ..Service::default() };
        Self { services: [("default".to_owned(), service)].into(), ..Self::default() }
    }

    /// The part that the gateway runs on. With one service and no routes, a route that sends everything there.
    #[must_use]
    pub fn gateway(&self) -> gateway::config::Config {
        let mut routes = self.routes.clone();
        let wanted = routes.is_empty() && self.takes_requests();
        if let (true, Some(only)) = (wanted, self.only_service()) {
            routes.push(Route { service: Some(only.to_owned()), ..Route::default() });
        }
        gateway::config::Config {
            listeners: self.listeners.clone(),
            routes,
            services: self.services.clone(),
            quotas: self.quotas.clone(),
            retry_budget: self.retry_budget.clone(),
            limits: self.limits.clone(),
            pressure: self.pressure.clone(),
            access_log: self.access_log.clone(),
            drain: self.drain.clone(),
            workers: self.workers,
        }
    }

    /// Whether any listener reads requests, instead of passing connections on.
    fn takes_requests(&self) -> bool {
        self.listeners.iter().any(|listener| listener.tcp.is_none())
    }

    /// Whether anything is to be agreed on with a fleet.
    #[must_use]
    pub fn coordinates(&self) -> bool {
        self.coord.is_some()
            || self.registry.is_some()
            || self.dns.is_some()
            || self.ids.is_some()
            || self.services.values().any(|service| service.registry.is_some())
    }

    /// Where this process's records are, if it keeps any.
    #[must_use]
    pub fn records(&self) -> StoreParams {
        self.store.clone().unwrap_or_default()
    }

    /// Whether this process keeps leases in its own records.
    #[must_use]
    pub fn keeps_leases(&self) -> bool {
        self.coord.as_ref().is_some_and(|coord| coord.etcd.is_empty())
    }

    fn only_service(&self) -> Option<&str> {
        match self.services.len() {
            1 => self.services.keys().next().map(String::as_str),
            _ => None,
        }
    }

    /// What it amounts to, in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        let plural =
            |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        format!(
            "{}, {}, {}",
            plural(self.listeners.len(), "listener"),
            plural(self.gateway().routes.len(), "route"),
            plural(self.services.len(), "service"),
        )
    }
}

impl ::config::Check for Config {
    fn check(&self, report: &mut ::config::Report<'_>) {
        check_store(self.store.as_ref(), report);
        let coordination = [
            ("coord", self.coord.as_ref().map(coord::CoordParams::check).unwrap_or_default()),
            ("registry", self.registry.as_ref().map(coord::registry::HoldParams::check).unwrap_or_default()),
            ("dns", self.dns.as_ref().map(coord::dns::DnsParams::check).unwrap_or_default()),
            ("ids", self.ids.as_ref().map(coord::ids::IdParams::check).unwrap_or_default()),
        ];
        if self.keeps_leases() && self.records().url.starts_with("postgres") {
            let remedy = "`coord: {etcd: [http://…]}`, or records in a file";
            report.at("coord").error(crate::coordination::NEEDS_A_FILE, remedy);
        }
        for (section, problems) in coordination {
            for (key, problem) in problems {
                report
                    .at(section)
                    .key(key)
                    .error(format!("`{key}` {problem}"), "see docs/reference/config.md");
            }
        }
        if self.services.is_empty() && self.routes.is_empty() {
            report.at("services").error(
                "there is neither a service nor a route",
                "name at least one service with its endpoints",
            );
            return;
        }
        let gateway = self.gateway();
        if gateway.routes.is_empty() && self.takes_requests() {
            report.at("routes").error(
                "there are several services but no route",
                "add routes that say which requests each service gets; only a file with one service may leave them out",
            );
            return;
        }
        let in_text = gateway.problems().into_iter();
        let errors: Vec<_> = in_text.filter(|problem| problem.severity == Severity::Error).collect();
        // Files are looked at once it is clear which ones are meant.
        let errors = if errors.is_empty() { gateway.problems_in_files() } else { errors };
        for problem in errors.into_iter().filter(|problem| problem.severity == Severity::Error) {
            at(report, &problem.path).error(problem.message, problem.remedy);
        }
    }
}

fn check_store(store: Option<&StoreParams>, report: &mut ::config::Report<'_>) {
    let Some(params) = store else { return };
    let remedy = "see docs/guides/records.md";
    for (key, problem) in params.check() {
        report.at("store").key(key).error(problem, remedy);
    }
    for (key, problem) in params.backups.iter().flat_map(|backups| backups.check()) {
        report.at("store").key("backups").key(key).error(problem, remedy);
    }
}

/// The place in the file that the gateway's part of the configuration calls `path`: they have the same root.
fn at<'r>(report: &'r mut ::config::Report<'_>, path: &[PathElement]) -> ::config::Report<'r> {
    let (first, rest) = match path {
        [PathElement::Key(key), rest @ ..] => (key.as_str(), rest),
        other => ("", other),
    };
    rest.iter().fold(report.at(first), |place, element| match element {
        PathElement::Key(key) => place.key(key),
        PathElement::Index(index) => place.index(*index),
    })
}

impl Config {
    /// What is accepted although somebody should look at it, a line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let gateway = self.gateway();
        let problems = gateway.problems().into_iter().chain(gateway.problems_in_files());
        problems
            .filter(|problem| problem.severity == Severity::Warning)
            .map(|problem| problem.to_string())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_service_without_routes_gets_everything() {
        let config = Config::forward_to(&["127.0.0.1:9001".to_owned()]);
        let routes = config.gateway().routes;
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0].service.as_deref(), Some("default"));
        assert_eq!(routes[0].matches, gateway::config::Match::default());
    }

    #[test]
    fn what_the_gateway_finds_points_at_its_place_in_the_file() {
        let file = "services:\n  cart: {endpoints: [10.0.0.1:8080]}\n  lost: {endpoints: [10.0.0.2:8080]}\nroutes:\n  \
                    - match: {path: /cart/}\n    service: crat\n  - service: cart\n";
        let errors = read("test.yaml", file).unwrap_err();
        assert!(errors.to_string().starts_with("test.yaml:6:14: "), "{errors}");
        let loaded =
            read("test.yaml", &file.replace("crat", "cart")).unwrap_or_else(|errors| panic!("{errors}"));
        let warnings = loaded.config().warnings();
        assert!(matches!(warnings.as_slice(), [only] if only.starts_with("services.lost: ")), "{warnings:?}");
    }

    #[test]
    fn several_services_without_routes_get_nothing() {
        let mut config = Config::forward_to(&["127.0.0.1:9001".to_owned()]);
        config.services.insert("other".to_owned(), Service::default());
        assert!(config.gateway().routes.is_empty());
    }

    #[test]
    fn a_given_route_is_not_joined_by_an_invented_one() {
        let mut config = Config::forward_to(&["127.0.0.1:9001".to_owned()]);
        config.routes.push(Route { service: Some("default".to_owned()), ..Route::default() });
        assert_eq!(config.gateway().routes, config.routes);
    }
}
