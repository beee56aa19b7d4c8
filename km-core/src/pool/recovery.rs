//! A pool read back from its records: what was under way when its KM stopped is burned.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use super::{Pool, PoolConfig, PoolCounters, kept, keys, pads, tables::Tables, wanted};
use crate::{
    block::BlockState,
    clock::now_ms,
    ids::PoolTag,
    journal::{Account, Change, Journal, Over},
    ledger::{Ledger, bits},
    pad::{PadSpan, PadUse},
    peer::Fingerprint,
    records::{RecordError, Records},
    run::{RunRecord, RunSpec, Side},
    store::StoreError,
    vault::Vault,
};

impl Pool {
    /// Reads the pool back from the store. Runs this end had handed out keys from before it
    /// stopped are burned: nobody knows how far they got.
    pub async fn open(
        config: PoolConfig,
        records: Records,
        vault: Vault,
    ) -> Result<Arc<Self>, RecordError> {
        let (pool, left_open) = Self::read(config, records, vault).await?;
        pool.compare_with_token().await;
        pool.recovered(left_open).await
    }

    /// As [`Pool::open`], of a store that is not the one in place yet: objects in the token stay, since
    /// they may be of blocks that only the store in place has.
    pub async fn open_copy(
        config: PoolConfig,
        records: Records,
        vault: Vault,
    ) -> Result<Arc<Self>, RecordError> {
        let (pool, left_open) = Self::read(config, records, vault).await?;
        pool.recovered(left_open).await
    }

    /// Durably on return.
    async fn recovered(self: Arc<Self>, left_open: Vec<RunSpec>) -> Result<Arc<Self>, RecordError> {
        self.recover(left_open);
        self.all_durable().await?;
        Ok(self)
    }

    /// Waits until everything that happened so far is durable, as long as this KM leads.
    pub(super) async fn all_durable(&self) -> Result<(), RecordError> {
        let why = match self.settled().await {
            Ok(()) => return Ok(()),
            Err(Over::Barred) => StoreError::Barred,
            Err(Over::Deposed) => {
                StoreError::Unavailable("another key manager took the lead".into())
            }
            Err(Over::SetBack) => StoreError::Damaged("an older copy of it was put back".into()),
        };
        Err(why.into())
    }

    async fn read(
        config: PoolConfig,
        records: Records,
        vault: Vault,
    ) -> Result<(Arc<Self>, Vec<RunSpec>), RecordError> {
        let tag = PoolTag::of_pair(&config.here, &config.peer);
        let mut tables = Tables::new(config.here.clone());
        tables.start_after(records.get(&keys::high(tag)).await?.unwrap_or(0));
        let states = keys::states(tag);
        records
            .each(&states, |key, state: BlockState| {
                if let Some(number) = keys::number_in(key) {
                    tables.set_block(number, Some(state));
                }
            })
            .await?;
        let mut left_open = Vec::new();
        records
            .each(&keys::runs(tag), |_, run: RunRecord| match run.side {
                Side::Issuer => left_open.push(run.spec),
                Side::Collector { .. } => {
                    let left = left_of(&run, config.key_ttl);
                    tables.insert_collecting(run, left);
                }
            })
            .await?;
        let stored = records.store().get(&keys::ledger(tag)).await?;
        let version = stored.as_ref().map(|record| record.version);
        let ledger = stored.map(|record| records.decode(&record.key, &record.value));
        let ledger: Ledger = ledger.transpose()?.unwrap_or_default();
        // Every commit balances. What does not was put together from different times: an old record
        // put back would let its keys be used again.
        pads::read(&records, tag, &mut tables).await?;
        let leased: u64 = left_open.iter().map(|spec| u64::from(spec.bytes())).sum();
        if !ledger.balanced_with(bits(tables.stored_bytes() + leased)) {
            let what = "the account does not fit the blocks and runs stored: some are missing, or \
                        old ones were put back";
            return Err(RecordError::damaged(&keys::ledger(tag), what));
        }
        tables.kept = kept::names(&records, tag, &tables).await?;
        let barred: Option<BTreeSet<Fingerprint>> = records.get(&keys::barred(tag)).await?;
        let account = Account { ledger, version };
        let fence = config.fence.clone();
        let journal = Journal::start(records.clone(), keys::ledger(tag), account, fence);
        let pool = Arc::new(Self {
            config,
            tag,
            records,
            vault,
            journal,
            tables: Mutex::new(tables),
            order: Arc::default(),
            peer: OnceLock::new(),
            barred: Mutex::new(barred.unwrap_or_default()),
            retiring: tokio::sync::Mutex::default(),
            peer_key_ttl: AtomicU64::new(u64::MAX),
            peer_ledger: Mutex::default(),
            ends_differ: AtomicBool::new(false),
            changed: tokio::sync::Notify::new(),
            wanted: wanted::Wanted::default(),
            counters: PoolCounters::default(),
        });
        Ok((pool, left_open))
    }

    fn recover(self: &Arc<Self>, left_open: Vec<RunSpec>) {
        for spec in left_open {
            tracing::info!(block = %spec.id.block, keys = spec.count, "burning a run left open");
            let mut tables = self.tables();
            tables.issuing.insert(spec.id, spec.clone());
            self.close_run(&mut tables, &spec, 0, None);
        }
        let lent: Vec<PadSpan> = self.tables().lent.values().copied().collect();
        for span in lent {
            tracing::info!(block = %span.id.block, bytes = span.len, "burning pad left open");
            self.pad_used(PadUse::burned(span));
        }
        let mut tables = self.tables();
        let ended: Vec<u64> = tables.finished_blocks();
        for number in ended {
            let mut change = Change::default();
            self.erase_if_finished(&mut tables, number, &mut change);
            self.journal.append(change);
        }
    }
}

/// How long keys of a run wait that was accepted before this start, perhaps by another KM. Of two clocks
/// either may be wrong, so at least half of the time is left: for so long the other end may hand them
/// out still, and what is burned too early is lost to whoever has it.
fn left_of(run: &RunRecord, key_ttl: Duration) -> Duration {
    Duration::from_millis(run.expires_ms.saturating_sub(now_ms())).clamp(key_ttl / 2, key_ttl)
}
