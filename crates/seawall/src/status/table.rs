//! The status as text for a terminal.

use std::fmt::Write;

use super::shape::{Status, count, seconds};

/// Rows of cells, padded so that columns line up; the columns in `right` are aligned to the right.
fn columns(rows: &[Vec<String>], right: &[usize]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let gap = if column == 0 { "" } else { "  " };
            let (before, after) =
                if right.contains(&column) { (pad.as_str(), "") } else { ("", pad.as_str()) };
            let _ = write!(line, "{gap}{before}{cell}{after}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Nothing in a status may move the cursor or colour the terminal of whoever reads it.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn row<const N: usize>(cells: [String; N]) -> Vec<String> {
    cells.iter().map(|cell| clean(cell)).collect()
}

fn heading<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// The whole status as text, a section after the other.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    let config = &status.config;
    let _ = writeln!(
        text,
        "seawall {} {}, up {}, {} workers, config {} from {} since {}",
        clean(&status.version),
        clean(&status.phase),
        seconds(status.uptime),
        status.workers,
        config.version,
        clean(&config.source),
        clean(&config.since),
    );
    if let Some(consensus) = &status.consensus {
        let leader = consensus
            .leader
            .as_deref()
            .map_or_else(|| "no leader".to_owned(), |leader| format!("{leader} leads"));
        let quorum = if consensus.has_quorum() { "" } else { ", NO QUORUM: no lease can be had" };
        let _ = writeln!(
            text,
            "etcd: {} of {} members answer, {}{quorum}",
            consensus.answering,
            consensus.size,
            clean(&leader)
        );
    }
    if let Some(refusal) = &config.refusal {
        let _ = writeln!(text, "the file was changed but refused; the old one is in force:");
        for line in refusal.lines() {
            let _ = writeln!(text, "  {}", clean(line));
        }
    }

    let mut rows = vec![heading(["LISTENER", "ADDRESS", "CONNECTIONS"])];
    rows.extend(status.listeners.iter().map(|listener| {
        row([
            listener.name.clone(),
            listener.address.clone(),
            format!("{} of {}", count(listener.connections), count(listener.connections_max)),
        ])
    }));
    let _ = write!(text, "\n{}", columns(&rows, &[2]));

    let rows: Vec<_> = status
        .certificates
        .iter()
        .map(|one| {
            row([
                one.of.clone(),
                one.names.join(", "),
                one.file.clone(),
                if one.left < 0.0 { "EXPIRED".to_owned() } else { format!("in {}", seconds(one.left)) },
                one.refused.as_ref().map_or_else(String::new, |why| format!("changed but refused: {why}")),
            ])
        })
        .collect();
    if !rows.is_empty() {
        let head = heading(["CERTIFICATE OF", "NAMES", "FILE", "EXPIRES", "TROUBLE"]);
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        let _ = write!(text, "\n{}", columns(&rows, &[]));
    }

    let mut rows =
        vec![heading(["SERVICE", "UP", "BREAKER", "RETRIES LEFT", "ACTIVE", "WAITING", "OPENED", "BALANCE"])];
    rows.extend(status.services.iter().map(|service| {
        let up = format!("{} of {}", service.up(), service.endpoints.len());
        row([
            service.name.clone(),
            if service.panicking { format!("{up} (ignored: too few)") } else { up },
            service.breaker.state.clone(),
            format!("{:.0} of {:.0}", service.retry_budget.balance.floor(), service.retry_budget.burst),
            count(service.bulkhead.active),
            count(service.bulkhead.waiting),
            count(service.breaker.opens),
            service.balance.clone(),
        ])
    }));
    let _ = write!(text, "\n{}", columns(&rows, &[3, 4, 5, 6]));

    let mut rows =
        vec![heading(["SERVICE", "ENDPOINT", "STATE", "ACTIVE", "ATTEMPTS", "FAILED", "LATENCY", "WHY"])];
    for service in &status.services {
        rows.extend(service.endpoints.iter().map(|endpoint| {
            row([
                service.name.clone(),
                endpoint.name.clone(),
                endpoint.state().to_owned(),
                count(endpoint.active),
                count(endpoint.attempts),
                count(endpoint.failures),
                endpoint.latency_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
                endpoint.why(),
            ])
        }));
    }
    let _ = write!(text, "\n{}", columns(&rows, &[3, 4, 5, 6]));

    let modes =
        status.services.iter().flat_map(|service| service.modes.iter().map(move |mode| (service, mode)));
    let rows: Vec<_> = modes
        .map(|(service, mode)| {
            row([
                service.name.clone(),
                mode.name.clone(),
                if mode.active { format!("in force for {}", seconds(mode.age)) } else { "off".to_owned() },
                count(mode.entered),
                count(mode.requests),
                count(mode.exercised),
                mode.why.clone(),
            ])
        })
        .collect();
    if !rows.is_empty() {
        let head = heading(["SERVICE", "MODE", "STATE", "ENTERED", "REQUESTS", "EXERCISED", "WHY"]);
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        let _ = write!(text, "\n{}", columns(&rows, &[3, 4, 5]));
    }

    let mut rows = vec![heading(["ROUTE", "TO", "REQUESTS"])];
    rows.extend(status.routes.iter().map(|route| {
        let outcomes: Vec<String> =
            route.seen().map(|(outcome, requests)| format!("{outcome} {}", count(requests))).collect();
        row([route.name.clone(), route.action.clone(), outcomes.join(", ")])
    }));
    let _ = write!(text, "\n{}", columns(&rows, &[]));

    let happened = status.happened();
    if !happened.is_empty() {
        text.push_str("\nRECENTLY\n");
        let lately = happened.into_iter().take(10);
        let rows: Vec<_> =
            lately.map(|one| row([one.at.to_owned(), format!("{}: {}", one.what, one.why)])).collect();
        text.push_str(&columns(&rows, &[]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Breaker, Endpoint, Listener, Mode, Reason, Route, Service};
    use expect_test::expect;

    #[test]
    fn reads_as_a_table() {
        let up = Endpoint {
            name: "10.0.0.1:8080".into(),
            active: 3,
            attempts: 12_345,
            latency_ms: Some(4.25),
            ..Endpoint::default()
        };
        let reason = Reason { state: "ejected".into(), why: "5 failures in a row".into(), age: 75.0 };
        let out = Endpoint {
            name: "10.0.0.2:8080".into(),
            failures: 5,
            reasons: vec![reason],
            ..Endpoint::default()
        };
        let status = Status {
            version: "0.1.0".into(),
            uptime: 3_725.0,
            phase: "serving".into(),
            workers: 2,
            listeners: vec![Listener {
                name: "web".into(),
                address: "0.0.0.0:80".into(),
                connections: 7,
                connections_max: 100_000,
            }],
            services: vec![Service {
                name: "cart".into(),
                balance: "least_loaded".into(),
                endpoints: vec![up, out],
                breaker: Breaker { state: "closed".into(), ..Breaker::default() },
                modes: vec![
                    Mode { name: "bare".into(), exercised: 12, ..Mode::default() },
                    Mode {
                        name: "brownout".into(),
                        active: true,
                        why: "because of shed: utilization 0.97, shed 0.31".into(),
                        age: 75.0,
                        entered: 2,
                        requests: 345,
                        exercised: 9,
                    },
                ],
                ..Service::default()
            }],
            routes: vec![Route {
                name: "/cart/".into(),
                action: "cart".into(),
                requests: [("success".into(), 99)].into(),
            }],
            ..Status::default()
        };
        expect![[r#"
            seawall 0.1.0 serving, up 1h 2m, 2 workers, config 0 from  since 

            LISTENER  ADDRESS     CONNECTIONS
            web       0.0.0.0:80  7 of 100.0k

            SERVICE  UP      BREAKER  RETRIES LEFT  ACTIVE  WAITING  OPENED  BALANCE
            cart     1 of 2  closed         0 of 0       0        0       0  least_loaded

            SERVICE  ENDPOINT       STATE    ACTIVE  ATTEMPTS  FAILED  LATENCY  WHY
            cart     10.0.0.1:8080  up            3     12.3k       0   4.2 ms
            cart     10.0.0.2:8080  ejected       0         0       5        -  5 failures in a row, for 1m 15s

            SERVICE  MODE      STATE                ENTERED  REQUESTS  EXERCISED  WHY
            cart     bare      off                        0         0         12
            cart     brownout  in force for 1m 15s        2       345          9  because of shed: utilization 0.97, shed 0.31

            ROUTE   TO    REQUESTS
            /cart/  cart  success 99
        "#]].assert_eq(&render(&status));
    }

    #[test]
    fn no_escape_sequence_reaches_the_terminal() {
        let hostile = "\u{1b}[2J\u{7}x".to_owned();
        let endpoint = Endpoint { name: hostile.clone(), ..Endpoint::default() };
        let status = Status {
            phase: hostile.clone(),
            services: vec![Service {
                name: hostile.clone(),
                endpoints: vec![endpoint],
                ..Service::default()
            }],
            routes: vec![Route { name: hostile, ..Route::default() }],
            ..Status::default()
        };
        assert!(render(&status).chars().all(|c| c == '\n' || !c.is_control()));
    }
}
