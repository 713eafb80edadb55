//! What records cost. The measuring program belongs to the room: this crate would link SQLite for every chore otherwise.

use testkit::TempDir;

use super::machine;
use crate::args::Args;
use crate::run::{cargo, show};

pub(super) fn run(args: Args) -> Result<(), String> {
    let rest = args.rest();
    machine::print_header("store");
    println!(
        "- method: SQLite on the disk of the directory for temporary files, `synchronous=FULL`, one process, closed loops\n"
    );
    let dir = TempDir::new("bench-store");
    let words = ["run", "--quiet", "--release", "--package", "store", "--bin", "store-bench", "--"];
    show(cargo(&words).arg(dir.path()).args(rest)).map_err(|_| "`bench store` failed".to_owned())
}
