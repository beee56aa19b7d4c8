//! Epochs of the key-encryption key (KEK). Enter through [`Epochs::open`].
//!
//! New data is sealed under the newest epoch. Older ones retire: a [`Keeper`] seals what is under
//! them anew, and once a scan of the whole store finds nothing more, two operators together may
//! have the KEK destroyed. Copies of the store from before are then worthless.
//!
//! - `state`: the one table of an epoch's life, and its record.
//! - `table`: the stored epochs, and how they follow the KEKs of the token.
//! - `seals`: how often a KEK may seal; what is sealed and not stored yet.
//! - `destroy`: approvals, and the destruction.
//! - `receivers`: the tokens that take KEKs. `tokens`: those of this KM among them.
//! - `sharing`: several KMs on one store, each with its own token. `closing`: how their epochs end.
//! - `keeper`: rotation when it is due, sealing anew, the scan. `moved`: what became of a record.
//!
//! The token is the truth about which KEKs exist, the store about what they are for. A KEK the
//! store does not know (the KM died before it could write that down) becomes the active epoch, unless another
//! token lacks it: what it would have taken it by is lost, so a newer one is made.

mod closing;
mod destroy;
mod keeper;
mod moved;
mod receivers;
mod seals;
mod sharing;
mod state;
mod table;
mod tokens;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak, atomic::AtomicBool},
    time::Duration,
};

pub use destroy::Destruction;
pub use keeper::{Keeper, Tally};
pub(crate) use moved::Moved;
pub use receivers::{OUT, expelled};
pub use seals::MOST_SEALS;
pub(crate) use seals::{Pin, Sealing};
pub use sharing::catch_up;
pub use state::{Approval, BadEpochStep, Epoch, EpochState, EpochStep};

use crate::{
    clock::now_ms,
    hsm::{Hsm, HsmError, KekId, KekParcel, KekReceiver},
    random::Random,
    records::{RecordError, Records},
    store::Version,
};
use sharing::Share;
pub(crate) use table::PREFIX;
use table::Table;
pub use table::inspect;

/// Seals set aside at once, at most: what a crash loses of the bound.
const MOST_AHEAD: u64 = 1 << 16;
/// KMs that may change the records of epochs at the same moment, before one of them gives up.
const MOST_AT_ONCE: u32 = 8;

/// When a new epoch begins, and how fast the old one is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochPolicy {
    /// Age at which a new one begins; `None`: never by age.
    pub max_age: Option<Duration>,
    /// Seals after which a new one begins, from 1 to [`MOST_SEALS`].
    pub max_seals: u64,
    /// Records sealed anew in a second, at most; from 1.
    pub reseal_per_s: u32,
    /// How long the first approval of a destruction waits for the second.
    pub approval_window: Duration,
}

impl Default for EpochPolicy {
    fn default() -> Self {
        Self {
            max_age: Some(Duration::from_secs(90 * 86_400)),
            max_seals: 1 << 31,
            reseal_per_s: 200,
            approval_window: Duration::from_secs(3600),
        }
    }
}

/// Why an epoch was not changed, or the epochs not opened.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum EpochError {
    /// The HSM did not do it.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// The store did not read or write, or a record was changed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The step is not in the table.
    #[error(transparent)]
    Step(#[from] BadEpochStep),
    /// The token lacks a KEK this store needs.
    #[error(
        "the HSM does not hold the KEK of epoch {number} any more, but data in this store is sealed \
         under it. Either this store is a copy made before the epoch was destroyed: it cannot be \
         opened again. Or the key was lost: restore it from the HSM's backup"
    )]
    Missing {
        /// The epoch.
        number: u64,
    },
    /// There is no such epoch.
    #[error("there is no epoch {0}")]
    NoSuch(u64),
    /// It is not known to be empty.
    #[error(
        "epoch {number} is not empty: {}",
        left.map_or("it was not looked through yet".to_owned(),
            |left| format!("{left} records are still sealed under it"))
    )]
    NotEmpty {
        /// The epoch.
        number: u64,
        /// Records under it at the last scan.
        left: Option<u64>,
    },
    /// Of several KMs another one has to.
    #[error("this key manager does not lead its cluster; ask the one that does (`qkm node list`)")]
    NotLeading,
    /// One operator alone cannot.
    #[error("{operator} approved this already; a second operator must")]
    SameOperator {
        /// Who asked twice.
        operator: String,
    },
    /// Another change came first, or the store did not confirm. Look again.
    #[error("it is not known whether the change of the epochs was stored; list them again")]
    Unknown,
}

/// What the last look through the store found under one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Records still under it.
    pub left: u64,
    /// Records that say they are under it and that its KEK refuses.
    pub refused: u64,
    /// Whether the look began when nothing could come any more, and found nothing. In a store that others
    /// use too ([`Keeper::shared`]) only the KM that leads can tell.
    pub empty: bool,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// An epoch as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochView {
    /// As stored; an approval that waited too long is left out.
    pub epoch: Epoch,
    /// Seals made under it, as far as this process knows: never fewer.
    pub seals_used: u64,
    /// What the last look found, when there was one since the start.
    pub seen: Option<Seen>,
}

/// The epochs of one store.
pub struct Epochs {
    hsm: Arc<dyn Hsm>,
    records: Records,
    policy: EpochPolicy,
    table: Mutex<Table>,
    active: RwLock<Arc<Sealing>>,
    /// Earlier ones that somebody may still hold.
    before: Mutex<Vec<Weak<Sealing>>>,
    seen: Mutex<BTreeMap<u64, Seen>>,
    /// Where several KMs share the store.
    share: Option<Share>,
    /// What the wrapping of KEKs for other tokens is made of.
    random: Arc<Random>,
    /// Whether KEKs may wait in the store for a token of this KM; it is looked once after a start.
    waits: AtomicBool,
    /// One change of the epochs at a time.
    changing: tokio::sync::Mutex<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Epochs {
    /// Reads the epochs, takes in a KEK the store does not know yet, and ends a destruction that
    /// a crash interrupted. The wrapping of KEKs for other tokens is made of the numbers of `random`.
    ///
    /// # Errors
    /// [`EpochError::Missing`] when the store needs a KEK that is gone.
    pub async fn open(
        hsm: Arc<dyn Hsm>,
        records: Records,
        policy: EpochPolicy,
        random: Arc<Random>,
    ) -> Result<Arc<Self>, EpochError> {
        Self::open_as(hsm, records, policy, random, None).await
    }

    async fn open_as(
        hsm: Arc<dyn Hsm>,
        records: Records,
        policy: EpochPolicy,
        random: Arc<Random>,
        share: Option<Share>,
    ) -> Result<Arc<Self>, EpochError> {
        let table = table::read(&records).await?;
        let epochs = Arc::new(Self {
            hsm,
            records,
            policy,
            table: Mutex::new(table),
            active: RwLock::new(Sealing::new(0, KekId(String::new()), share.is_some())),
            before: Mutex::default(),
            seen: Mutex::default(),
            share,
            random,
            waits: AtomicBool::new(true),
            changing: tokio::sync::Mutex::default(),
        });
        let changing = epochs.changing.lock().await;
        epochs.take_in("start").await?;
        if epochs.active().left() == 0 {
            // At the bound it opens all the same, or nobody could begin a new epoch.
            match epochs.set_more_aside().await {
                Err(EpochError::Hsm(error)) => tracing::warn!(%error, "nothing can be sealed"),
                done => done?,
            }
        }
        if let Err(error) = epochs.finish_destructions().await {
            tracing::error!(%error, alarm = "kek-not-destroyed",
                "the HSM does not destroy a KEK that two operators want destroyed");
        }
        drop(changing);
        Ok(epochs)
    }

    /// The rules it was opened with.
    pub fn policy(&self) -> &EpochPolicy {
        &self.policy
    }

    /// Every epoch there ever was, oldest first.
    pub fn list(&self) -> Vec<EpochView> {
        let (active, seen) = (self.active(), locked(&self.seen).clone());
        let now = now_ms();
        let table = locked(&self.table);
        let view = |epoch: &Epoch| {
            let mut epoch = epoch.clone();
            if epoch.state == EpochState::Retiring {
                epoch.approvals.retain(|approval| self.waits(approval, now));
            }
            let left = if epoch.number == active.number { active.left() } else { 0 };
            let seals_used = epoch.seals.saturating_sub(left);
            EpochView { seals_used, seen: seen.get(&epoch.number).copied(), epoch }
        };
        table.values().map(|(epoch, _)| view(epoch)).collect()
    }

    /// Makes a new KEK in the token and the epoch of it; `who` wanted it. The epoch before
    /// retires.
    ///
    /// # Errors
    /// Those of token and store. A KEK that was made in vain is found later, and used if no token lacks it.
    pub async fn rotate(&self, who: &str) -> Result<Epoch, EpochError> {
        let _changing = self.changing.lock().await;
        let (epoch, _) = self.begin(who, &[]).await?;
        Ok(epoch)
    }

    /// As [`Epochs::rotate`]; the keys of the new epoch come wrapped for the token of each receiver, in
    /// order.
    ///
    /// # Errors
    /// Those of token and store. Then the parcels are lost: begin another epoch.
    pub async fn rotate_for(
        &self,
        who: &str,
        receivers: &[KekReceiver],
    ) -> Result<(Epoch, Vec<KekParcel>), EpochError> {
        let _changing = self.changing.lock().await;
        self.begin(who, receivers).await
    }

    /// A new epoch; its keys wrapped for `more` in order, and for whoever shares the store. Call it while
    /// `changing` is held.
    async fn begin(
        &self,
        who: &str,
        more: &[KekReceiver],
    ) -> Result<(Epoch, Vec<KekParcel>), EpochError> {
        let mut tries = if self.share.is_some() { sharing::TRIES } else { 1 };
        loop {
            tries -= 1;
            let made = self.make_kek(more).await?;
            let taken = self.take_in_with(who, made.brings).await;
            match taken.and_then(|()| self.row(made.kek.number)) {
                // Another KM began one at the same time.
                Err(EpochError::Unknown | EpochError::Missing { .. } | EpochError::NoSuch(_))
                    if tries > 0 =>
                {
                    self.take_waiting().await?;
                }
                row => return Ok((row?.0, made.parcels)),
            }
        }
    }

    /// Looks what KEKs the token has.
    pub(crate) async fn refresh(&self) -> Result<(), EpochError> {
        let _changing = self.changing.lock().await;
        self.take_in("found in the token").await
    }

    /// The right to one seal. Sets more aside, durably, when none is left.
    pub(crate) async fn to_seal(&self) -> Result<Arc<Sealing>, HsmError> {
        loop {
            let active = self.active();
            if active.take() {
                return Ok(active);
            }
            self.set_aside().await.map_err(|error| match error {
                EpochError::Hsm(error) => error,
                error => HsmError::Unavailable(format!("seals are not counted: {error}")),
            })?;
        }
    }

    async fn set_aside(&self) -> Result<(), EpochError> {
        let _changing = self.changing.lock().await;
        match self.active().left() {
            0 => self.set_more_aside().await,
            _ => Ok(()),
        }
    }

    /// Sets seals aside before they are needed, so that nobody waits for the store.
    async fn top_up(&self) -> Result<(), EpochError> {
        let _changing = self.changing.lock().await;
        match self.active().left() > self.ahead() / 2 {
            true => Ok(()),
            false => self.set_more_aside().await,
        }
    }

    fn ahead(&self) -> u64 {
        (self.policy.max_seals / 16).clamp(1, MOST_AHEAD)
    }

    /// Nobody knows how much was sealed under the active KEK, such as after an older copy of the store
    /// was taken for the newest: nothing more is, and a new epoch is due.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn spend(&self) -> Result<(), EpochError> {
        let _changing = self.changing.lock().await;
        let active = self.active();
        let (mut epoch, _) = self.row(active.number)?;
        epoch.seals = MOST_SEALS;
        self.save(vec![epoch], Vec::new()).await?;
        while active.take() {}
        Ok(())
    }

    /// Call it while `changing` is held. Another KM may set some aside at the same time.
    async fn set_more_aside(&self) -> Result<(), EpochError> {
        let mut tries = MOST_AT_ONCE;
        loop {
            match self.try_set_aside().await {
                Err(EpochError::Unknown) if tries > 0 => tries -= 1,
                done => return done,
            }
        }
    }

    async fn try_set_aside(&self) -> Result<(), EpochError> {
        let active = self.active();
        let (mut epoch, _) = self.row(active.number)?;
        let more = self.ahead();
        if epoch.seals + more > MOST_SEALS {
            let why = format!(
                "the KEK of epoch {} has made {} seals, the most that is safe: begin a new epoch \
                 (`qkm hsm epoch rotate`)",
                epoch.number, epoch.seals
            );
            return Err(HsmError::Unsupported(why).into());
        }
        epoch.seals += more;
        self.save(vec![epoch], Vec::new()).await?;
        active.add(more);
        Ok(())
    }

    /// What is known about a KEK that does not open: a sentence for a person.
    pub(crate) fn explain(&self, kek: &KekId) -> Option<String> {
        let table = locked(&self.table);
        match table.values().map(|(epoch, _)| epoch).find(|epoch| epoch.kek == *kek) {
            None => Some(format!("it says it is sealed under KEK {}, of no epoch here", kek.0)),
            Some(epoch) if epoch.state.needs_kek() => None,
            Some(epoch) => {
                Some(format!("it is sealed under epoch {}, which was destroyed", epoch.number))
            }
        }
    }

    /// Whether a new epoch is due, and why.
    fn due(&self, now: u64) -> Option<&'static str> {
        let active = self.active();
        let (epoch, _) = self.row(active.number).ok()?;
        let age = Duration::from_millis(now.saturating_sub(epoch.made_ms));
        if self.policy.max_age.is_some_and(|most| age >= most) {
            return Some("epochs.max_age_days");
        }
        let used = epoch.seals.saturating_sub(active.left());
        (used >= self.policy.max_seals).then_some("epochs.max_seals")
    }

    /// The epochs of which something sealed may be in somebody's hands.
    fn held(&self) -> BTreeSet<u64> {
        // First, because what is not active any more is among those before.
        let active = self.active().number;
        let mut before = locked(&self.before);
        before.retain(|sealing| sealing.strong_count() > 0);
        let held = before.iter().filter_map(Weak::upgrade).map(|sealing| sealing.number);
        held.chain([active]).collect()
    }

    fn active(&self) -> Arc<Sealing> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn row(&self, number: u64) -> Result<(Epoch, Version), EpochError> {
        locked(&self.table).get(&number).cloned().ok_or(EpochError::NoSuch(number))
    }
}
