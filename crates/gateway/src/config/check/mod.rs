//! What no single value of a configuration shows: names that exist, bounds that depend on one another.

mod listener;
mod mode;
mod quota;
mod route;
mod service;
mod tls;

use model::Span;
use policy::balance::HashKey;

use super::problem::Place;
use super::{AccessLogTarget, Config, Problem};
use crate::router::changes::is_token;

/// More worker threads than any machine has cores.
const WORKERS_MAX: u32 = 1024;

impl Config {
    /// Everything that is wrong with the configuration, in the order of its keys. Looks at nothing outside it: no file,
    /// no name server, no socket.
    ///
    /// A configuration without a [`Severity::Error`](super::Severity::Error) among its problems can be built, as far as
    /// its text can tell.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut root = Place::root(&mut problems);
        listener::check(self, &mut root.at("listeners"));
        route::check(self, &mut root);
        quota::check(self, &mut root);
        for (name, service) in &self.services {
            let mut services = root.at("services");
            let mut place = services.at(name);
            service::check(name, service, &mut place);
            service::check_use(self, name, service, &mut place);
            mode::check(self, name, service, &mut place);
        }
        route::find_unused_services(self, &mut root.at("services"));
        if self.limits.buffers.get() == 0 {
            let mut place = root.at("limits");
            place
                .at("buffers")
                .error("without buffers every request is refused", "give some memory, such as 512MiB");
        }
        if matches!(&self.access_log.to, AccessLogTarget::File(path) if path.as_os_str().is_empty()) {
            root.at("access_log").at("to").error("the access log's file has no name", "name the file");
        }
        if self.workers > WORKERS_MAX {
            let message = format!("{} workers are more than {WORKERS_MAX}", self.workers);
            root.at("workers").error(message, "write 0 for one worker on each core");
        }
        problems
    }
}

/// Reports waits of no length, which would fail every time.
fn not_zero<const N: usize>(place: &mut Place<'_>, spans: [(&str, Span); N]) {
    for (key, span) in spans {
        if span.is_zero() {
            place.at(key).error("a wait of 0 fails every time", "give it a length, such as 10s");
        }
    }
}

/// Reports what a policy finds wrong with its own parameters.
fn policy(place: &mut Place<'_>, wrong: Vec<(&'static str, String)>) {
    for (key, why) in wrong {
        place.at(key).error(format!("`{key}` is out of range"), why);
    }
}

/// Reports a header or cookie that can have no such name. `place` is that of the key.
fn hash_key(place: &mut Place<'_>, key: &HashKey) {
    match key {
        HashKey::Header(name) => field_name(&mut place.at("header"), name),
        HashKey::Cookie(name) => cookie_name(&mut place.at("cookie"), name),
        HashKey::ClientAddress | HashKey::Path | HashKey::Identity => {}
    }
}

fn field_name(place: &mut Place<'_>, name: &str) {
    if !is_token(name) {
        let remedy = "a name is made of letters, digits and !#$%&'*+-.^_`|~";
        place.error(format!("`{name}` is no name of a header field"), remedy);
    }
}

fn cookie_name(place: &mut Place<'_>, name: &str) {
    if !is_token(name) {
        let remedy = "a name is made of letters, digits and !#$%&'*+-.^_`|~";
        place.error(format!("`{name}` is no name of a cookie"), remedy);
    }
}

/// Reports names that would garble logs and metrics.
fn plain_name(place: &mut Place<'_>, name: &str) {
    if name.is_empty() || name.chars().any(char::is_control) {
        place.error(format!("{name:?} is no name"), "write a short word");
    }
}

#[cfg(test)]
mod tests;
