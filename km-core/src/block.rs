//! Blocks: about 64 KiB of agreed key bits, sealed once, carved lazily. Enter through
//! [`BlockHeader`]; the life of a block is the table [`Phase::after`].

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    epoch::Pin,
    hsm::Custody,
    ids::{BlockId, ClusterId},
    payload::Payload,
    provenance::{Grade, Provenance},
    records,
    store::Commit,
};

/// Most usable bytes in a block. Offsets and lengths fit 16 bits.
pub const MAX_BLOCK: usize = 65_472;
/// Bytes of module key spent on the two agreement tags of a block (a 256-bit one-time Poly1305
/// key each way).
pub const TAG_KEYS: usize = 64;

/// Public metadata of a block (6.1.1a: ID, size, type, module, time stamps). Authenticated as
/// associated data of the seal, so a sealed block cannot be passed off as another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHeader {
    /// Its address.
    pub id: BlockId,
    /// Usable bytes, at most [`MAX_BLOCK`].
    pub len: u16,
    /// How the bits came to be.
    pub provenance: Provenance,
    /// The module (or peer KM) they were taken from, as configured here.
    pub module: String,
    /// Milliseconds since the Unix epoch when this KM received the last of them.
    pub received_ms: u64,
}

/// A block as it may be stored or replicated. Only [`crate::vault::Vault`] makes one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Stored")]
pub struct SealedBlock {
    header: BlockHeader,
    payload: Payload,
    pins: Vec<Pin>,
}

/// Its record. What was added is no part of the header, whose bytes the seal covers.
#[derive(Deserialize)]
struct Stored {
    header: BlockHeader,
    payload: Payload,
    #[serde(deserialize_with = "records::added")]
    custody: Option<Custody>,
}

impl From<Stored> for SealedBlock {
    fn from(stored: Stored) -> Self {
        let Stored { mut header, payload, custody } = stored;
        header.provenance.tell_custody(custody);
        Self::new(header, payload, Vec::new())
    }
}

impl Serialize for SealedBlock {
    fn serialize<S: Serializer>(&self, into: S) -> Result<S::Ok, S::Error> {
        let custody = self.header.provenance.custody();
        records::with_added(&(&self.header, &self.payload), custody.as_ref(), into)
    }
}

impl SealedBlock {
    pub(crate) fn new(header: BlockHeader, payload: Payload, pins: Vec<Pin>) -> Self {
        Self { header, payload, pins }
    }
    /// The public metadata.
    pub fn header(&self) -> &BlockHeader {
        &self.header
    }
    pub(crate) fn payload(&self) -> &Payload {
        &self.payload
    }
    /// Stores it only while its KEK epochs are not closed.
    pub(crate) fn guard(&self, commit: Commit) -> Commit {
        self.pins.iter().fold(commit, |commit, pin| pin.guard(commit))
    }
}

/// Where a block is in its life. What is Received but not Agreed is never stored; what is
/// Consumed is erased in the same commit, so neither has a phase here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Sealed here; it is not known whether the other end kept its copy.
    Agreed,
    /// Sealed at both ends; its owner may assign from it.
    Stored,
    /// An operator or an incident stopped its use (6.2f).
    Held,
}

/// What can happen to a stored block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The other end is known to have stored it.
    Confirm,
    /// Stop using it.
    Hold,
    /// The last byte is delivered or burned: erase it.
    Erase,
}

/// A step the life of a block does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block that is {from:?} cannot {step:?}")]
pub struct BadStep {
    /// The phase it is in.
    pub from: Phase,
    /// What was asked.
    pub step: Step,
}

impl Phase {
    /// The one table of a block's life. `None`: the block is erased.
    pub fn after(self, step: Step) -> Result<Option<Phase>, BadStep> {
        use {Phase::*, Step::*};
        Ok(match (self, step) {
            (Agreed, Confirm) | (Stored, Confirm) => Some(Stored),
            (Stored, Hold) => Some(Held),
            (Agreed | Stored | Held, Erase) => None,
            (from, step) => return Err(BadStep { from, step }),
        })
    }

    /// Whether bytes may be assigned or delivered from it.
    pub fn usable(self) -> bool {
        self == Phase::Stored
    }
}

/// The small, changing record beside the immutable [`SealedBlock`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// Where it is in its life.
    pub phase: Phase,
    /// The end that alone assigns from it.
    pub owner: ClusterId,
    /// How often it changed its owner while untouched; the newer claim wins at both ends.
    pub transfers: u16,
    /// Usable bytes, as in the header.
    pub len: u16,
    /// Bytes before this are assigned or burned; never goes back.
    pub cursor: u16,
    /// Whether the bits are an object inside the token.
    pub in_token: bool,
    /// What its keys may claim, as its header says.
    pub grade: Grade,
}

impl BlockState {
    /// Bytes nobody was promised yet.
    pub fn remaining(&self) -> u16 {
        self.len - self.cursor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{LinkId, PoolTag},
        provenance::{Combination, CombineMethod},
        usage::kem::KemSet,
    };

    /// Of a block combined with ML-KEM, as the version before that of [`Combination::custody`] wrote it.
    const OLD_HEADER: &[u8] = b"\x5a\x07\x40\x00\x02l1\x00\x00\x01\x00\x01\x06module\x05";

    #[test]
    fn a_block_of_before_opens_and_what_was_added_is_at_the_end_of_its_record_alone() {
        let mut provenance = Provenance::direct(LinkId::parse("l1").unwrap());
        let (kem, method) = (KemSet::MlKem768, CombineMethod::CatKdf);
        provenance.combined = Some(Combination { kem, method, custody: None });
        let id = BlockId { pool: PoolTag::from_bits(0x5a), number: 7 };
        let (module, received_ms) = ("module".to_owned(), 5);
        let header = BlockHeader { id, len: 64, provenance, module, received_ms };
        let payload = Payload::Object("name".into());
        let old = postcard::to_extend(&payload, OLD_HEADER.to_vec()).unwrap();
        let block = SealedBlock::new(header, payload.clone(), Vec::new());
        assert_eq!(postcard::from_bytes::<SealedBlock>(&old).unwrap(), block);
        assert_eq!(postcard::to_allocvec(&block).unwrap(), old);

        let mut told = block.clone();
        told.header.provenance.tell_custody(Some(Custody::InToken));
        let new = postcard::to_allocvec(&told).unwrap();
        assert_eq!(postcard::from_bytes::<SealedBlock>(&new).unwrap(), told);
        // What the seal covers is as it was, and a program of before reads the record.
        assert_eq!(postcard::to_allocvec(told.header()).unwrap(), OLD_HEADER);
        let before: (BlockHeader, Payload) = postcard::from_bytes(&new).unwrap();
        assert_eq!(before, (block.header, payload));
    }

    #[test]
    fn a_held_block_is_not_usable_any_more_and_only_erased() {
        let held = Phase::Stored.after(Step::Hold).unwrap().unwrap();
        assert!(!held.usable());
        assert!(held.after(Step::Confirm).is_err());
        assert_eq!(held.after(Step::Erase).unwrap(), None);
    }

    #[test]
    fn an_agreed_block_is_not_usable_before_the_other_end_confirmed() {
        assert!(!Phase::Agreed.usable());
        assert_eq!(Phase::Agreed.after(Step::Confirm).unwrap(), Some(Phase::Stored));
    }
}
