//! The project's chores: `cargo xtask test | check | bench | gen | tidy`.

mod args;
mod bench;
mod check;
mod generate;
mod run;
mod test;
mod tidy;

use std::process::ExitCode;

use args::Args;

const USAGE: &str = "\
cargo xtask CHORE

  test [ARGS…]     install what the tests need, tidy, run every test (ARGS go to the test runner)
  check            formatting, lints, tidy, licences, documentation
  tidy             the house rules that no other tool checks
  gen [--check]    write docs/reference and the JSON Schema (--check: compare only)
  bench NAME …     measure; `cargo xtask bench` lists the names
";

fn main() -> ExitCode {
    let mut args = Args::from_env();
    let outcome = match args.word().as_deref() {
        Some("test") => test::run(args),
        Some("check") => args.finish().and_then(|()| check::run()),
        Some("tidy") => args.finish().and_then(|()| tidy::run()),
        Some("gen") => generate::run(args),
        Some("bench") => bench::run(args),
        // The floor of the gateway benchmark, which needs a process of its own.
        Some("forward") => bench::forward(args),
        // The back end of the overload benchmark, likewise.
        Some("station") => bench::station(args),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{}", message.trim_end());
            ExitCode::FAILURE
        }
    }
}
