//! Logs: always to standard error, because standard output belongs to what a command answers.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::Failure;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging: at `level` if given, else at RUST_LOG, else at `info`.
pub(crate) fn init(level: Option<&str>, format: Format) -> Result<(), Failure> {
    let variable = std::env::var("RUST_LOG").ok().filter(|value| !value.is_empty());
    let (source, text) = match (level, &variable) {
        (Some(level), _) => ("--log-level", level),
        (None, Some(variable)) => ("RUST_LOG", variable.as_str()),
        (None, None) => ("the default", "info"),
    };
    let filter = EnvFilter::try_new(text).map_err(|problem| {
        Failure::Input(format!(
            "{source} `{text}` is no log filter ({problem}); try info, debug or gateway=debug"
        ))
    })?;
    let terminal = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    let started = match format {
        Format::Text => builder.compact().finish().try_init(),
        Format::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|problem| Failure::Runtime(format!("cannot start logging: {problem}")))
}
