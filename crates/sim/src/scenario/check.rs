use config::{Check, Report};

use super::{
    Arrival, Distribution, Endpoints, Fault, Point, Scenario, Service, ServicePolicies, Traffic, What,
};

/// Pairs of a caller and an endpoint that it keeps a view of: two million of them take some gigabytes.
const VIEWS_MAX: u64 = 2_000_000;

/// Requests that a run may make by its arrival rates, so that a slip of the pen does not take hours.
const ARRIVALS_MAX: f64 = 200e6;

impl Check for Scenario {
    fn check(&self, report: &mut Report<'_>) {
        if self.duration.is_zero() {
            report.at("duration").error("nothing happens in no time", "give a duration such as 60s");
        }
        if self.slot.is_zero() {
            report.at("slot").error("time slots need a width", "give a slot such as 1s");
        }
        if self.traffic.is_empty() {
            report.at("traffic").error("nobody asks for anything", "name at least one traffic");
        }
        for (name, traffic) in &self.traffic {
            self.check_traffic(traffic, &mut report.at("traffic").key(name));
        }
        for (name, service) in &self.services {
            self.check_service(name, service, &mut report.at("services").key(name));
        }
        for (index, fault) in self.faults.iter().enumerate() {
            self.check_fault(fault, &mut report.at("faults").index(index));
        }
    }
}

impl Scenario {
    fn known(&self, service: &str, report: Report<'_>) -> bool {
        let known = self.services.contains_key(service);
        if !known {
            let names: Vec<_> = self.services.keys().map(String::as_str).collect();
            let mut report = report;
            report.error(
                format!("no service is called `{service}`"),
                match config::nearest(service, names.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("services are: {}", names.join(", ")),
                },
            );
        }
        known
    }

    fn check_traffic(&self, traffic: &Traffic, report: &mut Report<'_>) {
        self.known(&traffic.service, report.at("service"));
        if traffic.clients == 0 {
            report.at("clients").error("nobody sends these requests", "give at least 1 client");
        }
        if traffic.timeout.is_zero() {
            report.at("timeout").error("nobody waits for an answer", "give a timeout such as 10s");
        }
        let shares = || traffic.classes.iter().map(|part| part.share);
        if !shares().all(|share| share.is_finite() && share >= 0.0) || shares().sum::<f64>() <= 0.0 {
            report
                .at("classes")
                .error("the shares of the classes do not add up to anything", "give at least one");
        }
        let arrivals = traffic.arrival.rate_max() * self.duration.get().as_secs_f64();
        if !(0.0..=ARRIVALS_MAX).contains(&arrivals) {
            report.at("arrival").error(
                format!("{arrivals:.0} requests cannot be played"),
                "give rates from 0 on that make less than 200 million requests",
            );
        }
        if let Arrival::Steps(points) | Arrival::Points(points) = &traffic.arrival {
            let ordered = points.is_sorted_by_key(|Point { at, .. }| *at);
            if points.is_empty() || !ordered {
                report.at("arrival").error("the points are not in the order of time", "sort them by `at`");
            }
        }
        if let Arrival::Sine { period, .. } = traffic.arrival
            && period.is_zero()
        {
            report.at("arrival").error("a wave needs a period", "give one such as 60s");
        }
        if let Some(retry) = &traffic.retry {
            merge(&mut report.at("retry"), retry.check());
        }
        let route = &traffic.route;
        let mut report = report.at("route");
        if let Some(retry) = &route.retry {
            merge(&mut report.at("retry"), retry.check());
        }
        if let Some(hedge) = &route.hedge {
            merge(&mut report.at("hedge"), hedge.check());
        }
        if let Some(limit) = &route.rate_limit {
            merge(&mut report.at("rate_limit"), limit.check());
        }
    }

    fn check_service(&self, name: &str, service: &Service, report: &mut Report<'_>) {
        if service.endpoints == 0 {
            report.at("endpoints").error("a service without endpoints answers nobody", "give at least 1");
        }
        let backend = &service.backend;
        let mut at = report.at("backend");
        if backend.workers == 0 {
            at.at("workers").error("nobody works here", "give at least 1 worker");
        }
        if let Distribution::LogNormal { median, p99 } = &backend.service_time
            && (median.is_zero() || p99 < median)
        {
            at.at("service_time")
                .error("p99 must be at least the median, which must be longer than 0", "swap them?");
        }
        if let Some(cache) = &backend.cache
            && !(cache.miss_factor >= 0.0 && cache.miss_factor.is_finite())
        {
            at.at("cache").key("miss_factor").error("is no factor", "give one such as 10");
        }
        if backend.pauses.as_ref().is_some_and(|pauses| pauses.every <= pauses.r#for) {
            at.at("pauses").error("pauses must be shorter than the time between them", "lengthen `every`");
        }
        for (index, call) in service.calls.iter().enumerate() {
            let mut at = report.at("calls").index(index);
            if self.known(&call.service, at.at("service")) && self.reaches(&call.service, name) {
                at.at("service").error(
                    format!("`{name}` calls itself by way of `{}`", call.service),
                    "calls must not go in circles",
                );
            }
            if call.times == 0 || call.times > 10_000 {
                at.at("times").error(format!("{} is no number of calls", call.times), "give 1 to 10000");
            }
        }
        service.policies.check(&mut report.at("policies"));
        let views = self.callers(name) * u64::from(used(service));
        if views > VIEWS_MAX {
            report.at("policies").key("subset").key("size").error(
                format!("all callers together would keep {views} views of endpoints"),
                format!("give each caller a smaller subset, so that there are at most {VIEWS_MAX}"),
            );
        }
    }

    /// How many processes call a service.
    fn callers(&self, name: &str) -> u64 {
        let nested = self.services.values().map(|caller| {
            let calls = caller.calls.iter().filter(|call| call.service == name).count();
            u64::from(caller.endpoints) * calls as u64
        });
        let asking = self.traffic.values().filter(|traffic| traffic.service == name);
        let clients: u64 = asking.map(|traffic| u64::from(traffic.clients)).sum();
        let edge = if self.gateways > 0 { u64::from(self.gateways) } else { clients };
        nested.sum::<u64>() + edge
    }

    /// Whether a request at `from` can bring about one at `to`.
    fn reaches(&self, from: &str, to: &str) -> bool {
        let mut todo = vec![from];
        let mut seen = Vec::new();
        while let Some(name) = todo.pop() {
            if name == to {
                return true;
            }
            if !seen.contains(&name) {
                seen.push(name);
                let calls = self.services.get(name).map_or(&[][..], |service| &service.calls);
                todo.extend(calls.iter().map(|call| call.service.as_str()));
            }
        }
        false
    }

    fn check_fault(&self, fault: &Fault, report: &mut Report<'_>) {
        if let Some(traffic) = &fault.traffic {
            if !self.traffic.contains_key(traffic) {
                report
                    .at("traffic")
                    .error(format!("no traffic is called `{traffic}`"), "name one of `traffic`");
            }
            if !matches!(fault.what, What::Fail(_) | What::BlackHole) {
                report
                    .at("traffic")
                    .error("only `fail` and `black_hole` can be limited to one traffic", "leave it out");
            }
        }
        if let What::Slow(factor) | What::BadVersion { slow: factor, .. } = fault.what
            && !(factor > 0.0 && factor.is_finite())
        {
            report.at("what").error(format!("{factor} is no factor"), "give one such as 10");
        }
        if !self.known(&fault.service, report.at("service")) {
            return;
        }
        let service = &self.services[&fault.service];
        match &fault.endpoints {
            Endpoints::Zone(zone) if !service.zones.contains(zone) => {
                report
                    .at("endpoints")
                    .error(format!("`{}` has no zone `{zone}`", fault.service), "name one of `zones`");
            }
            Endpoints::Index(index) if *index >= service.endpoints => {
                report
                    .at("endpoints")
                    .error(format!("`{}` has no endpoint {index}", fault.service), "positions begin with 0");
            }
            _ => {}
        }
    }
}

impl ServicePolicies {
    fn check(&self, report: &mut Report<'_>) {
        merge(&mut report.at("ejection"), self.ejection.check());
        merge(&mut report.at("breaker"), self.breaker.check());
        merge(&mut report.at("endpoint_breaker"), self.endpoint_breaker.check());
        merge(&mut report.at("throttle"), self.throttle.check());
        merge(&mut report.at("admission"), self.admission.check());
        merge(&mut report.at("retry_advice"), self.retry_advice.check());
        merge(&mut report.at("bulkhead"), self.bulkhead.check());
        merge(&mut report.at("retry"), self.retry.check());
        if let Some(health) = &self.health {
            merge(&mut report.at("health"), health.check());
        }
        if let Some(hedge) = &self.hedge {
            merge(&mut report.at("hedge"), hedge.check());
        }
        for (key, span) in [("attempt", self.timeouts.attempt), ("request", self.timeouts.request)] {
            if span.is_zero() {
                report.at("timeouts").key(key).error("nobody waits for an answer", "give a span such as 15s");
            }
        }
    }
}

/// How many of a service's endpoints each caller uses.
fn used(service: &Service) -> u32 {
    match service.policies.subset.size {
        0 => service.endpoints,
        size => size.min(service.endpoints),
    }
}

/// What a policy's own check found.
fn merge(report: &mut Report<'_>, wrong: Vec<(&'static str, String)>) {
    for (field, why) in wrong {
        report.at(field).error(why, "see the reference for what it means");
    }
}
