//! From what the command line names to a scenario that can be played.

use std::path::Path;

use ::config::{Environment, Source, load, nearest};
use ::sim::Scenario;

use super::library::LIBRARY;
use crate::cli::Failure;

/// A scenario, and what a reader of its report should know of it.
#[derive(Clone, Debug)]
pub(super) struct Played {
    /// What it is called in comparisons.
    pub(super) name: String,
    /// What is played.
    pub(super) scenario: Scenario,
    /// Its file.
    pub(super) text: String,
    /// What of the wish is not simulated, a sentence each.
    pub(super) notes: Vec<String>,
}

/// A scenario by the name of its file or of one that ships. A file is preferred; what looks like a path is one.
pub(super) fn find(name: &str) -> Result<Played, Failure> {
    let path = Path::new(name);
    let shipped = LIBRARY.iter().find(|shipped| shipped.name == name);
    let is_path = name.contains('/') || path.extension().is_some() || path.is_file();
    let source = match shipped {
        _ if is_path => Source::read(path).map_err(|errors| Failure::Input(errors.to_string()))?,
        Some(shipped) => Source::new(shipped.name, shipped.text),
        None => return Err(Failure::Input(unknown(name))),
    };
    let scenario = load::<Scenario>(&source, &Environment::without_files())
        .map_err(|errors| Failure::Input(errors.to_string()))?
        .value;
    let name = path.file_name().map_or(name.into(), |name| name.to_string_lossy());
    Ok(Played { name: name.into_owned(), scenario, text: source.text().to_owned(), notes: Vec::new() })
}

fn unknown(name: &str) -> String {
    let remedy = match nearest(name, LIBRARY.iter().map(|shipped| shipped.name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`seawall sim --list` shows those that there are".to_owned(),
    };
    format!("there is neither a file nor a scenario called `{name}`; {remedy}")
}
