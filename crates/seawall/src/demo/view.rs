//! What the demo shows: a live view on a terminal, lines elsewhere, a table at the end, JSON on request.

use std::io::{self, Write};
use std::time::Duration;

use crossterm::style::Stylize;
use serde::Serialize;

use super::figures::{Figures, Tally};
use super::fleet::Side;
use super::load::{PATIENCE, RATE};
use super::script::SCRIPT;

/// The figures of both sides, in the order of [`Side::BOTH`].
pub(super) type Both<'f> = [&'f Figures; 2];

/// Columns that the live view needs.
pub(super) const WIDTH: u16 = 80;

fn percent(tally: &Tally) -> String {
    // Rounded down: 99.96 % is not everybody.
    tally
        .success()
        .map_or_else(|| "–".to_owned(), |success| format!("{:.1} %", (success * 10.0).floor() / 10.0))
}

fn millis(quantile: Option<f64>) -> String {
    quantile.map_or_else(|| "–".to_owned(), |millis| format!("{millis:.0} ms"))
}

fn coloured(text: String, tally: &Tally, colours: bool) -> String {
    match tally.success() {
        Some(success) if colours && success >= 99.9 => text.green().to_string(),
        Some(success) if colours && success >= 95.0 => text.yellow().to_string(),
        Some(_) if colours => text.red().to_string(),
        _ => text,
    }
}

/// The table of all phases up to `phases`.
pub(super) fn table(figures: Both<'_>, phases: usize, colours: bool) -> String {
    let [ours, theirs] = Side::BOTH.map(Side::name);
    let mut text = format!("{:18}{ours:^26}  {theirs:^26}\n", "");
    text += &format!(
        "{:18}{:>10}{:>8}{:>8}    {:>8}{:>8}{:>8}\n",
        "phase", "success", "p50", "p99", "success", "p50", "p99"
    );
    for (number, phase) in SCRIPT.iter().enumerate().take(phases) {
        text += &format!("{:18}", phase.name);
        for (side, width) in figures.iter().zip([10, 12]) {
            let tally = side.of_phase(number);
            text += &coloured(format!("{:>width$}", percent(tally)), tally, colours);
            text += &format!("{:>8}{:>8}", millis(tally.quantile(0.5)), millis(tally.quantile(0.99)));
        }
        text.push('\n');
    }
    text
}

/// One line per finished phase, for whoever reads no terminal.
pub(super) fn line(figures: Both<'_>, phase: usize) -> String {
    let of = |side: usize| {
        let tally = figures[side].of_phase(phase);
        format!("{} {} p99 {}", Side::BOTH[side].name(), percent(tally), millis(tally.quantile(0.99)))
    };
    format!("{}: {}; {}", SCRIPT[phase].name, of(0), of(1))
}

/// What the two sides are, so that nobody takes the comparison for another one.
pub(super) fn explanation() -> String {
    format!(
        "Two copies of one shop, 10 processes each, {RATE} requests a second to each; users give up after {} s.\n\
         success: answered 200 in time. p50, p99: of the successful ones.\n\
         with Seawall: the default policies scaled to the demo's size, a bulkhead of 20, hedged reads;\n\
         its endpoints cooperate: they announce that they leave, and drop work that nobody waits for.\n\
         round robin: the same program with retries, ejection, health checks and breakers off.\n\
         `--show-config` prints the first one's file.\n",
        PATIENCE.as_secs()
    )
}

/// The live view: draws over what it drew before.
pub(super) struct Live<W: Write> {
    out: W,
    lines: u16,
}

impl<W: Write> Live<W> {
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        crossterm::execute!(out, crossterm::cursor::Hide)?;
        Ok(Self { out, lines: 0 })
    }

    pub(super) fn draw(&mut self, figures: Both<'_>, elapsed: Duration) -> io::Result<()> {
        let text = live(figures, elapsed);
        self.clear()?;
        self.lines = u16::try_from(text.lines().count()).unwrap_or(u16::MAX);
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn clear(&mut self) -> io::Result<()> {
        use crossterm::{cursor, terminal};
        if self.lines > 0 {
            crossterm::queue!(self.out, cursor::MoveToPreviousLine(self.lines))?;
        }
        crossterm::queue!(self.out, terminal::Clear(terminal::ClearType::FromCursorDown))
    }
}

impl<W: Write> Drop for Live<W> {
    fn drop(&mut self) {
        // The table at the end takes the place of the live view. A terminal that is gone needs no cursor.
        let _ = self.clear();
        let _ = crossterm::execute!(self.out, crossterm::cursor::Show);
    }
}

fn live(figures: Both<'_>, elapsed: Duration) -> String {
    let number = figures[0].phase();
    let phase = &SCRIPT[number];
    let mut text = format!(
        "\n{}  {} of {}, {} s\n{}\n\n",
        phase.name.to_owned().bold(),
        number + 1,
        SCRIPT.len(),
        elapsed.as_secs(),
        phase.what,
    );
    for (side, figures) in Side::BOTH.iter().zip(figures) {
        let now = figures.now();
        text += &format!(
            "{:13}{} {:>7} {:>7}  {}\n",
            side.name(),
            coloured(format!("{:>8}", percent(&now)), &now, true),
            millis(now.quantile(0.5)),
            millis(now.quantile(0.99)),
            figures.curve(),
        );
    }
    text.push('\n');
    text + &table(figures, number + 1, true)
}

/// The result for machines.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    requests_per_second: u32,
    phases: Vec<PhaseReport>,
}

#[derive(Debug, Serialize)]
struct PhaseReport {
    phase: &'static str,
    what: &'static str,
    seawall: SideReport,
    round_robin: SideReport,
}

#[derive(Debug, Serialize)]
struct SideReport {
    requests: u64,
    success_percent: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

pub(super) fn report(figures: Both<'_>) -> Report {
    let side = |tally: &Tally| SideReport {
        requests: tally.asked(),
        success_percent: tally.success(),
        p50_ms: tally.quantile(0.5),
        p99_ms: tally.quantile(0.99),
    };
    let phases = SCRIPT.iter().enumerate().map(|(number, phase)| PhaseReport {
        phase: phase.name,
        what: phase.what,
        seawall: side(figures[0].of_phase(number)),
        round_robin: side(figures[1].of_phase(number)),
    });
    Report { requests_per_second: RATE, phases: phases.collect() }
}
