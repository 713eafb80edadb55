//! The status document, made of what the gateway says of itself.

use std::iter;

use gateway::service::{BreakerStatus, EndpointStatus, ModeStatus, ReasonStatus, ServiceStatus};
use model::Timestamp;

use super::shape::{
    Breaker, Budget, Bulkhead, Certificate, Change, Endpoint, Event, Limit, Listener, Mode, Reason, Route,
    Service, Status,
};

/// Everything that the gateway knows, as of `now`. What the application knows (its file, its changes) is the caller's to add.
#[must_use]
pub fn gather(gateway: &gateway::Status, now: Timestamp) -> Status {
    let buffers =
        Limit { name: "buffer bytes".to_owned(), used: gateway.buffer_bytes, max: gateway.buffer_bytes_max };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: age(gateway.started, now),
        phase: gateway.phase.to_owned(),
        workers: u32::try_from(gateway.workers).unwrap_or(u32::MAX),
        listeners: gateway.listeners.iter().map(listener).collect(),
        services: gateway.services.iter().map(|one| service(one, now)).collect(),
        routes: gateway
            .routes
            .iter()
            .map(|route| Route {
                name: route.name.to_string(),
                action: route.action.clone(),
                requests: route
                    .requests
                    .iter()
                    .map(|(outcome, count)| ((*outcome).to_owned(), *count))
                    .collect(),
            })
            .collect(),
        certificates: gateway.tls.iter().flat_map(|(of, tls)| certificates(of, tls, now)).collect(),
        limits: iter::once(buffers).chain(gateway.listeners.iter().flat_map(fuse)).collect(),
        changes: gateway.changes.iter().rev().map(change).collect(),
        events: gateway
            .events
            .iter()
            .rev()
            .map(|one| {
                let what = one.event.what.name();
                Event {
                    at: one.event.at.to_string(),
                    what: match &one.event.endpoint {
                        Some(endpoint) => format!("{} {endpoint} {what}", one.service),
                        None => format!("{} {what}", one.service),
                    },
                    why: one.event.why.clone(),
                }
            })
            .collect(),
        ..Status::default()
    }
}

fn age(since: Timestamp, now: Timestamp) -> f64 {
    now.as_unix_nanos().saturating_sub(since.as_unix_nanos()) as f64 / 1e9
}

fn listener(listener: &gateway::ListenerStatus) -> Listener {
    Listener {
        name: listener.name.clone(),
        address: listener.address.to_string(),
        connections: listener.connections.into(),
        connections_max: listener.connections_max.into(),
    }
}

fn certificates(of: &str, tls: &gateway::TlsStatus, now: Timestamp) -> impl Iterator<Item = Certificate> {
    let now = now.as_unix_nanos() / 1_000_000_000;
    tls.certificates.iter().map(move |certificate| {
        let expires = u64::try_from(certificate.not_after).unwrap_or(0);
        Certificate {
            of: of.to_owned(),
            file: certificate.path.display().to_string(),
            names: certificate.names.clone(),
            expires: Timestamp::from_unix_nanos(expires.saturating_mul(1_000_000_000)).to_string(),
            left: expires as f64 - now as f64,
            refused: tls.refused.clone(),
        }
    })
}

/// How close a batch listener's fuse is to its bounds.
fn fuse(listener: &gateway::ListenerStatus) -> impl Iterator<Item = Limit> {
    let bounds = listener.fuse.map(|fuse| {
        let limit = |what: &str, used: u32, max: u32| Limit {
            name: format!("{}: batch {what}", listener.name),
            used: used.into(),
            max: max.into(),
        };
        [
            limit("requests under way", fuse.active, fuse.connections_max),
            limit("connections to endpoints", fuse.connections, fuse.connections_max),
            limit("requests waiting", fuse.waiting, fuse.waiting_max),
        ]
    });
    bounds.into_iter().flatten()
}

fn service(service: &ServiceStatus, now: Timestamp) -> Service {
    Service {
        name: service.name.to_string(),
        balance: service.balancer.clone(),
        panicking: service.panicking,
        endpoints: service.endpoints.iter().map(|one| endpoint(one, now)).collect(),
        breaker: breaker(&service.breaker),
        retry_budget: Budget { balance: service.retry_budget, burst: service.retry_budget_max },
        bulkhead: Bulkhead {
            active: service.bulkhead.active.into(),
            active_max: service.bulkhead.active_max.into(),
            waiting: service.bulkhead.waiting.into(),
        },
        modes: service.modes.iter().map(|one| mode(one, now)).collect(),
    }
}

fn mode(mode: &ModeStatus, now: Timestamp) -> Mode {
    Mode {
        name: mode.name.clone(),
        active: mode.active,
        why: mode.why.clone(),
        age: mode.since.map_or(0.0, |since| age(since, now)),
        entered: mode.entered,
        requests: mode.requests,
        exercised: mode.exercised,
    }
}

fn endpoint(endpoint: &EndpointStatus, now: Timestamp) -> Endpoint {
    let reason = |reason: &ReasonStatus| Reason {
        state: reason.reason.to_owned(),
        why: reason.why.clone(),
        age: age(reason.since, now),
    };
    Endpoint {
        name: endpoint.name.to_string(),
        weight: endpoint.weight,
        reasons: endpoint.reasons.iter().map(reason).collect(),
        breaker: breaker(&endpoint.breaker),
        active: endpoint.active.into(),
        attempts: endpoint.requests,
        failures: endpoint.failures,
        latency_ms: endpoint.latency_secs.map(|secs| secs * 1e3),
    }
}

fn breaker(breaker: &BreakerStatus) -> Breaker {
    let why = match (breaker.force, breaker.state) {
        ("auto", "closed") => String::new(),
        ("auto", _) => format!("{:.0} % of {} calls failed", breaker.failure_rate * 100.0, breaker.calls),
        _ => "an operator said so".to_owned(),
    };
    Breaker { state: breaker.state.to_owned(), why, opens: breaker.opens }
}

fn change(change: &model::Change) -> Change {
    Change {
        at: change.at.to_string(),
        who: change.who.clone(),
        what: change.what.clone(),
        undo: change.undo.clone(),
    }
}
