//! The forms in which the bits of a block are kept (seed clause 9.3: "independently gauged").
//! Enter through [`Storage`]; nothing else knows the forms of a [`Payload`].
//!
//! Clear bytes reach the host in each form when keys are assigned, and no more of them than the
//! form makes necessary: all of a block, the slices concerned, or, from the token, the object.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    block::{BlockHeader, SealedBlock},
    custody::SEAL_BLOCKS,
    epoch::Pin,
    hsm::{HsmError, KekId, Sealed},
    ids::{BlockId, PoolTag},
    material::ClearBytes,
    vault::Vault,
};

/// How the bits of new blocks are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// Outside, each block sealed by one operation: the fastest by far.
    #[default]
    Blocks,
    /// Outside, each slice of so many bytes sealed by itself: opening one shows no other.
    Each(u16),
    /// Inside the token, as a private object. SoftHSM makes about ten a second.
    Token,
}

/// The bits of a block as its record has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Payload {
    /// Sealed as a whole.
    Whole(Sealed),
    /// Sealed slice by slice, the last one perhaps shorter.
    Slices {
        /// Bytes of a slice.
        len: u16,
        /// One for each, in order.
        sealed: Vec<Sealed>,
    },
    /// The name of the object in the token.
    Object(String),
}

impl Payload {
    /// The KEKs it is under.
    pub(crate) fn keks(&self) -> impl Iterator<Item = &KekId> {
        let sealed = match self {
            Self::Whole(sealed) => std::slice::from_ref(sealed),
            Self::Slices { sealed, .. } => sealed,
            Self::Object(_) => &[],
        };
        sealed.iter().map(|sealed| &sealed.kek)
    }

    /// The name of the object in the token, if that is where it is.
    pub(crate) fn object(&self) -> Option<&str> {
        match self {
            Self::Object(name) => Some(name),
            _ => None,
        }
    }

    fn storage(&self) -> Storage {
        match self {
            Self::Whole(_) => Storage::Blocks,
            Self::Slices { len, .. } => Storage::Each(*len),
            Self::Object(_) => Storage::Token,
        }
    }
}

impl Vault {
    /// Seals a block under its header, or keeps it in the token, which then has it until
    /// it is discarded.
    pub async fn seal_block(
        &self,
        header: BlockHeader,
        clear: &ClearBytes,
        storage: Storage,
    ) -> Result<SealedBlock, HsmError> {
        let (payload, pins) = match storage {
            Storage::Blocks => {
                let (sealed, pin) = self.seal(&block_aad(&header), clear).await?;
                self.custodies().shown(SEAL_BLOCKS, sealed.method.custody());
                (Payload::Whole(sealed), vec![pin])
            }
            Storage::Each(len) => self.seal_slices(&header, clear, len).await?,
            Storage::Token => (Payload::Object(self.keep(header.id, clear).await?), Vec::new()),
        };
        Ok(SealedBlock::new(header, payload, pins))
    }

    async fn seal_slices(
        &self,
        header: &BlockHeader,
        clear: &ClearBytes,
        len: u16,
    ) -> Result<(Payload, Vec<Pin>), HsmError> {
        let (mut all, mut pins) = (Vec::new(), Vec::new());
        for (index, range) in slices(len, clear.len()).enumerate() {
            let slice = clear.slice(range).ok_or_else(cut)?;
            let (sealed, pin) = self.seal(&slice_aad(header, len, index), &slice).await?;
            self.custodies().shown(SEAL_BLOCKS, sealed.method.custody());
            all.push(sealed);
            pins.push(pin);
        }
        Ok((Payload::Slices { len, sealed: all }, pins))
    }

    /// Opens a block.
    pub async fn open_block(&self, block: &SealedBlock) -> Result<ClearBytes, HsmError> {
        self.open_part(block, 0..usize::from(block.header().len)).await
    }

    /// Opens `range` of a block, and as little besides as its form allows.
    pub async fn open_part(
        &self,
        block: &SealedBlock,
        range: Range<usize>,
    ) -> Result<ClearBytes, HsmError> {
        let whole = match block.payload() {
            Payload::Whole(sealed) => self.open(&block_aad(block.header()), sealed).await?,
            Payload::Object(name) => self.read_kept(block.header().id, name).await?,
            Payload::Slices { len, sealed } => {
                return self.open_slices(block.header(), *len, sealed, range).await;
            }
        };
        if whole.len() != usize::from(block.header().len) {
            return Err(cut());
        }
        if range == (0..whole.len()) { Ok(whole) } else { whole.slice(range).ok_or_else(cut) }
    }

    async fn open_slices(
        &self,
        header: &BlockHeader,
        len: u16,
        sealed: &[Sealed],
        range: Range<usize>,
    ) -> Result<ClearBytes, HsmError> {
        let mut opened = ClearBytes::with_capacity(range.len());
        for (index, slice) in slices(len, usize::from(header.len)).enumerate() {
            let (from, to) = (range.start.max(slice.start), range.end.min(slice.end));
            if from >= to {
                continue;
            }
            let sealed = sealed.get(index).ok_or_else(cut)?;
            let clear = self.open(&slice_aad(header, len, index), sealed).await?;
            let part = from - slice.start..to - slice.start;
            opened.append(&clear.slice(part).ok_or_else(cut)?);
        }
        if opened.len() == range.len() { Ok(opened) } else { Err(cut()) }
    }

    /// The same block with nothing under `retiring` KEKs. Slices that do not open stay as they
    /// are; refused when none of those in question opens.
    pub(crate) async fn reseal_block(
        &self,
        block: &SealedBlock,
        retiring: impl Fn(&KekId) -> bool,
    ) -> Result<SealedBlock, HsmError> {
        if let Payload::Slices { len, sealed } = block.payload() {
            return self.reseal_slices(block.header(), *len, sealed, retiring).await;
        }
        let clear = self.open_block(block).await?;
        self.seal_block(block.header().clone(), &clear, block.payload().storage()).await
    }

    async fn reseal_slices(
        &self,
        header: &BlockHeader,
        len: u16,
        sealed: &[Sealed],
        retiring: impl Fn(&KekId) -> bool,
    ) -> Result<SealedBlock, HsmError> {
        let (mut all, mut pins, mut refused) = (Vec::new(), Vec::new(), None);
        for (index, old) in sealed.iter().enumerate() {
            if !retiring(&old.kek) {
                all.push(old.clone());
                continue;
            }
            let aad = slice_aad(header, len, index);
            match self.open(&aad, old).await {
                Ok(clear) => {
                    let (new, pin) = self.seal(&aad, &clear).await?;
                    all.push(new);
                    pins.push(pin);
                }
                Err(error @ HsmError::Refused(_)) => {
                    all.push(old.clone());
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match refused {
            Some(error) if pins.is_empty() => Err(error),
            _ => Ok(SealedBlock::new(header.clone(), Payload::Slices { len, sealed: all }, pins)),
        }
    }

    /// Destroys an object in the token; what is not there is no error.
    pub(crate) async fn discard(&self, name: &str) -> Result<(), HsmError> {
        self.cabinet()?.remove(self.hsm(), name).await
    }

    /// The names of the objects of `pool` in the token.
    pub(crate) async fn kept_of(&self, pool: PoolTag) -> Result<Vec<String>, HsmError> {
        self.cabinet()?.find(self.hsm(), pool).await
    }

    async fn read_kept(&self, id: BlockId, name: &str) -> Result<ClearBytes, HsmError> {
        match self.cabinet()?.is_of(id, name) {
            true => self.hsm().read_object(name).await,
            false => Err(HsmError::Refused("it names the object of another block".into())),
        }
    }

    async fn keep(&self, id: BlockId, clear: &ClearBytes) -> Result<String, HsmError> {
        self.cabinet()?.keep(self.hsm(), id, clear).await
    }
}

fn cut() -> HsmError {
    HsmError::Refused("it has not the length its header says".into())
}

/// Where the slices of `len` bytes of `total` bytes are.
fn slices(len: u16, total: usize) -> impl Iterator<Item = Range<usize>> {
    let len = usize::from(len.max(1));
    (0..total).step_by(len).map(move |start| start..(start + len).min(total))
}

fn block_aad(header: &BlockHeader) -> Vec<u8> {
    // Postcard is a fixed function of the value, so equal headers give equal bytes.
    postcard::to_extend(header, b"qkm block 1\0".to_vec()).unwrap_or_default()
}

fn slice_aad(header: &BlockHeader, len: u16, index: usize) -> Vec<u8> {
    postcard::to_extend(&(header, len, index as u64), b"qkm slice 1\0".to_vec()).unwrap_or_default()
}
