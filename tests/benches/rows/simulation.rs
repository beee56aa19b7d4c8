//! A mesh of 100 clusters in simulated time, in this process and on one core: delivered keys for each
//! second of its processor and of the clock. Faults strike six times an hour.

use std::time::Instant;

use netsim::Plan;
use qkm_tests::load::{cpu, report::Report};

pub(super) fn mesh(report: &mut Report) {
    let plan = Plan { load: 4.0, hours: 0.5, ..Plan::default() };
    let (before, since) = (cpu::used_us(std::process::id()), Instant::now());
    let summary = netsim::run(&plan).expect("nothing breaks a rule");
    let seconds = since.elapsed().as_secs_f64();
    let used = (cpu::used_us(std::process::id()) - before) as f64 / 1e6;
    let keys = summary.delivered_keys as f64;
    report.add("simulated_mesh100_keys_per_s", keys / seconds, "keys/s");
    report.add("simulated_mesh100_keys_per_cpu_s", keys / used, "keys/s");
}
