//! Where clear becomes sealed and back. Enter through [`Vault`].
//!
//! Only the vault makes a [`SealedBlock`] or a [`SealedObject`], and each is bound by associated
//! data to the record it belongs to: a sealed blob moved, swapped or relabelled does not open.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    block::{BlockHeader, SealedBlock},
    hsm::{Hsm, HsmError, HsmStatus, Sealed},
    material::ClearBytes,
    store::{Commit, Outcome, Store, StoreError},
};

/// Where the sealed key of the record tags is kept; a store without it is empty.
pub const RECORD_KEY: &[u8] = b"meta/record-key";
const RECORD_KEY_AAD: &[u8] = b"qkm record key 1\0";
const RECORD_KEY_BYTES: usize = 32;

/// Why the vault could not be opened.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum VaultError {
    /// The HSM did not do it.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's record key does not open in this HSM.
    #[error(
        "this store was made with another HSM or KEK ({0}). Use the token it was made with, \
         or an empty data directory"
    )]
    Foreign(HsmError),
}

/// Key bytes of a managed object, sealed under its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedObject(Sealed);

impl SealedObject {
    /// Differs between any two sealings.
    pub(crate) fn nonce(&self) -> &[u8] {
        &self.0.iv
    }
}

/// The HSM as the domain uses it.
#[derive(Clone)]
pub struct Vault {
    hsm: Arc<dyn Hsm>,
}

impl Vault {
    /// A vault over this token.
    pub fn new(hsm: Arc<dyn Hsm>) -> Self {
        Self { hsm }
    }

    /// Health of the token; never blocks.
    pub fn status(&self) -> HsmStatus {
        self.hsm.status()
    }

    /// Seals a block under its header.
    pub async fn seal_block(
        &self,
        header: BlockHeader,
        clear: &ClearBytes,
    ) -> Result<SealedBlock, HsmError> {
        let sealed = self.hsm.seal(&block_aad(&header), clear).await?;
        Ok(SealedBlock::new(header, sealed))
    }

    /// Opens a block.
    pub async fn open_block(&self, block: &SealedBlock) -> Result<ClearBytes, HsmError> {
        self.hsm.open(&block_aad(block.header()), block.sealed()).await
    }

    /// Seals the bytes of the managed object `uid` of `owner`.
    pub async fn seal_object(
        &self,
        uid: &str,
        owner: &str,
        clear: &ClearBytes,
    ) -> Result<SealedObject, HsmError> {
        self.hsm.seal(&object_aad(uid, owner), clear).await.map(SealedObject)
    }

    /// Opens what [`Vault::seal_object`] made for the same object.
    pub async fn open_object(
        &self,
        uid: &str,
        owner: &str,
        sealed: &SealedObject,
    ) -> Result<ClearBytes, HsmError> {
        self.hsm.open(&object_aad(uid, owner), &sealed.0).await
    }

    /// `len` random bytes from the token.
    pub async fn random(&self, len: usize) -> Result<ClearBytes, HsmError> {
        self.hsm.random(len).await
    }

    /// The key of the record tags: opened when the store has one, else made in the token and
    /// stored sealed.
    pub async fn record_key(&self, store: &dyn Store) -> Result<ClearBytes, VaultError> {
        if let Some(record) = store.get(RECORD_KEY).await? {
            let sealed: Sealed = postcard::from_bytes(&record.value)
                .map_err(|_| StoreError::Damaged("the record key does not parse".into()))?;
            return match self.hsm.open(RECORD_KEY_AAD, &sealed).await {
                Err(HsmError::Unavailable(why)) => Err(HsmError::Unavailable(why).into()),
                Err(error) => Err(VaultError::Foreign(error)),
                Ok(key) => Ok(key),
            };
        }
        let key = self.hsm.random(RECORD_KEY_BYTES).await?;
        let sealed = self.hsm.seal(RECORD_KEY_AAD, &key).await?;
        let value = postcard::to_allocvec(&sealed).unwrap_or_default();
        match store.commit(Commit::new().absent(RECORD_KEY).put(RECORD_KEY, value)).await? {
            Outcome::Committed(_) => Ok(key),
            outcome => Err(StoreError::Unavailable(format!(
                "another process set the store up at the same time ({outcome:?}); start again"
            ))
            .into()),
        }
    }
}

fn block_aad(header: &BlockHeader) -> Vec<u8> {
    // Postcard is a fixed function of the value, so equal headers give equal bytes.
    postcard::to_extend(header, b"qkm block 1\0".to_vec()).unwrap_or_default()
}

fn object_aad(uid: &str, owner: &str) -> Vec<u8> {
    postcard::to_extend(&(uid, owner), b"qkm object 1\0".to_vec()).unwrap_or_default()
}
