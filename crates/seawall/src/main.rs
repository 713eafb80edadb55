//! The `seawall` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

/// Counts, so that `/metrics` can say how many allocations a request takes.
#[cfg(feature = "count-allocations")]
#[global_allocator]
static ALLOCATOR: testkit::alloc::Counting = testkit::alloc::Counting;

fn main() -> ExitCode {
    let cli = seawall::cli::Cli::parse();
    match seawall::cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, seawall::cli::Failure::Ended(_)) {
                eprintln!("error: {failure}");
            }
            failure.exit_code()
        }
    }
}
