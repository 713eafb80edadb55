//! The command line: what may be asked for, and which exit code answers.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{app, config, coordination, demo, explain, logs, reference, registry, sim, status, store};

/// Keeps services up: a resilient HTTP gateway.
#[derive(Debug, Parser)]
#[command(name = "seawall", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log level, or a filter such as `gateway=debug`. RUST_LOG is used when this is absent, then `info`.
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<String>,
    /// How logs are written to standard error.
    #[arg(long, global = true, value_enum, default_value_t = logs::Format::Text)]
    log: logs::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway, from a file or from `--to` alone.
    Up(Up),
    /// Check a configuration file, without network and without starting anything.
    Check {
        /// The file.
        file: PathBuf,
        /// How errors are written.
        #[arg(long, value_enum, default_value_t = ErrorFormat::Text)]
        format: ErrorFormat,
    },
    /// Print the JSON Schema of the configuration file.
    Schema,
    /// Say which route, service and policies a request would get, and why.
    Explain(explain::Explain),
    /// Show what a running gateway sees and does.
    Status(status::StatusArgs),
    /// Run a command as an instance of a service: registered while it runs and is healthy.
    Register(registry::RegisterArgs),
    /// See who is registered, and confirm departures that are held back.
    Registry(registry::RegistryArgs),
    /// Run commands under a lock, see who holds what, and break locks.
    Lock(coordination::LockArgs),
    /// Print ids that are unique across the fleet and rise with time.
    Id(registry::IdArgs),
    /// Play an outage with a fleet that is simulated, and say what it would come to.
    Sim(sim::SimArgs),
    /// Back up the records, also while they are in use.
    Backup(store::BackupArgs),
    /// Restore a back-up to a new place, and compare every record.
    Restore(store::RestoreArgs),
    /// Check the records, read their audit log, rehearse a restore.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Break a small shop on purpose, with and without Seawall before it, and compare.
    Demo(demo::DemoArgs),
    /// Print a generated reference page.
    #[command(hide = true)]
    Reference {
        /// Which one.
        #[arg(value_enum)]
        page: reference::Page,
    },
    /// One endpoint of the demo's shop.
    #[command(hide = true)]
    Shop(demo::shop::ShopArgs),
}

/// What `seawall up` is told.
#[derive(Clone, Debug, Args)]
pub struct Up {
    /// The configuration file. It is watched: a changed file takes effect while running.
    #[arg(required_unless_present = "to")]
    pub file: Option<PathBuf>,
    /// Endpoints to forward everything to, instead of a file.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', conflicts_with = "file")]
    pub to: Vec<String>,
    /// Where to listen; replaces the listeners of the file. Default without a file: 127.0.0.1:8080.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where the admin pages are, or `off`; replaces what the file says.
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<AdminFlag>,
    /// Worker threads; replaces what the file says. 0: one for each core.
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// Stop when standard input ends, so that no gateway outlives whoever started it.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// The value of `--admin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminFlag {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl FromStr for AdminFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .map(Self::At)
                .map_err(|_| "expected an address and port such as 127.0.0.1:9901, or `off`".to_owned()),
        }
    }
}

/// How `seawall check` writes errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ErrorFormat {
    /// For people.
    Text,
    /// For editors and scripts, on standard output.
    Json,
}

/// Why a command did not do what it was asked, as the user reads it.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for is wrong: a flag, a file, a port that is taken. Nothing was started. Exit code 2.
    Input(String),
    /// It was right but went wrong. Exit code 1.
    Runtime(String),
    /// The command that was run for the user ended with this code, and has said itself what there is to say.
    Ended(u8),
}

impl Failure {
    /// What the shell is told.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Input(_) => ExitCode::from(2),
            Self::Runtime(_) => ExitCode::from(1),
            Self::Ended(code) => ExitCode::from(*code),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(message) | Self::Runtime(message) => f.write_str(message),
            Self::Ended(code) => write!(f, "the command ended with code {code}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Does what the command line asks.
///
/// # Errors
/// [`Failure`], for the caller to print and to turn into the exit code.
pub fn run(cli: Cli) -> Result<(), Failure> {
    logs::init(cli.log_level.as_deref(), cli.log)?;
    match cli.command {
        Command::Up(up) => app::up(&up),
        Command::Check { file, format } => check(&file, format),
        Command::Schema => say(&config::schema()),
        Command::Explain(args) => explain::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Register(args) => registry::register(&args),
        Command::Registry(args) => registry::run(&args),
        Command::Lock(args) => coordination::run(&args),
        Command::Id(args) => registry::id(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Backup(args) => store::backup(&args),
        Command::Restore(args) => store::restore(&args),
        Command::Store(command) => store::run(&command),
        Command::Demo(args) => demo::run(&args),
        Command::Reference { page } => say(reference::render(page).trim_end()),
        Command::Shop(args) => demo::shop::run(&args),
    }
}

/// Answers on standard output. Whoever reads it may have had enough (`| head`): that is no failure.
pub(crate) fn say(answer: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{answer}").and_then(|()| out.flush()) {
        Err(problem) if problem.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Runtime(format!("cannot write the answer: {problem}")))
        }
        _ => Ok(()),
    }
}

fn check(file: &std::path::Path, format: ErrorFormat) -> Result<(), Failure> {
    match config::check(file) {
        Ok(loaded) => {
            loaded
                .config()
                .warnings()
                .iter()
                .for_each(|warning| eprintln!("warning: {}: {warning}", file.display()));
            say(&format!("{}: ok, {}", file.display(), loaded.summary()))
        }
        Err(errors) if format == ErrorFormat::Json => {
            say(&serde_json::to_string_pretty(&errors).expect("errors are plain text"))?;
            Err(Failure::Input(format!("{} is not usable", file.display())))
        }
        Err(errors) => Err(Failure::Input(errors.to_string())),
    }
}
