//! The stored epochs, and how they follow the KEKs of the token.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError},
};

use super::{
    Epoch, EpochError, EpochState, EpochStep, Epochs, MOST_AT_ONCE, Sealing, locked,
    sharing::Brings,
};
use crate::{
    audit::{self, Deed},
    clock::now_ms,
    hsm::{Hsm, HsmError, KekInfo},
    records::{RecordError, Records},
    store::{Check, Commit, MAX_OPS, Outcome, Record, Version},
    vault::RECORD_KEY,
};

/// Of the records of epochs.
pub(crate) const PREFIX: &[u8] = b"epoch/";
/// Most epochs one store has; with a new one every day, 270 years.
const MOST_EPOCHS: usize = 100_000;

/// Epochs by number, each as stored at this version.
pub(super) type Table = BTreeMap<u64, (Epoch, Version)>;

fn key_of(number: u64) -> Vec<u8> {
    [PREFIX, &number.to_be_bytes()].concat()
}

impl Epochs {
    /// Makes the table fit the KEKs of the token. Call it while `changing` is held. Another KM of the
    /// token and the store may do so at the same time.
    pub(super) async fn take_in(&self, who: &str) -> Result<(), EpochError> {
        self.take_in_with(who, Brings::default()).await
    }

    /// As [`Epochs::take_in`]; the commit of a new epoch `brings` these records along.
    pub(super) async fn take_in_with(&self, who: &str, brings: Brings) -> Result<(), EpochError> {
        let mut tries = MOST_AT_ONCE;
        loop {
            match self.try_take_in(who, brings.clone()).await {
                Err(EpochError::Unknown) if tries > 0 => tries -= 1,
                done => return done,
            }
        }
    }

    async fn try_take_in(&self, who: &str, mut brings: Brings) -> Result<(), EpochError> {
        self.read_again().await?;
        let mut keks = self.hsm.keks().await?;
        let among_tokens = self.is_among_tokens().await?;
        if let Some(instead) = self.instead_of_newest(&keks, among_tokens, &brings).await? {
            brings = instead;
            keks = self.hsm.keks().await?;
        }
        if self.destroy_own().await? {
            keks = self.hsm.keks().await?;
        }
        self.note_held(&keks);
        let mut table: BTreeMap<u64, Epoch> =
            locked(&self.table).iter().map(|(n, (epoch, _))| (*n, epoch.clone())).collect();
        needed_are_there(table.values(), &keks, self.share.is_some())?;
        self.tell_of_destroyed(&keks);
        drop_passed_over(&mut keks, &table, among_tokens || self.hsm.is_several());
        let (mut changed, mut deeds) = (BTreeMap::new(), Vec::new());
        for kek in &keks {
            match table.get(&kek.number) {
                Some(known) if known.kek == kek.id => continue,
                Some(_) => return Err(two_keks(kek.number)),
                None => {}
            }
            for before in table.values_mut().filter(|e| e.state == EpochState::Active) {
                *before = before.after(EpochStep::Retire)?;
                changed.insert(before.number, before.clone());
            }
            let mut epoch = Epoch::new(kek.number, kek.id.clone(), now_ms());
            epoch.seals = self.ahead();
            table.insert(kek.number, epoch.clone());
            changed.insert(kek.number, epoch);
            deeds.push(audit::record(&self.records, who, Deed::EpochMade(kek.number)));
        }
        let last = table.values().rev().find(|epoch| epoch.state != EpochState::Destroyed);
        let none = || HsmError::Setup("the HSM holds no KEK".to_owned());
        let active = last.filter(|e| e.state == EpochState::Active).ok_or_else(none)?.clone();
        let fresh = if changed.contains_key(&active.number) { active.seals } else { 0 };
        if !changed.is_empty() {
            tracing::info!(epoch = active.number, kek = %active.kek.0, %who, "KEK epoch begins");
            deeds.extend(brings.puts);
            self.save_if(changed.values().cloned().collect(), deeds, brings.set).await?;
        }
        self.activate(&active, fresh);
        // What its parcels are in the store for; until now a crash would have lost them.
        if let Some(kek) = brings.made.filter(|kek| changed.contains_key(&kek.number)) {
            self.hsm.bring_kek(&kek).await;
        }
        Ok(())
    }

    fn tell_of_destroyed(&self, keks: &[KekInfo]) {
        for (epoch, _) in locked(&self.table).values() {
            let back = keks.iter().any(|kek| kek.id == epoch.kek);
            if epoch.state == EpochState::Destroyed && back && !self.is_undone(epoch) {
                tracing::error!(
                    epoch = epoch.number,
                    alarm = "kek-back",
                    "the HSM holds the KEK of a destroyed epoch again"
                );
            }
        }
    }

    /// What the next epoch begins with, where the newest KEK is not to begin one without more: it does not
    /// seal, or was made and never told of, so that other tokens lack it.
    async fn instead_of_newest(
        &self,
        keks: &[KekInfo],
        among_tokens: bool,
        brings: &Brings,
    ) -> Result<Option<Brings>, EpochError> {
        let Some(newest) = keks.last() else { return Ok(None) };
        // Under a profile that seals in another way an older KEK may seal: the newest must.
        if newest.id != self.hsm.current_kek() {
            return Ok(Some(self.make_kek(&[]).await?.brings));
        }
        if brings.made.is_some() || !self.is_untold(keks) {
            return Ok(None);
        }
        if among_tokens {
            return Ok(Some(self.make_kek(&[]).await?.brings));
        }
        let puts = self.untaken(newest);
        if !puts.is_empty() {
            return Ok(Some(Brings { puts, set: None, made: Some(newest.clone()) }));
        }
        if !self.hsm.lacks_kek(newest).await {
            return Ok(None);
        }
        match self.make_kek(&[]).await {
            Ok(made) => Ok(Some(made.brings)),
            Err(EpochError::Hsm(HsmError::Unavailable(why))) => {
                tracing::warn!(
                    epoch = newest.number,
                    why,
                    "a token lacks the newest KEK and no other is made now: begin an epoch when all work"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the newest KEK is of an epoch that is not written down.
    fn is_untold(&self, keks: &[KekInfo]) -> bool {
        let table = locked(&self.table);
        let newest = keks.last().map_or(0, |kek| kek.number);
        table.keys().next_back().is_some_and(|last| newest > *last)
    }

    /// `seals` are set aside for it and nobody took one yet.
    fn activate(&self, epoch: &Epoch, seals: u64) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        if active.number != epoch.number {
            let new = Sealing::new(epoch.number, epoch.kek.clone(), self.share.is_some());
            new.add(seals);
            let old = std::mem::replace(&mut *active, new);
            locked(&self.before).push(Arc::downgrade(&old));
        }
    }

    /// Writes changed epochs in one commit, conditioned on what is known of them. Call it while
    /// `changing` is held.
    pub(super) async fn save(
        &self,
        epochs: Vec<Epoch>,
        deeds: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), EpochError> {
        self.save_if(epochs, deeds, None).await
    }

    /// The same, if `set` still holds.
    async fn save_if(
        &self,
        epochs: Vec<Epoch>,
        deeds: Vec<(Vec<u8>, Vec<u8>)>,
        set: Option<Check>,
    ) -> Result<(), EpochError> {
        let checks = set.into_iter().collect();
        let mut commit = Commit { puts: deeds, checks, ..Commit::default() };
        for epoch in &epochs {
            let key = key_of(epoch.number);
            commit = match self.row(epoch.number) {
                Ok((_, version)) => commit.unchanged(key.clone(), version),
                Err(_) => commit.absent(key.clone()),
            };
            let value = self.records.encode(&key, epoch);
            commit = commit.put(key, value);
        }
        if commit.ops() > MAX_OPS {
            let why = format!("{} KEKs in the HSM are unknown to this store", epochs.len());
            return Err(HsmError::Setup(why).into());
        }
        let outcome = self.records.store().commit(commit).await.map_err(RecordError::from);
        if let Ok(Outcome::Committed(version)) = outcome {
            let mut table = locked(&self.table);
            table.extend(epochs.into_iter().map(|epoch| (epoch.number, (epoch, version))));
            return Ok(());
        }
        // What is stored counts, not what was tried.
        *locked(&self.table) = read(&self.records).await?;
        outcome?;
        let stored = |epoch: &Epoch| self.row(epoch.number).is_ok_and(|(row, _)| row == *epoch);
        if epochs.iter().all(stored) { Ok(()) } else { Err(EpochError::Unknown) }
    }
}

/// The epochs of a store that is not open, oldest first, if the HSM holds what they need. Changes
/// nothing.
///
/// # Errors
/// [`EpochError::Missing`] and those of token and store.
pub async fn inspect(hsm: &dyn Hsm, records: &Records) -> Result<Vec<Epoch>, EpochError> {
    let (table, keks) = (read(records).await?, hsm.keks().await?);
    let epochs: Vec<Epoch> = table.into_values().map(|(epoch, _)| epoch).collect();
    needed_are_there(&epochs, &keks, false)?;
    Ok(epochs)
}

/// Leaves those of known epochs, and what may begin one: the newest alone where tokens may lack the
/// others. Of a store without epochs all do.
fn drop_passed_over(keks: &mut Vec<KekInfo>, table: &BTreeMap<u64, Epoch>, newest_only: bool) {
    let newest = keks.last().map(|kek| kek.number);
    let Some(last) = table.keys().next_back().copied() else { return };
    keks.retain(|KekInfo { number, .. }| {
        // Below an epoch none begins any more: it was passed over.
        let begins = *number > last && (!newest_only || Some(*number) == newest);
        begins || table.contains_key(number)
    });
}

fn needed_are_there<'a>(
    epochs: impl IntoIterator<Item = &'a Epoch>,
    keks: &[KekInfo],
    shared: bool,
) -> Result<(), EpochError> {
    let holds = |epoch: &Epoch| keks.iter().any(|kek| kek.id == epoch.kek);
    // What another token still opens moves to the active epoch; see `Epochs::lacks`.
    let spared = |epoch: &Epoch| epoch.state == EpochState::Retiring && (shared || epoch.swept);
    let needs = |epoch: &Epoch| epoch.state.needs_kek() && !spared(epoch);
    let missing = epochs.into_iter().find(|epoch| needs(epoch) && !holds(epoch));
    missing.map_or(Ok(()), |epoch| Err(EpochError::Missing { number: epoch.number }))
}

/// Every epoch of the store. None at all is right only for a store that has nothing else.
pub(super) async fn read(records: &Records) -> Result<Table, EpochError> {
    let table = read_once(records).await?;
    if !table.is_empty() || is_fresh(records).await? {
        return Ok(table);
    }
    // Another key manager may have taken the store into use in between.
    let table = read_once(records).await?;
    if table.is_empty() {
        let what = "the records of its epochs are missing";
        return Err(RecordError::damaged(PREFIX, what).into());
    }
    Ok(table)
}

async fn read_once(records: &Records) -> Result<Table, EpochError> {
    let (mut table, mut after) = (Table::new(), Bound::Unbounded);
    loop {
        let page = records.store().range(PREFIX, after, 1000).await.map_err(RecordError::from)?;
        for Record { key, value, version } in &page {
            let epoch: Epoch = records.decode(key, value)?;
            table.insert(epoch.number, (epoch, *version));
        }
        match page.last() {
            Some(last) if table.len() <= MOST_EPOCHS => after = Bound::Excluded(last.key.clone()),
            _ => return Ok(table),
        }
    }
}

/// Whether nothing but the record key is stored: epochs are written before anything else.
async fn is_fresh(records: &Records) -> Result<bool, RecordError> {
    let page = records.store().range(b"", Bound::Unbounded, 2).await?;
    Ok(page.iter().all(|record| record.key == RECORD_KEY))
}

fn two_keks(number: u64) -> EpochError {
    HsmError::Setup(format!(
        "two KEKs in the HSM have or had the number {number}: give each KM a kek_label of its own"
    ))
    .into()
}
