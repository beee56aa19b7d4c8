//! Keys collected by their IDs, each once.

use std::{collections::HashMap, sync::Arc};

use super::{
    Supply, SupplyError,
    term::{Term, lost},
    unavailable,
};
use crate::{
    ids::{ClusterId, PoolTag, SaeId},
    key_id::KeyId,
    pool::{CollectError, Pool, Reservation, SuppliedKey},
};

impl Supply {
    /// Collects keys by ID for `slave`, all or none. With `master`, only keys that master was
    /// issued count (ETSI 014 dec_keys).
    pub async fn collect(
        &self,
        slave: &SaeId,
        master: Option<&SaeId>,
        ids: &[KeyId],
    ) -> Result<Vec<SuppliedKey>, SupplyError> {
        self.where_led(|term| async move {
            match term {
                Some(term) => self.collect_in(&term, slave, master, ids).await,
                None => self.desk()?.collect(slave, master, ids).await,
            }
        })
        .await
    }

    async fn collect_in(
        &self,
        term: &Term,
        slave: &SaeId,
        master: Option<&SaeId>,
        ids: &[KeyId],
    ) -> Result<Vec<SuppliedKey>, SupplyError> {
        let mut reserved = Vec::new();
        let mut refused = None;
        for (tag, of_pool) in by_pool(ids) {
            match term.pool(tag).map(|pool| self.reserve(pool, slave, master, &of_pool)) {
                Some(Ok(reservation)) => reserved.push(reservation),
                Some(Err(error)) => refused = Some(error.join(refused)),
                None => refused = Some(CollectError::NotFound(of_pool).join(refused)),
            }
        }
        if let Some(error) = refused {
            drop(reserved);
            return Err(denied(term, ids, error).await);
        }
        let mut keys = Vec::with_capacity(ids.len());
        for reservation in &reserved {
            keys.extend(reservation.open().await.map_err(unavailable)?);
        }
        for reservation in reserved {
            reservation.deliver(Vec::new()).await.map_err(unavailable)?;
        }
        let place: HashMap<KeyId, usize> = ids.iter().copied().zip(0..).collect();
        keys.sort_by_key(|key| place.get(&key.id).copied());
        Ok(keys)
    }

    /// Sets one key aside for `slave`, to be delivered together with a record of the caller's; with
    /// the cluster it is shared with. Only where this KM leads; see [`Supply::bring`].
    pub async fn reserve_one(
        &self,
        slave: &SaeId,
        id: KeyId,
    ) -> Result<(Reservation, ClusterId), SupplyError> {
        let term = self.term().ok_or_else(|| SupplyError::NotLed("not this one".to_owned()))?;
        let pool = term.pool(id.slice().block.pool);
        let pool = pool.ok_or_else(|| CollectError::NotFound(vec![id]))?;
        match self.reserve(pool, slave, None, &[id]) {
            Ok(reserved) => Ok((reserved, pool.config().peer.clone())),
            Err(_) if !(term.holds)() => Err(lost()),
            Err(error) => Err(denied(&term, &[id], error).await),
        }
    }

    /// Has the KM that leads make the key an object of `owner` in the store, collected by `slave`.
    /// Whether it did; `false`: this KM leads.
    pub async fn bring(
        &self,
        slave: &SaeId,
        owner: &SaeId,
        id: KeyId,
    ) -> Result<bool, SupplyError> {
        self.where_led(|term| async move {
            match term {
                Some(_) => Ok(false),
                None => self.desk()?.bring(slave, owner, id).await.map(|()| true),
            }
        })
        .await
    }

    /// Rights are those of now: a pair that was unregistered collects nothing any more.
    fn reserve(
        &self,
        pool: &Arc<Pool>,
        slave: &SaeId,
        master: Option<&SaeId>,
        ids: &[KeyId],
    ) -> Result<Reservation, CollectError> {
        let reserved = pool.reserve(slave, master, ids)?;
        let denied = reserved.masters().find(|(master, _)| !self.registry.authorise(master, slave));
        match denied.map(|(_, id)| id) {
            Some(id) => Err(CollectError::NotYours(id)),
            None => Ok(reserved),
        }
    }
}

/// What is denied from memory may be there all the same: the mark of a collection that is not stored yet
/// comes to nothing once another KM leads, and that one gives the key. So this one asks the store first.
async fn denied(term: &Term, ids: &[KeyId], error: CollectError) -> SupplyError {
    for tag in by_pool(ids).into_keys() {
        let Some(pool) = term.pool(tag) else { continue };
        match pool.is_true().await {
            Ok(true) => {}
            Ok(false) => return lost(),
            Err(error) => return unavailable(error),
        }
    }
    error.into()
}

fn by_pool(ids: &[KeyId]) -> HashMap<PoolTag, Vec<KeyId>> {
    let mut groups: HashMap<_, Vec<KeyId>> = HashMap::new();
    for id in ids {
        groups.entry(id.slice().block.pool).or_default().push(*id);
    }
    groups
}
