//! `/v1/nodes`: the key managers that share a store, and the engine it is on.

use cluster::{Member, members::Decisions, roster::Node};
use serde_json::{Value, json};

use super::problem::Problem;
use crate::serve::{Inside, Membership};

/// Adds what is decided of a key manager.
fn with(mut node: Value, decided: &Decisions) -> Value {
    let name = node["name"].as_str().unwrap_or_default().to_owned();
    let member = decided.members.get(&name).copied().unwrap_or_default();
    node["rests"] = member.rests.into();
    node["revoked"] = decided.out.contains(&name).into();
    node["joined_ms"] = (member.joined_ms > 0).then_some(member.joined_ms).into();
    node
}

/// `GET`: all of them, as they are now. The engine's members as they were seconds ago.
pub(super) async fn list(inside: &Inside) -> Result<Value, Problem> {
    let Some(roster) = &inside.node.roster else { return Err(Problem::alone()) };
    let nodes: Vec<Node> = roster.list().await?;
    let decided = inside.node.membership.as_ref().map(Membership::decided).unwrap_or_default();
    let keks = inside.node.keeper.epochs().wrappings().await?;
    let never = decided.members.keys().filter(|name| nodes.iter().all(|node| node.name != **name));
    let never = never.map(|name| json!({ "name": name, "alive": false, "leads": false }));
    let seen = nodes.iter().map(|node| json!(node));
    let mut nodes: Vec<Value> = seen.chain(never).map(|node| with(node, &decided)).collect();
    for node in &mut nodes {
        node["kek_wrapping"] =
            node["name"].as_str().and_then(|name| keks.get(name).copied()).into();
    }
    // That of the KM that leads: the engine may grant a longer one than is configured.
    let lease = nodes.iter().find(|node| node["leads"] == true).map(|node| &node["lease_ms"]);
    let lease = lease.cloned();
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
        "lease_ms": lease,
        "nodes": nodes,
        "engine": engine.iter().map(member).collect::<Vec<_>>(),
    }))
}
