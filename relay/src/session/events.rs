//! What happens to a session, and what its driver is to do: the words between the two.

use std::time::{Duration, Instant};

use km_core::{
    copies::{CopyError, Placed},
    hsm::Custody,
    ids::ClusterId,
    ledger::Ledger,
    material::ClearBytes,
    module::{ModuleError, ModuleKey},
    pad::{Pad, PadSpan, PadUse},
    peer::{Fingerprint, GivenBlock},
    provenance::{Grade, Provenance},
    run::{RunId, RunSpec},
    usage::kem::KemSet,
};

use crate::{
    agreement::Raw,
    copies::Offer,
    frame::{Assigned, Frame, Rejection},
    hop::{HopAnswer, HopFault, HopHead, SupplyAsk, TransferName},
};

/// What the driver is to do.
#[derive(Debug)]
pub enum Action {
    /// Send a frame.
    Send(Frame),
    /// Collect these keys at our module; then [`Event::Collected`].
    Collect {
        /// For this block.
        number: u64,
        /// The module's key identifiers.
        ids: Vec<String>,
        /// What the other end says of the way they came.
        came: Provenance,
    },
    /// Seal and store; then [`Event::Admitted`].
    Admit(Agreed),
    /// The other end has stored these blocks.
    Confirmed(Vec<u64>),
    /// The other end does not have these blocks: burn them.
    Burn(Vec<u64>),
    /// Bits refused: account for them and raise an alarm.
    Refused {
        /// The block.
        number: u64,
        /// Bytes refused, tag keys included.
        bytes: u64,
        /// Why.
        why: Rejection,
    },
    /// Tell which of these blocks we have (`Known`).
    TellKnown(Vec<u64>),
    /// The peer assigned a run: take it and answer `AssignResult`.
    TakeRun {
        /// The request to answer.
        request: u64,
        /// The run.
        run: RunSpec,
    },
    /// The peer answered an assignment of ours.
    AssignDone {
        /// The request.
        request: u64,
        /// What became of it.
        result: Assigned,
    },
    /// The peer is through with a run.
    EndRun {
        /// The run.
        run: RunSpec,
        /// How many of its keys were handed out.
        handed_out: u16,
    },
    /// The peer gave us untouched blocks.
    TakeGiven(Vec<GivenBlock>),
    /// The peer asks for untouched blocks.
    Give(u16, Grade),
    /// The peer uses none of its blocks below this any more.
    PeerFloor(u64),
    /// How long keys we assign wait at the peer to be collected.
    PeerKeyTtl(Duration),
    /// The greeting is done: the link is up.
    Up,
    /// The peer lends a span: make it durable, open it, then [`Event::Lent`], then answer
    /// `AssignResult`.
    Borrow {
        /// The request to answer.
        request: u64,
        /// The span.
        span: PadSpan,
    },
    /// The peer told what became of spans of its own: make it durable, then answer `PadsKnown`.
    PadsTold(Vec<PadUse>),
    /// The peer knows what became of spans of ours.
    PadsKnown(Vec<RunId>),
    /// Leader: make a key pair; then [`Event::KemMade`].
    KemMake {
        /// Which exchange.
        id: u64,
        /// The parameter set.
        set: KemSet,
    },
    /// Follower: make a secret for this key; then [`Event::KemSealed`].
    KemSeal {
        /// Which exchange.
        id: u64,
        /// The parameter set.
        set: KemSet,
        /// The key.
        public: Vec<u8>,
    },
    /// Leader: open this with the pair of the exchange; then [`Event::KemOpened`].
    KemOpen {
        /// Which exchange.
        id: u64,
        /// The ciphertext.
        ciphertext: Vec<u8>,
    },
    /// An operator at the other end orders so many bytes.
    Order(u64),
    /// The peer's cluster took out the KMs that show these certificates.
    Bar(Vec<Fingerprint>),
    /// The peer's account of the pool.
    PeerAccount(Ledger),
    /// Relayed keys came and were opened; the head's path has this hop in it.
    Opened {
        /// What they are.
        head: HopHead,
        /// The keys.
        material: ClearBytes,
    },
    /// Relayed keys did not open.
    NotOpened(HopFault),
    /// The peer asks for keys that this KM shares with it and with another; then it is told like any other
    /// batch.
    Supply(SupplyAsk),
    /// The peer offers an object: make it durable, then answer `Placed`.
    Offered(Box<Offer>),
    /// The peer says what became of an object.
    Placed {
        /// The offer's pad.
        pad: String,
        /// What became of it.
        placed: Result<Placed, CopyError>,
    },
    /// The peer says what became of relayed keys.
    Answered {
        /// The batch.
        name: TransferName,
        /// What became of it.
        answer: HopAnswer,
    },
}

/// A block on which both ends agree.
pub struct Agreed {
    /// Its number.
    pub number: u64,
    /// The end that will assign from it.
    pub owner: ClusterId,
    /// How its keys came to be.
    pub provenance: Provenance,
    /// Its bits.
    pub raw: Raw,
    /// Whether the other end is known to have it stored.
    pub confirmed: bool,
}

impl std::fmt::Debug for Agreed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Agreed(block {}, {} bytes)", self.number, self.raw.len())
    }
}

/// What happened at this end.
#[derive(Debug)]
pub enum Event {
    /// Leader: our module gave these keys; propose them as one block of `owner`.
    Keys {
        /// The keys, in order; together within the bounds of a block.
        keys: Vec<ModuleKey>,
        /// The end that shall own the block.
        owner: ClusterId,
    },
    /// Follower: our module's answer for a proposal.
    Collected {
        /// The block.
        number: u64,
        /// The keys, in the order asked.
        keys: Result<Vec<ModuleKey>, ModuleError>,
    },
    /// The block is durable here, or cannot be.
    Admitted {
        /// The block.
        number: u64,
        /// Whether it is stored.
        stored: bool,
    },
    /// Follower: whether the pool here takes more blocks; it does until this is said.
    Room(bool),
    /// Leader: a key pair is made.
    KemMade {
        /// For this exchange.
        id: u64,
        /// The public key.
        public: Vec<u8>,
    },
    /// Follower: a secret is made.
    KemSealed {
        /// For this exchange.
        id: u64,
        /// The key it was asked for.
        public: Vec<u8>,
        /// Its ciphertext.
        ciphertext: Vec<u8>,
        /// The secret.
        secret: ClearBytes,
        /// Where it was made.
        custody: Custody,
    },
    /// Leader: the secret is open.
    KemOpened {
        /// Of this exchange.
        id: u64,
        /// The secret.
        secret: ClearBytes,
        /// Where the private key worked.
        custody: Custody,
    },
    /// A span the peer lends is durable and open here, or cannot be.
    Lent {
        /// Which.
        id: RunId,
        /// The span, if it is.
        pad: Option<Pad>,
    },
    /// Time passed.
    Tick(Instant),
}
