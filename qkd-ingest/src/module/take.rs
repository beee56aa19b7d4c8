//! enc_keys: new keys from the module. Enter through [`take`].

use std::time::{Duration, Instant};

use etsi014::{KeyContainer, KeyName, KeyRequest};
use km_core::{
    material::ClearBytes,
    module::{ModuleError, ModuleKey},
};
use tracing::warn;

use super::{Module, answer::refusal, channel::Answer, counters::add, limits::Plan, seen::ident};

/// Most bytes of one `take`.
const MAX_TAKE: usize = 16 << 20;
/// When no further request is begun.
const TAKE_TIME: Duration = Duration::from_secs(10);

/// Asks until `bytes` are there, the module has no more, or time is up. An error is reported only
/// when nothing came before it.
pub(super) async fn take(module: &Module, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
    let (bytes, until) = (bytes.clamp(1, MAX_TAKE), Instant::now() + TAKE_TIME);
    let (mut keys, mut have) = (Vec::new(), 0);
    while have < bytes && Instant::now() < until {
        match request(module, bytes - have).await {
            Ok(more) => {
                have += more.iter().map(|key| key.bytes.len()).sum::<usize>();
                keys.extend(more);
            }
            Err(error) if keys.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    add(&module.counters.keys_taken, keys.len());
    add(&module.counters.bytes_taken, have);
    Ok(keys)
}

/// One request; at least one key.
async fn request(module: &Module, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
    let plan = plan(module, bytes).await?;
    let wanted = KeyRequest {
        number: Some(plan.number),
        size: Some(plan.size_bits),
        ..KeyRequest::default()
    };
    let read = |answer: Answer| read(module, &answer, plan);
    let result = module.taking.ask(&module.enc_path, Some(wanted.to_json()), read).await;
    match &result {
        Ok(_) => module.spend(plan.bits()),
        Err(ModuleError::Empty) => module.spend(u64::MAX),
        // Its limits may have changed.
        Err(_) => module.forget_limits(),
    }
    result
}

/// From the cached status if that promises all that can be asked for, else from a fresh one.
async fn plan(module: &Module, bytes: usize) -> Result<Plan, ModuleError> {
    let wish = module.config.key_size_bits;
    let cached = module.cached().and_then(|k| k.limits.plan(wish, bytes, k.available));
    if let Some(plan) = cached.filter(|plan| !plan.short) {
        return Ok(plan);
    }
    let known = module.refresh(&module.taking).await?;
    known.limits.plan(wish, bytes, known.available).ok_or(ModuleError::Empty)
}

fn read(module: &Module, answer: &Answer, plan: Plan) -> Result<Vec<ModuleKey>, ModuleError> {
    match answer.status {
        200 => {}
        503 => return Err(ModuleError::Empty),
        _ => return Err(refusal("enc_keys", answer)),
    }
    let (container, skipped) = KeyContainer::parse_usable(&answer.body)
        .map_err(|e| ModuleError::Protocol(e.to_string()))?;
    let came = container.len() + skipped;
    if came as u64 > plan.number {
        let asked = plan.number;
        return Err(ModuleError::Protocol(format!(
            "{came} keys came where {asked} were asked for"
        )));
    }
    let keys = sift(module, &container, skipped, plan);
    if !keys.is_empty() {
        return Ok(keys);
    }
    Err(match came {
        0 => ModuleError::Empty,
        _ => ModuleError::Protocol(format!("none of {came} keys has a usable ID and size")),
    })
}

/// Drops what must not be used, with an alarm.
fn sift(module: &Module, from: &KeyContainer, skipped: usize, plan: Plan) -> Vec<ModuleKey> {
    let (mut bad, mut repeated) = (skipped, 0);
    let mut seen = module.seen();
    let mut sound = |(name, key): (&KeyName, &[u8])| {
        if key.len() as u64 * 8 != plan.size_bits {
            bad += 1;
            return None;
        }
        if !seen.is_new(ident(name)) {
            repeated += 1;
            return None;
        }
        Some(ModuleKey { id: name.to_string(), bytes: ClearBytes::copy_from(key), came: None })
    };
    let keys = from.iter().filter_map(&mut sound).collect();
    if bad + repeated > 0 {
        add(&module.counters.bad_keys, bad);
        add(&module.counters.duplicates, repeated);
        let module = &module.config.address;
        warn!(%module, bad, repeated, alarm = "module-bad-keys", "keys were dropped");
    }
    keys
}
