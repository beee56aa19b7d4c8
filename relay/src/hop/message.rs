//! What the two ends of a hop say to each other.

use std::fmt;

use km_core::{
    ids::ClusterId,
    provenance::{Hop, Origin},
    route::{CipherPolicy, MAX_HOPS},
    run::RunId,
};
use serde::{Deserialize, Serialize};

use crate::agreement::Tag;

/// Most bytes of key material in one batch: one block and its tag keys.
pub const MAX_MATERIAL: usize = 65_504;
/// Most pieces of pad one batch is sealed with.
pub const MAX_PIECES: usize = 64;
/// Bytes of pad that key one tag.
pub const TAG_KEY: usize = 32;

/// Names one batch; random, so that nobody can tell from it how much is relayed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TransferId(pub [u8; 16]);

/// A batch and where it begins: two clusters cannot mean the same one by accident.
pub type TransferName = (ClusterId, TransferId);

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What every node on the way may know of a batch. Each hop authenticates it with the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopHead {
    /// The batch.
    pub transfer: TransferId,
    /// Where it begins.
    pub from: ClusterId,
    /// The clusters after the one this is sent to; empty at the destination.
    pub route: Vec<ClusterId>,
    /// Which ciphers the hops to come may use.
    pub policy: CipherPolicy,
    /// Where the bits were born.
    pub origin: Origin,
    /// The hops it came over, without this one: that one is added by who opens it.
    pub path: Vec<Hop>,
}

/// Asks a neighbour to supply the exclusive or of keys it shares with the asker and with the next cluster
/// (clause 9.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupplyAsk {
    /// The batch it is to become; it begins at the asker.
    pub transfer: TransferId,
    /// The clusters after the one that is asked, the destination last.
    pub route: Vec<ClusterId>,
    /// Which ciphers its hops may use.
    pub policy: CipherPolicy,
    /// Bytes wanted.
    pub len: u32,
}

impl SupplyAsk {
    pub(crate) fn within_bounds(&self) -> bool {
        (1..MAX_HOPS).contains(&self.route.len()) && (1..=MAX_MATERIAL as u32).contains(&self.len)
    }
}

/// Part of a span that was lent for the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Piece {
    /// The span.
    pub span: RunId,
    /// First byte in it.
    pub at: u16,
    /// Bytes.
    pub len: u16,
}

/// How a batch is hidden on one hop, and which bytes that costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lock {
    /// One-time pad. The first [`TAG_KEY`] bytes of the pieces key the tag, the rest is the pad.
    Otp(Vec<Piece>),
    /// The material is not sent: it is what the pieces hold after the key of the tag (figure 5 of
    /// the specification, where a key of the first hop is passed on).
    Given(Vec<Piece>),
    /// AES-256-GCM. The piece is the key; the counter makes the nonce and only grows.
    Aes {
        /// Where the key is.
        key: Piece,
        /// Which frame under this key.
        counter: u64,
    },
    /// AES-256-GCM under a key of the connection itself ([`super::link_key`]): for the pool beside
    /// a KM link without QKD, which nothing else can begin to fill.
    Link {
        /// Which of the connection's keys; it only grows.
        key: u32,
        /// Which frame under this key.
        counter: u64,
    },
}

/// One batch on one hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopFrame {
    /// What it is.
    pub head: HopHead,
    /// How it is hidden.
    pub lock: Lock,
    /// Its ciphertext; empty for [`Lock::Given`].
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    /// One-time tag over head, lock and body, or that of AES-GCM.
    pub tag: Tag,
}

impl HopFrame {
    pub(crate) fn within_bounds(&self) -> bool {
        let pieces = |pieces: &[Piece]| (1..=MAX_PIECES).contains(&pieces.len());
        let locked = match &self.lock {
            Lock::Otp(some) => pieces(some) && !self.body.is_empty(),
            Lock::Given(some) => pieces(some) && self.body.is_empty(),
            Lock::Aes { key, .. } => usize::from(key.len) == 32 && !self.body.is_empty(),
            Lock::Link { .. } => !self.body.is_empty(),
        };
        locked
            && self.body.len() <= MAX_MATERIAL
            && self.head.route.len() + self.head.path.len() < MAX_HOPS
    }
}

/// Why a batch did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum HopFault {
    /// The link to the next cluster is down, or there is none.
    #[error("no link to the next cluster")]
    NoLink,
    /// The hop's pool has too few bits.
    #[error("too few key bits on a hop")]
    NoPad,
    /// Pad was named that is not lent, or was used before.
    #[error("a hop was sealed with pad that was used before or is not known")]
    BadPad,
    /// The tag does not fit: changed on the way, or the ends hold different bits.
    #[error("a hop's tag does not fit")]
    BadTag,
    /// The route, cipher or length is not allowed.
    #[error("a node does not relay this")]
    Refused,
    /// Too much is on its way already.
    #[error("a node has too much on its way")]
    Busy,
    /// Nobody answered in time.
    #[error("no answer in time")]
    Late,
    /// Batches were lost on this way lately; only one at a time tries it, after a pause. Never sent.
    #[error("batches were lost on this way, and it is tried again soon")]
    Resting,
}

/// What became of a batch; goes back the way it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HopAnswer {
    /// It is at the destination, which saw it come over this path.
    Arrived(Vec<Hop>),
    /// It is lost.
    Failed {
        /// The node that says so.
        at: ClusterId,
        /// Why.
        why: HopFault,
    },
}

impl HopAnswer {
    pub(crate) fn within_bounds(&self) -> bool {
        !matches!(self, Self::Arrived(path) if path.len() > MAX_HOPS)
    }
}
