//! `qkm node show`.

use serde_json::json;

use super::{
    super::{AdminArgs, admin},
    ago, nodes, state,
};
use crate::fault::{Code, Exit, Failure};

pub(super) fn show(name: &str, args: &AdminArgs) -> Result<Exit, Failure> {
    let answer = nodes(args)?;
    let all = answer["nodes"].as_array();
    let node = all.into_iter().flatten().find(|node| node["name"] == name);
    let node = node.ok_or_else(|| {
        Failure::new(Code::S010, format!("no key manager {name} shares this store"))
            .help("`qkm node list` has the names")
    })?;
    let (role, ready) = state(node);
    let shown = json!({
        "node": name,
        "cluster": answer["cluster"],
        "desk": node["desk"],
        "state": role,
        "ready": ready == "ready",
        "troubles": node["troubles"],
        "lease_ms": answer["lease_ms"],
        "said": ago(&node["told_ms"]),
        "runs_for": ago(&node["started_ms"]),
        "store_ms": node["store_ms"],
        "build": node["build"],
    });
    admin::tree(args.output, &shown)
}
