use super::simulation::*;
use super::*;
use crate::Rng;
use std::{eprintln, vec, vec::Vec};

#[test]
fn explore() {
    let works: [(&str, fn(f64) -> Work); 5] = [
        ("const", Work::Constant),
        ("exp", Work::Exponential),
        ("logn1", |m| Work::LogNormal(m, 1.0)),
        ("logn1.5", |m| Work::LogNormal(m, 1.5)),
        ("bimodal", |m| Work::Bimodal(m, 0.05, 50.0)),
    ];
    for (name, work) in works {
        for (servers, mean, lasts) in [
            (2, 0.01, 20.0),
            (2, 0.1, 100.0),
            (10, 0.05, 30.0),
            (100, 0.1, 12.0),
            (1000, 0.2, 10.0),
            (100, 0.001, 1.0),
            (20, 2.0, 200.0),
        ] {
            for shared in [false, true] {
                for load in [0.9, 1.5, 10.0] {
                    if let Ok(only) = std::env::var("ONLY")
                        && only != std::format!("{name},{servers},{mean},{load},{shared}")
                    {
                        continue;
                    }
                    let mut s = Scenario::new(1, work(mean), servers);
                    s.shared = shared;
                    s.lasts = lasts;
                    s.streams = vec![Stream::new(Criticality::Critical, load * s.capacity())];
                    let mut gate = Gate::new(&AdmissionParams::default());
                    let log = run(&s, &mut gate);
                    let mut rng = Rng::with_seed(3);
                    let mut w: Vec<f64> = (0..20000).map(|_| s.work.draw(&mut rng)).collect();
                    w.sort_by(f64::total_cmp);
                    let p99 = w[(w.len() as f64 * 0.99) as usize];
                    let from = lasts / 2.0;
                    let (mean_l, p99_l) = log.latency(0.99, from, lasts);
                    let lim: Vec<u32> = (1..=10).map(|i| log.limit_at(lasts * i as f64 / 10.0)).collect();
                    eprintln!(
                        "{name:8} c={servers:4} S={mean:5} ps={} load={load:4}: good {:.3} mean {:.2}x p99 {:.2}x base {:.2}x limits/c {:?}",
                        shared as u8,
                        log.goodput(from, lasts) / s.capacity() / load.min(1.0),
                        mean_l / mean,
                        p99_l / p99,
                        gate.admission.base_latency().as_secs_f64() / mean,
                        lim.iter()
                            .map(|l| (*l as f64 / servers as f64 * 100.0).round() / 100.0)
                            .collect::<Vec<_>>()
                    );
                }
            }
        }
    }
}
