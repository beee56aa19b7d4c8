//! The tokens that take KEKs, and what waits in the store for each of them.
//!
//! A KM has a place for each of its tokens: its name for the first, and for every other that name, a slash
//! and the token's.

use std::{collections::BTreeSet, ops::Bound};

use super::{EpochError, table};
use crate::{
    hsm::{Hsm, HsmError, KekParcel, KekReceiver},
    records::{RecordError, Records},
    store::{Check, Commit, MAX_OPS, MAX_RANGE, Outcome, StoreError},
};

/// Before the marks of KMs that were taken out of their cluster: the rest of the key is the name.
pub const OUT: &[u8] = b"member/out/";
/// Most tokens that share KEKs: their parcels fit into one commit.
pub(super) const MOST_TOKENS: usize = 64;

const RECEIVER: &[u8] = b"share/receiver/";
const PARCEL: &[u8] = b"share/parcel/";
/// Written whenever a token is added, or a KM taken out.
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

/// Refuses tokens that make no places.
pub(super) fn check_tokens<'a>(
    tokens: impl Iterator<Item = (&'a str, &'a KekReceiver)>,
) -> Result<(), EpochError> {
    let mut names = BTreeSet::new();
    for (token, _) in tokens {
        if token.len() > MAX_NAME || !names.insert(token) || names.len() > MOST_TOKENS {
            let what = format!(
                "a key manager has at most {MOST_TOKENS} tokens that take KEKs, whose names differ and have \
                 at most {MAX_NAME} bytes; not so {token:?}"
            );
            return Err(HsmError::Unsupported(what).into());
        }
    }
    Ok(())
}

/// The tokens of the KM `name` take KEKs in this way from now on, and no others of it do.
pub(super) async fn replace_receivers(
    records: &Records,
    name: &str,
    tokens: &[(String, KekReceiver)],
) -> Result<(), EpochError> {
    let mut stale = places_of(records, name).await?;
    stale.retain(|known| tokens.iter().all(|(token, _)| place(name, token) != *known));
    let mut commit = stale.iter().fold(Commit::new(), |c, place| c.delete(receiver_key(place)));
    for (token, receiver) in tokens {
        commit = with_receiver(records, &place(name, token), receiver, commit).await?;
    }
    if commit.ops() > 0 {
        done(records.store().commit(commit).await)?;
    }
    forget_places(records, &stale).await
}

pub(super) async fn put_receiver(
    records: &Records,
    place: &str,
    receiver: &KekReceiver,
) -> Result<(), EpochError> {
    let commit = with_receiver(records, place, receiver, Commit::new()).await?;
    match commit.ops() {
        0 => Ok(()),
        _ => done(records.store().commit(commit).await),
    }
}

/// Nothing is added where this is known.
async fn with_receiver(
    records: &Records,
    place: &str,
    receiver: &KekReceiver,
    commit: Commit,
) -> Result<Commit, EpochError> {
    let key = receiver_key(place);
    let known: Option<KekReceiver> = records.get(&key).await?;
    if known.as_ref() == Some(receiver) {
        return Ok(commit);
    }
    if known.is_some_and(|known| known.kem.is_some()) && receiver.kem.is_none() {
        tracing::warn!(
            node = place,
            alarm = "kek-without-ml-kem",
            "its token took KEKs by ML-KEM as well, and asks for RSA-OAEP alone now"
        );
    }
    let value = records.encode(&key, receiver);
    Ok(set_changed(records, commit.put(key, value)))
}

/// Whoever wraps a KEK meanwhile does it again.
fn set_changed(records: &Records, commit: Commit) -> Commit {
    match commit.puts.iter().any(|(key, _)| key == SET) {
        true => commit,
        false => commit.put(SET, records.encode(SET, &())),
    }
}

/// That no token was added, nor a KM taken out.
pub(super) async fn set_as_it_is(records: &Records) -> Result<Check, EpochError> {
    let found = records.store().get(SET).await.map_err(RecordError::from)?;
    Ok(match found {
        Some(found) => Check::Is(SET.to_vec(), found.version),
        None => Check::Absent(SET.to_vec()),
    })
}

/// Has `commit` see to it that nobody wraps a KEK for any token of the KM `name` any more.
///
/// # Errors
/// Those of the store.
pub async fn expelled(
    records: &Records,
    name: &str,
    commit: Commit,
) -> Result<Commit, RecordError> {
    let mut places = places_of(records, name).await?;
    // More there are never; of what a commit has no room for the KM's mark speaks.
    places.truncate(MOST_TOKENS);
    let commit = places.iter().fold(commit, |commit, place| commit.delete(receiver_key(place)));
    Ok(set_changed(records, commit))
}

pub(super) async fn remove_receiver(records: &Records, name: &str) -> Result<(), EpochError> {
    let places = places_of(records, name).await?;
    let mut keys: Vec<Vec<u8>> = places.iter().map(|place| receiver_key(place)).collect();
    keys.extend(keys_under(records, &parcels_of(name)).await?);
    delete(records, &keys).await
}

/// Places of the KM `name` whose tokens it does not have any more get no KEK, and what waits for them goes.
pub(super) async fn keep_places(
    records: &Records,
    name: &str,
    tokens: &[String],
) -> Result<(), EpochError> {
    let mut stale = places_of(records, name).await?;
    stale.retain(|known| tokens.iter().all(|token| place(name, token) != *known));
    if stale.is_empty() {
        return Ok(());
    }
    tracing::warn!(?stale, "no token of that name is configured: it gets no KEK any more");
    let keys: Vec<Vec<u8>> = stale.iter().map(|place| receiver_key(place)).collect();
    delete(records, &keys).await?;
    forget_places(records, &stale).await
}

async fn forget_places(records: &Records, places: &[String]) -> Result<(), EpochError> {
    for place in places {
        let mut keys = keys_under(records, &parcels_of(place)).await?;
        // Those of the first token begin like those of every other.
        keys.retain(|key| *key == parcel_key(place, number_of(key)));
        delete(records, &keys).await?;
    }
    Ok(())
}

/// The places of the KM `name` that are known.
async fn places_of(records: &Records, name: &str) -> Result<Vec<String>, RecordError> {
    let mut keys = keys_under(records, &receiver_key(name)).await?;
    keys.retain(|key| km(&place_of(key)) == name);
    Ok(keys.iter().map(|key| place_of(key)).collect())
}

async fn keys_under(records: &Records, prefix: &[u8]) -> Result<Vec<Vec<u8>>, RecordError> {
    let (mut keys, mut after) = (Vec::new(), Bound::Unbounded);
    loop {
        let page = records.store().range(prefix, after, MAX_RANGE).await?;
        let Some(last) = page.last() else { return Ok(keys) };
        after = Bound::Excluded(last.key.clone());
        keys.extend(page.into_iter().map(|record| record.key));
    }
}

async fn delete(records: &Records, keys: &[Vec<u8>]) -> Result<(), EpochError> {
    for some in keys.chunks(MAX_OPS) {
        let commit = some.iter().fold(Commit::new(), |commit, key| commit.delete(key.clone()));
        done(records.store().commit(commit).await)?;
    }
    Ok(())
}

/// Those of KMs that were taken out are left out: an older program removes the first place alone.
pub(super) async fn receivers(
    records: &Records,
) -> Result<Vec<(String, KekReceiver)>, RecordError> {
    let (mut all, mut out) = (Vec::new(), Vec::new());
    records.each(RECEIVER, |key, receiver| all.push((place_of(key), receiver))).await?;
    let named = |key: &[u8]| String::from_utf8_lossy(&key[OUT.len()..]).into_owned();
    records.each::<()>(OUT, |key, ()| out.push(named(key))).await?;
    all.retain(|(place, _)| !out.iter().any(|name| name == km(place)));
    Ok(all)
}

/// Of a record of [`receiver_key`].
fn place_of(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(RECEIVER.len()..).unwrap_or_default()).into_owned()
}

/// The record of how the token at `place` takes KEKs. Without it, it gets none.
fn receiver_key(place: &str) -> Vec<u8> {
    [RECEIVER, place.as_bytes()].concat()
}

/// Of all tokens of the KM `name`.
pub(super) fn parcels_of(name: &str) -> Vec<u8> {
    [PARCEL, name.as_bytes(), b"/"].concat()
}

/// For the token at `place`.
pub(super) fn parcel_key(place: &str, number: u64) -> Vec<u8> {
    [parcels_of(place), number.to_be_bytes().to_vec()].concat()
}

/// The number of the KEK in a parcel, by its key.
fn number_of(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |number| u64::from_be_bytes(*number))
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
/// as another one holds the KEK, or nothing needs it: this KM works. What is of no epoch any more goes untried.
pub(super) async fn receive(
    hsm: &dyn Hsm,
    records: &Records,
    me: &str,
) -> Result<usize, EpochError> {
    let waiting = waiting(records, me).await?;
    if waiting.is_empty() {
        return Ok(0);
    }
    // Afterwards: an epoch is in the same commit as its parcels.
    let epochs = table::read(records).await?;
    let (mut took, mut failed) = (0, Vec::new());
    for (token, parcel) in waiting {
        let Some((epoch, _)) = epochs.get(&parcel.number) else { continue };
        if epoch.state.needs_kek() {
            if let Err(error) = hsm.take_kek_in(&token, &parcel).await {
                failed.push((token, epoch, error));
                continue;
            }
            took += 1;
        }
        delete(records, &[parcel_key(&place(me, &token), parcel.number)]).await?;
    }
    if failed.is_empty() {
        return Ok(took);
    }
    let held = hsm.keks().await?;
    for (token, epoch, error) in failed {
        if !epoch.swept && !held.iter().any(|kek| kek.number == epoch.number) {
            return Err(error.into());
        }
        let epoch = epoch.number;
        tracing::debug!(token, epoch, %error, "it did not take the KEK; it is tried again");
    }
    Ok(took)
}

/// The KEK of this number waits for no token of any KM any more.
pub(super) async fn forget(records: &Records, number: u64) -> Result<(), EpochError> {
    let mut keys = keys_under(records, PARCEL).await?;
    keys.retain(|key| number_of(key) == number);
    delete(records, &keys).await
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
                assert_eq!(number_of(&key), number);
            }
        }
        assert_eq!([km("n1"), km("n1/standby"), km("n1/a/b")], ["n1"; 3]);
        assert!(!parcel_key("n10", 1).starts_with(&parcels_of("n1")));
    }
}
