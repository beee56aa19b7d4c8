//! Get status (clause 5.1).

use etsi014::Status;
use km_core::{run::MAX_SLAVES, supply::Supply};
use wiped::Wiped;

use super::{answer::Refusal, pair::Master};

/// Stock and limits as the master sees them. Counts are in keys of the default size.
pub(super) async fn status(supply: &Supply, pair: &Master<'_>) -> Result<Wiped, Refusal> {
    let level = supply.level(pair.caller, &pair.slave).await?;
    let limits = supply.limits();
    let keys = |bytes: u64| bytes.saturating_mul(8) / u64::from(limits.key_size.max(1));
    let max_key_count = keys(level.max_bytes);
    let status = Status {
        source_kme_id: supply.here().to_string(),
        target_kme_id: level.peer.to_string(),
        master_sae_id: pair.caller.to_string(),
        slave_sae_id: pair.slave.to_string(),
        key_size: limits.key_size.into(),
        // The block that fills a pool may pass its bound by a little.
        stored_key_count: keys(level.stored_bytes).min(max_key_count),
        max_key_count,
        max_key_per_request: limits.max_keys.into(),
        max_key_size: limits.max_key_size.into(),
        min_key_size: limits.min_key_size.into(),
        max_sae_id_count: MAX_SLAVES as u64 - 1,
        status_extension: None,
    };
    Ok(Wiped::new(status.to_json()))
}
