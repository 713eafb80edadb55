//! Reference documents that the binary writes about itself.

use std::fs;

use crate::args::Args;
use crate::run::{cargo, read, root};

/// What the binary is asked, and where its answer is kept.
const DOCUMENTS: [(&[&str], &str); 3] = [
    (&["schema"], "seawall.schema.json"),
    (&["reference", "config"], "docs/reference/config.md"),
    (&["reference", "metrics"], "docs/reference/metrics.md"),
];

/// Writes the documents; with `--check` only says which differ.
pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let check = args.flag("check");
    args.finish()?;
    let mut stale = Vec::new();
    for (words, path) in DOCUMENTS {
        let mut command = cargo(&["run", "--quiet", "--package", "seawall", "--"]);
        let wanted = format!("{}\n", read(command.args(words))?.trim_end());
        if wanted.trim().is_empty() {
            return Err(format!("`seawall {}` printed nothing", words.join(" ")));
        }
        let full = root().join(path);
        if fs::read_to_string(&full).is_ok_and(|current| current == wanted) {
            continue;
        }
        stale.push(path);
        if !check {
            let folder = full.parent().map_or(Ok(()), fs::create_dir_all);
            folder
                .and_then(|()| fs::write(&full, wanted))
                .map_err(|error| format!("cannot write {}: {error}", full.display()))?;
        }
    }
    match (stale.is_empty(), check) {
        (true, _) => println!("gen: everything is up to date"),
        (false, false) => println!("gen: wrote {}", stale.join(", ")),
        (false, true) => return Err(format!("{} out of date: run `cargo xtask gen`", stale.join(", "))),
    }
    Ok(())
}
