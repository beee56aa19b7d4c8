//! Get key with key IDs (clause 5.3): a slave collects what a master was issued.

use std::collections::BTreeSet;

use etsi014::{ErrorBody, KeyIds};
use km_core::{key_id::KeyId, pool::SuppliedKey, supply::Supply};

use super::{
    answer::{self, Refusal},
    pair::Slave,
};

/// All the keys or none, in the order asked.
pub(super) async fn dec_keys(
    supply: &Supply,
    pair: &Slave<'_>,
    wanted: &KeyIds,
) -> Result<Vec<SuppliedKey>, Refusal> {
    let most = supply.limits().max_keys;
    if wanted.names.len() as u64 > u64::from(most) {
        let text = format!("a request shall name at most {most} keys");
        return Err(Refusal::BadRequest(ErrorBody::new(text)));
    }
    let ids = parse(wanted)?;
    let keys = supply.collect(pair.caller, Some(&pair.master), &ids).await?;
    tracing::debug!(master = %pair.master, slave = %pair.caller, keys = keys.len(), "collected");
    Ok(keys)
}

fn parse(wanted: &KeyIds) -> Result<Vec<KeyId>, Refusal> {
    let mut ids = Vec::with_capacity(wanted.names.len());
    let mut foreign = Vec::new();
    for name in &wanted.names {
        match name.uuid().and_then(KeyId::from_uuid) {
            Some(id) => ids.push(id),
            None => foreign.push(name),
        }
    }
    if !foreign.is_empty() {
        return Err(answer::not_found(foreign));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = ids.iter().find(|id| !seen.insert(**id)) {
        let body = ErrorBody::new("a key ID is given twice").with("key_ID", twice.to_string());
        return Err(Refusal::BadRequest(body));
    }
    Ok(ids)
}
