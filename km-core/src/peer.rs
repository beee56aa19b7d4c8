//! The other end of a pool as the domain sees it. Implemented in `relay`.

use async_trait::async_trait;

use serde::{Deserialize, Serialize};

use crate::{
    pad::{PadSpan, PadUse},
    provenance::Grade,
    run::RunSpec,
};

/// A certificate, by its SHA-256.
pub type Fingerprint = [u8; 32];

/// Why the peer did not take a run. The run is burned here in any case, and but for
/// [`AssignError::Unavailable`] the peer has not taken it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum AssignError {
    /// The link is down or did not answer in time: nobody knows whether the peer has it.
    #[error("the KM link is down or slow: {0}")]
    Unavailable(String),
    /// The peer does not have the block, and so never will serve from it.
    #[error("the peer does not have block {0}")]
    NoBlock(u64),
    /// The peer is past these bytes of the block, up to the cursor given: what this end knows of it
    /// is older.
    #[error("the peer is at byte {1} of block {0} already")]
    Behind(u64, u16),
    /// The peer's registry does not let these applications share keys.
    #[error(
        "the applications are not registered as a pair at the peer's KM; register them at both ends"
    )]
    NotPaired,
    /// The peer's policy asks these applications for keys of this grade.
    #[error("policy at the peer asks these applications for keys of grade {}", .0.as_str())]
    BelowGrade(Grade),
    /// The peer says it cannot take it.
    #[error("the peer refused a run of keys: {0}")]
    Refused(String),
}

/// A block that changed its owner untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenBlock {
    /// The block.
    pub number: u64,
    /// The count of owner changes including this one; an older claim is ignored.
    pub transfers: u16,
}

/// Messages to the KM at the other end of a pool. All but [`PeerLink::assign`] are best effort:
/// the protocol is safe without them and repeats what matters at each connection.
#[async_trait]
pub trait PeerLink: Send + Sync + 'static {
    /// Whether a message could be sent now.
    fn is_up(&self) -> bool;
    /// Assigns a run; `Ok` means it is durable at the peer. Sends it when first polled, and in
    /// that order: the peer takes the runs of a block in the order they were reserved.
    async fn assign(&self, run: &RunSpec) -> Result<(), AssignError>;
    /// Tells that a run is over and how many of its keys were handed out.
    fn run_ended(&self, run: &RunSpec, handed_out: u16);
    /// Lends a span of a block of ours; `Ok` means it is durable at the peer. In order, as
    /// [`PeerLink::assign`].
    async fn lend(&self, span: PadSpan) -> Result<(), AssignError>;
    /// Tells what became of spans of ours.
    fn pads_used(&self, pads: Vec<PadUse>);
    /// Tells that untouched blocks of ours are now the peer's.
    fn blocks_given(&self, blocks: Vec<GivenBlock>);
    /// Asks the peer for untouched blocks that claim at least `grade`, because ours run low.
    fn ask_blocks(&self, count: u16, grade: Grade);
}
