//! `qkm node show`.

use serde_json::json;

use super::{
    super::{AdminArgs, admin},
    ago, find, nodes, state,
};
use crate::fault::{Exit, Failure};

pub(super) fn show(name: &str, args: &AdminArgs) -> Result<Exit, Failure> {
    let answer = nodes(args)?;
    let node = find(&answer, name)?;
    let (role, ready) = state(&node);
    let shown = json!({
        "node": name,
        "cluster": answer["cluster"],
        "desk": node["desk"],
        "state": role,
        "ready": ready == "ready",
        "troubles": node["troubles"],
        "drained": node["drained"],
        "revoked": node["revoked"],
        "joined": node["joined_ms"].as_u64().map(|_| ago(&node["joined_ms"])),
        "certificate": node["certificate"],
        "link_certificate": node["link_certificate"],
        "kek_wrapping": node["kek_wrapping"],
        "lease_ms": answer["lease_ms"],
        "said": ago(&node["told_ms"]),
        "runs_for": ago(&node["started_ms"]),
        "store_ms": node["store_ms"],
        "build": node["build"],
    });
    admin::tree(args.output, &shown)
}
