//! The tokens that take KEKs, and what waits in the store for each of them.
//!
//! A KM has a place for each of its tokens: its name for the first, and for every other that name, a slash
//! and the token's.

use std::{collections::BTreeSet, ops::Bound};

use super::EpochError;
use crate::{
    hsm::{Hsm, HsmError, KekParcel, KekReceiver},
    records::{RecordError, Records},
    store::{Check, Commit, MAX_RANGE, Outcome, StoreError},
};

const RECEIVER: &[u8] = b"share/receiver/";
const PARCEL: &[u8] = b"share/parcel/";
/// Written whenever a token is added.
const SET: &[u8] = b"share/set";
/// Longest name of a KM, and of a token.
const MAX_NAME: usize = 64;

pub(super) fn check_name(name: &str) -> Result<(), EpochError> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains('/') {
        let what = "the name of a key manager has 1 to 64 bytes and no slash";
        return Err(HsmError::Unsupported(what.to_owned()).into());
    }
    Ok(())
}

/// The place of a token of the KM `name`; the first token's name is empty.
pub(super) fn place(name: &str, token: &str) -> String {
    match token {
        "" => name.to_owned(),
        token => format!("{name}/{token}"),
    }
}

/// The KM that has a place.
pub(super) fn km(place: &str) -> &str {
    place.split_once('/').map_or(place, |(name, _)| name)
}

/// Refuses names of tokens that make no places.
pub(super) fn check_tokens(receivers: &[(String, KekReceiver)]) -> Result<(), EpochError> {
    let names: BTreeSet<&str> = receivers.iter().map(|(token, _)| token.as_str()).collect();
    if names.len() != receivers.len() || names.iter().any(|name| name.len() > MAX_NAME) {
        let what = "the names of a key manager's tokens differ and have at most 64 bytes";
        return Err(HsmError::Unsupported(what.to_owned()).into());
    }
    Ok(())
}

pub(super) async fn put_receiver(
    records: &Records,
    name: &str,
    receiver: &KekReceiver,
) -> Result<(), EpochError> {
    let key = receiver_key(name);
    let known: Option<KekReceiver> = records.get(&key).await?;
    if known.as_ref() == Some(receiver) {
        return Ok(());
    }
    if known.is_some_and(|known| known.kem.is_some()) && receiver.kem.is_none() {
        tracing::warn!(
            node = name,
            alarm = "kek-without-ml-kem",
            "its token took KEKs by ML-KEM as well, and asks for RSA-OAEP alone now"
        );
    }
    let value = records.encode(&key, receiver);
    let commit = Commit::new().put(key, value).put(SET, records.encode(SET, &()));
    done(records.store().commit(commit).await)
}

/// That no token was added.
pub(super) async fn set_as_it_is(records: &Records) -> Result<Check, EpochError> {
    let found = records.store().get(SET).await.map_err(RecordError::from)?;
    Ok(match found {
        Some(found) => Check::Is(SET.to_vec(), found.version),
        None => Check::Absent(SET.to_vec()),
    })
}

pub(super) async fn remove_receiver(records: &Records, name: &str) -> Result<(), EpochError> {
    let (store, key) = (records.store(), receiver_key(name));
    let further = [&key[..], b"/"].concat();
    let mut keys: Vec<Vec<u8>> = vec![key];
    for prefix in [further, parcels_of(name)] {
        let found = store.range(&prefix, Bound::Unbounded, MAX_RANGE).await;
        keys.extend(found.map_err(RecordError::from)?.into_iter().map(|record| record.key));
    }
    for some in keys.chunks(crate::store::MAX_OPS) {
        let commit = some.iter().fold(Commit::new(), |commit, key| commit.delete(key.clone()));
        done(store.commit(commit).await)?;
    }
    Ok(())
}

pub(super) async fn receivers(
    records: &Records,
) -> Result<Vec<(String, KekReceiver)>, RecordError> {
    let mut all = Vec::new();
    let named = |key: &[u8]| String::from_utf8_lossy(&key[RECEIVER.len()..]).into_owned();
    records.each(RECEIVER, |key, receiver| all.push((named(key), receiver))).await?;
    Ok(all)
}

/// The record of how the token of `name` takes KEKs. Without it, it gets none.
pub fn receiver_key(name: &str) -> Vec<u8> {
    [RECEIVER, name.as_bytes()].concat()
}

/// Of all tokens of the KM `name`.
pub(super) fn parcels_of(name: &str) -> Vec<u8> {
    [PARCEL, name.as_bytes(), b"/"].concat()
}

/// For the token at `place`.
pub(super) fn parcel_key(place: &str, number: u64) -> Vec<u8> {
    [parcels_of(place), number.to_be_bytes().to_vec()].concat()
}

/// Whose token a parcel of the KM `name` is for, by its key.
fn token_of(name: &str, key: &[u8]) -> String {
    let rest = key.get(parcels_of(name).len()..).unwrap_or_default();
    let token = rest.len().checked_sub(size_of::<u64>() + 1).and_then(|len| rest.get(..len));
    String::from_utf8_lossy(token.unwrap_or_default()).into_owned()
}

/// What waits for the tokens of the KM `name`.
pub(super) async fn waiting(
    records: &Records,
    name: &str,
) -> Result<Vec<(String, KekParcel)>, RecordError> {
    let mut all = Vec::new();
    let keep = |key: &[u8], parcel| all.push((token_of(name, key), parcel));
    records.each(&parcels_of(name), keep).await?;
    Ok(all)
}

/// Takes what is there for the tokens of `me`; how many parcels. What a token does not take waits on, as long
/// as another one holds the KEK: this KM works.
pub(super) async fn receive(
    hsm: &dyn Hsm,
    records: &Records,
    me: &str,
) -> Result<usize, EpochError> {
    let (mut took, mut failed) = (0, Vec::new());
    for (token, parcel) in waiting(records, me).await? {
        if let Err(error) = hsm.take_kek_in(&token, &parcel).await {
            failed.push((token, parcel.number, error));
            continue;
        }
        let key = parcel_key(&place(me, &token), parcel.number);
        done(records.store().commit(Commit::new().delete(key)).await)?;
        took += 1;
    }
    if failed.is_empty() {
        return Ok(took);
    }
    let held = hsm.keks().await?;
    for (token, number, error) in failed {
        if !held.iter().any(|kek| kek.number == number) {
            return Err(error.into());
        }
        tracing::debug!(token, epoch = number, %error, "it did not take the KEK; it is tried again");
    }
    Ok(took)
}

/// Nothing of this number waits for the tokens of the KM `name` any more.
pub(super) async fn forget(records: &Records, name: &str, number: u64) -> Result<(), EpochError> {
    for (token, parcel) in waiting(records, name).await? {
        if parcel.number == number {
            let key = parcel_key(&place(name, &token), number);
            done(records.store().commit(Commit::new().delete(key)).await)?;
        }
    }
    Ok(())
}

fn done(outcome: Result<Outcome, StoreError>) -> Result<(), EpochError> {
    match outcome.map_err(RecordError::from)? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Conflict | Outcome::Unknown => Err(EpochError::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_parcel_tells_its_token_whatever_its_number_is() {
        // With slashes among the bytes, and a number that ends like a name.
        for number in [1, 0x2F, 0x2F2F_2F2F_2F2F_2F2F, 0x2F73_7461_6E64_6279] {
            for (name, token) in [("n1", ""), ("n1", "standby"), ("", "standby"), ("n1", "a/b")] {
                let key = parcel_key(&place(name, token), number);
                assert_eq!(token_of(name, &key), token, "{name} {number:x}");
                assert!(key.starts_with(&parcels_of(name)));
            }
        }
        assert_eq!([km("n1"), km("n1/standby"), km("n1/a/b")], ["n1"; 3]);
        assert!(!parcel_key("n10", 1).starts_with(&parcels_of("n1")));
    }
}
