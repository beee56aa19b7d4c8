//! The messages of the desk and their bytes.

use std::sync::Arc;

use km_core::{
    hsm::Custody,
    ids::{ClusterId, SaeId},
    key_id::KeyId,
    material::ClearBytes,
    pool::{CollectError, SuppliedKey},
    provenance::{Grade, Provenance},
    supply::{Level, SupplyError},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;
use wiped::Wiped;

/// Where who knows what was [`added`] to answers with keys asks. Those that answer everywhere the same knew
/// nothing of it.
pub(super) const MORE: &str = "/more";
/// Media type of both directions.
pub(super) const KIND: &str = "application/octet-stream";
/// Most bytes of a request: names, and the identifiers of as many keys as may be asked for.
pub(super) const MAX_REQUEST: usize = 256 << 10;
/// Most bytes of an answer: 4,096 keys of 256 bits, or 128 of the longest.
pub(super) const MAX_ANSWER: usize = 2 << 20;

#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    Issue { master: SaeId, slaves: Vec<SaeId>, size: u32, count: u32 },
    Collect { slave: SaeId, master: Option<SaeId>, ids: Vec<Uuid> },
    Bring { slave: SaeId, owner: SaeId, id: Uuid },
    Level { master: SaeId, slave: SaeId },
}

/// Without the key bytes, which follow it.
#[derive(Serialize, Deserialize)]
enum Head {
    Keys(Vec<(Uuid, u32, Provenance)>),
    Brought,
    Level(Level),
    Refused(Refusal),
}

#[derive(Serialize, Deserialize)]
enum Refusal {
    NotPaired { master: SaeId, slave: SaeId },
    BadSlaves(String),
    OutOfBounds(String),
    NoKeys(ClusterId),
    BelowGrade { peer: ClusterId, grade: Grade },
    NotFound(Vec<Uuid>),
    NotYours(Uuid),
    Unavailable(String),
    NotLed(String),
    Quota(String),
    Full,
}

pub(super) enum Answer {
    Keys(Vec<SuppliedKey>),
    Brought,
    Level(Level),
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    // Owned plain data: postcard has a form for all of it.
    postcard::to_allocvec(value).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    postcard::take_from_bytes(bytes).ok()
}

impl Request {
    pub(super) fn encode(&self) -> Wiped {
        Wiped::new(bytes(self))
    }

    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        parse(text).filter(|(_, rest)| rest.is_empty()).map(|(request, _)| request)
    }
}

/// What follows the bytes of keys: where their combinations were made ready, if there are any.
fn added(keys: &[SuppliedKey]) -> Vec<u8> {
    let custodies: Vec<_> = keys.iter().map(|key| key.provenance.custody()).collect();
    match custodies.iter().any(Option::is_some) {
        true => bytes(&custodies),
        false => Vec::new(),
    }
}

/// The bytes of an answer; with what was [`added`], for who knows of it.
pub(super) fn encode(answer: Result<Answer, SupplyError>, more: bool) -> Wiped {
    let keys = match answer {
        Ok(Answer::Keys(keys)) => keys,
        Ok(Answer::Brought) => return Wiped::new(bytes(&Head::Brought)),
        Ok(Answer::Level(level)) => return Wiped::new(bytes(&Head::Level(level))),
        Err(error) => return Wiped::new(bytes(&Head::Refused(refusal(error)))),
    };
    let named = |key: &SuppliedKey| {
        (key.id.uuid(), key.bytes.len() as u32, key.provenance.as_ref().clone())
    };
    let head = bytes(&Head::Keys(keys.iter().map(named).collect()));
    let added = if more { added(&keys) } else { Vec::new() };
    let clear: usize = keys.iter().map(|key| key.bytes.len()).sum();
    // In one piece: growing would leave copies.
    let mut all = Wiped::with_capacity(head.len() + clear + added.len());
    all.append(&head);
    for key in &keys {
        key.bytes.expose(|bytes| all.append(bytes));
    }
    all.append(&added);
    all
}

/// Reads an answer; `None` when it makes no sense.
pub(super) fn decode(text: &[u8]) -> Option<Result<Answer, SupplyError>> {
    let (head, mut clear) = parse::<Head>(text)?;
    let named = match head {
        Head::Keys(named) => named,
        Head::Brought => return Some(Ok(Answer::Brought)),
        Head::Level(level) => return Some(Ok(Answer::Level(level))),
        Head::Refused(refusal) => return error(refusal).map(Err),
    };
    let clear_bytes = named.iter().map(|(_, len, _)| *len as usize).sum();
    let mut custodies = custodies(clear.get(clear_bytes..)?, named.len())?.into_iter();
    let mut keys = Vec::with_capacity(named.len());
    for (id, len, mut provenance) in named {
        let (bytes, rest) = clear.split_at_checked(len as usize)?;
        clear = rest;
        provenance.tell_custody(custodies.next().flatten());
        let (bytes, provenance) = (ClearBytes::copy_from(bytes), Arc::new(provenance));
        keys.push(SuppliedKey { id: KeyId::from_uuid(id)?, bytes, provenance });
    }
    Some(Ok(Answer::Keys(keys)))
}

/// What [`added`] wrote for `keys` keys; nothing where it wrote nothing.
fn custodies(added: &[u8], keys: usize) -> Option<Vec<Option<Custody>>> {
    if added.is_empty() {
        return Some(Vec::new());
    }
    let (custodies, rest): (Vec<_>, _) = parse(added)?;
    (custodies.len() == keys && rest.is_empty()).then_some(custodies)
}

fn refusal(error: SupplyError) -> Refusal {
    match error {
        SupplyError::NotPaired { master, slave } => Refusal::NotPaired { master, slave },
        SupplyError::BadSlaves(text) => Refusal::BadSlaves(text),
        SupplyError::OutOfBounds(text) => Refusal::OutOfBounds(text),
        SupplyError::NoKeys(peer) => Refusal::NoKeys(peer),
        SupplyError::BelowGrade { peer, grade } => Refusal::BelowGrade { peer, grade },
        SupplyError::Collect(CollectError::NotFound(ids)) => {
            Refusal::NotFound(ids.into_iter().map(KeyId::uuid).collect())
        }
        SupplyError::Collect(CollectError::NotYours(id)) => Refusal::NotYours(id.uuid()),
        SupplyError::Collect(CollectError::Pool(error)) => Refusal::Unavailable(error.to_string()),
        SupplyError::Unavailable(text) => Refusal::Unavailable(text),
        SupplyError::NotLed(text) => Refusal::NotLed(text),
        SupplyError::Quota(text) => Refusal::Quota(text),
        SupplyError::Full => Refusal::Full,
    }
}

fn error(refusal: Refusal) -> Option<SupplyError> {
    Some(match refusal {
        Refusal::NotPaired { master, slave } => SupplyError::NotPaired { master, slave },
        Refusal::BadSlaves(text) => SupplyError::BadSlaves(text),
        Refusal::OutOfBounds(text) => SupplyError::OutOfBounds(text),
        Refusal::NoKeys(peer) => SupplyError::NoKeys(peer),
        Refusal::BelowGrade { peer, grade } => SupplyError::BelowGrade { peer, grade },
        Refusal::NotFound(ids) => {
            let ids: Option<Vec<_>> = ids.into_iter().map(KeyId::from_uuid).collect();
            SupplyError::Collect(CollectError::NotFound(ids?))
        }
        Refusal::NotYours(id) => {
            SupplyError::Collect(CollectError::NotYours(KeyId::from_uuid(id)?))
        }
        Refusal::Unavailable(text) => SupplyError::Unavailable(text),
        Refusal::NotLed(text) => SupplyError::NotLed(text),
        Refusal::Quota(text) => SupplyError::Quota(text),
        Refusal::Full => SupplyError::Full,
    })
}

#[cfg(test)]
mod tests {
    use km_core::{
        ids::{BlockId, LinkId, PoolTag},
        key_id::Slice,
        provenance::{Combination, CombineMethod},
        usage::kem::KemSet,
    };

    use super::*;

    fn key(offset: u16, custody: Option<Custody>) -> SuppliedKey {
        let mut provenance = Provenance::direct(LinkId::parse("l1").unwrap());
        let (kem, method) = (KemSet::MlKem768, CombineMethod::Xor);
        provenance.combined = Some(Combination { kem, method, custody });
        let block = BlockId { pool: PoolTag::from_bits(5), number: 9 };
        let id = KeyId::of(Slice { block, offset, len: 32 });
        SuppliedKey { id, bytes: ClearBytes::copy_from(&[7; 32]), provenance: provenance.into() }
    }

    fn told(answer: &[u8]) -> Option<Vec<Option<Custody>>> {
        let Answer::Keys(keys) = decode(answer)?.ok()? else { return None };
        assert!(keys.iter().all(|key| key.bytes.len() == 32));
        Some(keys.iter().map(|key| key.provenance.custody()).collect())
    }

    #[test]
    fn what_was_added_to_an_answer_is_told_to_who_knows_of_it_alone() {
        let said = [Some(Custody::InToken), None, Some(Custody::HostTransient)];
        let keys = |said: &[Option<Custody>]| {
            let keys = (0u16..).zip(said).map(|(n, custody)| key(32 * n, *custody));
            Ok(Answer::Keys(keys.collect()))
        };
        let (first, more) = (encode(keys(&said), false), encode(keys(&said), true));
        assert!(more.starts_with(&first) && more.len() > first.len());
        assert_eq!(told(&first), Some(vec![None; 3]));
        assert_eq!(told(&more), Some(said.to_vec()));
        // Nothing to say: as before.
        assert_eq!(encode(keys(&[None; 2]), true)[..], encode(keys(&[None; 2]), false)[..]);
        for cut in first.len() + 1..more.len() {
            assert_eq!(told(&more[..cut]), None, "{cut} bytes of {}", more.len());
        }
        assert_eq!(told(&[&more[..], &[0]].concat()), None, "bytes follow its end");
    }
}
