//! `/v1/nodes`: the key managers that share a store, and the engine it is on.

use cluster::{Member, roster::Node};
use serde_json::{Value, json};

use super::problem::Problem;
use crate::serve::Inside;

/// `GET`: all of them, as they are now. The engine's members as they were seconds ago.
pub(super) async fn list(inside: &Inside) -> Result<Value, Problem> {
    let Some(roster) = &inside.node.roster else { return Err(Problem::alone()) };
    let nodes: Vec<Node> = roster.list().await?;
    let engine = inside.health.engine();
    let newest = engine.iter().filter_map(|member| Some(member.state.as_ref().ok()?.applied)).max();
    let member = |Member { address, state }: &Member| match state {
        Ok(state) => json!({
            "address": address, "version": state.version, "leads": state.leads,
            "db_bytes": state.db_bytes, "behind": newest.unwrap_or(0) - state.applied,
            "trouble": (!state.has_leader).then_some("it knows no leader"),
        }),
        Err(why) => json!({ "address": address, "trouble": why }),
    };
    Ok(json!({
        "cluster": inside.node.supply.here(),
        "lease_ms": inside.node.lease.as_millis() as u64,
        "nodes": nodes,
        "engine": engine.iter().map(member).collect::<Vec<_>>(),
    }))
}
