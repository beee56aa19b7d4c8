//! What a KM tells the controller about itself, its KM links, QKD links and modules (6.1.3).

use km_core::{
    ids::{ClusterId, LinkId},
    ledger::Ledger,
};
use serde::{Deserialize, Serialize};

/// Most KM links in a report.
pub const MAX_LINKS: usize = 1024;
/// Most QKD links beside one KM link.
pub const MAX_QKD: usize = 8;
/// Most classical channels of one KM link.
pub const MAX_CHANNELS: usize = 8;

/// One KM at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Why it can neither relay nor store; absent when it can.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Version of the routing table it goes by.
    #[serde(default)]
    pub table: u64,
    /// The clusters it shares keys with, near or far: it needs routes there.
    #[serde(default)]
    pub wants: Vec<ClusterId>,
    /// Its KM links.
    #[serde(default)]
    pub links: Vec<LinkReport>,
}

/// One end of a KM link and of the pool beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The cluster at the other end.
    pub peer: ClusterId,
    /// Whether messages get through.
    pub up: bool,
    /// The classical channels, first choice first; empty when the KM does not tell them apart.
    #[serde(default)]
    pub channels: Vec<ChannelReport>,
    /// Key bits in the pool.
    #[serde(default)]
    pub stock_bits: u64,
    /// Bits taken in since the pool was made.
    #[serde(default)]
    pub taken_bits: u64,
    /// Bits used up since the pool was made, for whatever purpose.
    #[serde(default)]
    pub spent_bits: u64,
    /// The pool's account and stock at one instant, as this end keeps them; absent: it did not say.
    #[serde(default)]
    pub book: Option<Book>,
    /// The QKD links that fill the pool, first choice first. None: no key comes from here.
    #[serde(default)]
    pub qkd: Vec<QkdReport>,
    /// There is no QKD between the two, and the KM link itself fills the pool.
    #[serde(default)]
    pub without_qkd: bool,
}

/// The account of a pool at one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// Where every bit went.
    pub ledger: Ledger,
    /// Bits found in blocks and runs.
    pub stored_bits: u64,
    /// Whether the other end said the same of the pad both spent; absent while the relay uses some.
    pub ends_agree: Option<bool>,
}

/// One classical channel of a KM link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelReport {
    /// Whether it worked when it was last tried.
    pub well: bool,
    /// Whether the link uses it now.
    pub in_use: bool,
}

/// One end of a QKD link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QkdReport {
    /// The link.
    pub link: LinkId,
    /// Whether our module answers as it should.
    pub module_well: bool,
    /// What the module says of the quantum link; absent when it says nothing.
    #[serde(default)]
    pub light: Option<Light>,
    /// Secret bits per second.
    #[serde(default)]
    pub rate_bps: Option<f64>,
    /// Quantum bit error rate, or excess noise in the same units, 0 to 1.
    #[serde(default)]
    pub qber: Option<f64>,
}

/// State of a quantum link as its module sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Light {
    /// Keys are made.
    Up,
    /// No light arrives.
    Down,
    /// Light, but too much error or loss for a key.
    Aborted,
}

/// A report that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReport {
    /// Longer than allowed.
    #[error("the report of {0} lists more links than a KM may have")]
    TooLong(ClusterId),
    /// It lists a link to itself, or one link twice.
    #[error("the report of {0} lists the link to {1} twice, or to itself")]
    Link(ClusterId, ClusterId),
}

impl Report {
    /// Whether it can be used. Impossible numbers inside are ignored later, not refused.
    ///
    /// # Errors
    /// When it is too long, or a link is in it twice.
    pub fn check(&self) -> Result<(), BadReport> {
        let long =
            |link: &LinkReport| link.qkd.len() > MAX_QKD || link.channels.len() > MAX_CHANNELS;
        let many = self.links.len() > MAX_LINKS || self.wants.len() > MAX_LINKS;
        if many || self.links.iter().any(long) {
            return Err(BadReport::TooLong(self.cluster.clone()));
        }
        let mut seen = std::collections::BTreeSet::new();
        for link in &self.links {
            if link.peer == self.cluster || !seen.insert(&link.peer) {
                return Err(BadReport::Link(self.cluster.clone(), link.peer.clone()));
            }
        }
        Ok(())
    }

    /// The link to `peer`.
    pub fn link(&self, peer: &ClusterId) -> Option<&LinkReport> {
        self.links.iter().find(|link| link.peer == *peer)
    }
}
