//! A report as text for a terminal, at most 100 columns wide.

use std::fmt::Write;

use super::number::{count, maybe, millis, percent, rate, recovery, seconds, short, times};
use super::{Event, Figures, Latency, Report};

/// Whether a terminal may be told to make something bold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Nothing but text.
    Plain,
    /// With escape sequences.
    Ansi,
}

impl Paint {
    fn sequence(self, sequence: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Ansi => format!("\u{1b}[{sequence}m{text}\u{1b}[0m"),
        }
    }

    fn bold(self, text: &str) -> String {
        self.sequence("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.sequence("2", text)
    }
}

/// Columns that a line of a series has, and those of its name.
const SPARKS: usize = 60;
const NAME: usize = 15;

/// The whole report.
#[must_use]
pub fn text(report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    let title = clean(if report.scenario.is_empty() { "simulation" } else { &report.scenario });
    for line in folded(&title, 100) {
        let _ = writeln!(text, "{}", paint.bold(&line));
    }
    let _ = writeln!(text, "{} simulated, seed {}\n", seconds(report.duration_s), report.seed);

    let mut rows = vec![row("all", &report.total, report.shed_total())];
    if report.classes.len() > 1 {
        rows.extend(report.classes.iter().map(|(class, of)| row(class.name(), &of.figures, of.shed)));
    }
    text.push_str(&table("CLASS", rows, paint));

    let list = |items: Vec<(&str, u64)>| -> String {
        let items: Vec<_> =
            items.into_iter().map(|(name, times)| format!("{name} {}", count(times))).collect();
        if items.is_empty() { "none".to_owned() } else { items.join(", ") }
    };
    let failures = report.errors.iter().map(|(kind, times)| (kind.words(), *times)).collect();
    let refusals = report.refusals.iter().map(|(why, times)| (why.words(), *times)).collect();
    let _ = writeln!(text, "\nfailures        {}", list(failures));
    let _ = writeln!(text, "refused by      {}", list(refusals));
    let _ = writeln!(text, "client retries  {}", count(report.client_retries));

    let mut services = vec![
        ["SERVICE", "ATTEMPTS", "SERVED", "FOR NOBODY", "REFUSED", "BUSIEST/MEAN"]
            .map(str::to_owned)
            .to_vec(),
    ];
    services.extend(report.services.iter().map(|(name, of)| {
        let cells =
            [count(of.attempts), count(of.served), count(of.wasted), count(of.refusals), times(of.busiest)];
        std::iter::once(shortened(&clean(name), 40)).chain(cells).collect()
    }));
    let _ = write!(text, "\n{}", columns(&services, paint));

    let _ = write!(text, "\n{}", over_time(report, paint));
    for note in &report.notes {
        for (index, line) in folded(&clean(note), 94).into_iter().enumerate() {
            let _ = writeln!(text, "{} {line}", if index == 0 { "note:" } else { "     " });
        }
    }
    text
}

/// Several runs that differ in one value, a row for each.
#[must_use]
pub fn sweep(key: &str, runs: &[(String, &Report)], paint: Paint) -> String {
    let rows = runs.iter().map(|(value, report)| row(&clean(value), &report.total, report.shed_total()));
    // The end of a long key says more than its beginning.
    let key = clean(key);
    let key = match key.chars().count().checked_sub(20) {
        Some(over @ 1..) => format!("…{}", key.chars().skip(over + 1).collect::<String>()),
        _ => key,
    };
    table(&key, rows.collect(), paint)
}

/// Two runs side by side, and how many times the first the second is.
#[must_use]
pub fn comparison(base: (&str, &Report), other: (&str, &Report), paint: Paint) -> String {
    let mut rows = vec![vec![
        "FIGURE".to_owned(),
        shortened(&clean(base.0), 28),
        shortened(&clean(other.0), 28),
        "RATIO".to_owned(),
    ]];
    for (name, [base, other], write) in compared(base.1, other.1) {
        let ratio = match (base, other) {
            (Some(base), Some(other)) if base > 0.0 => times(other / base),
            _ => "–".to_owned(),
        };
        let shown = |value: Option<f64>| match value {
            None if name.ends_with("recovery") => "never".to_owned(),
            value => maybe(value, write),
        };
        let (base, other) = (shown(base), shown(other));
        rows.push(vec![name, base, other, ratio]);
    }
    columns(&rows, paint)
}

/// What is compared: its name, both values, and how a value is written.
type Compared = (String, [Option<f64>; 2], fn(f64) -> String);

pub(super) fn compared(base: &Report, other: &Report) -> Vec<Compared> {
    let whole = |value: f64| count(value as u64);
    let mut rows = of_figures("", [Some(&base.total), Some(&other.total)]);
    let totals = |of: fn(&Report) -> u64| [Some(of(base) as f64), Some(of(other) as f64)];
    rows.push(("requests shed".to_owned(), totals(Report::shed_total), whole));
    rows.push(("client retries".to_owned(), totals(|report| report.client_retries), whole));
    let wasted = |report: &Report| report.services.values().map(|service| service.wasted).sum();
    rows.push(("served for nobody".to_owned(), totals(wasted), whole));
    let mut classes: Vec<_> = base.classes.keys().chain(other.classes.keys()).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.len() > 1 {
        for class in classes {
            let figures = [base, other].map(|report| report.classes.get(class).map(|of| &of.figures));
            rows.extend(of_figures(&format!("{class} "), figures));
        }
    }
    rows
}

fn of_figures(prefix: &str, figures: [Option<&Figures>; 2]) -> Vec<Compared> {
    let whole = |value: f64| count(value as u64);
    let latency = |of: fn(&Latency) -> f64| figures.map(|one| one?.latency_ms.as_ref().map(of));
    let of = |of: fn(&Figures) -> f64| figures.map(|one| one.map(of));
    let named = |name: &str| format!("{prefix}{name}");
    vec![
        (named("requests"), of(|one| one.requests as f64), whole),
        (named("attempts"), of(|one| one.attempts as f64), whole),
        (named("amplification"), of(|one| one.amplification), times),
        (named("success"), of(|one| one.success_ratio), percent),
        (named("goodput"), of(|one| one.goodput_per_s), rate),
        (named("p50"), latency(|one| one.p50), millis),
        (named("p99"), latency(|one| one.p99), millis),
        (named("p99.9"), latency(|one| one.p999), millis),
        (named("recovery"), figures.map(|one| one?.recovery_s), seconds),
    ]
}

/// The figures of a class or of a run, as the cells that follow its name.
pub(super) const FIGURES: [&str; 9] =
    ["REQUESTS", "AMPL.", "SUCCESS", "GOODPUT", "SHED", "P50", "P99", "P99.9", "RECOVERY"];

pub(super) fn cells(figures: &Figures, shed: u64) -> [String; FIGURES.len()] {
    let latency = |of: fn(&Latency) -> f64| maybe(figures.latency_ms.as_ref().map(of), millis);
    [
        count(figures.requests),
        times(figures.amplification),
        percent(figures.success_ratio),
        rate(figures.goodput_per_s),
        count(shed),
        latency(|one| one.p50),
        latency(|one| one.p99),
        latency(|one| one.p999),
        recovery(figures.recovery_s),
    ]
}

fn row(name: &str, figures: &Figures, shed: u64) -> Vec<String> {
    std::iter::once(shortened(name, 20)).chain(cells(figures, shed)).collect()
}

fn table(first: &str, rows: Vec<Vec<String>>, paint: Paint) -> String {
    let heading = std::iter::once(shortened(first, 20)).chain(FIGURES.map(str::to_owned)).collect();
    columns(&[vec![heading], rows].concat(), paint)
}

/// Rows of cells, the first one the heading, padded so that columns line up. All but the first column to the right.
fn columns(rows: &[Vec<String>], paint: Paint) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _ =
                if column == 0 { write!(line, "{cell:<width$}") } else { write!(line, "  {cell:>width$}") };
        }
        let line = line.trim_end();
        let _ = writeln!(text, "{}", if index == 0 { paint.bold(line) } else { line.to_owned() });
    }
    text
}

/// A line of blocks for each quantity, and below them what the script did when.
fn over_time(report: &Report, paint: Paint) -> String {
    let series = &report.series;
    let known = |column: &[f64]| column.iter().copied().map(Some).collect::<Vec<_>>();
    let max = |column: &[Option<f64>]| column.iter().flatten().copied().fold(0.0, f64::max);
    let mut text = String::new();
    let mut line = |name: &str, column: &[Option<f64>], full: f64, pool: Pool, what: String| {
        let _ = writeln!(text, "{name:<NAME$}{}  {what}", sparks(&pooled(column, SPARKS, pool), full));
    };

    // One scale for all rates of requests, so that they can be compared by eye.
    let rates = [
        ("offered", &series.offered_per_s),
        ("attempts", &series.attempts_per_s),
        ("goodput", &series.goodput_per_s),
    ];
    let full = rates.iter().flat_map(|(_, column)| column.iter().copied()).fold(0.0, f64::max);
    let mut rates: Vec<(&str, &Vec<f64>)> = rates.to_vec();
    rates.extend(series.errors_per_s.iter().map(|(kind, column)| (kind.words(), column)));
    for (name, column) in rates {
        let column = known(column);
        line(name, &column, full, Pool::Mean, format!("up to {}", rate(max(&column))));
    }
    for (name, column) in [("p50", &series.p50_ms), ("p99", &series.p99_ms)] {
        if column.iter().any(Option::is_some) {
            line(name, column, max(&series.p99_ms), Pool::Max, format!("up to {}", millis(max(column))));
        }
    }
    for (name, column) in [("active", &series.active), ("limit", &series.limit)] {
        if column.iter().any(Option::is_some) {
            let full = max(&series.active).max(max(&series.limit));
            line(name, column, full, Pool::Max, format!("up to {}", short(max(column))));
        }
    }
    if series.classes.len() > 1 {
        for (class, of) in &series.classes {
            let share = of.goodput_per_s.iter().zip(&of.offered_per_s);
            let share = share.map(|(good, offered)| (*offered > 0.0).then(|| (good / offered).min(1.0)));
            let share: Vec<_> = share.collect();
            let worst = share.iter().flatten().copied().fold(1.0, f64::min);
            line(class.name(), &share, 1.0, Pool::Mean, format!("good, {:.0} % at worst", worst * 100.0));
        }
    }

    let ends = format!("{:<half$}{:>half$}", "0 s", seconds(report.duration_s), half = SPARKS / 2);
    let _ = writeln!(text, "{:NAME$}{}", "", paint.dim(&ends));
    for (letter, event) in letters().zip(&report.events) {
        let _ = writeln!(text, "{:NAME$}{}  {letter}", "", bar(event, report.duration_s));
    }
    for (letter, event) in letters().zip(&report.events) {
        let when = format!("  {letter} {}–{}", short_time(event.from_s), seconds(event.to_s));
        for (index, part) in folded(&clean(&event.what), 80).into_iter().enumerate() {
            let _ = writeln!(text, "{:<16}  {part}", if index == 0 { when.as_str() } else { "" });
        }
    }
    text
}

fn short_time(s: f64) -> String {
    seconds(s).trim_end_matches(" s").to_owned()
}

/// `A` to `Z`, then `a` to `z`, then numbers.
pub(super) fn letters() -> impl Iterator<Item = String> {
    ('A'..='Z').chain('a'..='z').map(String::from).chain((1..).map(|number: u32| number.to_string()))
}

/// Where in a line as wide as a series an event lies.
fn bar(event: &Event, duration: f64) -> String {
    let place = |s: f64| ((s / duration.max(1e-9)) * SPARKS as f64).clamp(0.0, SPARKS as f64);
    let from = (place(event.from_s).floor() as usize).min(SPARKS - 1);
    let to = (place(event.to_s).ceil() as usize).clamp(from + 1, SPARKS);
    (0..SPARKS).map(|column| if (from..to).contains(&column) { '━' } else { '·' }).collect()
}

/// How several values become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// Their mean.
    Mean,
    /// The largest, for what must not be overlooked.
    Max,
}

/// A column with so many values: each of those that fall on one place counts, and one that covers several is repeated.
pub(super) fn pooled(column: &[Option<f64>], places: usize, pool: Pool) -> Vec<Option<f64>> {
    let of_place = |place: usize| {
        let from = place * column.len() / places;
        let to = ((place + 1) * column.len() / places).clamp(from + 1, column.len().max(from + 1));
        let (mut sum, mut max, mut count) = (0.0, 0.0f64, 0u32);
        for value in column.get(from..to).unwrap_or_default().iter().flatten() {
            sum += value;
            max = max.max(*value);
            count += 1;
        }
        match pool {
            _ if count == 0 => None,
            Pool::Mean => Some(sum / f64::from(count)),
            Pool::Max => Some(max),
        }
    };
    (0..places).map(of_place).collect()
}

/// A character for each value: the fuller the nearer to `full`, blank for nothing.
fn sparks(values: &[Option<f64>], full: f64) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let block = |value: &Option<f64>| match value {
        Some(value) if *value > 0.0 && full > 0.0 => {
            BLOCKS[((value / full * 8.0).ceil() as usize).clamp(1, 8) - 1]
        }
        _ => ' ',
    };
    values.iter().map(block).collect()
}

/// Nothing in a file may move the cursor or colour the terminal of whoever reads the report.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn shortened(text: &str, width: usize) -> String {
    match text.chars().count() <= width {
        true => text.to_owned(),
        false => text.chars().take(width - 1).chain(['…']).collect(),
    }
}

/// Lines no wider than `width`, broken between words where there are such.
fn folded(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let word = shortened(word, width);
        let last = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(line) if last == 0 => line.push_str(&word),
            Some(line) if last + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}
