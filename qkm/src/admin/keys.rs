//! `GET /v1/keys/{id}`: what is known about one key, never its bytes; `POST /v1/keys/{name}/copies/{sae}`:
//! an object goes by relay to an application at another cluster.

use km_core::{
    copies::CopyError, ids::SaeId, key_id::KeyId, objects::Object, pool::KeyState,
    provenance::Provenance,
};
use serde_json::{Value, json};
use tracing::info;
use transport::PeerIdentity;

use super::problem::Problem;
use crate::serve::{Links, Node};

/// A pool key and the managed objects it became, or any other managed object.
pub(super) async fn show(node: &Node, segment: &str) -> Result<Value, Problem> {
    let id = etsi014::path::decode(segment).ok_or_else(|| Problem::no_such_key(segment))?;
    let objects: Vec<Value> = node.objects.inspect(&id).await?.iter().map(managed).collect();
    let pool_key = match KeyId::parse(&id) {
        Some(key) => in_pool(node, key).await?,
        None => None,
    };
    if objects.is_empty() && pool_key.is_none() {
        return Err(Problem::no_such_key(&id));
    }
    let mut shown = json!({ "id": id });
    if let Some(pool_key) = pool_key {
        shown["pool_key"] = pool_key;
    }
    if !objects.is_empty() {
        shown["objects"] = Value::Array(objects);
    }
    Ok(shown)
}

/// Copies an object to an application at another cluster; any operator may.
pub(super) async fn copy(
    links: &Links,
    name: &str,
    to: &str,
    peer: &PeerIdentity,
) -> Result<Value, Problem> {
    let decoded = etsi014::path::decode(name).zip(etsi014::path::decode(to));
    let (name, to) = decoded.ok_or_else(|| Problem::no_such_key(name))?;
    let to = SaeId::parse(&to).map_err(|error| CopyError::NotFound(error.to_string()))?;
    let (id, placed, way) = links.copy(&name, &to).await?;
    info!(operator = %peer, %id, %to, "an object is copied by relay");
    Ok(json!({ "id": id, "to": to, "placed": placed, "provenance": provenance(&way) }))
}

async fn in_pool(node: &Node, key: KeyId) -> Result<Option<Value>, Problem> {
    let tag = key.slice().block.pool;
    let pools = node.supply.pools();
    let Some(pool) = pools.iter().find(|pool| pool.tag() == tag) else { return Ok(None) };
    let trace = pool.trace(key).await?;
    if trace.state == KeyState::NeverHere {
        return Ok(None);
    }
    let mut shown = json!({
        "peer": trace.peer,
        "block": trace.block,
        "offset": trace.offset,
        "length": trace.length,
        "state": trace.state,
    });
    if let Some(run) = trace.run {
        shown["run"] = json!(run);
    }
    if let Some(header) = trace.header {
        shown["module"] = json!(header.module);
        shown["received_ms"] = json!(header.received_ms);
        shown["provenance"] = provenance(&header.provenance);
    }
    Ok(Some(shown))
}

fn managed(object: &Object) -> Value {
    json!({
        "owner": object.owner,
        "state": object.state,
        "created_ms": object.created_ms,
        "sealed_bytes_present": object.sealed.is_some(),
        "provenance": provenance(&object.provenance),
    })
}

fn provenance(of: &Provenance) -> Value {
    let mut shown = json!({ "origin": of.origin, "path": of.path, "grade": of.grade().as_str(),
        "end_tag": of.end_tag().as_str() });
    if let Some(combined) = of.combined {
        shown["combined"] = json!(combined);
        if let Some(custody) = combined.custody {
            shown["combined"]["custody"] = json!(custody);
        }
    }
    if !of.split.is_empty() {
        shown["split"] = json!(of.split);
    }
    shown
}
