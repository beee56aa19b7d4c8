//! Random numbers for keys. Enter through [`Random::bytes`].
//!
//! - `health`: the tests of SP 800-90B over a stream of bytes, without I/O.
//! - `device`: a QRNG at a path. - `source`: one source with its tests and conditioning.
//!
//! Sources are the token's generator, a QRNG, or both. With both, every byte is the exclusive or
//! of one of each: as long as one of them is uniform and independent of the other, so is the
//! result, against any adversary. No source ever stands in for another: when one fails, nothing
//! is handed out, and what was held ready is thrown away.
//!
//! Bytes are drawn [`CHUNK`] at a time, so that a key costs no call of the token. Each is handed
//! out once and wiped where it was; none waits longer than from one [`Random::renew`] to the next.

mod device;
mod health;
mod source;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use health::{HealthTests, Unhealthy};
pub use source::QrngConfig;

use crate::{
    hsm::{Hsm, HsmError},
    material::ClearBytes,
    provenance::Origin,
};
use device::Device;
use source::{Source, Tap};

/// Bytes drawn ahead at once: 128 keys of 256 bits.
pub const CHUNK: usize = 4096;
/// Most bytes handed out at once.
pub const MAX_BYTES: usize = 65_536;

/// Why there are no random numbers. Trying again may help, except for what `Token` says.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum RandomError {
    /// The token did not do it.
    #[error(transparent)]
    Token(#[from] HsmError),
    /// A source gives bytes that are not random.
    #[error(
        "the random source `{which}` failed its health test: {test}. It is tested again every \
         second; if this goes on, take the device out of service"
    )]
    Unhealthy {
        /// `token` or `qrng`.
        which: &'static str,
        /// What was noticed.
        test: Unhealthy,
    },
    /// A source gives no bytes.
    #[error("the random source `{which}` is away: {why}")]
    Away {
        /// `token` or `qrng`.
        which: &'static str,
        /// What happened.
        why: String,
    },
    /// The configuration is wrong.
    #[error("{0}")]
    Setup(String),
}

/// For whoever speaks of the token alone.
impl From<RandomError> for HsmError {
    fn from(error: RandomError) -> Self {
        match error {
            RandomError::Token(error) => error,
            RandomError::Setup(why) => Self::Setup(why),
            error => Self::Unavailable(error.to_string()),
        }
    }
}

/// A source as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SourceStatus {
    /// `token` or `qrng`.
    pub source: &'static str,
    /// Failures since start: health tests and reads.
    pub failures: u64,
    /// What was wrong at the last draw.
    pub trouble: Option<String>,
}

/// Tested and mixed bytes not handed out yet: the first `left` of `bytes`.
struct Stock {
    bytes: ClearBytes,
    left: usize,
}

impl Stock {
    fn empty() -> Self {
        Self { bytes: ClearBytes::from_vec(Vec::new()), left: 0 }
    }

    fn take(&mut self, len: usize) -> Option<ClearBytes> {
        let start = self.left.checked_sub(len)?;
        let taken = self.bytes.slice(start..self.left)?;
        self.bytes.wipe(start..self.left);
        self.left = start;
        Some(taken)
    }
}

fn setup(what: &str) -> RandomError {
    RandomError::Setup(what.to_owned())
}

/// The generator of this key manager.
pub struct Random {
    sources: Vec<Source>,
    origin: Origin,
    stock: Mutex<Stock>,
    /// Held by whoever draws.
    turn: tokio::sync::Mutex<()>,
}

impl Random {
    /// The token alone.
    pub fn of_token(hsm: Arc<dyn Hsm>) -> Self {
        Self::over(vec![Source::new(Tap::Token(hsm), 8.0)], Origin::HsmRng)
    }

    /// A QRNG, mixed with the token where one is given. The device is not touched yet.
    ///
    /// # Errors
    /// [`RandomError::Setup`] when its settings are out of bounds.
    pub fn with_qrng(hsm: Option<Arc<dyn Hsm>>, qrng: QrngConfig) -> Result<Self, RandomError> {
        if !(health::LEAST_ENTROPY..=8.0).contains(&qrng.min_entropy) {
            return Err(setup("min_entropy of the QRNG must be 0.5 to 8 bits per byte"));
        }
        let device = Device::new(qrng.path, qrng.deadline)
            .map_err(|e| RandomError::Setup(format!("cannot start the reader of the QRNG: {e}")))?;
        let origin = if hsm.is_some() { Origin::HsmRngAndQrng } else { Origin::Qrng };
        let token = hsm.map(|hsm| Source::new(Tap::Token(hsm), 8.0));
        let qrng = Source::new(Tap::Qrng(device), qrng.min_entropy);
        Ok(Self::over(token.into_iter().chain([qrng]).collect(), origin))
    }

    fn over(sources: Vec<Source>, origin: Origin) -> Self {
        let (stock, turn) = (Mutex::new(Stock::empty()), tokio::sync::Mutex::default());
        Self { sources, origin, stock, turn }
    }

    /// What the provenance of a key made from its bytes says.
    pub fn origin(&self) -> Origin {
        self.origin.clone()
    }

    /// The sources as of the last draw.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.sources.iter().map(Source::status).collect()
    }

    /// `len` random bytes, at most [`MAX_BYTES`], that nobody got before and nobody gets again.
    pub async fn bytes(&self, len: usize) -> Result<ClearBytes, RandomError> {
        if len > MAX_BYTES {
            return Err(setup("more than 65,536 random bytes are too many at once"));
        }
        if let Some(taken) = self.stock().take(len) {
            return Ok(taken);
        }
        let _turn = self.turn.lock().await;
        if len > CHUNK {
            return self.draw(len).await;
        }
        // Who had the turn before may have left enough.
        if let Some(taken) = self.stock().take(len) {
            return Ok(taken);
        }
        self.refill(len).await
    }

    /// Whether all sources are well. What another generator makes is made only then, as if these made it.
    ///
    /// # Errors
    /// As [`Random::bytes`].
    pub async fn check(&self) -> Result<(), RandomError> {
        self.bytes(1).await.map(drop)
    }

    /// Throws away what is held ready and draws anew; shows in [`Random::status`] whether all
    /// sources are well. Call it at intervals.
    pub async fn renew(&self) {
        let _turn = self.turn.lock().await;
        // `status` tells what went wrong.
        let _ = self.refill(0).await;
    }

    /// Draws a chunk and takes the first `len` bytes of it.
    async fn refill(&self, len: usize) -> Result<ClearBytes, RandomError> {
        let bytes = self.draw(CHUNK).await?;
        let mut stock = self.stock();
        *stock = Stock { bytes, left: CHUNK };
        stock.take(len).ok_or_else(|| setup("no chunk holds that many random bytes"))
    }

    async fn draw(&self, len: usize) -> Result<ClearBytes, RandomError> {
        let mut mixed: Option<ClearBytes> = None;
        let mut trouble = None;
        for source in &self.sources {
            // All are drawn from, so that the status of each is true.
            match source.draw(len).await {
                Err(error) => trouble = Some(error),
                Ok(drawn) => match &mut mixed {
                    Some(mixed) => mixed.xor(&drawn),
                    None => mixed = Some(drawn),
                },
            }
        }
        match (trouble, mixed) {
            (None, Some(mixed)) => Ok(mixed),
            (trouble, _) => {
                *self.stock() = Stock::empty();
                Err(trouble.unwrap_or_else(|| setup("there is no random source")))
            }
        }
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
