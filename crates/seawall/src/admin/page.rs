//! The page for people. One rule keeps it safe: text reaches it through [`Text`] alone.

use std::fmt::{self, Display, Write};

use crate::status::{Breaker, Endpoint, Happened, Service, Status, count, seconds};

/// Text as HTML shows it. Safe between tags and within double-quoted attributes.
struct Text<T>(T);

impl<T: Display> Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'f>(&'a mut fmt::Formatter<'f>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|character| match character {
                    '&' => self.0.write_str("&amp;"),
                    '<' => self.0.write_str("&lt;"),
                    '>' => self.0.write_str("&gt;"),
                    '"' => self.0.write_str("&quot;"),
                    '\'' => self.0.write_str("&#39;"),
                    other => self.0.write_char(other),
                })
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}

/// The whole page.
pub(super) fn document(status: &Status) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Seawall</title>\n\
         <link rel=\"stylesheet\" href=\"/page.css\">\n<script src=\"/page.js\" defer></script>\n</head>\n<body>\n\
         <main id=\"main\">\n{}</main>\n<footer><a href=\"/metrics\">metrics</a> <a href=\"/api/status\">status as JSON</a> \
         <a href=\"/api/config\">configuration in force</a> <span id=\"connection\"></span></footer>\n</body>\n</html>\n",
        fragment(status)
    )
}

/// The part that is fetched again and again.
pub(super) fn fragment(status: &Status) -> String {
    let mut html = String::new();
    // Writing into a string cannot fail.
    let _ = header(&mut html, status)
        .and_then(|()| services(&mut html, &status.services))
        .and_then(|()| listeners(&mut html, status))
        .and_then(|()| routes(&mut html, status))
        .and_then(|()| recent(&mut html, status));
    html
}

fn header(html: &mut String, status: &Status) -> fmt::Result {
    let config = &status.config;
    let mood = if status.phase == "serving" { "good" } else { "warn" };
    writeln!(
        html,
        "<header><h1>Seawall</h1><span class=\"pill {mood}\">{}</span>\
         <dl><div><dt>version</dt><dd>{}</dd></div><div><dt>up</dt><dd>{}</dd></div><div><dt>workers</dt><dd>{}</dd></div>\
         <div><dt>configuration</dt><dd title=\"{}\">{} from {}</dd></div><div><dt>since</dt><dd>{}</dd></div></dl></header>",
        Text(&status.phase),
        Text(&status.version),
        Text(seconds(status.uptime)),
        status.workers,
        Text(&config.hash),
        config.version,
        Text(&config.source),
        Text(&config.since),
    )?;
    if let Some(refusal) = &config.refusal {
        writeln!(
            html,
            "<section class=\"refusal\"><h2>The changed file was refused; the old one is in force</h2><pre>{}</pre></section>",
            Text(refusal)
        )?;
    }
    Ok(())
}

fn services(html: &mut String, services: &[Service]) -> fmt::Result {
    services.iter().try_for_each(|service| self::service(html, service))
}

fn service(html: &mut String, service: &Service) -> fmt::Result {
    let (up, all) = (service.up(), service.endpoints.len());
    let mood = match up {
        _ if up == all && all > 0 => "good",
        0 => "bad",
        _ => "warn",
    };
    write!(
        html,
        "<section class=\"service\"><h2>{}</h2><div class=\"facts\"><span class=\"pill {mood}\">{up} of {all} up</span>",
        Text(&service.name)
    )?;
    if service.panicking {
        write!(
            html,
            "<span class=\"pill bad\" title=\"So few are available that availability is ignored.\">panic</span>"
        )?;
    }
    breaker(html, &service.breaker)?;
    for mode in service.modes.iter().filter(|mode| mode.active) {
        write!(
            html,
            "<span class=\"pill warn\" title=\"{}\">mode {} for {}</span>",
            Text(&mode.why),
            Text(&mode.name),
            Text(seconds(mode.age)),
        )?;
    }
    let (budget, bulkhead) = (&service.retry_budget, &service.bulkhead);
    write!(
        html,
        "<span>retries <meter min=\"0\" max=\"{:.1}\" value=\"{:.1}\"></meter> {:.0} left</span>\
         <span>active {} of {}, {} waiting</span><span>{}</span></div>",
        budget.burst.max(1.0),
        budget.balance,
        budget.balance.floor(),
        Text(count(bulkhead.active)),
        Text(count(bulkhead.active_max)),
        Text(count(bulkhead.waiting)),
        Text(&service.balance),
    )?;
    html.write_str(
        "<table><thead><tr><th>endpoint<th>state<th class=\"n\">weight<th class=\"n\">active<th class=\"n\">attempts\
         <th class=\"n\">failed<th class=\"n\">latency<th>why</tr></thead><tbody>",
    )?;
    service.endpoints.iter().try_for_each(|endpoint| self::endpoint(html, endpoint))?;
    html.write_str("</tbody></table></section>\n")
}

fn breaker(html: &mut String, breaker: &Breaker) -> fmt::Result {
    let mood = match breaker.state.as_str() {
        "closed" => "good",
        "open" => "bad",
        "half_open" => "warn",
        _ => "none",
    };
    write!(html, "<span class=\"pill {mood}\">breaker {}</span>", Text(&breaker.state))?;
    if breaker.why.is_empty() { Ok(()) } else { write!(html, "<span>{}</span>", Text(&breaker.why)) }
}

fn endpoint(html: &mut String, endpoint: &Endpoint) -> fmt::Result {
    let mood = match endpoint.state() {
        "up" => "good",
        "unhealthy" | "ejected" | "open" => "bad",
        _ => "warn",
    };
    let latency = endpoint.latency_ms.map_or_else(|| "–".to_owned(), |latency| format!("{latency:.1} ms"));
    write!(
        html,
        "<tr><td class=\"name\">{}<td><span class=\"pill {mood}\">{}</span><td class=\"n\">{}<td class=\"n\">{}\
         <td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"why\">{}</tr>",
        Text(&endpoint.name),
        Text(endpoint.state()),
        endpoint.weight,
        Text(count(endpoint.active)),
        Text(count(endpoint.attempts)),
        Text(count(endpoint.failures)),
        Text(latency),
        Text(endpoint.why()),
    )
}

fn listeners(html: &mut String, status: &Status) -> fmt::Result {
    html.write_str("<section><h2>Listeners and limits</h2><table><thead><tr><th>what<th>where<th class=\"n\">used<th class=\"n\">of</tr></thead><tbody>")?;
    for listener in &status.listeners {
        write!(
            html,
            "<tr><td class=\"name\">{}<td>{}<td class=\"n\">{}<td class=\"n\">{}</tr>",
            Text(&listener.name),
            Text(&listener.address),
            Text(count(listener.connections)),
            Text(count(listener.connections_max)),
        )?;
    }
    for limit in &status.limits {
        let max = if limit.max == 0 { "–".to_owned() } else { count(limit.max) };
        write!(
            html,
            "<tr><td class=\"name\">{}<td><td class=\"n\">{}<td class=\"n\">{}</tr>",
            Text(&limit.name),
            Text(count(limit.used)),
            Text(max),
        )?;
    }
    html.write_str("</tbody></table></section>\n")
}

fn routes(html: &mut String, status: &Status) -> fmt::Result {
    html.write_str(
        "<section><h2>Routes</h2><table><thead><tr><th>route<th>to<th>requests</tr></thead><tbody>",
    )?;
    for route in &status.routes {
        write!(html, "<tr><td class=\"name\">{}<td>{}<td>", Text(&route.name), Text(&route.action))?;
        for (outcome, requests) in route.seen() {
            write!(
                html,
                "<span class=\"outcome\">{} <b>{}</b></span> ",
                Text(outcome),
                Text(count(requests))
            )?;
        }
        html.write_str("</tr>")?;
    }
    html.write_str("</tbody></table></section>\n")
}

fn recent(html: &mut String, status: &Status) -> fmt::Result {
    html.write_str("<section><h2>Recent changes and events</h2><table><tbody>")?;
    let happened = status.happened();
    if happened.is_empty() {
        html.write_str("<tr><td class=\"at\">Nothing yet.</tr>")?;
    }
    for Happened { at, what, why, undo } in happened {
        write!(
            html,
            "<tr><td class=\"at\">{}<td class=\"name\">{}<td class=\"what\">{}<td class=\"at\">",
            Text(at),
            Text(what),
            Text(why)
        )?;
        if !undo.is_empty() {
            write!(html, "undo: {}", Text(undo))?;
        }
        html.write_str("</tr>")?;
    }
    html.write_str("</tbody></table></section>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// A status whose every text is `text`, made from its serialised form so that a field added later is covered too.
    fn status_of(text: &str) -> Status {
        let sample = Status {
            config: crate::status::Config { refusal: Some(String::new()), ..Default::default() },
            listeners: vec![Default::default()],
            services: vec![Service {
                panicking: true,
                modes: vec![crate::status::Mode { active: true, ..Default::default() }],
                endpoints: vec![Endpoint { reasons: vec![Default::default()], ..Default::default() }],
                ..Default::default()
            }],
            routes: vec![crate::status::Route {
                requests: [(text.to_owned(), 1)].into(),
                ..Default::default()
            }],
            limits: vec![Default::default()],
            changes: vec![Default::default()],
            events: vec![Default::default()],
            ..Default::default()
        };
        fn fill(value: &mut Value, text: &str) {
            match value {
                Value::String(string) => text.clone_into(string),
                Value::Array(items) => items.iter_mut().for_each(|item| fill(item, text)),
                Value::Object(entries) => entries.values_mut().for_each(|entry| fill(entry, text)),
                _ => {}
            }
        }
        let mut value = serde_json::to_value(sample).unwrap();
        fill(&mut value, text);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn no_text_of_a_status_becomes_markup() {
        let attack = "\"'><script>alert(1)</script>&<img onerror=x>";
        let (plain, hostile) = (document(&status_of("x")), document(&status_of(attack)));
        let marks = |html: &str, mark: char| html.matches(mark).count();
        for mark in ['<', '>', '"', '\''] {
            assert_eq!(marks(&plain, mark), marks(&hostile, mark), "{mark}");
        }
        assert!(hostile.contains("&lt;script&gt;") && hostile.contains("&amp;&lt;img"));
    }

    #[test]
    fn the_page_has_nothing_inline_that_its_policy_would_block() {
        let html = document(&status_of("x"));
        for inline in ["style=", "<style", "onclick", "onload", "<script>"] {
            assert!(!html.contains(inline), "{inline}");
        }
    }
}
