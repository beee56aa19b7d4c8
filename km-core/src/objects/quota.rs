//! How many objects an owner may have, and how many bytes their records may take. Enter through
//! [`Objects::with_quotas`].
//!
//! What is there is counted in the store at the start ([`Objects::count_ahead`]), every ten minutes in the
//! background, and when something is to be refused; in between it is followed in memory. So what other
//! KMs of the cluster make is noticed late, and what this one makes at once. A destroyed object is none,
//! but what its record still takes counts: otherwise the store could be filled with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{NewObject, Object, ObjectError, Objects, object::INDEX, object_key, placed_uid};
use crate::{ids::SaeId, records::RecordError, store::MAX_RANGE};

/// How long a count is gone by.
const COUNT_AGAIN: Duration = Duration::from_secs(600);
/// The same when something would be refused; and no sooner than after so many times what the last
/// count took.
const COUNT_AGAIN_FULL: Duration = Duration::from_secs(10);
const REST: u32 = 10;
/// What a record holds besides attributes, search terms and sealed bytes, about.
const OVERHEAD: usize = 256;

/// What an owner may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Objects that are not destroyed.
    pub objects: u64,
    /// Bytes of the records, also of destroyed ones: sealed bytes and attributes.
    pub bytes: u64,
}

/// Those who may not have as much as they like.
#[derive(Default)]
pub(super) struct Quotas(BTreeMap<SaeId, Arc<Account>>);

struct Account {
    owner: SaeId,
    quota: Quota,
    /// Held while the store is counted.
    counting: tokio::sync::Mutex<()>,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    stored: Charge,
    /// Of objects on their way into the store.
    coming: Charge,
    /// Stored since the count that is going on began.
    since: Charge,
    counted: Option<Instant>,
    /// What the last count took.
    took: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Charge {
    objects: u64,
    bytes: u64,
}

impl Charge {
    fn one(bytes: usize) -> Self {
        Self { objects: 1, bytes: bytes as u64 }
    }

    fn of(object: &Object) -> Self {
        let sealed = object.sealed.as_ref().map_or(0, |sealed| sealed.stored_len());
        let all = Self::one(OVERHEAD + object.attributes.len() + terms(&object.terms) + sealed);
        Self { objects: u64::from(!object.state.is_destroyed()), ..all }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            objects: self.objects.saturating_add(other.objects),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            objects: self.objects.saturating_sub(other.objects),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

fn terms(terms: &[String]) -> usize {
    terms.iter().map(String::len).sum()
}

/// A place under the quota for objects on their way into the store; given back when dropped, unless
/// [`Place::keep`] said that they are there.
#[must_use = "dropped, the objects do not count"]
pub struct Place(Option<(Arc<Account>, Charge)>);

impl Place {
    /// They are stored, or may be.
    pub fn keep(mut self) {
        let Some((account, charge)) = self.0.take() else { return };
        let mut used = account.used();
        used.coming = used.coming.minus(charge);
        used.stored = used.stored.plus(charge);
        used.since = used.since.plus(charge);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((account, charge)) = self.0.take() {
            let mut used = account.used();
            used.coming = used.coming.minus(charge);
        }
    }
}

impl Account {
    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a count older than `age` is all there is.
    fn is_stale(&self, age: Duration) -> bool {
        self.used().counted.is_none_or(|counted| counted.elapsed() >= age)
    }

    /// Takes a place for `charge` if there is one.
    fn take(self: &Arc<Self>, charge: Charge) -> Result<Place, ObjectError> {
        let Quota { objects, bytes } = self.quota;
        let mut used = self.used();
        let all = used.stored.plus(used.coming).plus(charge);
        // What grows no object and no byte is refused for neither.
        let over = |more, all, most| more > 0 && all > most;
        if over(charge.objects, all.objects, objects) || over(charge.bytes, all.bytes, bytes) {
            return Err(ObjectError::Quota { owner: self.owner.clone(), objects, bytes });
        }
        used.coming = used.coming.plus(charge);
        Ok(Place(Some((self.clone(), charge))))
    }
}

impl Objects {
    /// Bounds what these owners have; the others have as much as the store holds.
    pub fn with_quotas(self, quotas: BTreeMap<SaeId, Quota>) -> Self {
        let account = |(owner, quota): (SaeId, Quota)| {
            let (counting, used) = Default::default();
            (owner.clone(), Arc::new(Account { owner, quota, counting, used }))
        };
        Self { quotas: Arc::new(Quotas(quotas.into_iter().map(account).collect())), ..self }
    }

    /// Places for `count` objects like `sample` with `len` bytes of their own. Whoever spends keys on
    /// objects takes them first, and uses them with [`Objects::create_in`]: no key is burned for want
    /// of room.
    ///
    /// # Errors
    /// [`ObjectError::Quota`], and those of the store.
    pub async fn places(
        &self,
        sample: &NewObject,
        len: usize,
        count: u32,
    ) -> Result<Vec<Place>, ObjectError> {
        let mut places = Vec::new();
        for _ in 0..count {
            places.push(self.place_for(sample, len).await?);
        }
        Ok(places)
    }

    /// A place for a new object with `len` bytes of its own.
    pub(super) async fn place_for(
        &self,
        new: &NewObject,
        len: usize,
    ) -> Result<Place, ObjectError> {
        let bytes = OVERHEAD + new.attributes.len() + terms(&new.terms) + len;
        self.place(&new.owner, Charge::one(bytes)).await
    }

    /// A place for what a change of an object makes more of it.
    pub(super) async fn place_to_grow(
        &self,
        old: &Object,
        new: &Object,
    ) -> Result<Place, ObjectError> {
        let Charge { bytes, .. } = Charge::of(new).minus(Charge::of(old));
        match bytes {
            0 => Ok(Place(None)),
            bytes => self.place(&new.owner, Charge { objects: 0, bytes }).await,
        }
    }

    async fn place(&self, owner: &SaeId, charge: Charge) -> Result<Place, ObjectError> {
        let Some(account) = self.quotas.0.get(owner) else { return Ok(Place(None)) };
        if account.used().counted.is_none() {
            self.count(account, COUNT_AGAIN).await?;
        } else if account.is_stale(COUNT_AGAIN) && account.counting.try_lock().is_ok() {
            let (objects, account) = (self.clone(), Arc::clone(account));
            tokio::spawn(async move {
                if let Err(error) = objects.count(&account, COUNT_AGAIN).await {
                    tracing::warn!(owner = %account.owner, %error, "objects are not counted anew");
                }
            });
        }
        let rest = COUNT_AGAIN_FULL.max(account.used().took * REST);
        match account.take(charge) {
            Err(_) if account.is_stale(rest) => {
                self.count(account, rest).await?;
                account.take(charge)
            }
            taken => taken,
        }
    }

    /// `old` is destroyed, and `new` is what is left. On a stage it counts until the next count.
    pub(super) fn freed(&self, old: &Object, new: &Object) {
        if self.staged.is_none()
            && let Some(account) = self.quotas.0.get(&old.owner)
        {
            let mut used = account.used();
            used.stored = used.stored.minus(Charge::of(old)).plus(Charge::of(new));
        }
    }

    /// Counts what all of them have, so that their first objects need not wait for it.
    pub async fn count_ahead(&self) {
        for account in self.quotas.0.values() {
            if let Err(error) = self.count(account, COUNT_AGAIN).await {
                tracing::warn!(owner = %account.owner, %error, "objects are not counted");
            }
        }
    }

    /// Counts what is stored, if the last count is older than `age`.
    async fn count(&self, account: &Account, age: Duration) -> Result<(), ObjectError> {
        if !account.is_stale(age) {
            return Ok(());
        }
        let _counting = account.counting.lock().await;
        if !account.is_stale(age) {
            return Ok(());
        }
        let began = Instant::now();
        account.used().since = Charge::default();
        let mut found = Charge::default();
        for uid in self.uids_of(&account.owner).await? {
            // A range, which the store keeps nothing of: what is in use stays in its memory.
            let key = object_key(&uid, &account.owner);
            let read = self.records.store().range(&key, Bound::Unbounded, 1).await;
            let read = read.map_err(RecordError::from)?;
            if let Some(record) = read.first().filter(|record| record.key == key) {
                let object: Object = self.records.decode(&key, &record.value)?;
                found = found.plus(Charge::of(&object));
            }
        }
        let mut used = account.used();
        // What was stored meanwhile may have been found as well: rather too much than too little.
        used.stored = found.plus(used.since);
        (used.counted, used.took) = (Some(Instant::now()), began.elapsed());
        Ok(())
    }

    async fn uids_of(&self, owner: &SaeId) -> Result<BTreeSet<String>, ObjectError> {
        let prefix = [INDEX, owner.as_str().as_bytes(), b"\0"].concat();
        let (mut uids, mut after) = (BTreeSet::new(), Bound::Unbounded);
        loop {
            let page = self.records.store().range(&prefix, after, MAX_RANGE).await;
            let page = page.map_err(RecordError::from)?;
            for record in &page {
                let rest = record.key.get(prefix.len()..).unwrap_or_default();
                let term = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
                uids.insert(placed_uid(rest.get(term + 1..).unwrap_or_default()));
            }
            match page.last() {
                Some(last) if page.len() == MAX_RANGE => after = Bound::Excluded(last.key.clone()),
                _ => return Ok(uids),
            }
        }
    }
}
