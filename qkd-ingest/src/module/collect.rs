//! dec_keys: the keys the other end took. Enter through [`collect`].

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use etsi014::{KeyContainer, KeyIds, KeyName, MAX_KEYS};
use km_core::{
    material::ClearBytes,
    module::{ModuleError, ModuleKey},
};
use tracing::warn;

use super::{
    Module,
    answer::{is_unknown_key, refusal},
    channel::Answer,
    counters::add,
    held::Gathered,
    seen::{Ident, ident},
};

/// When no further batch is begun; what came until then waits for the retry.
const COLLECT_TIME: Duration = Duration::from_secs(30);

/// All keys of `ids` in their order, or an error. After an error the same call may be repeated:
/// keys that came already are not asked for again.
pub(super) async fn collect(
    module: &Module,
    ids: &[String],
) -> Result<Vec<ModuleKey>, ModuleError> {
    let names = names(ids)?;
    let idents: Vec<Ident> = names.iter().map(ident).collect();
    if idents.iter().collect::<HashSet<_>>().len() < idents.len() {
        return Err(ModuleError::Protocol("the other end announced an ID twice".to_owned()));
    }
    let mut gathered = Gathered::resume(&module.held, &idents);
    let missing: Vec<KeyName> =
        names.iter().filter(|name| !gathered.has(ident(name))).cloned().collect();
    if !missing.is_empty() {
        let until = Instant::now() + COLLECT_TIME;
        for batch in missing.chunks(module.batch().await?) {
            if Instant::now() >= until {
                let text = format!("collecting took longer than {COLLECT_TIME:?}");
                return Err(ModuleError::Unavailable(text));
            }
            request(module, batch, &mut gathered).await?;
        }
    }
    let pairs = ids.iter().zip(&idents);
    let keys: Option<Vec<ModuleKey>> = pairs
        .map(|(id, ident)| {
            Some(ModuleKey { id: id.clone(), bytes: gathered.remove(*ident)?, came: None })
        })
        .collect();
    let keys = keys.ok_or(ModuleError::UnknownId)?;
    add(&module.counters.keys_collected, keys.len());
    add(&module.counters.bytes_collected, keys.iter().map(|key| key.bytes.len()).sum());
    Ok(keys)
}

fn names(ids: &[String]) -> Result<Vec<KeyName>, ModuleError> {
    if ids.len() > MAX_KEYS {
        let text = format!("{} IDs at once; at most {MAX_KEYS} are collected", ids.len());
        return Err(ModuleError::Protocol(text));
    }
    let names: Option<Vec<KeyName>> = ids.iter().map(|id| KeyName::parse(id)).collect();
    names.ok_or_else(|| ModuleError::Protocol("the other end announced an unusable ID".to_owned()))
}

/// One batch. A partial answer is kept, and is `UnknownId`.
async fn request(
    module: &Module,
    batch: &[KeyName],
    gathered: &mut Gathered,
) -> Result<(), ModuleError> {
    let body = KeyIds { names: batch.to_vec(), ..KeyIds::default() }.to_json();
    let read = |answer: Answer| read(module, &answer, batch, gathered);
    let result = module.collecting.ask(&module.dec_path, Some(body), read).await;
    if let Err(ModuleError::Protocol(_)) = &result {
        // Its limits may have changed.
        module.forget_limits();
    }
    result
}

fn read(
    module: &Module,
    answer: &Answer,
    batch: &[KeyName],
    gathered: &mut Gathered,
) -> Result<(), ModuleError> {
    if answer.status != 200 {
        let unknown = is_unknown_key(answer);
        return Err(if unknown { ModuleError::UnknownId } else { refusal("dec_keys", answer) });
    }
    let (container, skipped) = KeyContainer::parse_usable(&answer.body)
        .map_err(|e| ModuleError::Protocol(e.to_string()))?;
    let (came, asked) = (container.len() + skipped, batch.len());
    if came > asked {
        return Err(ModuleError::Protocol(format!(
            "{came} keys came where {asked} were asked for"
        )));
    }
    let mut left: HashSet<Ident> = batch.iter().map(ident).collect();
    let mut bad = skipped;
    for (name, key) in container.iter() {
        if left.remove(&ident(name)) {
            gathered.add(ident(name), ClearBytes::copy_from(key));
        } else {
            bad += 1;
        }
    }
    if bad > 0 {
        add(&module.counters.bad_keys, bad);
        let module = &module.config.address;
        warn!(%module, bad, alarm = "module-bad-keys", "keys came that were not asked for");
    }
    if left.is_empty() { Ok(()) } else { Err(ModuleError::UnknownId) }
}
