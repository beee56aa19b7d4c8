//! Several KMs share a store, each with a token of its own: the keys of a new epoch go to all of their
//! tokens. Enter through [`Epochs::open_shared`], and [`catch_up`] before the store can be read.
//!
//! Each KM keeps in the store the public key by which its token takes KEKs. Who begins an epoch has its
//! keys wrapped for every other token, and the commit that makes the epoch brings these parcels. What
//! tells them from those of an intruder is the record key; so that a KM which was away can open that
//! one, it is kept under the KEKs of earlier epochs as well.
//!
//! A number is claimed before a KEK of it is made, so that two tokens never have different KEKs of one
//! number. A KEK whose epoch was never written down is passed over: no other token has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Epoch, EpochError, EpochPolicy, EpochState, Epochs, locked,
    receivers::{
        MOST_TOKENS, check_name, check_tokens, km, parcel_key, receive, receivers, remove_receiver,
        replace_receivers, set_as_it_is, waiting,
    },
    table,
    tokens::Own,
};
use crate::{
    hsm::{Hsm, HsmError, KEK_SEED_BYTES, KekId, KekInfo, KekParcel, KekReceiver, wrapping},
    material::ClearBytes,
    random::Random,
    records::{RecordError, Records},
    store::{Check, Commit, MAX_RANGE, Outcome, Store, StoreError},
    vault::{RECORD_KEY, Vault, VaultError},
};

const OLD_RECORD_KEY: &[u8] = b"share/record-key/";
const NEXT: &[u8] = b"share/next";
/// How long nothing must be found under an epoch before a token may do without its KEK: longer than
/// anybody takes to store what it sealed.
pub(super) const SETTLED: Duration = Duration::from_secs(20);
/// Tries of a change that another KM made at the same time.
pub(super) const TRIES: u32 = 3;

/// How many numbers are claimed.
#[derive(Serialize, Deserialize)]
struct Next(u64);

/// What the commit of an epoch brings along.
#[derive(Clone, Default)]
pub(super) struct Brings {
    /// Records: keys and values.
    pub(super) puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// That no token more takes KEKs since they were wrapped, which would lack this one for ever, and that no
    /// KM was taken out.
    pub(super) set: Option<Check>,
    /// The KEK, if this KM made it: its other tokens get it once the commit is done.
    pub(super) made: Option<KekInfo>,
}

/// A KEK that was made, and what the commit of its epoch has to bring.
pub(super) struct Made {
    pub(super) kek: KekInfo,
    pub(super) brings: Brings,
    /// For the tokens that were named, in order.
    pub(super) parcels: Vec<KekParcel>,
}

/// The token of one KM among several.
pub(super) struct Share {
    /// The name of the KM.
    pub(super) me: String,
    /// How its tokens take KEKs, once that mattered.
    pub(super) own: tokio::sync::Mutex<Own>,
    /// Retiring epochs whose KEK the token lacks, and under which there may be something.
    lacks: Mutex<BTreeSet<u64>>,
    /// The KEKs of the token.
    pub(super) held: Mutex<BTreeSet<KekId>>,
    /// Of destroyed epochs, by number: those a token may hold that was away when they were to go here.
    pub(super) undone: Mutex<BTreeMap<u64, KekInfo>>,
    /// Since when nothing was found under a retiring epoch.
    empty_since: Mutex<BTreeMap<u64, Instant>>,
}

impl Epochs {
    /// As [`Epochs::open`], of a store that this KM, `me`, shares with others. Its token may lack KEKs of
    /// epochs that retire: [`Epochs::lacks`].
    ///
    /// # Errors
    /// As [`Epochs::open`].
    pub async fn open_shared(
        hsm: Arc<dyn Hsm>,
        records: Records,
        policy: EpochPolicy,
        random: Arc<Random>,
        me: &str,
    ) -> Result<Arc<Self>, EpochError> {
        receive(hsm.as_ref(), &records, me).await?;
        let share = Share {
            me: me.to_owned(),
            own: tokio::sync::Mutex::default(),
            lacks: Mutex::default(),
            held: Mutex::default(),
            undone: Mutex::default(),
            empty_since: Mutex::default(),
        };
        Self::open_as(hsm, records, policy, random, Some(share)).await
    }

    /// Epochs of before this KM joined, under which something may still be that its token cannot open: as
    /// long as there are any, another KM has to serve.
    pub fn lacks(&self) -> Vec<u64> {
        let lacks = |share: &Share| locked(&share.lacks).iter().copied().collect();
        self.share.as_ref().map(lacks).unwrap_or_default()
    }

    /// Takes the keys of epochs that other KMs began, and sees what they wrote of the epochs; to be
    /// called every now and then.
    ///
    /// # Errors
    /// Those of token and store, and [`EpochError::Missing`] when the active epoch is of another token and
    /// nobody wrapped its keys for this one.
    pub async fn receive(&self) -> Result<(), EpochError> {
        let Some(share) = &self.share else { return Ok(()) };
        if !receivers(&self.records).await?.is_empty() {
            self.register().await?;
        }
        let _changing = self.changing.lock().await;
        let took = self.take_waiting().await?;
        let waits = !locked(&share.lacks).is_empty();
        self.read_again().await?;
        match took || waits || self.has_destroyed() {
            true => self.take_in("another key manager").await,
            false => Ok(()),
        }
    }

    /// Whether the token has `kek` after what waits for it was taken, and had not before.
    pub(crate) async fn fetch(&self, kek: &KekId) -> bool {
        let Some(share) = &self.share else { return false };
        let holds = || locked(&share.held).contains(kek);
        if holds() {
            return false;
        }
        match self.receive().await {
            Ok(()) => holds(),
            Err(error) => {
                tracing::warn!(%error, "what waits for the token was not taken");
                false
            }
        }
    }

    /// Lets the tokens of the KM `name` have the keys of every epoch to come, and begins one, of which each of
    /// them gets the keys, or none does ([`Epochs::waiting_for`]). The name of its first token is empty.
    ///
    /// # Errors
    /// [`HsmError::Unsupported`] of a name or token that cannot be, and those of [`Epochs::rotate`].
    pub async fn admit(
        &self,
        name: &str,
        tokens: &[(String, KekReceiver)],
    ) -> Result<Epoch, EpochError> {
        check_name(name)?;
        check_tokens(tokens.iter().map(|(token, receiver)| (token.as_str(), receiver)))?;
        let _changing = self.changing.lock().await;
        if !self.register().await? {
            let text = "this key manager's own token takes no KEKs, and so gives none".to_owned();
            return Err(HsmError::Unsupported(text).into());
        }
        let mut after = receivers(&self.records).await?;
        after.retain(|(place, _)| km(place) != name);
        if after.len() + tokens.len() > MOST_TOKENS {
            let text = format!("at most {MOST_TOKENS} tokens share the KEKs of a store");
            return Err(HsmError::Unsupported(text).into());
        }
        let begun = async {
            replace_receivers(&self.records, name, tokens).await?;
            self.begin(&format!("{name} joins"), &[]).await
        };
        match begun.await {
            Ok((epoch, _)) => Ok(epoch),
            Err(error) => {
                remove_receiver(&self.records, name).await?;
                Err(error)
            }
        }
    }

    /// All that waits for the tokens of `name`, each with the name of the token. Whoever joins needs it:
    /// another may have joined at the same time, and the record key be under the epoch that began for that
    /// one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn waiting_for(&self, name: &str) -> Result<Vec<(String, KekParcel)>, EpochError> {
        Ok(waiting(&self.records, name).await?)
    }

    /// The token of `name` gets no key of an epoch that begins after this, and one does.
    ///
    /// # Errors
    /// Those of [`Epochs::rotate`].
    pub async fn expel(&self, name: &str, who: &str) -> Result<Epoch, EpochError> {
        let _changing = self.changing.lock().await;
        remove_receiver(&self.records, name).await?;
        let (epoch, _) = self.begin(who, &[]).await?;
        Ok(epoch)
    }

    /// How the tokens of each KM that has its own take KEKs: see [`wrapping`]. Of several the worst is told.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn wrappings(&self) -> Result<BTreeMap<String, &'static str>, EpochError> {
        let mut all: BTreeMap<String, bool> = BTreeMap::new();
        for (place, at) in receivers(&self.records).await? {
            *all.entry(km(&place).to_owned()).or_insert(true) &= at.kem.is_some();
        }
        Ok(all.into_iter().map(|(name, with_kem)| (name, wrapping(with_kem))).collect())
    }

    /// Makes a KEK, for the tokens of the other KMs as well, and for those of `more`.
    pub(super) async fn make_kek(&self, more: &[KekReceiver]) -> Result<Made, EpochError> {
        let set = match &self.share {
            Some(_) => Some(set_as_it_is(&self.records).await?),
            None => None,
        };
        let others = self.others().await?;
        if others.is_empty() && more.is_empty() && !self.hsm.is_several() {
            let kek = self.hsm.create_kek().await?;
            let brings = Brings { puts: Vec::new(), set, made: Some(kek.clone()) };
            return Ok(Made { kek, brings, parcels: Vec::new() });
        }
        let from = match others.is_empty() {
            true => 0,
            false => self.claim().await?,
        };
        let all: Vec<KekReceiver> =
            more.iter().chain(others.iter().map(|(_, r)| r)).cloned().collect();
        let seed = self.random.bytes(KEK_SEED_BYTES).await.map_err(HsmError::from)?;
        let (kek, mut parcels) = self.hsm.create_kek_for(from, &all, &seed).await?;
        let for_others = parcels.split_off(more.len().min(parcels.len()));
        let mut puts = self.untaken(&kek);
        for ((name, _), parcel) in others.iter().zip(&for_others) {
            let (wrapping, number) = (wrapping(parcel.kem.is_some()), parcel.number);
            tracing::info!(node = name, epoch = number, wrapping, "a KEK goes to another token");
            let key = parcel_key(name, parcel.number);
            let value = self.records.encode(&key, parcel);
            puts.push((key, value));
        }
        if !others.is_empty() {
            let stored = self.records.store().get(RECORD_KEY).await.map_err(RecordError::from)?;
            puts.extend(stored.map(|record| (old_key(kek.number), record.value)));
        }
        let brings = Brings { puts, set, made: Some(kek.clone()) };
        Ok(Made { kek, brings, parcels })
    }

    /// A number that no other KM makes a KEK of.
    async fn claim(&self) -> Result<u64, EpochError> {
        let table = table::read(&self.records).await?;
        let after = table.keys().next_back().map_or(1, |last| last.saturating_add(1));
        for _ in 0..TRIES {
            let store = self.records.store();
            let found = store.get(NEXT).await.map_err(RecordError::from)?;
            let (number, commit) = match &found {
                None => (after, Commit::new().absent(NEXT)),
                Some(found) => {
                    let Next(next) = self.records.decode(NEXT, &found.value)?;
                    (next.max(after), Commit::new().unchanged(NEXT, found.version))
                }
            };
            let value = self.records.encode(NEXT, &Next(number.saturating_add(1)));
            let outcome = store.commit(commit.put(NEXT, value)).await.map_err(RecordError::from)?;
            if matches!(outcome, Outcome::Committed(_)) {
                return Ok(number);
            }
        }
        Err(EpochError::Unknown)
    }

    /// Whether KMs with tokens of their own share the store.
    pub(super) async fn is_among_tokens(&self) -> Result<bool, EpochError> {
        Ok(!self.others().await?.is_empty())
    }

    /// Another KM may have changed the epochs.
    pub(super) async fn read_again(&self) -> Result<(), EpochError> {
        if self.share.is_some() {
            let read = table::read(&self.records).await?;
            *locked(&self.table) = read;
        }
        Ok(())
    }

    /// Notes which KEKs the token has, and which epochs it lacks. Not of a KM with a store of its own.
    pub(super) fn note_held(&self, keks: &[KekInfo]) {
        let Some(share) = &self.share else { return };
        let held: BTreeSet<KekId> = keks.iter().map(|kek| kek.id.clone()).collect();
        let rows = locked(&self.table);
        let lacks = rows.values().map(|(epoch, _)| epoch).filter(|epoch| {
            epoch.state == EpochState::Retiring && !epoch.swept && !held.contains(&epoch.kek)
        });
        let lacks: BTreeSet<u64> = lacks.map(|epoch| epoch.number).collect();
        let before = std::mem::replace(&mut *locked(&share.lacks), lacks.clone());
        if lacks != before {
            match lacks.is_empty() {
                true => tracing::info!("the token opens all that is in the store"),
                false => tracing::warn!(?lacks, "of before this key manager joined, and not empty"),
            }
        }
        *locked(&share.held) = held;
    }

    /// Whether this token can empty an epoch.
    pub(super) fn holds(&self, epoch: &Epoch) -> bool {
        self.share.as_ref().is_none_or(|share| locked(&share.held).contains(&epoch.kek))
    }

    /// Retiring epochs that are empty, or that nothing was found under for long enough, are written down as swept. Call it
    /// after a look.
    pub(super) async fn note_swept(&self, found: &BTreeMap<u64, bool>) -> Result<(), EpochError> {
        let Some(share) = &self.share else { return Ok(()) };
        let settled = |number: &u64| {
            let mut since = locked(&share.empty_since);
            since.entry(*number).or_insert_with(Instant::now).elapsed() >= SETTLED
        };
        let _changing = self.changing.lock().await;
        for (number, found) in found {
            if *found {
                locked(&share.empty_since).remove(number);
                continue;
            }
            let (epoch, _) = self.row(*number)?;
            let proven = locked(&self.seen).get(number).is_some_and(|seen| seen.empty);
            if !epoch.swept && epoch.state == EpochState::Retiring && (proven || settled(number)) {
                self.save(vec![Epoch { swept: true, ..epoch }], Vec::new()).await?;
                tracing::info!(epoch = number, "tokens may do without the KEK of this epoch");
            }
        }
        Ok(())
    }
}

/// The record key of a shared store, for the token of `me`, which may have been away while epochs began.
///
/// # Errors
/// As [`Vault::record_key`].
pub async fn catch_up(
    vault: &Vault,
    hsm: &dyn Hsm,
    store: &Arc<dyn Store>,
    me: &str,
) -> Result<ClearBytes, VaultError> {
    let refused = match vault.record_key(store.as_ref()).await {
        Err(error @ VaultError::Foreign(_)) => error,
        done => return done,
    };
    let old = store.range(OLD_RECORD_KEY, Bound::Unbounded, MAX_RANGE).await?;
    for record in old.iter().rev() {
        if let Ok(key) = vault.open_record_key(record).await {
            let records = Records::new(store.clone(), &key);
            return match receive(hsm, &records, me).await {
                Ok(_) => Ok(key),
                Err(EpochError::Hsm(error)) => Err(error.into()),
                Err(error) => Err(StoreError::Unavailable(error.to_string()).into()),
            };
        }
    }
    Err(refused)
}

fn old_key(number: u64) -> Vec<u8> {
    [OLD_RECORD_KEY, &number.to_be_bytes()].concat()
}
