//! A token in memory: real AES-256-GCM, no hardware.

use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use km_core::{
    hsm::{Hsm, HsmError, HsmStatus, KekId, SealMethod, Sealed},
    material::ClearBytes,
};

pub struct SoftHsm(LessSafeKey);

impl SoftHsm {
    pub fn new() -> Arc<Self> {
        let key = UnboundKey::new(&AES_256_GCM, &super::random(32)).unwrap();
        Arc::new(Self(LessSafeKey::new(key)))
    }
}

#[async_trait]
impl Hsm for SoftHsm {
    fn current_kek(&self) -> KekId {
        KekId("01".into())
    }

    async fn seal(&self, aad: &[u8], clear: &ClearBytes) -> Result<Sealed, HsmError> {
        let iv = super::random(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&iv).unwrap();
        let mut ciphertext = clear.expose(<[u8]>::to_vec);
        self.0.seal_in_place_append_tag(nonce, Aad::from(aad), &mut ciphertext).unwrap();
        Ok(Sealed::new(self.current_kek(), SealMethod::TokenGcm, iv, ciphertext))
    }

    async fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<ClearBytes, HsmError> {
        let refused = |_| HsmError::Refused("its tag does not fit".into());
        let nonce = Nonce::try_assume_unique_for_key(&sealed.iv).map_err(refused)?;
        let mut bytes = sealed.ciphertext.clone();
        let clear = self.0.open_in_place(nonce, Aad::from(aad), &mut bytes).map_err(refused)?;
        let len = clear.len();
        bytes.truncate(len);
        Ok(ClearBytes::from_vec(bytes))
    }

    async fn random(&self, len: usize) -> Result<ClearBytes, HsmError> {
        Ok(ClearBytes::from_vec(super::random(len)))
    }

    async fn probe(&self) -> HsmStatus {
        self.status()
    }

    fn status(&self) -> HsmStatus {
        let (token, serial) = ("test".into(), "0".into());
        HsmStatus { ready: true, token, serial, detail: "in memory".into() }
    }
}
