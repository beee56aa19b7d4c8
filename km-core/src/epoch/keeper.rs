//! Begins new epochs when they are due, and empties old ones. Enter through [`Keeper::tend`].
//!
//! Each record moves in one commit of its own, so it may be stopped at any moment and goes on
//! where it was: what is left to do is what the next scan finds.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Interval, MissedTickBehavior};

use super::{EpochError, EpochState, Epochs, Moved, Seen, locked};
use crate::{
    block::SealedBlock,
    clock::now_ms,
    hsm::{HsmError, KekId},
    journal::Fence,
    objects::{ObjectError, Objects},
    pool::{PoolError, keys},
    records::{RecordError, Records},
    store::{Commit, Outcome, Record},
    supply::Supply,
    vault::{Kind, Vault, VaultError},
};

/// How often it looks whether there is something to do.
const TICK: Duration = Duration::from_secs(1);
/// Pause after a failure, or after a look that could move nothing.
const PAUSE: Duration = Duration::from_secs(10);
/// Records read at once: blocks take 64 KiB each.
const PAGE: usize = 16;

/// What one look through the store found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records under retiring epochs.
    pub found: u64,
    /// Of these, moved to the active one.
    pub moved: u64,
    /// Of these, not opened by their KEK.
    pub refused: u64,
}

/// Rotates, seals anew, and scans.
pub struct Keeper {
    pub(super) epochs: Arc<Epochs>,
    pub(super) vault: Vault,
    records: Records,
    supply: Arc<Supply>,
    objects: Objects,
    /// Others use the store too; how long after a look that left nothing the next one is due.
    pub(super) shared: Option<Duration>,
    /// Of these, while this KM leads.
    pub(super) lead: Mutex<Option<Fence>>,
    /// Records that were told of as stuck: each look finds them again.
    pub(super) stuck: Mutex<BTreeSet<String>>,
}

/// One look through the store.
struct Look {
    /// Retiring epochs by KEK.
    retiring: BTreeMap<KekId, u64>,
    /// Epochs of which something sealed was in somebody's hands when it began.
    held: BTreeSet<u64>,
    /// Epochs under which other KMs may still store what they sealed.
    open: BTreeSet<u64>,
    tallies: BTreeMap<u64, Tally>,
    pace: Interval,
}

impl Look {
    fn seals(&self, kek: &KekId) -> bool {
        self.retiring.contains_key(kek)
    }

    async fn count(&mut self, kek: &KekId, moved: &Moved) {
        let Some(number) = self.retiring.get(kek) else { return };
        let tally = self.tallies.entry(*number).or_default();
        tally.found += 1;
        tally.moved += u64::from(*moved == Moved::Done);
        tally.refused += u64::from(*moved == Moved::Refused);
        // A try that failed has cost the token as much.
        if matches!(moved, Moved::Done | Moved::Stuck(_)) {
            self.pace.tick().await;
        }
    }
}

impl Keeper {
    /// Keeps the epochs of this store. `vault` seals under them; the pools of
    /// `supply` are all that are open.
    pub fn new(
        epochs: Arc<Epochs>,
        vault: Vault,
        records: Records,
        supply: Arc<Supply>,
        objects: Objects,
    ) -> Self {
        let (lead, stuck) = (Mutex::default(), Mutex::default());
        Self { epochs, vault, records, supply, objects, shared: None, lead, stuck }
    }

    /// Other KMs use this store. What they sealed and did not store yet is not known here, so no look
    /// proves an epoch empty before it is closed, which the KM that leads does once the others had time to
    /// follow; a look that left nothing is repeated `again` later.
    pub fn shared(self, again: Duration) -> Self {
        Self { shared: Some(again), ..self }
    }

    /// The epochs.
    pub fn epochs(&self) -> &Arc<Epochs> {
        &self.epochs
    }

    /// The records of the store.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Rotates when it is due, and empties retiring epochs; runs until dropped.
    pub async fn tend(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            self.epochs.take_own().await;
            if let Some(why) = self.epochs.due(now_ms())
                && let Err(error) = self.epochs.rotate(why).await
            {
                tracing::error!(%error, alarm = "epoch-overdue", "a new KEK epoch is due");
                tokio::time::sleep(PAUSE).await;
            }
            if let Err(error) = self.epochs.top_up().await {
                tracing::warn!(%error, "no seals are set aside ahead of need");
            }
            if !self.epochs.has_work(self.shared) {
                continue;
            }
            match self.pass().await {
                Ok(Tally { moved: 0, found: 1.., .. }) => tokio::time::sleep(PAUSE).await,
                // Once more before it is written down.
                Ok(_) if self.shared.is_some() => tokio::time::sleep(PAUSE / 2).await,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "sealing under the new KEK epoch is interrupted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Seals the key of all records anew, before all else: a token that has only the newest KEK cannot read
    /// anything without it.
    ///
    /// # Errors
    /// Those of token and store.
    pub async fn move_record_key(&self) -> Result<(), EpochError> {
        let (retiring, store) = (self.epochs.retiring(), self.records.store());
        let moved = self.vault.reseal_record_key(store, |kek| retiring.contains_key(kek)).await;
        moved.map(drop).map_err(of_vault)
    }

    /// One look through the whole store: what is under retiring epochs is sealed anew.
    ///
    /// # Errors
    /// Those of token and store; what was moved by then stays moved.
    pub async fn pass(&self) -> Result<Tally, EpochError> {
        let second = Duration::from_secs(1);
        let mut pace =
            tokio::time::interval(second / self.epochs.policy().reseal_per_s.clamp(1, 1000));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (retiring, held) = (self.epochs.retiring(), self.epochs.held());
        let open = self.still_open(retiring.values().copied()).await?;
        let mut look = Look { retiring, held, open, tallies: BTreeMap::new(), pace };
        for pool in self.supply.pools() {
            pool.drained().await.map_err(|_| EpochError::NotLeading)?;
        }
        self.record_key(&mut look).await?;
        self.each(keys::PAYLOAD, &mut look).await?;
        self.each(Objects::PREFIX, &mut look).await?;
        let tally = self.epochs.looked(&look);
        let found = look
            .retiring
            .values()
            .map(|number| (*number, look.tallies.get(number).is_some_and(|tally| tally.found > 0)));
        self.epochs.note_swept(&found.collect()).await?;
        Ok(tally)
    }

    async fn record_key(&self, look: &mut Look) -> Result<(), EpochError> {
        let store = self.records.store();
        let moved = self.vault.reseal_record_key(store, |kek| look.seals(kek)).await;
        if let Some((kek, done)) = moved.map_err(of_vault)? {
            look.count(&kek, if done { &Moved::Done } else { &Moved::Changed }).await;
        }
        Ok(())
    }

    async fn each(&self, prefix: &'static [u8], look: &mut Look) -> Result<(), EpochError> {
        let mut after = Bound::Unbounded;
        loop {
            let page = self.records.store().range(prefix, after, PAGE).await;
            let page = page.map_err(RecordError::from)?;
            for record in &page {
                let moved = match prefix {
                    keys::PAYLOAD => self.block(record, look).await,
                    _ => {
                        let moved = self.objects.reseal(record, |kek| look.seals(kek)).await;
                        let moved = moved.map_err(of_object);
                        moved.map(|moved| moved.map(|(kek, moved)| (BTreeSet::from([kek]), moved)))
                    }
                };
                match moved {
                    Ok(Some((keks, moved))) => {
                        if let Moved::Stuck(stuck) = &moved {
                            self.tell(stuck)?;
                        }
                        for kek in &keks {
                            look.count(kek, &moved).await;
                        }
                    }
                    Ok(None) => {}
                    Err(EpochError::Record(error @ RecordError::Damaged { .. })) => {
                        tracing::error!(%error, alarm = "record-damaged", "left as it is");
                    }
                    Err(error) => return Err(error),
                }
            }
            match page.last() {
                Some(last) => after = Bound::Excluded(last.key.clone()),
                None => return Ok(()),
            }
        }
    }

    /// Slices of one block may be under several KEKs: it counts for each of them.
    async fn block(
        &self,
        record: &Record,
        look: &Look,
    ) -> Result<Option<(BTreeSet<KekId>, Moved)>, EpochError> {
        let block: SealedBlock = self.records.decode(&record.key, &record.value)?;
        let id = block.header().id;
        let keks = block.payload().keks().filter(|kek| look.seals(kek));
        let keks: BTreeSet<KekId> = keks.cloned().collect();
        if keks.is_empty() {
            return Ok(None);
        }
        let sealed = match keys::payload(id.pool, id.number) == record.key {
            true => self.vault.reseal_block(&block, |kek| look.seals(kek)).await,
            false => Err(HsmError::Refused("it is the record of another block".into())),
        };
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(error) => {
                let moved = Moved::failed(&self.vault, Kind::Block, &id.to_string(), error)?;
                return Ok(Some((keks, moved)));
            }
        };
        let done = match self.supply.pools().iter().find(|pool| pool.tag() == id.pool) {
            Some(pool) => pool.put_resealed(&sealed).await.map_err(of_pool)?,
            // A pool that is not open: nobody else writes it.
            None => {
                let value = self.records.encode(&record.key, &sealed);
                let commit = Commit::new().unchanged(record.key.clone(), record.version);
                let commit = sealed.guard(commit.put(record.key.clone(), value));
                let outcome = self.records.store().commit(commit).await;
                matches!(outcome.map_err(RecordError::from)?, Outcome::Committed(_))
            }
        };
        Ok(Some((keks, if done { Moved::Done } else { Moved::Changed })))
    }
}

impl Epochs {
    /// Whether a retiring epoch is not known to be empty; in a `shared` store, nor looked through that
    /// short ago.
    fn has_work(&self, shared: Option<Duration>) -> bool {
        let (seen, now) = (locked(&self.seen), now_ms());
        let fresh = |seen: &Seen| {
            let age = Duration::from_millis(now.saturating_sub(seen.at_ms));
            seen.left == 0 && shared.is_some_and(|again| age < again)
        };
        // Others wait for what is written down, not for what was seen.
        let told = |number: &u64| {
            self.share.is_none() || self.row(*number).is_ok_and(|(epoch, _)| epoch.swept)
        };
        let done = |number: &u64| {
            let seen = seen.get(number);
            seen.is_some_and(|seen| (seen.empty || fresh(seen)) && told(number))
        };
        self.retiring().values().any(|number| !done(number))
    }

    /// Retiring epochs by KEK.
    fn retiring(&self) -> BTreeMap<KekId, u64> {
        let table = locked(&self.table);
        let rows = table.values().map(|(epoch, _)| epoch);
        let retiring =
            rows.filter(|epoch| epoch.state == EpochState::Retiring && self.holds(epoch));
        retiring.map(|epoch| (epoch.kek.clone(), epoch.number)).collect()
    }

    /// Notes what a look found.
    fn looked(&self, look: &Look) -> Tally {
        let (mut sum, mut seen) = (Tally::default(), locked(&self.seen));
        for number in look.retiring.values() {
            let tally = look.tallies.get(number).copied().unwrap_or_default();
            let left = tally.found - tally.moved - tally.refused;
            let held = look.open.contains(number) || look.held.contains(number);
            let empty = !held && tally.found == tally.refused;
            let Tally { found, moved, refused } = tally;
            let known = seen.insert(*number, Seen { left, refused, empty, at_ms: now_ms() });
            if empty && !known.is_some_and(|known| known.empty) {
                tracing::info!(epoch = number, "nothing is sealed under this KEK epoch any more");
            }
            sum.found += found;
            sum.moved += moved;
            sum.refused += refused;
        }
        sum
    }
}

fn of_vault(error: VaultError) -> EpochError {
    match error {
        VaultError::Hsm(error) | VaultError::Foreign(error) => error.into(),
        VaultError::Random(error) => HsmError::from(error).into(),
        VaultError::Store(error) => RecordError::from(error).into(),
    }
}

fn of_pool(error: PoolError) -> EpochError {
    match error {
        PoolError::Hsm(error) => error.into(),
        PoolError::Record(error) => error.into(),
        _ => EpochError::Unknown,
    }
}

fn of_object(error: ObjectError) -> EpochError {
    match error {
        ObjectError::Hsm(error) => error.into(),
        ObjectError::Record(error) => error.into(),
        _ => EpochError::Unknown,
    }
}
