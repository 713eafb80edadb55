//! The house rules that no other tool checks.
//!
//! Each rule is a function from text to complaints, so that its tests show it failing.

mod links;
mod sources;
mod tiers;

use std::fmt;
use std::fs;

use crate::run::{command, read, root};

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    path: String,
    line: usize,
    message: String,
}

impl Complaint {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Checks every file of the repository.
pub(crate) fn run() -> Result<(), String> {
    let complaints = complaints()?;
    if complaints.is_empty() {
        println!("tidy: all rules hold");
        return Ok(());
    }
    let list: Vec<_> = complaints.iter().map(Complaint::to_string).collect();
    Err(format!("{}\ntidy: {} broken rules", list.join("\n"), complaints.len()))
}

fn complaints() -> Result<Vec<Complaint>, String> {
    let mut complaints = Vec::new();
    for path in files()? {
        let full = root().join(&path);
        // Deleted but not yet committed, or not text.
        let Ok(text) = fs::read_to_string(&full) else { continue };
        complaints.extend(sources::machine_paths(&path, &text));
        if path.ends_with(".rs") {
            complaints.extend(sources::check(&path, &text));
        } else if path.ends_with(".md") {
            let dir = full.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
            complaints.extend(links::check(&path, &text, |target| dir.join(target).exists()));
        } else if path.ends_with("Cargo.toml") && path != "Cargo.toml" {
            complaints.extend(tiers::check(&path, &text));
        }
    }
    Ok(complaints)
}

/// Every file that is in the repository or about to be.
fn files() -> Result<Vec<String>, String> {
    let listed = read(&mut command("git", &["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    let mut files: Vec<_> = listed.lines().map(str::to_owned).collect();
    if files.is_empty() {
        return Err("git lists no files: nothing was checked".to_owned());
    }
    files.retain(|path| !path.starts_with("fuzz/corpus/") && !path.contains("/vendor/"));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_tidy() {
        let complaints = complaints().unwrap();
        let list: Vec<_> = complaints.iter().map(Complaint::to_string).collect();
        assert!(list.is_empty(), "{}", list.join("\n"));
    }

    #[test]
    fn the_files_that_matter_are_looked_at() {
        let files = files().unwrap();
        for path in ["crates/model/Cargo.toml", "crates/policy/src/lib.rs", "bench/README.md"] {
            assert!(files.iter().any(|file| file == path), "{path}");
        }
    }
}
