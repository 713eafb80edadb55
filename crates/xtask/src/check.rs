//! Everything that can be said about the code without running it.

use crate::run::{cargo, show, succeeds};
use crate::tidy;

pub(crate) fn run() -> Result<(), String> {
    step("formatting", || show(&mut cargo(&["fmt", "--all", "--check"])))?;
    step("lints", || {
        show(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
    })?;
    step("tidy", tidy::run)?;
    step("documentation", || {
        let mut doc = cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
        show(doc.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links"))
    })?;
    if succeeds(&mut cargo(&["deny", "--version"])) {
        step("licences and bans", || {
            show(&mut cargo(&["deny", "--workspace", "check", "bans", "licenses", "sources"]))
        })?;
    } else {
        println!("check: cargo-deny is not installed; licences and bans were not checked");
    }
    println!("check: passed");
    Ok(())
}

fn step(name: &str, run: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    println!("check: {name}");
    run().map_err(|error| format!("{error}\ncheck: {name} failed"))
}
