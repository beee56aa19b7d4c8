//! One KM link as the relay sees it: sends batches over it and lends the bytes that takes. Enter
//! through [`Neighbour::send`] and [`Neighbour::give`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use km_core::{
    ids::{ClusterId, LinkId},
    material::ClearBytes,
    pad::PadUse,
    pool::{Pool, PoolError},
    provenance::HopCipher,
    route::CipherPolicy,
};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    cipher,
    message::{HopFault, HopFrame, HopHead, Lock, TAG_KEY},
    pads_in::of_pad,
    pads_out::PadsOut,
};
use crate::{frame::Frame, handle::Handle};

/// Longest wait for others that are lending.
const TURN_WITHIN: Duration = Duration::from_secs(5);
/// With less than this to assign from, a hop that may use AES spares its stock.
const LOW_STOCK: u64 = 256 << 10;
/// Blocks asked of the other end when ours are used up.
const ASK_BLOCKS: u16 = 4;

/// A cluster that batches can be sent to.
pub(crate) struct Neighbour {
    pub(crate) cluster: ClusterId,
    /// The QKD link between us; without one, the KM link itself fills the pool.
    pub(crate) link: Option<LinkId>,
    pool: Arc<Pool>,
    handle: Arc<Handle>,
    pads: Mutex<Lent>,
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
        let pads = Mutex::new(Lent { turn: 0, pads: PadsOut::new(Instant::now()) });
        Self { cluster, link, pool, handle, pads }
    }

    /// Whether a batch could be sent now.
    pub(crate) fn is_up(&self) -> bool {
        self.handle.turn().is_some()
    }

    /// Tells it something; lost when the link is down.
    pub(crate) fn tell(&self, frame: Frame) {
        self.handle.send_best_effort(frame);
    }

    /// Sends a batch, hidden as the head's policy says; which cipher that was.
    pub(crate) async fn send(
        &self,
        head: HopHead,
        material: &ClearBytes,
    ) -> Result<HopCipher, HopFault> {
        // Pad of the pool that a batch is to fill would only go round in a circle.
        if self.link.is_none() && head.route.is_empty() && head.path.is_empty() {
            return self.handle.send_link(head, material).map(|()| HopCipher::KmLink);
        }
        let need = (TAG_KEY + material.len()) as u64;
        let aes = match head.policy {
            CipherPolicy::OtpOnly => false,
            CipherPolicy::AesOnly => true,
            CipherPolicy::OtpElseAes => self.pool.own_bytes() < LOW_STOCK.max(2 * need),
        };
        match aes {
            true => self.send_aes(head, material).await,
            false => self.send_otp(head, material).await,
        }
    }

    async fn send_otp(&self, head: HopHead, material: &ClearBytes) -> Result<HopCipher, HopFault> {
        let mut lent = self.lent(TAG_KEY + material.len()).await?;
        let taken = take(&mut lent.pads, material.len())?;
        let frame = cipher::seal_otp(head, Lock::Otp(taken.pieces), &taken.bytes, material);
        self.send_frame(&mut lent, frame)?;
        Ok(of_pad(HopCipher::Otp, taken.grade))
    }

    async fn send_aes(&self, head: HopHead, material: &ClearBytes) -> Result<HopCipher, HopFault> {
        let mut lent = self.lent(TAG_KEY).await?;
        let (piece, key) = lent.pads.hop_key(Instant::now()).ok_or(HopFault::NoPad)?;
        let counter = key.next().ok_or(HopFault::NoPad)?;
        let frame = key.seal(head, Lock::Aes { key: piece, counter }, material);
        self.send_frame(&mut lent, frame)?;
        Ok(HopCipher::Aes256Gcm)
    }

    /// Passes on `len` bytes that both ends hold; nothing but their place is sent.
    pub(crate) async fn give(
        &self,
        head: HopHead,
        len: usize,
    ) -> Result<(ClearBytes, HopCipher), HopFault> {
        let mut lent = self.lent(TAG_KEY + len).await?;
        let taken = take(&mut lent.pads, len)?;
        let given = cipher::seal_given(head, Lock::Given(taken.pieces), &taken.bytes);
        let (frame, material) = given.ok_or(HopFault::Refused)?;
        self.send_frame(&mut lent, Some(frame))?;
        Ok((material, of_pad(HopCipher::Shared, taken.grade)))
    }

    /// Sends, and then tells which spans that finished: never before the frame that names them.
    fn send_frame(&self, lent: &mut Lent, frame: Option<HopFrame>) -> Result<(), HopFault> {
        let frame = frame.ok_or(HopFault::Refused)?;
        let sent = self.handle.send_on(lent.turn, Frame::Hop(Box::new(frame)));
        self.settle(&mut lent.pads);
        sent.map_err(|_| HopFault::NoLink)
    }

    /// Waits until `need` bytes are lent over the connection of now.
    async fn lent(&self, need: usize) -> Result<MutexGuard<'_, Lent>, HopFault> {
        let turn = tokio::time::timeout(TURN_WITHIN, self.pads.lock()).await;
        let mut lent = turn.map_err(|_| HopFault::Busy)?;
        loop {
            let turn = self.handle.turn().ok_or(HopFault::NoLink)?;
            if lent.turn != turn {
                lent.pads.end();
                self.settle(&mut lent.pads);
                lent.turn = turn;
            }
            if lent.pads.available() >= need {
                return Ok(lent);
            }
            let want = lent.pads.next_span(need);
            let pad = match self.pool.lend(want).await {
                Ok(pad) => pad,
                Err(PoolError::NoKeys) => {
                    self.pool.ask_blocks(ASK_BLOCKS);
                    return Err(HopFault::NoPad);
                }
                Err(error) => {
                    tracing::warn!(peer = %self.cluster, %error, "no pad for the relay");
                    return Err(HopFault::NoLink);
                }
            };
            match self.handle.turn() == Some(turn) {
                true => lent.pads.add(pad),
                // It was lent over a connection that is gone.
                false => self.pool.pad_used(PadUse::burned(pad.span)),
            }
        }
    }

    fn settle(&self, pads: &mut PadsOut) {
        pads.take_through().into_iter().for_each(|used| self.pool.pad_used(used));
    }

    /// Gives up what is lent over a connection that is gone, or that nobody used lately.
    pub(crate) fn tend(&self) {
        // Whoever holds it does the same.
        let Ok(mut lent) = self.pads.try_lock() else { return };
        match self.handle.turn() == Some(lent.turn) {
            true => lent.pads.end_idle(Instant::now()),
            false => lent.pads.end(),
        }
        self.settle(&mut lent.pads);
    }
}

fn take(pads: &mut PadsOut, len: usize) -> Result<super::pads_out::Taken, HopFault> {
    let taken = pads.take(len, Instant::now());
    if taken.is_none() {
        // In too many pieces: fewer and longer ones come next.
        pads.end();
    }
    taken.ok_or(HopFault::NoPad)
}
