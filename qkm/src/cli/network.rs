//! `qkm sim network`: a whole network in simulated time.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    str::FromStr,
    time::Instant,
};

use clap::Args;
use netsim::{Network, Plan, Shape};
use serde_json::json;

use super::{Output, admin::print};
use crate::{
    config,
    fault::{Code, Exit, Failure},
};

/// Clusters when neither a number nor a file is given.
const NODES: usize = 100;

/// How clusters are joined.
#[derive(Clone, Debug)]
enum Topology {
    Shape(Shape),
    File(PathBuf),
}

impl FromStr for Topology {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.parse().map_or_else(|_| Self::File(text.into()), Self::Shape))
    }
}

#[derive(Debug, Args)]
pub(super) struct NetworkArgs {
    /// How clusters are joined: ring, mesh, backbone or random; or a TOML file that names clusters and
    /// links, as `netsim/examples/square.toml` does.
    #[arg(long, value_name = "ring|mesh|backbone|random|FILE", default_value = "mesh")]
    topology: Topology,
    /// Clusters, 4 to 1000, 100 by default; not with a file.
    #[arg(long)]
    nodes: Option<usize>,
    /// Simulated hours.
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// The same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Secret bits per second of each QKD link of which a file does not say it.
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
    /// So many clusters are satellites, which pass for ten minutes in 95; not with a file.
    #[arg(long, default_value_t = 0)]
    satellites: usize,
    /// Bits per second that may be relayed over each link of a satellite; all there are by default.
    #[arg(long, value_name = "BPS")]
    ration: Option<u64>,
    /// Text for people, JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) fn run(args: &NetworkArgs) -> Result<Exit, Failure> {
    let (shape, network) = match &args.topology {
        Topology::Shape(shape) => (*shape, None),
        Topology::File(path) => (Plan::default().shape, Some(read(path, args)?)),
    };
    let plan = Plan {
        shape,
        nodes: network.as_ref().map_or(args.nodes.unwrap_or(NODES), Network::nodes),
        network,
        seed: args.seed,
        hours: args.hours,
        rate_bps: args.rate,
        pairs: args.pairs,
        load: args.load,
        faults: args.faults,
        mischief: args.mischief,
        satellites: args.satellites,
        ration_bps: args.ration,
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

/// The network of a file, whose clusters and satellites nothing else says.
fn read(path: &Path, args: &NetworkArgs) -> Result<Network, Failure> {
    if args.nodes.is_some() || args.satellites > 0 {
        let what = "the file after --topology names the clusters and satellites";
        return Err(Failure::new(Code::C003, what).help("leave out --nodes and --satellites"));
    }
    let text = config::read(path).map_err(|failure| {
        failure.help("--topology takes ring, mesh, backbone, random, or the path of a TOML file")
    })?;
    let wrong = |what| Failure::new(Code::C002, format!("{}: {what}", path.display()));
    Network::parse(&text, args.rate).map_err(|what| {
        wrong(what).help("correct that; `netsim/examples/square.toml` shows every entry")
    })
}
