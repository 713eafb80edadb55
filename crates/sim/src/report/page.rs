//! A report as one HTML file that needs nothing else, and as one SVG file.

use std::fmt::{self, Write};

use serde_json::json;

use super::number::{count, maybe, millis, percent, rate, recovery, seconds, times};
use super::plot::{Chart, HEIGHT, LEFT, LOOKS, Line, RIGHT, STYLE, Text, Time, Unit, WIDTH, draw};
use super::text::{FIGURES, Pool, cells, compared, letters, pooled};
use super::{Figures, Report};

/// One run, as a page shows it.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// What sets it apart from the other runs of the page.
    pub name: &'a str,
    /// What it came to.
    pub report: &'a Report,
    /// The scenario as its file says it, for whoever wants to repeat it.
    pub scenario: &'a str,
}

/// Points that all the lines of a page may have for each quantity, so that it stays small: a screen has no more.
const POINTS: usize = 480;
/// Charts are drawn for so many runs; of further ones the figures are shown.
const RUNS_DRAWN: usize = 4;
/// Characters of a scenario's text that are shown.
const SCENARIO_SHOWN: usize = 24 << 10;

const PAGE_STYLE: &str = "\
body{margin:0;background:var(--page);color:var(--ink);font:13px/1.45 system-ui,-apple-system,'Segoe UI',sans-serif}\
main{max-width:1160px;margin:0 auto;padding:20px}h1{font-size:19px;margin:0}h2{font-size:15px;margin:26px 0 6px}h3{font-size:13px;margin:18px 0 4px}\
p{margin:2px 0 12px;color:var(--mute)}svg{display:block;width:100%;height:auto;margin:6px 0}\
dl{display:flex;flex-wrap:wrap;gap:0;margin:12px 0;border:1px solid var(--grid);border-radius:6px}\
dl div{flex:1 1 92px;padding:8px 12px;border-left:1px solid var(--grid)}dl div:first-child{border-left:0}dt{color:var(--mute);font-size:11px}\
dd{margin:0;font-size:18px;font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{padding:3px 10px;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}\
th{color:var(--mute);font-weight:500;font-size:11px}th:first-child,td:first-child{text-align:left;padding-left:0}table.events{width:auto}table.events td{text-align:left}td.text{white-space:normal}\
.mark{color:var(--band);font-weight:700}pre{overflow:auto;background:var(--grid);padding:10px;border-radius:6px;font-size:12px}\
summary{cursor:pointer;color:var(--mute)}.rule{stroke:none}.rule.on{stroke:var(--ink);stroke-opacity:.5}\
.chart .read{fill:var(--ink)}@media print{details{display:none}}";

/// Shows the values at the pointer. Everything can be read without it.
const SCRIPT: &str = "\
for(const run of document.querySelectorAll('section.run')){const data=run.querySelector('script');if(!data)continue;\
const d=JSON.parse(data.textContent),charts=[...run.querySelectorAll('svg.chart')];\
const show=e=>{const s=e.currentTarget,b=s.getBoundingClientRect(),x=(e.clientX-b.left)/b.width*d.width,\
n=d.points,i=Math.floor((x-d.left)/(d.right-d.left)*n);charts.forEach((c,k)=>{const r=c.querySelector('.rule'),t=c.querySelector('.read');\
if(i<0||i>=n){r.classList.remove('on');t.textContent='';return}r.classList.add('on');\
r.setAttribute('transform','translate('+(d.left+(i+.5)/n*(d.right-d.left))+' 0)');\
t.textContent='at '+d.at[i]+' s: '+d.charts[k].map(l=>l[0]+' '+(l[1][i]===null?'–':l[1][i])).join(', ')+' '+d.units[k]})};\
charts.forEach(c=>{c.addEventListener('pointermove',show);c.addEventListener('pointerleave',()=>charts.forEach(c=>{\
c.querySelector('.rule').classList.remove('on');c.querySelector('.read').textContent=''}))})}";

/// The page of one or several runs. Of two, it compares the second to the first.
#[must_use]
pub fn page(title: &str, runs: &[Run<'_>]) -> String {
    let mut html = String::new();
    // Writing into a string cannot fail.
    let _ = document(&mut html, title, runs);
    html
}

fn document(html: &mut String, title: &str, runs: &[Run<'_>]) -> fmt::Result {
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{0}</title>\n\
         <style>{STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n",
        Text(title)
    )?;
    match runs {
        [_] => {}
        [base, other] => comparison(html, base, other)?,
        several => {
            html.write_str("<h2>Runs</h2>")?;
            let rows = several.iter().map(|run| (run.name, &run.report.total, run.report.shed_total()));
            figures(html, "run", rows)?;
        }
    }
    let drawn = runs.len().clamp(1, RUNS_DRAWN);
    for run in runs.iter().take(RUNS_DRAWN) {
        self::run(html, run, POINTS / drawn, runs.len() > 1)?;
    }
    if runs.len() > RUNS_DRAWN {
        writeln!(html, "<p>Charts are drawn of the first {RUNS_DRAWN} runs.</p>")?;
    }
    writeln!(html, "</main>\n<script>{SCRIPT}</script>\n</body>\n</html>")
}

fn run(html: &mut String, run: &Run<'_>, points: usize, named: bool) -> fmt::Result {
    let report = run.report;
    html.write_str("<section class=\"run\">")?;
    if named {
        write!(html, "<h2>{}</h2>", Text(run.name))?;
    }
    writeln!(html, "<p>{} simulated, seed {}</p>", Text(seconds(report.duration_s)), report.seed)?;
    for note in &report.notes {
        writeln!(html, "<p>Note: {}</p>", Text(note))?;
    }
    tiles(html, report)?;

    let points = points.min(report.series.at_s.len()).max(1);
    let charts = charts(report, points);
    let time = Time { duration: report.duration_s, events: &report.events };
    for chart in &charts {
        write!(
            html,
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            Text(chart.title)
        )?;
        draw(html, chart, time)?;
        html.write_str("</svg>\n")?;
    }
    if !report.events.is_empty() {
        html.write_str("<h3>What happened</h3><div class=\"wide\"><table class=\"events\">")?;
        for (letter, event) in letters().zip(&report.events) {
            write!(
                html,
                "<tr><td><span class=\"mark\">{letter}</span><td>{} to {}<td class=\"text\">{}</tr>",
                Text(seconds(event.from_s)),
                Text(seconds(event.to_s)),
                Text(&event.what),
            )?;
        }
        html.write_str("</table></div>\n")?;
    }
    html.write_str("<h3>By class</h3>")?;
    let all = std::iter::once(("all", &report.total, report.shed_total()));
    let classes = report.classes.iter().map(|(class, of)| (class.name(), &of.figures, of.shed));
    figures(html, "class", all.chain(classes))?;
    services(html, report)?;
    if !run.scenario.is_empty() {
        let shown: String = run.scenario.chars().take(SCENARIO_SHOWN).collect();
        let cut = if shown.len() < run.scenario.len() { "\n…" } else { "" };
        write!(html, "<details><summary>The scenario</summary><pre>{}{cut}</pre></details>", Text(&shown))?;
    }
    data(html, report, &charts, points)?;
    html.write_str("</section>\n")
}

/// The values that the script shows.
fn data(html: &mut String, report: &Report, charts: &[Chart], points: usize) -> fmt::Result {
    let values = |line: &Line, unit: Unit| {
        let scale = if unit == Unit::Share { 100.0 } else { 1.0 };
        let short = |value: f64| {
            let value = value * scale;
            if value >= 100.0 { value.round() } else { (value * 100.0).round() / 100.0 }
        };
        json!([line.name, line.values.iter().map(|value| value.map(short)).collect::<Vec<_>>()])
    };
    let at = |index: usize| (index as f64 * report.duration_s / points as f64 * 100.0).round() / 100.0;
    let unit = |unit: Unit| match unit {
        Unit::PerSecond => "/s",
        Unit::Millis => "ms",
        Unit::Share => "%",
        Unit::Count => "",
    };
    let data = json!({
        "width": WIDTH,
        "left": LEFT,
        "right": RIGHT,
        "points": points,
        "at": (0..points).map(at).collect::<Vec<_>>(),
        "units": charts.iter().map(|chart| unit(chart.unit)).collect::<Vec<_>>(),
        "charts": charts
            .iter()
            .map(|chart| chart.lines.iter().map(|line| values(line, chart.unit)).collect::<Vec<_>>())
            .collect::<Vec<_>>(),
    });
    // No value may end the element that it stands in.
    write!(html, "<script type=\"application/json\">{}</script>", data.to_string().replace('<', "\\u003c"))
}

fn tiles(html: &mut String, report: &Report) -> fmt::Result {
    let total = &report.total;
    let latency = |of: fn(&super::Latency) -> f64| maybe(total.latency_ms.as_ref().map(of), millis);
    let tiles = [
        ("requests", count(total.requests)),
        ("succeeded", percent(total.success_ratio)),
        ("goodput", rate(total.goodput_per_s)),
        ("attempts per request", times(total.amplification)),
        ("shed", count(report.shed_total())),
        ("p50", latency(|one| one.p50)),
        ("p99", latency(|one| one.p99)),
        ("recovery", recovery(total.recovery_s)),
    ];
    html.write_str("<dl>")?;
    for (name, value) in tiles {
        write!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", Text(value))?;
    }
    html.write_str("</dl>\n")
}

fn figures<'a>(
    html: &mut String,
    first: &str,
    rows: impl Iterator<Item = (&'a str, &'a Figures, u64)>,
) -> fmt::Result {
    write!(html, "<div class=\"wide\"><table><tr><th>{first}")?;
    for heading in FIGURES {
        write!(html, "<th>{}", heading.to_lowercase())?;
    }
    html.write_str("</tr>")?;
    for (name, figures, shed) in rows {
        write!(html, "<tr><td>{}", Text(name))?;
        for cell in cells(figures, shed) {
            write!(html, "<td>{}", Text(cell))?;
        }
        html.write_str("</tr>")?;
    }
    html.write_str("</table></div>\n")
}

fn services(html: &mut String, report: &Report) -> fmt::Result {
    html.write_str(
        "<h3>By service</h3><div class=\"wide\"><table><tr><th>service<th>attempts<th>served<th>served for nobody\
         <th>refused before an attempt<th>busiest endpoint / mean</tr>",
    )?;
    for (name, of) in &report.services {
        write!(
            html,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            Text(name),
            count(of.attempts),
            count(of.served),
            count(of.wasted),
            count(of.refusals),
            times(of.busiest),
        )?;
    }
    html.write_str("</table></div>\n")?;
    let list = |items: Vec<(&str, u64)>| {
        let items: Vec<_> =
            items.into_iter().map(|(name, times)| format!("{name} {}", count(times))).collect();
        if items.is_empty() { "none".to_owned() } else { items.join(", ") }
    };
    let failures = report.errors.iter().map(|(kind, times)| (kind.words(), *times)).collect();
    let refusals = report.refusals.iter().map(|(why, times)| (why.words(), *times)).collect();
    writeln!(
        html,
        "<p>Requests that did not succeed: {}. Refusals by policy: {}. Tries that clients made again: {}.</p>",
        list(failures),
        list(refusals),
        count(report.client_retries)
    )
}

fn comparison(html: &mut String, base: &Run<'_>, other: &Run<'_>) -> fmt::Result {
    write!(
        html,
        "<h2>Side by side</h2><div class=\"wide\"><table><tr><th>figure<th>{}<th>{}<th>ratio</tr>",
        Text(base.name),
        Text(other.name)
    )?;
    for (name, [base, other], write) in compared(base.report, other.report) {
        let ratio = match (base, other) {
            (Some(base), Some(other)) if base > 0.0 => times(other / base),
            _ => "–".to_owned(),
        };
        let shown = |value: Option<f64>| match value {
            None if name.ends_with("recovery") => "never".to_owned(),
            value => maybe(value, write),
        };
        write!(
            html,
            "<tr><td>{}<td>{}<td>{}<td>{ratio}</tr>",
            Text(&name),
            Text(shown(base)),
            Text(shown(other))
        )?;
    }
    html.write_str("</table></div>\n")
}

/// The charts of a report, with at most so many points each.
fn charts(report: &Report, points: usize) -> Vec<Chart> {
    let series = &report.series;
    let known = |column: &[f64]| column.iter().copied().map(Some).collect::<Vec<_>>();
    let line = |name: &str, look: usize, column: Vec<Option<f64>>, pool: Pool| Line {
        name: name.to_owned(),
        look: look % LOOKS,
        filled: false,
        values: pooled(&column, points, pool),
    };
    let mean = |name: &str, look, column: &[f64]| line(name, look, known(column), Pool::Mean);
    let most = |name: &str, look, column: &[Option<f64>]| line(name, look, column.to_vec(), Pool::Max);

    let mut charts = goodput_and_latency(report, points);
    let mut lines: Vec<Line> = Vec::new();
    for (index, (kind, column)) in series.errors_per_s.iter().enumerate() {
        lines.push(mean(kind.words(), [2, 0, 4][index % 3], column));
    }
    if series.wasted_per_s.iter().any(|rate| *rate > 0.0) {
        lines.push(mean("for nobody", 1, &series.wasted_per_s));
    }
    charts.push(Chart {
        title: "Requests that did not succeed, and work for nobody, per second",
        unit: Unit::PerSecond,
        lines,
    });
    if series.classes.len() > 1 {
        let share = |(look, (class, of)): (usize, (&model::Criticality, &super::ClassSeries))| {
            let pairs = of.goodput_per_s.iter().zip(&of.offered_per_s);
            let share = pairs.map(|(good, offered)| (*offered > 0.0).then(|| (good / offered).min(1.0)));
            line(class.name(), CLASS_LOOKS[look % LOOKS], share.collect(), Pool::Mean)
        };
        let lines = series.classes.iter().enumerate().map(share).collect();
        charts.push(Chart {
            title: "Goodput as a share of what was asked for, by class",
            unit: Unit::Share,
            lines,
        });
        let refused = series.shed_per_s.iter().enumerate();
        let refused =
            refused.map(|(look, (class, column))| mean(class.name(), CLASS_LOOKS[look % LOOKS], column));
        charts.push(Chart {
            title: "Requests shed per second, by class",
            unit: Unit::PerSecond,
            lines: refused.collect(),
        });
    }
    if series.limit.iter().any(Option::is_some) {
        let lines = vec![most("active", 0, &series.active), most("limit", 2, &series.limit)];
        charts.push(Chart { title: "Requests under way, and the adaptive limit", unit: Unit::Count, lines });
    }
    charts.retain(|chart| {
        chart.lines.iter().any(|line| line.values.iter().flatten().any(|value| *value > 0.0))
    });
    charts
}

/// The looks of classes, most important first.
const CLASS_LOOKS: [usize; LOOKS] = [0, 3, 2, 4, 5, 1];

fn goodput_and_latency(report: &Report, points: usize) -> Vec<Chart> {
    let series = &report.series;
    let rates = |name: &str, look, filled, column: &[f64]| {
        let column: Vec<_> = column.iter().copied().map(Some).collect();
        Line { name: name.to_owned(), look, filled, values: pooled(&column, points, Pool::Mean) }
    };
    let latency = |name: &str, look, column: &[Option<f64>]| Line {
        name: name.to_owned(),
        look,
        filled: false,
        values: pooled(column, points, Pool::Max),
    };
    vec![
        Chart {
            title: "Requests per second",
            unit: Unit::PerSecond,
            lines: vec![
                rates("attempts", 2, false, &series.attempts_per_s),
                rates("offered", 1, false, &series.offered_per_s),
                rates("goodput", 0, true, &series.goodput_per_s),
            ],
        },
        Chart {
            title: "Latency of successes",
            unit: Unit::Millis,
            lines: vec![latency("p50", 0, &series.p50_ms), latency("p99", 2, &series.p99_ms)],
        },
    ]
}

/// Goodput and latency over time as one SVG file, for pages of text.
#[must_use]
pub fn picture(report: &Report) -> String {
    let mut svg = String::new();
    let _ = standalone(&mut svg, report);
    svg
}

fn standalone(svg: &mut String, report: &Report) -> fmt::Result {
    let charts = goodput_and_latency(report, POINTS.min(report.series.at_s.len()).max(1));
    let time = Time { duration: report.duration_s, events: &report.events };
    let legend = 16.0 * report.events.len() as f64;
    let height = 26.0 + charts.len() as f64 * (HEIGHT + 6.0) + legend;
    write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\">\n<title>{0}</title>\n<style>{STYLE}.rule{{stroke:none}}</style>\n\
         <rect width=\"100%\" height=\"100%\" style=\"fill:var(--page)\"/>\n<text class=\"title\" x=\"{LEFT}\" y=\"18\">{0}</text>\n",
        Text(&report.scenario)
    )?;
    let mut y = 30.0;
    for chart in &charts {
        write!(svg, "<g transform=\"translate(0 {y})\">")?;
        draw(svg, chart, time)?;
        svg.write_str("</g>\n")?;
        y += HEIGHT + 6.0;
    }
    for (letter, event) in letters().zip(&report.events) {
        writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{:.0}\"><tspan class=\"mark\">{letter}</tspan> {} to {}: {}</text>",
            y + 6.0,
            Text(seconds(event.from_s)),
            Text(seconds(event.to_s)),
            Text(&event.what),
        )?;
        y += 16.0;
    }
    svg.write_str("</svg>\n")
}
