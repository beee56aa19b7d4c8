//! AES-256-GCM in software behind the HSM trait, with a switch. The end-to-end suite runs on a
//! real token; here only the front is tested. Not a crate: tests of several crates include it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use km_core::{
    hsm::{Hsm, HsmError, HsmStatus, KekId, MadeKey, SealMethod, Sealed, TokenKey},
    material::ClearBytes,
    usage::{Action, KeyKind, KeyUse, process},
};

pub(crate) struct SoftwareHsm {
    kek: LessSafeKey,
    pub(crate) up: AtomicBool,
    /// Whether it makes key pairs for use inside.
    pub(crate) pairs: AtomicBool,
    /// Whether each use of a key takes a twentieth of a second.
    pub(crate) slow: AtomicBool,
    in_use: AtomicUsize,
    /// Most keys in use at the same moment so far.
    pub(crate) most_at_once: AtomicUsize,
}

impl SoftwareHsm {
    pub(crate) fn new() -> Self {
        let kek = UnboundKey::new(&AES_256_GCM, &random(32)).unwrap();
        Self {
            kek: LessSafeKey::new(kek),
            up: AtomicBool::new(true),
            pairs: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            in_use: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        }
    }

    fn check_up(&self) -> Result<(), HsmError> {
        let away = || HsmError::Unavailable("switched off by the test".into());
        self.up.load(Relaxed).then_some(()).ok_or_else(away)
    }

    fn check_pairs(&self) -> Result<(), HsmError> {
        self.check_up()?;
        let none = || HsmError::Unsupported("this token has no key pairs".into());
        self.pairs.load(Relaxed).then_some(()).ok_or_else(none)
    }
}

pub(crate) fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rand::fill(&mut bytes).unwrap();
    bytes
}

#[async_trait]
impl Hsm for SoftwareHsm {
    fn current_kek(&self) -> KekId {
        KekId("01".into())
    }

    async fn seal(&self, aad: &[u8], clear: &ClearBytes) -> Result<Sealed, HsmError> {
        self.check_up()?;
        let iv: [u8; NONCE_LEN] = random(NONCE_LEN).try_into().unwrap();
        let mut ciphertext = clear.expose(<[u8]>::to_vec);
        let nonce = Nonce::assume_unique_for_key(iv);
        self.kek.seal_in_place_append_tag(nonce, Aad::from(aad), &mut ciphertext).unwrap();
        Ok(Sealed::new(self.current_kek(), SealMethod::TokenGcm, iv.to_vec(), ciphertext))
    }

    async fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<ClearBytes, HsmError> {
        self.check_up()?;
        let nonce = Nonce::try_assume_unique_for_key(&sealed.iv).unwrap();
        let mut bytes = sealed.ciphertext.clone();
        let opened = self.kek.open_in_place(nonce, Aad::from(aad), &mut bytes);
        let clear = opened.map_err(|_| HsmError::Refused("the tag does not fit".into()))?;
        Ok(ClearBytes::copy_from(clear))
    }

    async fn make_key(&self, aad: &[u8], kind: KeyKind, bits: u32) -> Result<MadeKey, HsmError> {
        self.check_pairs()?;
        let made = process::make(kind, bits)?;
        Ok(MadeKey { sealed: self.seal(aad, &made.private).await?, public: Some(made.public) })
    }

    async fn agree_key(
        &self,
        base: &TokenKey,
        public: &[u8],
        aad: &[u8],
        _: KeyKind,
        bits: u32,
    ) -> Result<MadeKey, HsmError> {
        let secret = self.use_key(base, &Action::Agree, &ClearBytes::copy_from(public)).await?;
        let start = secret.slice(0..bits as usize / 8);
        let start = start.ok_or_else(|| HsmError::Unsupported("too long".into()))?;
        Ok(MadeKey { sealed: self.seal(aad, &start).await?, public: None })
    }

    async fn use_key_each(
        &self,
        key: &TokenKey,
        uses: &Arc<[KeyUse]>,
    ) -> Result<Vec<ClearBytes>, HsmError> {
        self.check_pairs()?;
        let count = uses.len();
        self.most_at_once.fetch_max(self.in_use.fetch_add(count, Relaxed) + count, Relaxed);
        if self.slow.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.in_use.fetch_sub(count, Relaxed);
        let opened = self.open(&key.aad, &key.sealed).await?;
        uses.iter().map(|one| process::act(key.kind, &one.action, &opened, &one.input)).collect()
    }

    async fn random(&self, len: usize) -> Result<ClearBytes, HsmError> {
        Ok(ClearBytes::from_vec(random(len)))
    }

    async fn probe(&self) -> HsmStatus {
        self.status()
    }

    fn status(&self) -> HsmStatus {
        let (token, serial, detail) = ("test".into(), "0".into(), String::new());
        HsmStatus { ready: self.up.load(Relaxed), token, serial, detail }
    }
}
