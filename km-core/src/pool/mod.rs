//! The pool of one pair of clusters at one of its ends. Enter through [`Pool::open`].
//!
//! - `tables`: what is in memory, and the one place its counters change.
//! - `barred`: who does not speak for the peer any more.
//! - `blocks`: taking blocks in, confirming, giving, erasing.
//! - `issue`: leasing runs from blocks this end owns.
//! - `kept`: blocks kept inside the token.
//! - `order`: runs leave for the peer in the order they were reserved.
//! - `collect`: runs the peer owns, collected by ID.
//! - `burn`: everything at once, of an older copy of the store.
//! - `pads`: spans of blocks for the relay.
//! - `reseal`: blocks under a new KEK.
//! - `past`: what became of blocks and runs lately.
//! - `wanted`: what is missing, for the relay that feeds the pool.
//! - `trace`: what is known about one key, for operators.
//! - `recovery`: reading the pool back.
//! - `view`, `audit`: the account, from memory and from the records.
//!
//! Every change is made in `tables` and appended to the journal under one lock, so what is
//! durable is always a prefix of what happened.

mod audit;
mod barred;
mod blocks;
mod burn;
mod collect;
mod issue;
mod kept;
pub(crate) mod keys;
mod order;
mod pads;
mod past;
mod recovery;
mod reseal;
mod tables;
mod trace;
mod view;
mod wanted;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use audit::{audit, pools_in};
pub use blocks::NewBlock;
pub use collect::{Accepted, CollectError, Reservation};
pub use issue::IssuerRun;
pub use trace::{KeyState, KeyTrace, RunTrace};
pub use view::PoolView;
pub use wanted::Demand;

use crate::{
    block::SealedBlock,
    cabinet::Cabinet,
    hsm::HsmError,
    ids::{ClusterId, PoolTag},
    journal::{Fence, Journal, Over, Ticket},
    key_id::KeyId,
    ledger::Ledger,
    material::ClearBytes,
    payload::Storage,
    peer::{AssignError, Fingerprint, PeerLink},
    provenance::{Grade, Provenance},
    records::{RecordError, Records},
    run::RunSpec,
    vault::{Kind, Vault},
};
use tables::Tables;

/// Longest wait for a change to become durable before the caller gives up (and the key is burned).
pub const DURABLE_DEADLINE: Duration = Duration::from_secs(5);

/// What one end of a pool is.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// This cluster.
    pub here: ClusterId,
    /// The cluster at the other end.
    pub peer: ClusterId,
    /// How long an assigned key waits to be collected before it is burned. The owner end hands it
    /// out in the first half of this time, or of the peer's if that is shorter, or not at all.
    pub key_ttl: Duration,
    /// Stop taking keys in at this many stored bytes.
    pub max_stored: u64,
    /// How new blocks are kept.
    pub storage: Storage,
    /// What every change also requires, where several KMs share the store.
    pub fence: Option<Fence>,
}

/// Why a pool did not do it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum PoolError {
    /// No stored key bits of this end are left.
    #[error("the pool has no key material left")]
    NoKeys,
    /// The peer could not be told, or refused.
    #[error(transparent)]
    Peer(#[from] AssignError),
    /// The HSM did not open or seal.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// The store did not read or write.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The block number was used before, or is not known.
    #[error("block {0}: {1}")]
    Block(u64, &'static str),
    /// This end does not have the block.
    #[error("block {0} is not here")]
    NoBlock(u64),
    /// The run the peer assigned begins before the byte of the block this end is at.
    #[error("block {0}: the run begins before byte {1}, which was passed already")]
    Passed(u64, u16),
    /// The run the peer assigned names applications that may not share keys.
    #[error("the run names applications not paired here")]
    NotPaired,
    /// The block of the run the peer assigned claims less than policy here asks of these applications.
    #[error("policy here asks these applications for keys of grade {}", .0.as_str())]
    BelowGrade(Grade),
    /// The peer lent more spans than are accounted for.
    #[error("too many spans are lent and not accounted for")]
    TooManySpans,
    /// A write was not confirmed in time; the keys concerned are burned.
    #[error("the store did not confirm a write in time")]
    NotDurable,
}

/// Counts since start, for metrics.
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// Blocks admitted.
    pub blocks_admitted: AtomicU64,
    /// Blocks refused at agreement: the ends differed, or one did not have or store the bits.
    pub blocks_rejected: AtomicU64,
    /// Runs leased at this end.
    pub runs_leased: AtomicU64,
    /// Keys collected by ID at this end.
    pub keys_collected: AtomicU64,
}

/// Clear bytes of a run, with how they came to be.
#[derive(Debug)]
struct OpenRun {
    clear: ClearBytes,
    provenance: Arc<Provenance>,
}

/// A pool key on its way to an application.
#[derive(Debug)]
pub struct SuppliedKey {
    /// Its identifier, the same at both ends.
    pub id: KeyId,
    /// Its bits.
    pub bytes: ClearBytes,
    /// How they came to be.
    pub provenance: Arc<Provenance>,
}

/// One end of a pool.
pub struct Pool {
    config: PoolConfig,
    tag: PoolTag,
    records: Records,
    vault: Vault,
    journal: Arc<Journal>,
    tables: Mutex<Tables>,
    order: Arc<order::Order>,
    peer: OnceLock<Arc<dyn PeerLink>>,
    barred: Mutex<BTreeSet<Fingerprint>>,
    /// Held while old traces are removed.
    retiring: tokio::sync::Mutex<()>,
    /// The other end's `key_ttl` in milliseconds, once it said so.
    peer_key_ttl: AtomicU64,
    peer_ledger: Mutex<Option<Ledger>>,
    /// Whether the two accounts differed when they were last compared.
    ends_differ: AtomicBool,
    changed: tokio::sync::Notify,
    wanted: wanted::Wanted,
    /// Counts since start.
    pub counters: PoolCounters,
}

impl Pool {
    /// Connects the pool to its peer; once.
    pub fn connect(&self, peer: Arc<dyn PeerLink>) {
        if self.peer.set(peer).is_err() {
            tracing::error!(peer = %self.config.peer, "pool connected twice; the first link stays");
        }
    }

    /// What it was opened with.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// The vault it seals with.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Its tag in key identifiers.
    pub fn tag(&self) -> PoolTag {
        self.tag
    }

    /// The highest block number ever used at this end.
    pub fn highest_block(&self) -> u64 {
        self.tables().high
    }

    /// Whether there is room for more blocks.
    pub fn has_room(&self) -> bool {
        self.has_room_beyond(0)
    }

    /// Whether there is room for more blocks when `slack` bytes above the bound do no harm.
    pub fn has_room_beyond(&self, slack: u64) -> bool {
        let kept = self.config.storage != Storage::Token
            || self.vault.cabinet().is_ok_and(Cabinet::has_room);
        kept && self.tables().stored_bytes() < self.config.max_stored.saturating_add(slack)
    }

    /// Bytes this end may assign from now.
    pub fn own_bytes(&self) -> u64 {
        self.tables().own.all()
    }

    /// Of these, bytes that claim at least `grade`.
    pub fn own_bytes_of(&self, grade: Grade) -> u64 {
        self.tables().own.at_least(grade)
    }

    /// What the keys of a block may claim, while it is here.
    pub fn grade_of(&self, number: u64) -> Option<Grade> {
        self.tables().block(number).map(|state| state.grade)
    }

    /// Bytes the peer may assign from.
    pub fn peer_bytes(&self) -> u64 {
        self.tables().peer.all()
    }

    /// Of these, bytes that claim at least `grade`.
    pub fn peer_bytes_of(&self, grade: Grade) -> u64 {
        self.tables().peer.at_least(grade)
    }

    /// The peer says how long keys wait there to be collected.
    pub fn peer_key_ttl(&self, theirs: Duration) {
        let theirs_ms = theirs.as_millis() as u64;
        let news = self.peer_key_ttl.swap(theirs_ms, Ordering::Relaxed) != theirs_ms;
        let ours_ms = self.config.key_ttl.as_millis() as u64;
        if news && ours_ms != theirs_ms {
            tracing::warn!(peer = %self.config.peer, ours_ms, theirs_ms,
                "`key_ttl_s` differs between the two ends; keys assigned here live by the shorter");
        }
    }

    /// How long a key assigned here lives at the end that forgets it first.
    fn key_ttl(&self) -> Duration {
        let theirs = Duration::from_millis(self.peer_key_ttl.load(Ordering::Relaxed));
        self.config.key_ttl.min(theirs)
    }

    /// Whether the peer can be told of new runs.
    pub fn link_up(&self) -> bool {
        self.peer.get().is_some_and(|peer| peer.is_up())
    }

    /// Asks the other end for untouched blocks that claim at least `grade`, when the link is up.
    pub fn ask_blocks(&self, count: u16, grade: Grade) {
        if let Some(peer) = self.peer.get().filter(|peer| peer.is_up()) {
            peer.ask_blocks(count, grade);
        }
    }

    /// Ends with the first change in what is stored after this call.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    /// Waits until everything that happened so far is durable.
    ///
    /// # Errors
    /// It will never be.
    pub async fn settled(&self) -> Result<(), Over> {
        self.journal.settled().await
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn durable(&self, ticket: Ticket) -> Result<(), PoolError> {
        match tokio::time::timeout(DURABLE_DEADLINE, self.journal.durable(ticket)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(PoolError::NotDurable),
        }
    }

    /// See [`Journal::is_true`].
    ///
    /// # Errors
    /// The store does not say in time.
    pub async fn is_true(&self) -> Result<bool, PoolError> {
        match tokio::time::timeout(DURABLE_DEADLINE, self.journal.is_true()).await {
            Ok(said) => Ok(said.map_err(RecordError::from)?),
            Err(_) => Err(PoolError::NotDurable),
        }
    }

    /// Ends when this pool is of no use any more.
    pub async fn over(&self) -> Over {
        self.journal.over().await
    }

    /// The clear bytes of a run.
    async fn open_run(&self, spec: &RunSpec) -> Result<OpenRun, PoolError> {
        let start = usize::from(spec.id.offset);
        let range = start..start + spec.bytes() as usize;
        let (clear, provenance) = self.open_range(spec.id.block.number, range).await?;
        Ok(OpenRun { clear, provenance: Arc::new(provenance) })
    }

    /// The bytes of part of a block, and how they came to be.
    async fn open_range(
        &self,
        number: u64,
        range: std::ops::Range<usize>,
    ) -> Result<(ClearBytes, Provenance), PoolError> {
        let block = self.sealed_block(number).await?;
        let clear = match self.vault.open_part(&block, range.clone()).await {
            Err(error) => {
                // It may have been sealed anew, and the old KEK destroyed, since it was read.
                let again = self.sealed_block(number).await?;
                let done = match again == block {
                    true => Err(error),
                    false => self.vault.open_part(&again, range).await,
                };
                let name = block.header().id.to_string();
                done.inspect_err(|error| self.vault.note_refusal(Kind::Block, &name, error))?
            }
            Ok(clear) => clear,
        };
        Ok((clear, block.header().provenance.clone()))
    }

    async fn sealed_block(&self, number: u64) -> Result<SealedBlock, PoolError> {
        let key = keys::payload(self.tag, number);
        let block: SealedBlock =
            self.records.get(&key).await?.ok_or(PoolError::Block(number, "is not stored"))?;
        if block.header().id.number != number || block.header().id.pool != self.tag {
            let moved = HsmError::Refused("it is the record of another block".into());
            self.vault.note_refusal(Kind::Block, &format!("{:?}/{number}", self.tag), &moved);
            return Err(PoolError::Block(number, "is stored under another block's name"));
        }
        Ok(block)
    }

    fn count(&self, counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}
