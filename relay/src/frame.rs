//! The messages of a KM link and their bytes: a 32-bit big-endian length, one version byte, and
//! the message in postcard. Enter through [`Frame::encode`] and [`Frames`].

use km_core::{
    copies::{CopyError, Placed},
    ids::{ClusterId, MAX_BLOCK_NUMBER, PoolTag},
    ledger::Ledger,
    module::MAX_MODULE_ID,
    pad::{PadSpan, PadUse},
    peer::{Fingerprint, GivenBlock},
    provenance::{Grade, MAX_SHARES, Provenance},
    route::MAX_HOPS,
    run::{RunId, RunSpec},
    usage::kem::KemSet,
};
use serde::{Deserialize, Serialize};

use crate::{
    agreement::{MAX_KEYS, Tag},
    copies::{MAX_PAD_NAME, Offer},
    hop::{HopAnswer, HopFrame, SupplyAsk, TransferName},
    kems::Combined,
};

/// The version of this protocol.
pub const VERSION: u8 = 1;
/// Longest frame in bytes, its length field aside.
pub const MAX_FRAME: usize = 512 << 10;
/// Longest key or ciphertext of ML-KEM, in bytes.
const MAX_KEM: usize = 1568;
/// Most block numbers in one list.
pub const MAX_LIST: usize = 4096;
/// Least a key waits to be collected. Less would be over before the key can be used.
pub const MIN_KEY_TTL_MS: u64 = 1000;

/// Why a block was not agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// The ends hold different bits.
    Mismatch,
    /// The other module does not have these keys.
    Missing,
    /// The number was used before.
    Used,
    /// An HSM or a store did not take it.
    NotStored,
    /// It took too long.
    Late,
    /// The pool at the other end is full.
    Full,
    /// The ends are set to combine keys differently.
    Policy,
    /// The keys did not come as announced.
    Path,
}

/// The answer to an assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Assigned {
    /// Durable at the other end.
    Durable,
    /// The other end does not have the block.
    NoBlock,
    /// The other end refuses; the text is for its operator.
    Refused(String),
    /// The other end is past these bytes: it is at this byte of the block.
    Behind(u16),
    /// The applications are not a pair at the other end.
    NotPaired,
    /// The other end has too many spans; it is nothing about the block.
    NoRoom,
    /// Policy at the other end asks these applications for keys of this grade.
    BelowGrade(Grade),
}

/// What each end says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who speaks.
    pub cluster: ClusterId,
    /// The pool both ends must mean.
    pub pool: PoolTag,
    /// Highest block number ever used at this end.
    pub highest: u64,
    /// Blocks of which this end does not know whether the other has them; at most [`MAX_LIST`].
    pub doubtful: Vec<u64>,
    /// This end assigns from none of its own blocks below this any more.
    pub floor: u64,
    /// Untouched blocks this end gave to the other; at most [`MAX_LIST`].
    pub given: Vec<GivenBlock>,
    /// Milliseconds an assigned key waits at this end to be collected; at least
    /// [`MIN_KEY_TTL_MS`].
    pub key_ttl_ms: u64,
}

/// A block one end proposes to agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Its number, never used before.
    pub number: u64,
    /// The end that will assign from it.
    pub owner: ClusterId,
    /// How its keys came to be: over the QKD link between the ends, or by relay.
    pub provenance: Provenance,
    /// What the bits are combined with.
    pub combined: Option<Combined>,
    /// The module's keys it is made of, in order: identifier and length in bytes.
    pub keys: Vec<(String, u16)>,
    /// One-time tag over all of the above and the bits.
    pub tag: Tag,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// First message each way.
    Hello(Hello),
    /// Answer to `Hello::doubtful`: which of these blocks this end has, and which not.
    Known {
        /// Blocks this end has.
        have: Vec<u64>,
        /// Blocks it does not have and never will.
        lack: Vec<u64>,
    },
    /// Collect these keys at your module and compare.
    Propose(Proposal),
    /// Equal here, sealed and durable here.
    Confirm {
        /// The block.
        number: u64,
        /// One-time tag over the number.
        tag: Tag,
    },
    /// Sealed and durable at the proposer too: usable from now on.
    Stored {
        /// The block.
        number: u64,
    },
    /// The block is refused; forget it.
    Reject {
        /// The block.
        number: u64,
        /// Why.
        why: Rejection,
    },
    /// A run of keys of ours is assigned to applications of yours.
    Assign {
        /// Chosen by the sender; the answer carries it.
        request: u64,
        /// The run.
        run: RunSpec,
    },
    /// Answer to `Assign`.
    AssignResult {
        /// The request.
        request: u64,
        /// What became of it.
        result: Assigned,
    },
    /// A run of ours is over.
    RunEnded {
        /// The run.
        run: RunSpec,
        /// How many of its keys were handed out.
        handed_out: u16,
    },
    /// These untouched blocks of ours are yours now.
    Given(Vec<GivenBlock>),
    /// Please give us some untouched blocks, which claim at least this.
    AskBlocks(u16, Grade),
    /// Are you there?
    Ping(u64),
    /// Yes.
    Pong(u64),
    /// As `Hello::floor`, as time goes on.
    Floor(u64),
    /// A span of a block of ours is for relay from here to you. Answered by `AssignResult`.
    Lend {
        /// Chosen by the sender, as for `Assign`.
        request: u64,
        /// The span.
        span: PadSpan,
    },
    /// What became of spans of ours; at most [`MAX_LIST`].
    PadsUsed(Vec<PadUse>),
    /// Answer to `PadsUsed`, once it is durable here.
    PadsKnown(Vec<RunId>),
    /// Relayed keys.
    Hop(Box<HopFrame>),
    /// A public key of ML-KEM, for keys to be combined with.
    KemOffer {
        /// Which exchange of this connection.
        id: u64,
        /// The parameter set.
        set: KemSet,
        /// The key.
        #[serde(with = "serde_bytes")]
        public: Vec<u8>,
    },
    /// Answer to `KemOffer`.
    KemAnswer {
        /// Which exchange.
        id: u64,
        /// The ciphertext.
        #[serde(with = "serde_bytes")]
        ciphertext: Vec<u8>,
    },
    /// The sender of the offer holds the secret.
    KemReady {
        /// Which exchange.
        id: u64,
        /// An HMAC under the secret.
        #[serde(with = "serde_bytes")]
        proof: Vec<u8>,
    },
    /// An operator at this end orders so many bytes for the pool between us, by relay.
    Order(u64),
    /// What became of relayed keys.
    HopAnswer {
        /// The batch.
        name: TransferName,
        /// What became of it.
        answer: HopAnswer,
    },
    /// The account of the pool at this end, as time goes on.
    Account(Ledger),
    /// Supply the exclusive or of keys you share with us and with another.
    Supply(SupplyAsk),
    /// An object for an application of yours, hidden by bits that came by relay.
    Offer(Box<Offer>),
    /// Answer to `Offer`, once it is durable here.
    Placed {
        /// The offer's pad.
        pad: String,
        /// What became of it.
        placed: Result<Placed, CopyError>,
    },
    /// SHA-256 of the certificates of key managers that the sender's cluster took out: nobody who shows one
    /// speaks for it any more. At most [`MAX_LIST`].
    Gone(Vec<Fingerprint>),
}

/// Bytes that are no frame. The connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is out of bounds.
    #[error("a frame of {0} bytes; at most {MAX_FRAME} are allowed")]
    Length(usize),
    /// Another version of this protocol.
    #[error("the peer speaks link protocol version {0}, this KM speaks {VERSION}")]
    Version(u8),
    /// The contents do not parse, or a list or name is out of bounds.
    #[error("a frame does not parse: {0}")]
    Malformed(&'static str),
}

impl Frame {
    /// Appends the frame's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, VERSION]);
        // Frames are plain owned data; postcard fails only on types it has no form for.
        let mut written = postcard::to_extend(self, std::mem::take(out)).unwrap_or_default();
        let len = (written.len() - start - 4) as u32;
        written[start..start + 4].copy_from_slice(&len.to_be_bytes());
        *out = written;
    }

    /// Reads one frame's contents (after the length field), bounds included.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (version, body) = bytes.split_first().ok_or(FrameError::Malformed("it is empty"))?;
        if *version != VERSION {
            return Err(FrameError::Version(*version));
        }
        let (frame, rest): (Self, _) = postcard::take_from_bytes(body)
            .map_err(|_| FrameError::Malformed("its contents do not parse"))?;
        if !rest.is_empty() {
            return Err(FrameError::Malformed("bytes follow its end"));
        }
        frame.within_bounds().then_some(frame).ok_or(FrameError::Malformed("out of bounds"))
    }

    fn within_bounds(&self) -> bool {
        match self {
            Frame::Hello(hello) => {
                hello.highest <= MAX_BLOCK_NUMBER
                    && hello.floor <= MAX_BLOCK_NUMBER + 1
                    && hello.given.len() <= MAX_LIST
                    && hello.key_ttl_ms >= MIN_KEY_TTL_MS
                    && listed(&hello.doubtful)
            }
            Frame::Known { have, lack } => listed(have) && listed(lack),
            Frame::Propose(proposal) => {
                let plain =
                    |(id, len): &(String, u16)| (1..=MAX_MODULE_ID).contains(&id.len()) && *len > 0;
                proposal.number <= MAX_BLOCK_NUMBER
                    && (1..=MAX_KEYS).contains(&proposal.keys.len())
                    && proposal.keys.iter().all(plain)
                    && proposal.provenance.path.len() <= MAX_HOPS
                    && proposal.provenance.split.len() <= MAX_SHARES
                    && proposal.provenance.split.iter().all(|way| way.path.len() <= MAX_HOPS)
            }
            Frame::Floor(floor) => *floor <= MAX_BLOCK_NUMBER + 1,
            Frame::Given(blocks) => blocks.len() <= MAX_LIST,
            Frame::Lend { span, .. } => span.sound(),
            Frame::PadsUsed(pads) => pads.len() <= MAX_LIST && pads.iter().all(PadUse::sound),
            Frame::PadsKnown(spans) => spans.len() <= MAX_LIST,
            Frame::KemOffer { public: bytes, .. }
            | Frame::KemAnswer { ciphertext: bytes, .. }
            | Frame::KemReady { proof: bytes, .. } => bytes.len() <= MAX_KEM,
            Frame::Hop(frame) => frame.within_bounds(),
            Frame::HopAnswer { answer, .. } => answer.within_bounds(),
            Frame::Supply(ask) => ask.within_bounds(),
            Frame::Offer(offer) => offer.within_bounds(),
            Frame::Placed { pad, .. } => pad.len() <= MAX_PAD_NAME,
            Frame::Gone(certificates) => certificates.len() <= MAX_LIST,
            Frame::Assign { run, .. } | Frame::RunEnded { run, .. } => run.sound(),
            _ => true,
        }
    }
}

fn listed(numbers: &[u64]) -> bool {
    numbers.len() <= MAX_LIST && numbers.iter().all(|number| *number <= MAX_BLOCK_NUMBER)
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    read: usize,
}

impl Frames {
    /// Adds bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one. The length is judged before the bytes are waited
    /// for, so the buffer never grows past one frame and one read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.read..];
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 || length > MAX_FRAME {
            return Err(FrameError::Length(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let frame = Frame::decode(body)?;
        self.read += 4 + length;
        Ok(Some(frame))
    }
}
