//! Memory and descriptors over time: a leak shows as growth that does not end.

use std::time::Duration;

use testkit::load::{Limit, Load};

use super::shape::SHAPES;
use super::{machine, proc, proxy};
use crate::args::Args;

const STEPS: u32 = 20;

pub(super) fn run(mut args: Args) -> Result<(), String> {
    let seconds: u64 = args.option("seconds")?.unwrap_or(600);
    let names = proxy::chosen(&args.list("peers")?, &["seawall"])?;
    args.finish()?;
    machine::print_header("gateway-soak");
    println!(
        "- method: every shape in turn for {seconds} s in all; resident memory and descriptors at each step's end"
    );
    let backends = proxy::start_backends()?;
    for proxy in proxy::start_all(&names, &backends, 1000) {
        println!(
            "## {}\n\n| s | requests | failed | resident KiB | descriptors |\n|---|---|---|---|---|",
            proxy.name
        );
        let pids = proxy.pids();
        let (mut requests, mut failed) = (0, 0);
        let mut first = None;
        let mut last = 0;
        for step in 1..=STEPS {
            let shape = &SHAPES[step as usize % SHAPES.len()];
            let span = Duration::from_secs(seconds) / STEPS;
            let report = Load::connect(proxy.addr, shape.connections, &shape.request())
                .and_then(|mut load| load.run(shape.pace(step as usize), Limit::time(span)))
                .map_err(|error| error.to_string())?;
            requests += report.answered();
            failed += report.errors + report.other;
            last = proc::resident(&pids) / 1024;
            let files = proc::open_files(&pids);
            println!("| {} | {requests} | {failed} | {last} | {files} |", (span * step).as_secs());
            // Every shape has been met once: what grows from here on has no reason to.
            if step as usize == SHAPES.len() {
                first = Some(last);
            }
        }
        let growth = last as i64 - first.unwrap_or(last) as i64;
        println!("\ngrowth after the first round of shapes: {growth} KiB\n");
    }
    Ok(())
}
