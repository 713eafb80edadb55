//! `seawall registry`: asks and tells a running process.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cli::{Failure, say};
use crate::http::Admin;

/// What `seawall registry` is told.
#[derive(Debug, Args)]
pub struct RegistryArgs {
    #[command(subcommand)]
    command: RegistryCommand,
    /// Where the admin pages are.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9901", global = true)]
    admin: String,
}

#[derive(Debug, Subcommand)]
enum RegistryCommand {
    /// List registered services and their instances.
    List {
        /// Print the document as it is.
        #[arg(long)]
        json: bool,
    },
    /// Confirm that instances which vanished at once, and are held, have left for good.
    Release {
        /// The service.
        service: String,
    },
}

/// Lists or releases.
///
/// # Errors
/// When nobody answers at the admin address, or what answers keeps no registry.
pub fn run(args: &RegistryArgs) -> Result<(), Failure> {
    let admin = Admin::parse(&args.admin)?;
    match &args.command {
        RegistryCommand::List { json } => {
            let body = admin.ask("GET", "/api/registry", "")?;
            if *json { say(body.trim_end()) } else { say(table(&admin.read(&body)?).trim_end()) }
        }
        RegistryCommand::Release { service } => {
            let body = admin.ask("POST", &format!("/api/registry/{service}/release"), "")?;
            match admin.read::<Value>(&body)?["released"].as_u64() {
                Some(0) | None => say(&format!("{service}: nothing was held")),
                Some(released) => say(&format!("{service}: {released} instances released")),
            }
        }
    }
}

fn table(listing: &Value) -> String {
    let mut out = String::new();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    if let Some(trouble) = listing["trouble"].as_str() {
        let _ = writeln!(out, "may be out of date: {trouble}");
    }
    let services = listing["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    if services.is_empty() {
        out.push_str("no service is registered\n");
    }
    for service in services {
        let instances = service["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
        let _ = write!(out, "{}: {} instances", text(&service["service"]), instances.len());
        match service["held"].as_u64() {
            Some(held) if held > 0 => {
                let _ = writeln!(out, ", of which {held} vanished at once and are held");
            }
            _ => out.push('\n'),
        }
        let width = instances.iter().map(|one| text(&one["name"]).len()).max().unwrap_or(0);
        for one in instances {
            let state = match (one["held"].as_bool(), one["lame_duck"].as_bool()) {
                (Some(true), _) => "held",
                (_, Some(true)) => "lame duck",
                _ => "serving",
            };
            let _ = writeln!(
                out,
                "  {:width$}  {}  weight {}  zone {}  version {}  {state}",
                text(&one["name"]),
                text(&one["address"]),
                one["weight"],
                text(&one["zone"]),
                text(&one["version"]),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_tells_who_serves_and_who_is_held() {
        let one = |name: &str, lame: bool, held: bool| {
            json!({"name": name, "address": "10.0.0.1:80", "weight": 2, "zone": "a", "version": null,
                "lame_duck": lame, "held": held})
        };
        let listing = json!({"version": 3, "trouble": "not reached", "services": [
            {"service": "cart", "held": 1, "instances": [one("a", false, false), one("bb", true, false), one("c", false, true)]},
        ]});
        expect![[r#"
            may be out of date: not reached
            cart: 3 instances, of which 1 vanished at once and are held
              a   10.0.0.1:80  weight 2  zone a  version -  serving
              bb  10.0.0.1:80  weight 2  zone a  version -  lame duck
              c   10.0.0.1:80  weight 2  zone a  version -  held
        "#]]
        .assert_eq(&table(&listing));
        assert_eq!(table(&json!({"services": []})), "no service is registered\n");
    }
}
