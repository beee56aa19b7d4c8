//! Supply of pool keys to applications (KSA, clause 6.1.2a). Enter through [`Supply::issue`] and
//! [`Supply::collect`]; every front is a thin layer over these two.
//!
//! An application pair that keeps asking is assigned runs ahead of need, so that most requests
//! are answered from memory.
//!
//! Of the KMs that share a store one leads and has the pools, for a [`Term`]; the others ask it, at
//! its [`Desk`], for some keys ahead of need where applications keep asking. A KM that is alone leads from
//! the start.

mod ahead;
mod collect;
mod desk;
mod drawn;
mod refusals;
mod term;

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use crate::{
    ids::{ClusterId, SaeId},
    peer::AssignError,
    pool::{Accepted, CollectError, Pool, PoolError, SuppliedKey},
    provenance::Grade,
    registry::Registry,
    run::{MAX_SLAVES, RunSpec},
};
use ahead::{Ahead, Pairing};
pub use desk::Desk;
use drawn::Drawn;
pub use term::Holds;
use term::Term;

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
    /// No KM of this cluster leads at this moment; nothing was done.
    #[error("no key manager of this cluster leads now: {0}")]
    NotLed(String),
    /// The owner of the object that a key was to become may have no more.
    #[error("{0}")]
    Quota(String),
    /// The token has no room for the object that a key was to become.
    #[error("the HSM has no room for another object")]
    Full,
}

/// Level of the pool an application pair draws from, for ETSI 014 status.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    term: RwLock<Option<Arc<Term>>>,
    desk: Option<Arc<dyn Desk>>,
    drawn: Drawn,
}

impl Supply {
    /// A supply over these pools.
    pub fn new(
        here: ClusterId,
        registry: Registry,
        limits: SupplyLimits,
        pools: impl IntoIterator<Item = Arc<Pool>>,
    ) -> Arc<Self> {
        let term = RwLock::new(Some(Term::over(pools, Box::new(|| true))));
        Arc::new(Self { here, registry, limits, term, desk: None, drawn: Drawn::default() })
    }

    /// The supply of a KM that shares its store with others, as long as it does not lead.
    pub fn of_cluster(
        here: ClusterId,
        registry: Registry,
        limits: SupplyLimits,
        desk: Arc<dyn Desk>,
    ) -> Arc<Self> {
        let (term, drawn) = Default::default();
        Arc::new(Self { here, registry, limits, term, desk: Some(desk), drawn })
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

    /// The pools, in no order; none while this KM does not lead. Their commits are fenced: also what another
    /// leads since may be asked, and changes nothing.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.begun().map(|term| term.pools.values().cloned().collect()).unwrap_or_default()
    }

    /// The pool shared with `peer`, as [`Supply::pools`].
    pub fn pool(&self, peer: &ClusterId) -> Option<Arc<Pool>> {
        self.begun()?.pools.get(peer).cloned()
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
        self.pairing(master, slaves)?;
        self.where_led(|term| async move {
            match term {
                Some(term) => {
                    let pairing = self.pairing_in(&term, master, slaves, key_len)?;
                    draw(&term.ahead, pairing, asked).await
                }
                None => {
                    let (desk, name) = (self.desk()?, (master.clone(), slaves.to_vec(), size));
                    self.drawn.issue(desk, name, count, self.limits.max_keys).await
                }
            }
        })
        .await
    }

    /// The level of the pool `master` and `slave` share.
    pub async fn level(&self, master: &SaeId, slave: &SaeId) -> Result<Level, SupplyError> {
        let slaves = std::slice::from_ref(slave);
        self.pairing(master, slaves)?;
        self.where_led(|term| async move {
            match term {
                Some(term) => {
                    let pairing = self.pairing_in(&term, master, slaves, 32)?;
                    let pool = &pairing.pool;
                    Ok(Level {
                        peer: pool.config().peer.clone(),
                        stored_bytes: pool.own_bytes_of(term.ahead.least(&pairing)),
                        max_bytes: pool.config().max_stored,
                    })
                }
                None => self.desk()?.level(master, slave).await,
            }
        })
        .await
    }

    /// Takes a run the peer cluster assigned, if our registry lets those applications share keys.
    pub fn accept(&self, peer: &ClusterId, run: RunSpec) -> Result<Accepted, PoolError> {
        let number = run.id.block.number;
        let pool = self.pool(peer).ok_or(PoolError::Block(number, "is of no pool here"))?;
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
            self.drawn.sweep();
            let Some(term) = self.term() else { continue };
            term.ahead.end_idle();
            for pool in term.pools.values() {
                pool.sweep();
                let erasing = pool.clone();
                tokio::spawn(async move {
                    erasing.destroy_erased().await;
                    erasing.retire_past().await;
                });
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

    /// Ends all runs, so that an orderly stop burns nothing on doubt. Pools that are over have nothing to end.
    pub async fn stop(&self) {
        self.drawn.clear();
        let Some(term) = self.begun() else { return };
        term.ahead.end_all();
        for pool in term.pools.values() {
            if pool.settled().await.is_ok() {
                pool.destroy_erased().await;
            }
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

    /// Whether these may share keys: the slaves in order, and the cluster they are at.
    fn pairing(
        &self,
        master: &SaeId,
        slaves: &[SaeId],
    ) -> Result<(Vec<SaeId>, &ClusterId), SupplyError> {
        let mut sorted = slaves.to_vec();
        sorted.sort();
        sorted.dedup();
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
        match far.filter(|_| sorted.len() <= MAX_SLAVES) {
            Some(far) => Ok((sorted, far)),
            None => {
                let text = format!("a key goes to 1 to {MAX_SLAVES} slave SAEs");
                Err(SupplyError::BadSlaves(text))
            }
        }
    }

    fn pairing_in(
        &self,
        term: &Term,
        master: &SaeId,
        slaves: &[SaeId],
        key_len: u16,
    ) -> Result<Pairing, SupplyError> {
        let (slaves, far) = self.pairing(master, slaves)?;
        let pool =
            term.pools.get(far).cloned().ok_or_else(|| {
                SupplyError::Unavailable(format!("no pool is configured with {far}"))
            })?;
        let grade = self.registry.grade(master, &slaves);
        Ok(Pairing { pool, master: master.clone(), slaves, key_len, grade })
    }
}

async fn draw(
    ahead: &Ahead,
    pairing: Pairing,
    count: u16,
) -> Result<Vec<SuppliedKey>, SupplyError> {
    let (pool, key_len) = (pairing.pool.clone(), pairing.key_len);
    let peer = pool.config().peer.clone();
    match tokio::time::timeout(REQUEST_DEADLINE, ahead.draw(pairing.clone(), count)).await {
        Ok(Ok(keys)) => Ok(keys),
        Ok(Err(PoolError::Peer(AssignError::BelowGrade(grade)))) => {
            Err(SupplyError::BelowGrade { peer, grade })
        }
        Ok(Err(PoolError::NoKeys)) if pool.own_bytes() >= u64::from(key_len) => {
            match ahead.least(&pairing) {
                Grade::Computational => Err(SupplyError::NoKeys(peer)),
                grade => Err(SupplyError::BelowGrade { peer, grade }),
            }
        }
        Ok(Err(PoolError::NoKeys)) => Err(SupplyError::NoKeys(peer)),
        Ok(Err(error)) => Err(SupplyError::Unavailable(error.to_string())),
        Err(_) => Err(SupplyError::Unavailable(format!("{peer} did not answer in time"))),
    }
}

fn unavailable(error: PoolError) -> SupplyError {
    SupplyError::Unavailable(error.to_string())
}
