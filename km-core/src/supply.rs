//! Supply of pool keys to applications (KSA, clause 6.1.2a). Enter through [`Supply::issue`] and
//! [`Supply::collect`]; every front is a thin layer over these two.
//!
//! An application pair that keeps asking is assigned runs ahead of need, so that most requests
//! are answered from memory.

mod ahead;
mod refusals;

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    ids::{ClusterId, SaeId},
    key_id::KeyId,
    peer::AssignError,
    pool::{Accepted, CollectError, Pool, PoolError, Reservation, SuppliedKey},
    provenance::Grade,
    registry::Registry,
    run::{MAX_SLAVES, RunSpec},
};
use ahead::{Ahead, Pairing};

/// Bounds on what applications may ask for. Sizes in bits, multiples of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupplyLimits {
    /// Size of a key when none is asked for.
    pub key_size: u32,
    /// Smallest size, at least 64.
    pub min_key_size: u32,
    /// Largest size, at most 32,768.
    pub max_key_size: u32,
    /// Most keys in one request.
    pub max_keys: u32,
}

impl Default for SupplyLimits {
    fn default() -> Self {
        Self { key_size: 256, min_key_size: 64, max_key_size: 32_768, max_keys: 128 }
    }
}

/// Why no key was supplied. Nothing was delivered.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum SupplyError {
    /// The two applications are not registered as a pair, or not at these clusters.
    #[error(
        "{master} and {slave} are not registered to share keys between this cluster and another"
    )]
    NotPaired {
        /// Who asked.
        master: SaeId,
        /// For whom.
        slave: SaeId,
    },
    /// The slaves are at different clusters, or too many.
    #[error("{0}")]
    BadSlaves(String),
    /// A size or number out of bounds.
    #[error("{0}")]
    OutOfBounds(String),
    /// The pool has keys, but none that claims what policy asks for.
    #[error("policy asks for keys of grade {} with {peer}, and the pool holds none", grade.as_str())]
    BelowGrade {
        /// The other cluster.
        peer: ClusterId,
        /// What policy asks for.
        grade: Grade,
    },
    /// The pool ran dry.
    #[error("no key material is left in the pool with {0}")]
    NoKeys(ClusterId),
    /// See [`CollectError`].
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// Temporary: link, HSM or store.
    #[error("{0}")]
    Unavailable(String),
}

/// Level of the pool an application pair draws from, for ETSI 014 status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// The cluster at the other end.
    pub peer: ClusterId,
    /// Bytes this end could assign to them now.
    pub stored_bytes: u64,
    /// Bytes the pool holds at most.
    pub max_bytes: u64,
}

const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Ask the peer for blocks when ours fall below this share of what both ends may assign.
const OWN_SHARE: u64 = 4;
const ASK_BLOCKS: u16 = 16;

/// The supply of one cluster.
pub struct Supply {
    here: ClusterId,
    registry: Registry,
    limits: SupplyLimits,
    pools: HashMap<ClusterId, Arc<Pool>>,
    ahead: Ahead,
}

impl Supply {
    /// A supply over these pools.
    pub fn new(
        here: ClusterId,
        registry: Registry,
        limits: SupplyLimits,
        pools: impl IntoIterator<Item = Arc<Pool>>,
    ) -> Arc<Self> {
        let pools = pools.into_iter().map(|pool| (pool.config().peer.clone(), pool)).collect();
        Arc::new(Self { here, registry, limits, pools, ahead: Ahead::default() })
    }

    /// This cluster; the KME ID applications see.
    pub fn here(&self) -> &ClusterId {
        &self.here
    }

    /// The bounds.
    pub fn limits(&self) -> &SupplyLimits {
        &self.limits
    }

    /// The registered applications.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The pools, in no order.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }

    /// The pool shared with `peer`.
    pub fn pool(&self, peer: &ClusterId) -> Option<&Arc<Pool>> {
        self.pools.get(peer)
    }

    /// Issues `count` fresh keys of `size` bits to `master`; each of `slaves` may collect each of
    /// them once at its own cluster.
    pub async fn issue(
        &self,
        master: &SaeId,
        slaves: &[SaeId],
        size: u32,
        count: u32,
    ) -> Result<Vec<SuppliedKey>, SupplyError> {
        let key_len = self.key_len(size)?;
        let asked =
            u16::try_from(count).ok().filter(|_| (1..=self.limits.max_keys).contains(&count));
        let Some(asked) = asked else {
            let most = self.limits.max_keys.min(u32::from(u16::MAX));
            return Err(SupplyError::OutOfBounds(format!("number shall be from 1 to {most}")));
        };
        let pairing = self.pairing(master, slaves, key_len)?;
        let pool = pairing.pool.clone();
        let peer = pool.config().peer.clone();
        let drawn = self.ahead.draw(pairing.clone(), asked);
        match tokio::time::timeout(REQUEST_DEADLINE, drawn).await {
            Ok(Ok(keys)) => Ok(keys),
            Ok(Err(PoolError::Peer(AssignError::BelowGrade(grade)))) => {
                Err(SupplyError::BelowGrade { peer, grade })
            }
            Ok(Err(PoolError::NoKeys)) if pool.own_bytes() >= u64::from(key_len) => {
                match self.ahead.least(&pairing) {
                    Grade::Computational => Err(SupplyError::NoKeys(peer)),
                    grade => Err(SupplyError::BelowGrade { peer, grade }),
                }
            }
            Ok(Err(PoolError::NoKeys)) => Err(SupplyError::NoKeys(peer)),
            Ok(Err(error)) => Err(SupplyError::Unavailable(error.to_string())),
            Err(_) => Err(SupplyError::Unavailable(format!("{peer} did not answer in time"))),
        }
    }

    /// Collects keys by ID for `slave`, all or none. With `master`, only keys that master was
    /// issued count (ETSI 014 dec_keys).
    pub async fn collect(
        &self,
        slave: &SaeId,
        master: Option<&SaeId>,
        ids: &[KeyId],
    ) -> Result<Vec<SuppliedKey>, SupplyError> {
        let mut reserved = Vec::new();
        let mut refused = None;
        for (tag, of_pool) in by_pool(ids) {
            let pool = self.pools.values().find(|pool| pool.tag() == tag);
            match pool.map(|pool| self.reserve(pool, slave, master, &of_pool)) {
                Some(Ok(reservation)) => reserved.push(reservation),
                Some(Err(error)) => refused = Some(error.join(refused)),
                None => refused = Some(CollectError::NotFound(of_pool).join(refused)),
            }
        }
        if let Some(error) = refused {
            return Err(error.into());
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

    /// Sets one key aside for `slave`, to be delivered together with a record of the caller's.
    pub fn reserve_one(&self, slave: &SaeId, id: KeyId) -> Result<Reservation, SupplyError> {
        let pool = self.pools.values().find(|pool| pool.tag() == id.slice().block.pool);
        let pool = pool.ok_or_else(|| CollectError::NotFound(vec![id]))?;
        Ok(self.reserve(pool, slave, None, &[id])?)
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

    /// The level of the pool `master` and `slave` share.
    pub fn level(&self, master: &SaeId, slave: &SaeId) -> Result<Level, SupplyError> {
        let pairing = self.pairing(master, std::slice::from_ref(slave), 32)?;
        let pool = &pairing.pool;
        Ok(Level {
            peer: pool.config().peer.clone(),
            stored_bytes: pool.own_bytes_of(self.ahead.least(&pairing)),
            max_bytes: pool.config().max_stored,
        })
    }

    /// Takes a run the peer cluster assigned, if our registry lets those applications share keys.
    pub fn accept(&self, peer: &ClusterId, run: RunSpec) -> Result<Accepted, PoolError> {
        let number = run.id.block.number;
        let pool = self.pools.get(peer).ok_or(PoolError::Block(number, "is of no pool here"))?;
        let allowed = self.registry.is_at(&run.master, peer)
            && run.slaves.iter().all(|slave| {
                self.registry.is_at(slave, &self.here)
                    && self.registry.authorise(&run.master, slave)
            });
        if !allowed {
            return Err(PoolError::NotPaired);
        }
        let least = self.registry.grade(&run.master, &run.slaves);
        if pool.grade_of(number).is_some_and(|has| has < least) {
            return Err(PoolError::BelowGrade(least));
        }
        pool.accept_run(run)
    }

    /// Ends idle runs, burns expired keys, levels the blocks between the ends; runs until dropped.
    pub async fn tend(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.ahead.end_idle();
            for pool in self.pools.values() {
                pool.sweep();
                let erasing = pool.clone();
                tokio::spawn(async move { erasing.destroy_erased().await });
                let low = |grade: &Grade| {
                    let (own, peer) = (pool.own_bytes_of(*grade), pool.peer_bytes_of(*grade));
                    own < (own + peer) / OWN_SHARE
                };
                if let Some(grade) = Grade::ALL.into_iter().rev().find(low) {
                    pool.ask_blocks(ASK_BLOCKS, grade);
                }
            }
        }
    }

    /// Ends all runs, so that an orderly stop burns nothing on doubt.
    pub async fn stop(&self) {
        self.ahead.end_all();
        for pool in self.pools.values() {
            pool.settled().await;
            pool.destroy_erased().await;
        }
    }

    fn key_len(&self, size: u32) -> Result<u16, SupplyError> {
        let SupplyLimits { min_key_size, max_key_size, .. } = self.limits;
        if !size.is_multiple_of(8) {
            return Err(SupplyError::OutOfBounds("size shall be a multiple of 8".into()));
        }
        if !(min_key_size..=max_key_size).contains(&size) {
            let text = format!("size shall be from {min_key_size} to {max_key_size} bits");
            return Err(SupplyError::OutOfBounds(text));
        }
        Ok((size / 8) as u16)
    }

    fn pairing(
        &self,
        master: &SaeId,
        slaves: &[SaeId],
        key_len: u16,
    ) -> Result<Pairing, SupplyError> {
        let mut sorted = slaves.to_vec();
        sorted.sort();
        sorted.dedup();
        if sorted.is_empty() || sorted.len() > MAX_SLAVES {
            let text = format!("a key goes to 1 to {MAX_SLAVES} slave SAEs");
            return Err(SupplyError::BadSlaves(text));
        }
        let mut far = None;
        for slave in &sorted {
            let not_paired =
                || SupplyError::NotPaired { master: master.clone(), slave: slave.clone() };
            let paired =
                self.registry.authorise(master, slave) && self.registry.is_at(master, &self.here);
            let cluster = self.registry.far_cluster(slave, &self.here);
            let cluster = cluster.filter(|_| paired).ok_or_else(not_paired)?;
            if *far.get_or_insert(cluster) != cluster {
                let text = "all slave SAEs of one request shall be at the same KME".into();
                return Err(SupplyError::BadSlaves(text));
            }
        }
        let pool = far.and_then(|cluster| self.pools.get(cluster));
        let pool = pool.cloned().ok_or_else(|| {
            let text = format!("no pool is configured with {}", far.map_or("", ClusterId::as_str));
            SupplyError::Unavailable(text)
        })?;
        let grade = self.registry.grade(master, &sorted);
        Ok(Pairing { pool, master: master.clone(), slaves: sorted, key_len, grade })
    }
}

fn unavailable(error: PoolError) -> SupplyError {
    SupplyError::Unavailable(error.to_string())
}

fn by_pool(ids: &[KeyId]) -> HashMap<crate::ids::PoolTag, Vec<KeyId>> {
    let mut groups: HashMap<_, Vec<KeyId>> = HashMap::new();
    for id in ids {
        groups.entry(id.slice().block.pool).or_default().push(*id);
    }
    groups
}
