//! `qkm sim network`: a whole network in simulated time.

use std::time::Instant;

use clap::Args;
use netsim::{Plan, Shape};
use serde_json::json;

use super::{Output, admin::print};
use crate::fault::{Code, Exit, Failure};

#[derive(Debug, Args)]
pub(super) struct NetworkArgs {
    /// How clusters are joined: ring, mesh, backbone or random.
    #[arg(long, default_value = "mesh")]
    topology: Shape,
    /// Clusters, 4 to 1000.
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// Simulated hours.
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// The same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Secret bits per second of each QKD link.
    #[arg(long, value_name = "BPS", default_value_t = 2_000_000)]
    rate: u64,
    /// Pairs of clusters that want keys, for each cluster.
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// Batches of 2,047 keys that each pair asks for in a minute.
    #[arg(long, default_value_t = 1.0)]
    load: f64,
    /// Faults that begin in an hour.
    #[arg(long, default_value_t = 6.0)]
    faults: f64,
    /// Share of frames that somebody in the middle drops, changes, repeats or delays, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    mischief: f64,
    /// So many clusters are satellites, which pass for ten minutes in 95.
    #[arg(long, default_value_t = 0)]
    satellites: usize,
    /// Text for people, JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) fn run(args: &NetworkArgs) -> Result<Exit, Failure> {
    let plan = Plan {
        shape: args.topology,
        nodes: args.nodes,
        seed: args.seed,
        hours: args.hours,
        rate_bps: args.rate,
        pairs: args.pairs,
        load: args.load,
        faults: args.faults,
        mischief: args.mischief,
        satellites: args.satellites,
        ..Plan::default()
    };
    plan.check().map_err(|rule| Failure::new(Code::C003, rule))?;
    let begun = Instant::now();
    let summary = netsim::run(&plan)
        .map_err(|broken| Failure::new(Code::V002, format!("seed {}: {broken}", args.seed)))?;
    let seconds = begun.elapsed().as_secs_f64();
    let keys_per_s = summary.delivered_keys as f64 / seconds;
    match args.output {
        Output::Json => print(
            &json!({ "summary": summary, "seconds": seconds, "keys_per_s": keys_per_s })
                .to_string(),
        ),
        Output::Table => {
            print(&summary.to_string());
            print(&format!("time          {seconds:.1} s, {keys_per_s:.0} keys a second"));
        }
    }
    Ok(Exit::Done)
}
