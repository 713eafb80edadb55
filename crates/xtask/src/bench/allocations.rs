//! Allocations per request.

use std::fs;
use std::time::Duration;

use testkit::load::{Limit, Load};

use super::shape::SHAPES;
use super::{machine, proxy};
use crate::args::Args;
use crate::run::root;

/// Counts every allocation of the process; there when built with the feature `count-allocations`.
const METRIC: &str = "seawall_process_allocations_total";
const SPAN: Duration = Duration::from_secs(1);

pub(super) fn run(args: Args) -> Result<(), String> {
    args.finish()?;
    machine::print_header("gateway-allocations");
    println!(
        "- method: growth of `{METRIC}` over 1 s of load, less what two readings alone cost, over answers"
    );
    let bin = machine::build_seawall("count-allocations", "count-allocations")?;
    let backends = proxy::start_backends()?;
    println!("\n| configuration | shape | allocations/request | requests |\n|---|---|---|---|");
    for name in ["seawall-bare", "seawall", "seawall-all"] {
        let path = root().join("bench").join(format!("{name}.yaml"));
        let mut config = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        for (written, actual) in [("9001", backends.addrs()[0]), ("9002", backends.addrs()[1])] {
            config = config.replace(written, &actual.port().to_string());
        }
        for port in ["8004", "8005", "8006"] {
            config = config.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
        }
        let proxy = proxy::serve_seawall(name, &bin, &config, String::new())?;
        let seawall = proxy.seawall.as_ref().ok_or("a running Seawall")?;
        let count = || seawall.metric(METRIC, &[]).ok_or_else(|| format!("/metrics lacks {METRIC}"));
        for shape in &SHAPES {
            let failed = |error: std::io::Error| format!("{name}: {error}");
            let mut load = Load::connect(proxy.addr, shape.connections, &shape.request()).map_err(failed)?;
            load.run(shape.pace(0), Limit::time(SPAN)).map_err(failed)?;
            // What reading the metric twice allocates by itself.
            let (first, second) = (count()?, count()?);
            let report = load.run(shape.pace(1), Limit::time(SPAN)).map_err(failed)?;
            let grown = count()? - second - (second - first);
            let each = grown.max(0.0) / report.answered().max(1) as f64;
            println!("| {name} | {} | {each:.4} | {} |", shape.name, report.answered());
        }
    }
    Ok(())
}
