//! `seawall sim`: plays an outage before it happens, and says what it would come to.

mod library;
mod mapping;
mod scenario;
mod sweep;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use ::sim::report::{Paint, Run, comparison, page, picture, sweep as rows, text};
use ::sim::{Report, Scenario};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::cli::{Failure, say};
use scenario::Played;
use sweep::Sweep;

/// What `seawall sim` is told.
#[derive(Clone, Debug, Args)]
pub struct SimArgs {
    /// The scenario: a file, or the name of one that ships with Seawall (see `--list`).
    #[arg(required_unless_present_any = ["scenario_flag", "list"], value_name = "SCENARIO")]
    scenario: Option<String>,
    /// The same, by name.
    #[arg(long = "scenario", value_name = "SCENARIO", conflicts_with = "scenario")]
    scenario_flag: Option<String>,
    /// Take the policies of this gateway configuration instead of those that the scenario gives its services.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which service of the configuration takes the place of the one that the scenario's traffic asks for.
    #[arg(long, value_name = "NAME", requires = "config")]
    service: Option<String>,
    /// Chance begins with this number instead of the scenario's; the same number gives the same report.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Play another scenario, or with `--config` another configuration, and show both side by side.
    #[arg(long, value_name = "OTHER", conflicts_with = "sweep")]
    compare: Option<String>,
    /// Play it once for each value of one key, such as `retry_budget.ratio=0,0.1,0.5` (of all services) or
    /// `services.cart.endpoints=4,8`.
    #[arg(long, value_name = "KEY=A,B,…")]
    sweep: Option<String>,
    /// Write the report as JSON.
    #[arg(long)]
    json: bool,
    /// Write a page with charts, which needs no other file, to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a picture of goodput and latency over time to this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["compare", "sweep"])]
    svg: Option<PathBuf>,
    /// List the scenarios that ship with Seawall.
    #[arg(long, exclusive = true)]
    list: bool,
}

/// `seawall sim`. It needs no network and starts nothing, so whoever interrupts it loses nothing but the report.
///
/// # Errors
/// What is wrong with the scenario, the configuration or a flag; or that a file cannot be written.
pub fn run(args: &SimArgs) -> Result<(), Failure> {
    if args.list {
        return say(library::list().trim_end());
    }
    let name = args.scenario.as_ref().or(args.scenario_flag.as_ref()).expect("clap requires one of them");
    let base = prepare(args, name, args.config.as_deref())?;
    for file in args.html.iter().chain(&args.svg) {
        // Before a run that may take a minute.
        std::fs::OpenOptions::new().create(true).append(true).open(file).map_err(|problem| {
            Failure::Input(format!(
                "cannot write `{}`: {problem}; give a path where this user may write",
                file.display()
            ))
        })?;
    }
    match (&args.compare, &args.sweep) {
        (Some(other), _) => compare(args, name, &base, other),
        (None, Some(sweep)) => self::sweep(args, &base, sweep),
        (None, None) => once(args, &base),
    }
}

/// The scenario as it is to be played.
fn prepare(args: &SimArgs, name: &str, config: Option<&Path>) -> Result<Played, Failure> {
    let mut played = scenario::find(name)?;
    if let Some(seed) = args.seed {
        played.scenario.seed = seed;
    }
    if let Some(file) = config {
        mapping::put_in_place(&mut played, file, args.service.as_deref())?;
    }
    Ok(played)
}

fn play(scenario: &Scenario, notes: &[String]) -> Report {
    let mut report = ::sim::run(scenario);
    report.notes.extend_from_slice(notes);
    report
}

fn once(args: &SimArgs, base: &Played) -> Result<(), Failure> {
    let report = play(&base.scenario, &base.notes);
    write_page(args, &report.scenario, &[Run { name: &base.name, report: &report, scenario: &base.text }])?;
    if let Some(file) = &args.svg {
        write(file, &picture(&report))?;
    }
    if args.json { say(&report.to_json()) } else { say(text(&report, paint()).trim_end()) }
}

fn compare(args: &SimArgs, name: &str, base: &Played, other: &str) -> Result<(), Failure> {
    let mut other = match args.config {
        Some(_) => prepare(args, name, Some(Path::new(other)))?,
        None => prepare(args, other, None)?,
    };
    if other.name == base.name {
        other.name.push_str(" (other)");
    }
    let reports = [base, &other].map(|played| play(&played.scenario, &played.notes));
    let [of_base, of_other] = &reports;
    let runs = [
        Run { name: &base.name, report: of_base, scenario: &base.text },
        Run { name: &other.name, report: of_other, scenario: &other.text },
    ];
    write_page(args, &format!("{} and {}", base.name, other.name), &runs)?;
    if args.json {
        return say(&json(&Pair { base: of_base, other: of_other }));
    }
    let mut shown = comparison((&base.name, of_base), (&other.name, of_other), paint());
    for (name, report) in [(&base.name, of_base), (&other.name, of_other)] {
        shown.extend(report.notes.iter().map(|note| format!("note on {name}: {note}\n")));
    }
    say(shown.trim_end())
}

fn sweep(args: &SimArgs, base: &Played, sweep: &str) -> Result<(), Failure> {
    let sweep = Sweep::parse(sweep, &base.scenario)?;
    let reports: Vec<_> = sweep.scenarios.iter().map(|(_, scenario)| play(scenario, &base.notes)).collect();
    let values = || sweep.scenarios.iter().map(|(value, _)| value);
    let names: Vec<_> = values().map(|value| format!("{} = {}", sweep.key, sweep::shown(value))).collect();
    let runs = names.iter().zip(&reports).map(|(name, report)| Run { name, report, scenario: &base.text });
    write_page(args, &format!("{}: {}", base.name, sweep.key), &runs.collect::<Vec<_>>())?;
    if args.json {
        let rows = values().zip(&reports).map(|(value, report)| Row { key: &sweep.key, value, report });
        return say(&json(&rows.collect::<Vec<_>>()));
    }
    let named: Vec<_> = values().map(sweep::shown).zip(&reports).collect();
    let mut shown = rows(&sweep.key, &named, paint());
    shown.push_str(&format!("\nset: {}\n", sweep.set.join(", ")));
    shown.extend(base.notes.iter().map(|note| format!("note: {note}\n")));
    say(shown.trim_end())
}

/// Two runs as JSON.
#[derive(Serialize)]
struct Pair<'a> {
    base: &'a Report,
    other: &'a Report,
}

/// One run of a sweep as JSON.
#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    value: &'a Value,
    #[serde(flatten)]
    report: &'a Report,
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("reports are plain data")
}

fn write_page(args: &SimArgs, title: &str, runs: &[Run<'_>]) -> Result<(), Failure> {
    match &args.html {
        Some(file) => write(file, &page(title, runs)),
        None => Ok(()),
    }
}

fn write(file: &Path, content: &str) -> Result<(), Failure> {
    std::fs::write(file, content)
        .map_err(|problem| Failure::Runtime(format!("cannot write `{}`: {problem}", file.display())))
}

/// Bold where a terminal shows it and nobody has asked for none (<https://no-color.org>).
fn paint() -> Paint {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && std::io::stdout().is_terminal() { Paint::Ansi } else { Paint::Plain }
}
