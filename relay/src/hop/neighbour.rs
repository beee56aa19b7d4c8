//! One KM link as the relay sees it: sends batches over it and lends the bytes that takes. Enter
//! through [`Neighbour::send`] and [`Neighbour::give`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use km_core::{
    ids::{ClusterId, LinkId},
    material::ClearBytes,
    pad::{Pad, PadUse},
    pool::{Pool, PoolError},
    provenance::{Grade, HopCipher},
};
use tokio::sync::Mutex as AsyncMutex;

use super::{
    message::{HopFault, HopFrame, HopHead, TAG_KEY},
    pads_out::PadsOut,
    seal::{Choice, Given},
};
use crate::{frame::Frame, handle::Handle};

/// Longest wait for others that are lending.
const TURN_WITHIN: Duration = Duration::from_secs(5);
/// Blocks asked of the other end when ours are used up.
const ASK_BLOCKS: u16 = 4;

/// A cluster that batches can be sent to.
pub(crate) struct Neighbour {
    pub(crate) cluster: ClusterId,
    /// A QKD link between us; without one, the KM link itself fills the pool.
    pub(crate) link: Option<LinkId>,
    pool: Arc<Pool>,
    handle: Arc<Handle>,
    lent: Mutex<Lent>,
    /// Held by whoever is lending.
    lending: AsyncMutex<()>,
}

/// What is lent over the connection `turn`.
struct Lent {
    turn: u64,
    pads: PadsOut,
}

impl Neighbour {
    pub(crate) fn new(
        cluster: ClusterId,
        link: Option<LinkId>,
        pool: Arc<Pool>,
        handle: Arc<Handle>,
    ) -> Self {
        let lent = Mutex::new(Lent { turn: 0, pads: PadsOut::new(Instant::now()) });
        Self { cluster, link, pool, handle, lent, lending: AsyncMutex::default() }
    }

    /// Whether a batch could be sent now.
    pub(crate) fn is_up(&self) -> bool {
        self.handle.turn().is_some()
    }

    /// Bytes of pad there are for batches to it.
    pub(crate) fn stock(&self) -> u64 {
        self.pool.own_bytes() + self.lent().pads.available() as u64
    }

    /// Whether there are so many; else blocks of the other end are asked for.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        let enough = self.stock() >= bytes as u64;
        if !enough {
            self.pool.ask_blocks(ASK_BLOCKS, Grade::Computational);
        }
        enough
    }

    /// Tells it something; lost when the link is down.
    pub(crate) fn tell(&self, frame: Frame) {
        self.handle.send_best_effort(frame);
    }

    /// Sends a batch, hidden as the head's policy says; which cipher that was.
    pub(crate) async fn send(
        self: &Arc<Self>,
        head: HopHead,
        material: &ClearBytes,
    ) -> Result<HopCipher, HopFault> {
        // Pad of the pool that a batch is to fill would only go round in a circle.
        if self.link.is_none() && head.route.is_empty() && head.path.is_empty() {
            return self.handle.send_link(head, material).map(|()| HopCipher::KmLink);
        }
        let choice = Choice::of(head.policy, self.pool.own_bytes(), material.len());
        let need = |pads: &PadsOut| pads.need(choice, material.len());
        self.with_pad(need, |lent| {
            let (frame, cipher) = lent.pads.seal(choice, head, material, Instant::now())?;
            self.send_frame(lent.turn, frame, material.len())?;
            Ok(cipher)
        })
        .await
    }

    /// Passes on bytes that both ends hold; see [`PadsOut::give`].
    pub(crate) async fn give(
        self: &Arc<Self>,
        head: HopHead,
        len: usize,
    ) -> Result<Given, HopFault> {
        self.with_pad(
            |_| TAG_KEY + len,
            |lent| {
                let (frame, given) = lent.pads.give(head, len, Instant::now())?;
                self.send_frame(lent.turn, frame, given.material.len())?;
                Ok(given)
            },
        )
        .await
    }

    fn send_frame(&self, turn: u64, frame: HopFrame, len: usize) -> Result<(), HopFault> {
        self.handle.send_hop(turn, frame, len).map_err(|_| HopFault::NoLink)
    }

    /// Does `job` once as many bytes as `need` says are lent over the connection of now. Frames
    /// leave in the order their bytes were taken, and before it is told which spans that finished.
    /// Where batches follow each other, the next of that length shall not have to wait for its bytes;
    /// after a single one they would only be burned.
    async fn with_pad<T>(
        self: &Arc<Self>,
        need: impl Fn(&PadsOut) -> usize,
        job: impl FnOnce(&mut Lent) -> Result<T, HopFault>,
    ) -> Result<T, HopFault> {
        let until = tokio::time::Instant::now() + TURN_WITHIN;
        let mut turn = None;
        loop {
            let needed = {
                let mut lent = self.lent_now()?;
                let needed = need(&lent.pads);
                if lent.pads.available() >= needed {
                    let follows = lent.pads.is_in_use(Instant::now());
                    let done = job(&mut lent);
                    self.settle(&mut lent.pads);
                    if follows && lent.pads.available() < needed {
                        drop(turn.take());
                        self.lend_ahead(needed);
                    }
                    return done;
                }
                needed
            };
            if turn.is_some() {
                self.lend(needed).await?;
            }
            let mine = tokio::time::timeout_at(until, self.lending.lock());
            turn = match turn {
                None => Some(mine.await.map_err(|_| HopFault::Busy)?),
                held => held,
            };
        }
    }

    /// Bytes for another batch like the last one, while nobody waits for them.
    fn lend_ahead(self: &Arc<Self>, need: usize) {
        let neighbour = self.clone();
        tokio::spawn(async move {
            // Whoever lends already brings some.
            let Ok(_turn) = neighbour.lending.try_lock() else { return };
            if let Err(why) = neighbour.lend(need).await {
                tracing::debug!(peer = %neighbour.cluster, %why, "no pad ahead");
            }
        });
    }

    /// What is lent over the connection of now; what is left of an earlier one is given up.
    fn lent_now(&self) -> Result<MutexGuard<'_, Lent>, HopFault> {
        let turn = self.handle.turn().ok_or(HopFault::NoLink)?;
        let mut lent = self.lent();
        if lent.turn != turn {
            lent.pads.end();
            self.settle(&mut lent.pads);
            lent.turn = turn;
        }
        Ok(lent)
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends what is missing of `need` bytes, several spans at once, or some of it.
    async fn lend(&self, need: usize) -> Result<(), HopFault> {
        let (turn, lengths) = {
            let mut lent = self.lent_now()?;
            (lent.turn, lent.pads.next_spans(need))
        };
        let lend = |want| {
            let pool = self.pool.clone();
            tokio::spawn(async move { pool.lend(want).await })
        };
        let lending: Vec<_> = lengths.into_iter().map(lend).collect();
        let (mut added, mut failed) = (false, None);
        for lending in lending {
            match lending.await.unwrap_or(Err(PoolError::NotDurable)) {
                Ok(pad) => added |= self.add(turn, pad),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if !added => Err(self.no_pad(&error)),
            _ => Ok(()),
        }
    }

    /// Whether it was lent over the connection of now.
    fn add(&self, turn: u64, pad: Pad) -> bool {
        let mut lent = self.lent();
        let same = lent.turn == turn && self.handle.turn() == Some(turn);
        match same {
            true => {
                lent.pads.add(pad);
                lent.pads.touch(Instant::now());
            }
            false => self.pool.pad_used(PadUse::burned(pad.span)),
        }
        same
    }

    fn no_pad(&self, error: &PoolError) -> HopFault {
        if *error == PoolError::NoKeys {
            self.pool.ask_blocks(ASK_BLOCKS, Grade::Computational);
            return HopFault::NoPad;
        }
        tracing::warn!(peer = %self.cluster, %error, "no pad for the relay");
        HopFault::NoLink
    }

    fn settle(&self, pads: &mut PadsOut) {
        pads.take_through().into_iter().for_each(|used| self.pool.pad_used(used));
    }

    /// Gives up what is lent over a connection that is gone, or that nobody used lately.
    pub(crate) fn tend(&self) {
        let mut lent = self.lent();
        match self.handle.turn() == Some(lent.turn) {
            true => lent.pads.end_idle(Instant::now()),
            false => lent.pads.end(),
        }
        self.settle(&mut lent.pads);
    }
}
