//! Get key (clause 5.2): fresh keys for a master.

use etsi014::{ErrorBody, KeyRequest, text};
use km_core::{ids::SaeId, pool::SuppliedKey, run::MAX_SLAVES, supply::Supply};

use super::{
    answer::Refusal,
    pair::{self, Master},
    way,
};

/// Names of mandatory extensions that are granted.
const EXTENSIONS: [&str; 1] = [way::OPTION];

pub(super) async fn enc_keys(
    supply: &Supply,
    pair: &Master<'_>,
    wanted: &KeyRequest,
) -> Result<Vec<SuppliedKey>, Refusal> {
    let mut mandatory = wanted.extension_mandatory.iter().flat_map(|option| option.keys());
    if let Some(unknown) = mandatory.find(|name| !EXTENSIONS.contains(&name.as_str())) {
        let body = ErrorBody::new(text::MANDATORY_NOT_SUPPORTED);
        return Err(Refusal::BadRequest(body.with("extension", shortened(unknown))));
    }
    let size = wanted.size.unwrap_or(supply.limits().key_size.into());
    if !size.is_multiple_of(8) {
        return Err(Refusal::BadRequest(ErrorBody::new(text::SIZE_MULTIPLE_OF_8)));
    }
    // Still a multiple of 8, and still far beyond any limit, so that the supply refuses it.
    let size = u32::try_from(size).unwrap_or(u32::MAX - 7);
    let number = u32::try_from(wanted.number.unwrap_or(1)).unwrap_or(u32::MAX);
    let slaves = slaves(&pair.slave, &wanted.additional_slave_sae_ids)?;
    let keys = supply.issue(pair.caller, &slaves, size, number).await?;
    tracing::debug!(master = %pair.caller, slave = %pair.slave, keys = keys.len(), size, "issued");
    Ok(keys)
}

/// The slave in the URL and the additional ones; who is named twice gets the key once.
fn slaves(first: &SaeId, additional: &[String]) -> Result<Vec<SaeId>, Refusal> {
    let most = MAX_SLAVES - 1;
    if additional.len() > most {
        let text = format!("additional_slave_SAE_IDs shall name at most {most} SAEs");
        return Err(Refusal::BadRequest(ErrorBody::new(text)));
    }
    let mut slaves = vec![first.clone()];
    for name in additional {
        slaves.push(pair::parse(name)?);
    }
    Ok(slaves)
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}
