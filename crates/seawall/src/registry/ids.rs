//! `seawall id`: asks a running process for ids.

use clap::Args;

use super::api::IDS_MAX;
use crate::cli::{Failure, say};
use crate::http::Admin;

/// What `seawall id` is told.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// How many.
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,
    /// Where the admin pages of a process are that gives out ids.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9901")]
    admin: String,
}

/// Prints ids, a line each.
///
/// # Errors
/// When nobody answers at the admin address, or what answers gives out no ids.
pub fn run(args: &IdArgs) -> Result<(), Failure> {
    let admin = Admin::parse(&args.admin)?;
    let mut left = args.count;
    while left > 0 {
        let count = left.min(IDS_MAX.into());
        let body = admin.ask("GET", &format!("/api/id?count={count}"), "")?;
        let answer: serde_json::Value = admin.read(&body)?;
        let ids = answer["ids"].as_array().map(Vec::as_slice).unwrap_or_default();
        if ids.is_empty() {
            return Err(Failure::Runtime("no ids were given: what answers is no Seawall".to_owned()));
        }
        let lines: Vec<&str> = ids.iter().filter_map(|id| id.as_str()).collect();
        say(&lines.join("\n"))?;
        left = left.saturating_sub(ids.len() as u64);
    }
    Ok(())
}
