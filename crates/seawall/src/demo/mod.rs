//! `seawall demo`: a small shop of real HTTP services, twice; one copy behind Seawall, one behind plain round robin. The same
//! steady traffic and the same faults reach both, so that what users see can be compared.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::{Failure, say};
use figures::Figures;
use fleet::{Copy, Side};
use script::{SCRIPT, Step};

mod figures;
mod fleet;
mod load;
mod script;
pub mod shop;
mod view;

/// What `seawall demo` is told.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Shorter phases: 20 seconds in all instead of about 70.
    #[arg(long)]
    fast: bool,
    /// Print the result as JSON, and progress to standard error.
    #[arg(long)]
    json: bool,
    /// Print Seawall's configuration in the demo before it begins.
    #[arg(long)]
    show_config: bool,
}

/// How often the live view is drawn.
const FRAME: Duration = Duration::from_millis(250);

type Shared = Arc<Mutex<Figures>>;

/// Plays the script and prints what users saw.
///
/// # Errors
/// When a process cannot be started, or on Ctrl-C. No process outlives the demo.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let failed = |problem: std::io::Error| Failure::Runtime(format!("cannot run the demo: {problem}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        // Listened for from the beginning, so that an early signal cleans up too.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        tokio::select! {
            outcome = play(args) => outcome,
            _ = interrupt.recv() => Err(Failure::Runtime("interrupted".to_owned())),
            _ = terminate.recv() => Err(Failure::Runtime("terminated".to_owned())),
        }
    })
}

async fn play(args: &DemoArgs) -> Result<(), Failure> {
    let mut copies = [Copy::start(Side::Seawall)?, Copy::start(Side::Plain)?];
    if args.show_config {
        let text = std::fs::read_to_string(copies[0].config_path()).unwrap_or_default();
        eprintln!("{text}");
    }
    let now = std::time::Instant::now();
    let figures: [Shared; 2] = std::array::from_fn(|_| Arc::new(Mutex::new(Figures::new(now))));
    let mut users = JoinSet::new();
    for (copy, figures) in copies.iter().zip(&figures) {
        users.spawn(load::send(copy.door, Arc::clone(figures)));
    }
    let wide = crossterm::terminal::size().is_ok_and(|(columns, _)| columns >= view::WIDTH);
    if !args.json {
        say(&view::explanation())?;
        if std::io::stdout().is_terminal() && wide {
            let live = view::Live::new(std::io::stdout())
                .map_err(|problem| Failure::Runtime(format!("cannot draw: {problem}")))?;
            users.spawn(watch(live, figures.clone()));
        }
    }
    let lines = args.json || users.len() == copies.len();
    for (number, phase) in SCRIPT.iter().enumerate() {
        figures.iter().for_each(|figures| lock(figures).begin(number));
        let start = Instant::now();
        let length = phase.length(args.fast);
        for step in phase.steps {
            tokio::time::sleep_until(start + length.mul_f64(step.at)).await;
            happen(&mut copies, *step).await?;
        }
        tokio::time::sleep_until(start + length).await;
        if lines {
            let [ours, theirs] = [lock(&figures[0]), lock(&figures[1])];
            eprintln!("{}", view::line([&ours, &theirs], number));
        }
    }
    // Whoever asked last may still be waiting.
    tokio::time::sleep(load::PATIENCE).await;
    users.shutdown().await;
    let [ours, theirs] = [lock(&figures[0]), lock(&figures[1])];
    if args.json {
        say(&serde_json::to_string_pretty(&view::report([&ours, &theirs])).expect("a report is plain data"))
    } else {
        say(&view::table([&ours, &theirs], SCRIPT.len(), std::io::stdout().is_terminal()))
    }
}

/// The same thing happens to both copies.
async fn happen(copies: &mut [Copy; 2], Step { shelf, which, fault, .. }: Step) -> Result<(), Failure> {
    for copy in copies {
        copy.inject(shelf, which, fault).await?;
    }
    Ok(())
}

async fn watch(mut live: view::Live<std::io::Stdout>, figures: [Shared; 2]) {
    let start = Instant::now();
    let mut frames = tokio::time::interval(FRAME);
    loop {
        frames.tick().await;
        let [ours, theirs] = [lock(&figures[0]), lock(&figures[1])];
        if live.draw([&ours, &theirs], start.elapsed()).is_err() {
            return;
        }
    }
}

fn lock(figures: &Shared) -> MutexGuard<'_, Figures> {
    figures.lock().unwrap_or_else(PoisonError::into_inner)
}
