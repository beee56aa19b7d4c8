//! `qkm controller`: runs one, and asks one that runs.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use km_core::ids::ClusterId;
use serde_json::{Value, json};

use super::{
    Output, Run,
    admin::{Request, ask, client, print, show, text},
};
use crate::{
    controller::{self, config::ControllerConfig},
    fault::{Code, Exit, Failure},
    logging, signals,
};

/// The controller of a network of key managers.
#[derive(Debug, Subcommand)]
pub(super) enum ControllerCommand {
    /// Run a controller.
    Run(Run),
    /// Print a complete configuration with comments.
    Example,
    /// List all parts of the network with their states.
    State(Asking),
    /// List the KM links that may carry keys, with stock and rates.
    ///
    /// FEED: whether its QKD link makes keys (live), it has what is stored (draining), or there is no QKD and
    /// the KM link itself brings keys (without-qkd). LOW: whether the stock is below the threshold.
    Edges(Asking),
    /// List the best way between each two clusters that share keys.
    Routes(Asking),
    /// List the changes of ways, the oldest first.
    Events(Asking),
    /// Show what one KM is told: all its routes, and the version it goes by.
    Explain {
        /// Its cluster.
        cluster: ClusterId,
        #[command(flatten)]
        asking: Asking,
    },
    /// Take a part out of service: km/NAME, km-link/A~B, qkd-link/ID, module/ID/NAME.
    Suspend(Part),
    /// Give back what was suspended.
    Resume(Part),
    /// Keep a part for a purpose: nothing uses it by itself.
    Reserve(Part),
    /// Give back what was reserved.
    Release(Part),
    /// Use one way between two clusters while it is in service.
    Pin(Pinned),
    /// End a pin.
    Unpin(Between),
}

#[derive(Debug, Args)]
pub(super) struct Pinned {
    /// The clusters between, in order.
    #[arg(long, value_delimiter = ',', required = true)]
    via: Vec<ClusterId>,
    /// Rather no key than another way.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    between: Between,
}

#[derive(Debug, Args)]
pub(super) struct Between {
    /// One end.
    from: ClusterId,
    /// The other.
    to: ClusterId,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
pub(super) struct Part {
    /// The part, as `qkm controller state` lists it.
    component: String,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
pub(super) struct Asking {
    /// The controller's configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/qkm/controller.toml")]
    config: PathBuf,
    /// Table for people, JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) fn run(command: ControllerCommand, log: &str) -> Result<Exit, Failure> {
    match command {
        ControllerCommand::Run(args) => start(&args, log),
        ControllerCommand::Example => {
            print(controller::config::EXAMPLE.trim_end());
            Ok(Exit::Done)
        }
        ControllerCommand::State(asking) => {
            let head = ["COMPONENT", "STATE", "FAULT"];
            list(&asking, "/v1/components", &head, "components", |part| {
                ["component", "state", "fault"].map(|name| text(&part[name])).to_vec()
            })
        }
        ControllerCommand::Edges(asking) => {
            let head = ["LINK", "FEED", "STOCK BITS", "LOW", "RATE B/S", "USED B/S"];
            list(&asking, "/v1/edges", &head, "edges", |edge| {
                let mut row = vec![way(&edge["ends"], "~")];
                let names = ["feed", "stock_bits", "low", "rate_bps", "drain_bps"];
                row.extend(names.map(|name| text(&edge[name])));
                row
            })
        }
        ControllerCommand::Routes(asking) => routes(&asking),
        ControllerCommand::Events(asking) => {
            let head = ["AT (MS)", "BETWEEN", "OLD", "NEW", "WHY"];
            list(&asking, "/v1/events", &head, "events", |event| {
                let between = way(&event["between"], "~");
                let (old, new) = (way(&event["old"], " > "), way(&event["new"], " > "));
                vec![text(&event["at_ms"]), between, old, new, text(&event["why"])]
            })
        }
        ControllerCommand::Explain { cluster, asking } => {
            let answer = send(&asking, Request::Get(&format!("/v1/tables/{cluster}")))?;
            super::admin::tree(asking.output, &answer)
        }
        ControllerCommand::Suspend(part) => order(&part, "suspend"),
        ControllerCommand::Resume(part) => order(&part, "resume"),
        ControllerCommand::Reserve(part) => order(&part, "reserve"),
        ControllerCommand::Release(part) => order(&part, "release"),
        ControllerCommand::Pin(pinned) => pin(&pinned),
        ControllerCommand::Unpin(between) => unpin(&between),
    }
}

/// The best way between each two clusters.
pub(super) fn routes(asking: &Asking) -> Result<Exit, Failure> {
    list(asking, "/v1/routes", &["BETWEEN", "WAY", "COST"], "routes", |route| {
        let between = way(&route["between"], "~");
        vec![between, way(&route["way"], " > "), text(&route["cost"])]
    })
}

/// Most changes of a way that are shown.
const CHANGES: usize = 5;

/// All ways from one cluster to another, and why the best of them changed lately.
pub(super) fn explain(between: &Between) -> Result<Exit, Failure> {
    let Between { from, to, asking } = between;
    let table = send(asking, Request::Get(&format!("/v1/tables/{from}")))?;
    let ours = |of: &Value| {
        let ends = [&of["between"][0], &of["between"][1]].map(Value::as_str);
        let (from, to) = (Some(from.as_str()), Some(to.as_str()));
        ends == [from, to] || ends == [to, from]
    };
    let routes = send(asking, Request::Get("/v1/routes"))?;
    let best = routes["routes"].as_array().and_then(|all| all.iter().find(|route| ours(route)));
    let events = send(asking, Request::Get("/v1/events"))?;
    let events = events["events"].as_array().into_iter().flatten().rev();
    let changes: Vec<_> = events.filter(|event| ours(event)).take(CHANGES).collect();
    let shown = json!({
        "best": best,
        "ways": table["directions"]["table"]["to"][to.as_str()],
        "latest_changes": changes,
    });
    super::admin::tree(asking.output, &shown)
}

/// Pins a way.
pub(super) fn pin(pinned: &Pinned) -> Result<Exit, Failure> {
    let Pinned { via, strict, between: Between { from, to, asking } } = pinned;
    let pin = json!({ "between": [from, to], "via": via, "strict": strict });
    send(asking, Request::Change("/v1/pins", &pin))?;
    print("pinned");
    Ok(Exit::Done)
}

/// Ends a pin.
pub(super) fn unpin(between: &Between) -> Result<Exit, Failure> {
    let Between { from, to, asking } = between;
    let answer = send(asking, Request::Change("/v1/unpin", &json!({ "between": [from, to] })))?;
    match answer["was_pinned"] == Value::Bool(true) {
        true => print("no longer pinned"),
        false => print("no operator had pinned it; policies are in the configuration"),
    }
    Ok(Exit::Done)
}

fn start(args: &Run, log: &str) -> Result<Exit, Failure> {
    let config = ControllerConfig::load(&args.config.config)?;
    logging::start(log)?;
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let shutdown = signals::until_asked_to_stop(args.with_parent)?;
        controller::run(config, shutdown).await
    })?;
    Ok(Exit::Done)
}

/// An operator's step on a part of the network.
pub(super) fn order(part: &Part, step: &str) -> Result<Exit, Failure> {
    let order = json!({ "component": part.component, "step": step });
    let answer = send(&part.asking, Request::Change("/v1/components", &order))?;
    print(&format!("{} is {}", text(&answer["component"]), text(&answer["state"])));
    Ok(Exit::Done)
}

fn list(
    asking: &Asking,
    path: &str,
    head: &[&str],
    name: &str,
    row: impl Fn(&Value) -> Vec<String>,
) -> Result<Exit, Failure> {
    let answer = send(asking, Request::Get(path))?;
    show(asking.output, &answer, head, name, row)
}

fn send(asking: &Asking, request: Request<'_>) -> Result<Value, Failure> {
    let config = ControllerConfig::load(&asking.config)?;
    let operator = config.operator.ok_or_else(|| {
        Failure::new(Code::C003, format!("{} has no [operator]", asking.config.display()))
            .help("`qkm controller example` shows it")
    })?;
    ask(&client(config.front.listen, &operator)?, request)
}

fn way(nodes: &Value, between: &str) -> String {
    let nodes = nodes.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    if nodes.is_empty() { "none".to_owned() } else { nodes.join(between) }
}
