//! Charts over time, drawn as SVG.
//!
//! Lines differ in colour and in dashes, and each carries its name at its end, so that no colour needs to be recognised.

use std::fmt::{self, Display, Write};

use super::Event;
use super::number::{millis, short};
use super::text::letters;

/// The colours and weights of charts, for light and dark. `:root` so that a page and a lone picture can share it.
pub(super) const STYLE: &str = "\
:root{--page:#fff;--ink:#1b2430;--mute:#5d6b7a;--grid:#e6eaee;--axis:#aab4bf;--band:#b4540a;\
--k0:#0b62a4;--k1:#6b7684;--k2:#c2410c;--k3:#0f7b5f;--k4:#8e3a8b;--k5:#8a6d00}\
@media(prefers-color-scheme:dark){:root{--page:#12171d;--ink:#e3e9ef;--mute:#93a1af;--grid:#242c35;--axis:#4a5663;--band:#f0a35e;\
--k0:#5cb3f2;--k1:#a3afbb;--k2:#ff9561;--k3:#4fcfa6;--k4:#e09add;--k5:#dcc04a}}\
.chart{font:11px system-ui,-apple-system,'Segoe UI',sans-serif;fill:var(--mute)}\
.chart .title{font-weight:600;font-size:12px;fill:var(--ink)}\
.chart .grid{stroke:var(--grid)}.chart .axis{stroke:var(--axis)}\
.chart .band{fill:var(--band);fill-opacity:.09}.chart .edge{stroke:var(--band);stroke-opacity:.45}\
.chart .mark{fill:var(--band);font-weight:700}\
.chart .l{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}.chart .a{stroke:none;fill-opacity:.12}\
.chart .n{font-weight:600}\
.k0{stroke:var(--k0)}.k1{stroke:var(--k1);stroke-dasharray:6 4}.k2{stroke:var(--k2);stroke-dasharray:1.5 3.5}\
.k3{stroke:var(--k3);stroke-dasharray:10 3 2 3}.k4{stroke:var(--k4);stroke-dasharray:4 2}.k5{stroke:var(--k5);stroke-dasharray:12 4}\
.f0{fill:var(--k0)}.f1{fill:var(--k1)}.f2{fill:var(--k2)}.f3{fill:var(--k3)}.f4{fill:var(--k4)}.f5{fill:var(--k5)}";

/// Lines that look different.
pub(super) const LOOKS: usize = 6;

/// Text as SVG and HTML show it. Safe between tags and within double-quoted attributes.
pub(super) struct Text<T>(pub(super) T);

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
                    // XML has no way to write these at all.
                    control if control.is_control() && !matches!(control, '\n' | '\t') => {
                        self.0.write_char('\u{fffd}')
                    }
                    other => self.0.write_char(other),
                })
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}

/// What the values of a chart are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    PerSecond,
    Millis,
    Share,
    Count,
}

impl Unit {
    /// As a tick of an axis says it: the title has named the unit of rates.
    fn tick(self, value: f64) -> String {
        match self {
            Self::PerSecond | Self::Count => short(value),
            Self::Millis => millis(value),
            Self::Share => format!("{:.0} %", value * 100.0),
        }
    }
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    /// Which of the [`LOOKS`] it has.
    pub(super) look: usize,
    /// Whether the area below it is tinted.
    pub(super) filled: bool,
    /// Evenly spread over the time of the chart.
    pub(super) values: Vec<Option<f64>>,
}

/// Quantities of one unit over time.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) unit: Unit,
    pub(super) lines: Vec<Line>,
}

/// What all charts of a report share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time<'a> {
    pub(super) duration: f64,
    pub(super) events: &'a [Event],
}

/// The size of every chart, and where in it the lines are drawn.
pub(super) const WIDTH: f64 = 1120.0;
pub(super) const HEIGHT: f64 = 176.0;
pub(super) const LEFT: f64 = 58.0;
pub(super) const RIGHT: f64 = WIDTH - 132.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = HEIGHT - 20.0;
/// Names of lines are not closer than this.
const LABEL_GAP: f64 = 13.0;

/// Values to heights.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Scale {
    fn of(chart: &Chart) -> Self {
        let values = || chart.lines.iter().flat_map(|line| line.values.iter().flatten().copied());
        let max = values().fold(0.0, f64::max);
        let min = values().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        // Latencies of an outage span decades, and the low ones matter too.
        if chart.unit == Unit::Millis && max > 20.0 * min {
            return Self::log(min, max);
        }
        let high = if chart.unit == Unit::Share { 1.0 } else { max };
        let step = nice_step(high / 4.0);
        let steps = (high / step - 1e-9).ceil().max(1.0);
        let ticks = (0..=steps as u32).map(|tick| f64::from(tick) * step).collect();
        Self { low: 0.0, high: steps * step, log: false, ticks }
    }

    fn log(min: f64, max: f64) -> Self {
        let (first, last) = (min.log10().floor() as i32, max.log10().ceil() as i32);
        let all = (first..=last).flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
        let all: Vec<f64> = all.collect();
        let low = all.iter().copied().rfind(|tick| *tick <= min).unwrap_or(min);
        let high = all.iter().copied().find(|tick| *tick >= max).unwrap_or(max);
        let decades = last - first;
        let is_decade = |tick: f64| (tick.log10() - tick.log10().round()).abs() < 1e-9;
        let within = |tick: &f64| (low..=high).contains(tick) && (decades <= 3 || is_decade(*tick));
        Self { low, high, log: true, ticks: all.into_iter().filter(within).collect() }
    }

    fn y(&self, value: f64) -> f64 {
        let place = |value: f64| if self.log { value.max(self.low).ln() } else { value };
        let (low, high) = (place(self.low), place(self.high));
        BOTTOM - (BOTTOM - TOP) * ((place(value) - low) / (high - low).max(1e-12)).clamp(0.0, 1.0)
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is not smaller.
fn nice_step(least: f64) -> f64 {
    if !(least > 0.0 && least.is_finite()) {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * power)
        .find(|step| *step >= least * (1.0 - 1e-9))
        .unwrap_or(power)
}

/// Where the axis of time has ticks, and what they say.
fn time_ticks(duration: f64) -> Vec<(f64, String)> {
    const STEPS: [f64; 16] = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0,
    ];
    let step =
        STEPS.into_iter().find(|step| duration / step <= 12.0).unwrap_or_else(|| nice_step(duration / 12.0));
    let name = |at: f64| match at {
        at if duration > 600.0 && (at / 60.0).fract() == 0.0 => format!("{} min", at / 60.0),
        at => format!("{} s", short_seconds(at)),
    };
    let count = (duration / step + 1e-9).floor() as u32;
    (0..=count).map(|tick| f64::from(tick) * step).map(|at| (at, name(at))).collect()
}

fn short_seconds(at: f64) -> f64 {
    (at * 1e3).round() / 1e3
}

impl Time<'_> {
    fn x(&self, at: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (at / self.duration.max(1e-9)).clamp(0.0, 1.0)
    }
}

/// Draws a chart into a box of [`WIDTH`] by [`HEIGHT`].
pub(super) fn draw(out: &mut String, chart: &Chart, time: Time<'_>) -> fmt::Result {
    let scale = Scale::of(chart);
    write!(out, "<text class=\"title\" x=\"{LEFT}\" y=\"12\">{}</text>", Text(chart.title))?;
    bands(out, time)?;
    for tick in &scale.ticks {
        let y = scale.y(*tick);
        write!(
            out,
            "<path class=\"{}\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            if *tick == 0.0 { "axis" } else { "grid" },
            LEFT - 6.0,
            y + 3.5,
            Text(chart.unit.tick(*tick)),
        )?;
    }
    for (at, name) in time_ticks(time.duration) {
        let x = time.x(at);
        write!(
            out,
            "<path class=\"axis\" d=\"M{x:.1} {BOTTOM}v4\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
            BOTTOM + 15.0
        )?;
    }
    for line in &chart.lines {
        self::line(out, line, &scale)?;
    }
    names(out, chart, &scale)?;
    write!(
        out,
        "<path class=\"rule\" d=\"M0 {TOP}V{BOTTOM}\"/><text class=\"read\" x=\"{RIGHT}\" y=\"12\" text-anchor=\"end\"></text>"
    )
}

/// What the script did, behind the lines.
fn bands(out: &mut String, time: Time<'_>) -> fmt::Result {
    // A letter stands beside those that begin near it, not upon them.
    let mut free_from = 0.0;
    for (letter, event) in letters().zip(time.events) {
        let (from, to) = (time.x(event.from_s), time.x(event.to_s));
        let mark = (from + 3.0).max(free_from);
        free_from = mark + 11.0;
        write!(
            out,
            "<g><title>{letter}: {0}</title><rect class=\"band\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{1:.1}\" height=\"{2}\"/>\
             <path class=\"edge\" d=\"M{from:.1} {3}V{BOTTOM}M{to:.1} {TOP}V{BOTTOM}\"/>\
             <text class=\"mark\" x=\"{mark:.1}\" y=\"{4}\">{letter}</text></g>",
            Text(&event.what),
            (to - from).max(1.0),
            BOTTOM - TOP,
            TOP - 10.0,
            TOP - 3.0,
        )?;
    }
    Ok(())
}

fn x_of(index: usize, count: usize) -> f64 {
    LEFT + (RIGHT - LEFT) * (index as f64 + 0.5) / count.max(1) as f64
}

fn line(out: &mut String, line: &Line, scale: &Scale) -> fmt::Result {
    let count = line.values.len();
    let mut path = String::new();
    let mut area = String::new();
    let mut begun: Option<f64> = None;
    for (index, value) in line.values.iter().enumerate() {
        let Some(value) = value else {
            close(&mut area, &mut begun, x_of(index.saturating_sub(1), count))?;
            continue;
        };
        let (x, y) = (x_of(index, count), scale.y(*value));
        if begun.is_none() {
            // A lone value is a dot, which a line of no length with round ends is.
            write!(path, "M{x:.1} {y:.1}h0")?;
            write!(area, "M{x:.1} {BOTTOM}V{y:.1}")?;
            begun = Some(x);
        } else {
            write!(path, "L{x:.1} {y:.1}")?;
            write!(area, "L{x:.1} {y:.1}")?;
        }
    }
    close(&mut area, &mut begun, x_of(count.saturating_sub(1), count))?;
    if line.filled {
        write!(out, "<path class=\"a f{}\" d=\"{area}\"/>", line.look % LOOKS)?;
    }
    write!(out, "<path class=\"l k{}\" d=\"{path}\"/>", line.look % LOOKS)
}

fn close(area: &mut String, begun: &mut Option<f64>, x: f64) -> fmt::Result {
    match begun.take() {
        Some(_) => write!(area, "L{x:.1} {BOTTOM}Z"),
        None => Ok(()),
    }
}

/// The name of each line where it ends, moved apart where they would lie upon one another.
fn names(out: &mut String, chart: &Chart, scale: &Scale) -> fmt::Result {
    let ends = chart.lines.iter().filter_map(|line| {
        let last = line.values.iter().rev().flatten().next()?;
        Some((scale.y(*last), line))
    });
    let mut ends: Vec<(f64, &Line)> = ends.collect();
    ends.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut places: Vec<f64> = Vec::new();
    for (y, _) in &ends {
        places.push(places.last().map_or(y.max(TOP), |last: &f64| y.max(last + LABEL_GAP)));
    }
    // What was pushed out at the bottom pushes the others up.
    let mut lowest = BOTTOM + 2.0;
    for place in places.iter_mut().rev() {
        *place = place.min(lowest);
        lowest = *place - LABEL_GAP;
    }
    for (place, (_, line)) in places.iter().zip(&ends) {
        let look = line.look % LOOKS;
        write!(
            out,
            "<path class=\"l k{look}\" d=\"M{} {place:.1}h18\"/><text class=\"n f{look}\" x=\"{}\" y=\"{:.1}\">{}</text>",
            RIGHT + 6.0,
            RIGHT + 28.0,
            place + 3.5,
            Text(&line.name),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chart(unit: Unit, lines: Vec<Vec<Option<f64>>>) -> Chart {
        let line = |(look, values)| Line { name: format!("line {look}"), look, filled: true, values };
        Chart { title: "t", unit, lines: lines.into_iter().enumerate().map(line).collect() }
    }

    fn numbers(svg: &str, from: &str) -> Vec<f64> {
        let paths = svg.match_indices(from).map(|(at, _)| &svg[at + from.len()..]);
        let path = |rest: &str| rest.split('"').next().unwrap_or_default().to_owned();
        let numbers = |path: String| {
            let parts = path.split(|c: char| c.is_alphabetic() || c == ' ').map(str::to_owned);
            parts.filter(|part| !part.is_empty()).map(|part| part.parse().unwrap()).collect::<Vec<f64>>()
        };
        paths.map(path).flat_map(numbers).collect()
    }

    proptest! {
        #[test]
        fn everything_is_drawn_within_the_box(
            lines in prop::collection::vec(prop::collection::vec(prop::option::of(0.0..1e7f64), 1..40), 1..6),
            duration in 0.01..1e6f64,
            unit in prop::sample::select(vec![Unit::PerSecond, Unit::Millis, Unit::Count]),
        ) {
            let mut svg = String::new();
            let events = [Event { from_s: duration * 0.9, to_s: duration * 2.0, what: "x".into() }];
            draw(&mut svg, &chart(unit, lines), Time { duration, events: &events }).unwrap();
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            for look in 0..LOOKS {
                for number in numbers(&svg, &format!("class=\"l k{look}\" d=\"")) {
                    prop_assert!((0.0..=WIDTH).contains(&number), "{number}");
                }
            }
        }

        #[test]
        fn an_axis_has_a_handful_of_ticks_and_holds_every_value(max in 1e-6..1e9f64, spread in 1.0..1e6f64) {
            for unit in [Unit::PerSecond, Unit::Millis] {
                let scale = Scale::of(&chart(unit, vec![vec![Some(max), Some(max / spread)]]));
                prop_assert!((2..=10).contains(&scale.ticks.len()), "{:?}", scale.ticks);
                prop_assert!(scale.low <= max / spread * 1.000_001 && max <= scale.high * 1.000_001);
            }
        }

        #[test]
        fn time_has_a_handful_of_ticks(duration in 0.1..1e6f64) {
            prop_assert!((2..=14).contains(&time_ticks(duration).len()));
        }
    }

    #[test]
    fn names_of_lines_never_lie_upon_one_another() {
        let same = vec![vec![Some(0.0)]; 6];
        let mut svg = String::new();
        draw(&mut svg, &chart(Unit::PerSecond, same), Time { duration: 1.0, events: &[] }).unwrap();
        let mut heights: Vec<f64> = svg
            .match_indices("class=\"n ")
            .map(|(at, _)| {
                svg[at..].split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
            })
            .collect();
        heights.sort_by(f64::total_cmp);
        assert!(heights.windows(2).all(|pair| pair[1] - pair[0] >= LABEL_GAP - 0.1), "{heights:?}");
        assert!(heights.iter().all(|y| (0.0..=HEIGHT).contains(y)), "{heights:?}");
    }
}
