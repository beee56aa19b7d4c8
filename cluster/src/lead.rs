//! Which KM of a cluster leads. Enter through [`Candidate::elected`].
//!
//! The record `lead` names the KM and its session. Whoever finds that session ended, or the KM's
//! process gone, puts itself in its place, checked against the record's version: one of several
//! wins. That the other is dead need not be true. What it still tries is checked against that
//! version too ([`km_core::journal::Fence`]), so an error here costs time and burned keys, no more.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use km_core::{
    journal::Fence,
    records::{RecordError, Records},
    store::{Commit, Outcome, Session, SessionId, Store, StoreError, Version},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

const LEAD: &[u8] = b"lead";
/// Between two looks at who leads.
const LOOK: Duration = Duration::from_millis(200);
/// After a renewal that failed.
const AGAIN: Duration = Duration::from_millis(50);
/// Renewals of a session in its time to live.
const RENEWALS: u32 = 5;

/// A KM of the cluster, where the others reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Its name.
    pub node: String,
    /// `host:port` of its desk.
    pub desk: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lead {
    seat: Seat,
    session: u64,
}

/// Tells whether the process behind a seat has certainly ended.
#[async_trait]
pub trait Pulse: Send + Sync + 'static {
    /// `true` only when it cannot be alive; what is slow or cut off is not gone.
    async fn is_gone(&self, seat: &Seat) -> bool;
}

/// One KM on its way to the lead.
pub struct Candidate {
    records: Records,
    me: Seat,
    ttl: Duration,
    pulse: Arc<dyn Pulse>,
    leader: watch::Sender<Option<Seat>>,
    rests: AtomicBool,
    /// How long the lead lasts that it took last.
    granted: Mutex<Option<Duration>>,
}

impl Candidate {
    /// `ttl`: how long a KM that says nothing keeps the lead, or the engine's shortest if that is longer. Names must differ within a cluster.
    pub fn new(records: Records, me: Seat, ttl: Duration, pulse: Arc<dyn Pulse>) -> Self {
        Self {
            records,
            me,
            ttl,
            pulse,
            leader: watch::Sender::new(None),
            rests: AtomicBool::new(false),
            granted: Mutex::default(),
        }
    }

    /// How long this KM keeps the lead when it says nothing, as the engine granted it; `None` before it led.
    pub fn granted(&self) -> Option<Duration> {
        *self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who leads, as far as is known here.
    pub fn leader(&self) -> watch::Receiver<Option<Seat>> {
        self.leader.subscribe()
    }

    /// Whether this KM leaves the lead to others from now on; it follows whoever has it.
    pub fn rest(&self, rests: bool) {
        self.rests.store(rests, Relaxed);
    }

    /// Waits until this KM leads.
    pub async fn elected(&self) -> Lease {
        loop {
            match self.try_once().await {
                Ok(Some(lease)) => return lease,
                Ok(None) => {}
                Err(error) => {
                    self.leader.send_if_modified(|leader| leader.take().is_some());
                    tracing::warn!(%error, "cannot see who leads the cluster");
                }
            }
            sleep(LOOK).await;
        }
    }

    async fn try_once(&self) -> Result<Option<Lease>, RecordError> {
        let before = self.look().await?;
        if let Some((lead, _)) = &before {
            let mine = lead.seat.node == self.me.node;
            if !mine && !self.is_over(lead).await? {
                self.follow(&lead.seat);
                return Ok(None);
            }
        }
        if self.rests.load(Relaxed) {
            self.leader.send_if_modified(|leader| leader.take().is_some());
            return Ok(None);
        }
        self.take(before.map(|(_, version)| version)).await
    }

    fn follow(&self, seat: &Seat) {
        let news = self.leader.send_if_modified(|leader| {
            let news = leader.as_ref() != Some(seat);
            *leader = Some(seat.clone());
            news
        });
        if news {
            tracing::info!(
                leader = seat.node,
                desk = seat.desk,
                "this key manager leads the cluster"
            );
        }
    }

    async fn look(&self) -> Result<Option<(Lead, Version)>, RecordError> {
        look(&self.records).await
    }

    async fn is_over(&self, lead: &Lead) -> Result<bool, RecordError> {
        let ended = !lives(self.records.store(), SessionId(lead.session)).await?;
        Ok(ended || self.pulse.is_gone(&lead.seat).await)
    }

    /// Takes the place of what was found at version `before`.
    async fn take(&self, before: Option<Version>) -> Result<Option<Lease>, RecordError> {
        let store = self.records.store();
        let asked = Instant::now();
        let Session { id: session, ttl } = store.session(self.ttl).await?;
        if ttl > self.ttl {
            tracing::info!(asked = ?self.ttl, granted = ?ttl, "the engine grants no shorter lease");
        }
        let lead = Lead { seat: self.me.clone(), session: session.0 };
        let commit = Commit::new().fenced(session).put(LEAD, self.records.encode(LEAD, &lead));
        let commit = match before {
            Some(version) => commit.unchanged(LEAD, version),
            None => commit.absent(LEAD),
        };
        let version = match store.commit(commit).await? {
            Outcome::Committed(version) => Some(version),
            Outcome::Conflict => None,
            Outcome::Unknown => {
                self.look().await?.filter(|(found, _)| *found == lead).map(|(_, version)| version)
            }
        };
        let Some(version) = version else {
            store.end_session(session).await?;
            return Ok(None);
        };
        self.follow(&self.me);
        *self.granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(ttl);
        let fence = Fence { key: LEAD.to_vec(), version };
        Ok(Some(Lease::hold(self.records.clone(), session, fence, ttl, asked)))
    }
}

async fn look(records: &Records) -> Result<Option<(Lead, Version)>, RecordError> {
    let Some(found) = records.store().get(LEAD).await? else { return Ok(None) };
    Ok(Some((records.decode(LEAD, &found.value)?, found.version)))
}

/// Whether a session lives: a commit of nothing tells.
pub(crate) async fn lives(store: &dyn Store, session: SessionId) -> Result<bool, StoreError> {
    Ok(store.commit(Commit::new().fenced(session)).await? != Outcome::Conflict)
}

/// Who has the lead of the cluster, unless the lease has ended.
///
/// # Errors
/// Those of the store.
pub async fn holder(records: &Records) -> Result<Option<Seat>, RecordError> {
    let Some((lead, _)) = look(records).await? else { return Ok(None) };
    let held = lives(records.store(), SessionId(lead.session)).await?;
    Ok(held.then_some(lead.seat))
}

/// Has `commit` take the lead from `node`, if that one has it.
pub(crate) async fn depose(
    records: &Records,
    node: &str,
    commit: Commit,
) -> Result<Commit, RecordError> {
    Ok(match look(records).await? {
        Some((lead, version)) if lead.seat.node == node => {
            commit.unchanged(LEAD, version).delete(LEAD)
        }
        _ => commit,
    })
}

/// The lead, as long as it lasts.
pub struct Lease {
    fence: Fence,
    records: Records,
    session: SessionId,
    /// Until when it certainly lasts; `None` once it is lost.
    held: watch::Receiver<Option<Instant>>,
    renewing: JoinHandle<()>,
}

impl Lease {
    fn hold(
        records: Records,
        session: SessionId,
        fence: Fence,
        ttl: Duration,
        asked: Instant,
    ) -> Self {
        let (holds, held) = watch::channel(Some(asked + ttl));
        let renewing = tokio::spawn(renew(records.clone(), session, ttl, holds));
        Self { fence, records, session, held, renewing }
    }

    /// What every change made under this lease requires.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Ends when the session was not renewed for twice as long as it lasts, or is known to have ended: others
    /// may lead by now, and fighting with them over links and modules helps nobody. A KM that is cut off from
    /// the engine alone has them for so long, which the fence makes harmless.
    pub async fn lost(&self) {
        let _ = self.held.clone().wait_for(Option::is_none).await;
    }

    /// Tells whether it certainly lasts still: not once it could have ended unnoticed.
    pub fn holds(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let held = self.held.clone();
        move || held.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Lets others lead at once.
    pub async fn give_up(self) {
        self.renewing.abort();
        if let Err(error) = self.records.store().end_session(self.session).await {
            tracing::info!(%error, "the lead ends with its time to live");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(
    records: Records,
    session: SessionId,
    ttl: Duration,
    holds: watch::Sender<Option<Instant>>,
) {
    // How long before its end it is renewed, and when one that failed is tried again.
    let (before, mut again) = (ttl - ttl / RENEWALS, None);
    loop {
        let Some(until) = *holds.borrow() else { return };
        // Most often it is the engine choosing its leader, who has every session last anew.
        let end = until + ttl;
        tokio::select! {
            () = sleep_until(again.take().unwrap_or(until - before)) => {}
            () = sleep_until(end) => break,
        }
        let asked = Instant::now();
        let left = end.saturating_duration_since(asked);
        match timeout(left, records.store().keep_alive(session)).await {
            Ok(Ok(true)) => drop(holds.send_replace(Some(asked + ttl))),
            Ok(Ok(false)) | Err(_) => break,
            // Nobody else leads as long as the engine knows the session.
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lead is not renewed");
                again = Some(Instant::now() + AGAIN);
            }
        }
    }
    holds.send_replace(None);
}
