//! A KM with two tokens, the second of which is called `standby`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use km_core::{
    hsm::{Hsm, HsmError, HsmStatus, KekId, KekInfo, KekParcel, KekReceiver, Sealed},
    material::ClearBytes,
};

use super::SoftHsm;

/// What a process knows of them: another one over the same tokens stands for a restart.
pub struct TwoTokens {
    pub first: Arc<SoftHsm>,
    pub second: Arc<SoftHsm>,
    waiting: Mutex<BTreeMap<u64, KekParcel>>,
    /// The second answers nothing now.
    pub away: AtomicBool,
    /// A KEK on its way to the second never gets there.
    pub stuck: AtomicBool,
}

impl TwoTokens {
    pub fn new(first: &Arc<SoftHsm>, second: &Arc<SoftHsm>) -> Arc<Self> {
        let (first, second, waiting) = (first.clone(), second.clone(), Mutex::default());
        let (away, stuck) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { first, second, waiting, away, stuck })
    }

    fn answers(&self) -> Result<(), HsmError> {
        match self.away.load(Relaxed) {
            true => Err(HsmError::Unavailable("standby is away".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Hsm for TwoTokens {
    fn current_kek(&self) -> KekId {
        self.first.current_kek()
    }

    fn is_several(&self) -> bool {
        true
    }

    fn tokens(&self) -> Vec<String> {
        vec![String::new(), "standby".into()]
    }

    async fn kek_receiver(&self) -> Result<KekReceiver, HsmError> {
        self.first.kek_receiver().await
    }

    async fn kek_receivers(&self) -> Result<Vec<(String, Option<KekReceiver>)>, HsmError> {
        let second = self.answers().and(self.second.kek_receiver().await).ok();
        Ok(vec![
            (String::new(), Some(self.first.kek_receiver().await?)),
            ("standby".into(), second),
        ])
    }

    async fn create_kek_for(
        &self,
        from: u64,
        receivers: &[KekReceiver],
        seed: &ClearBytes,
    ) -> Result<(KekInfo, Vec<KekParcel>), HsmError> {
        self.answers()?;
        let all = [receivers, &[self.second.kek_receiver().await?]].concat();
        let (kek, mut parcels) = self.first.create_kek_for(from, &all, seed).await?;
        self.waiting.lock().unwrap().extend(parcels.pop().map(|parcel| (kek.number, parcel)));
        Ok((kek, parcels))
    }

    fn keks_waiting(&self) -> Vec<(String, KekParcel)> {
        let waiting = self.waiting.lock().unwrap();
        waiting.values().map(|parcel| ("standby".to_owned(), parcel.clone())).collect()
    }

    async fn bring_kek(&self, kek: &KekInfo) {
        if self.stuck.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        let parcel = self.waiting.lock().unwrap().remove(&kek.number);
        if let Some(parcel) = parcel {
            self.second.take_kek(&parcel).await.unwrap();
        }
    }

    async fn take_kek_in(&self, token: &str, parcel: &KekParcel) -> Result<KekInfo, HsmError> {
        match token {
            "" => self.first.take_kek(parcel).await,
            "standby" => {
                self.answers()?;
                self.second.take_kek(parcel).await
            }
            other => Err(HsmError::Unsupported(format!("no token {other:?}"))),
        }
    }

    async fn keks(&self) -> Result<Vec<KekInfo>, HsmError> {
        self.first.keks().await
    }

    async fn keks_anywhere(&self) -> Result<Vec<KekInfo>, HsmError> {
        let mut all = self.first.keks().await?;
        if self.answers().is_ok() {
            all.extend(self.second.keks().await?);
        }
        Ok(all)
    }

    async fn lacks_kek(&self, kek: &KekInfo) -> bool {
        self.answers().is_ok() && !self.second.keks().await.unwrap().contains(kek)
    }

    /// In the first token also while the second is away: what is worst to happen.
    async fn destroy_kek(&self, kek: &KekInfo) -> Result<(), HsmError> {
        self.first.destroy_kek(kek).await?;
        self.answers()?;
        self.second.destroy_kek(kek).await
    }

    async fn seal(&self, aad: &[u8], clear: &ClearBytes) -> Result<Sealed, HsmError> {
        self.first.seal(aad, clear).await
    }

    async fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<ClearBytes, HsmError> {
        self.first.open(aad, sealed).await
    }

    async fn random(&self, len: usize) -> Result<ClearBytes, HsmError> {
        self.first.random(len).await
    }

    async fn probe(&self) -> HsmStatus {
        self.first.probe().await
    }

    fn status(&self) -> HsmStatus {
        self.first.status()
    }
}
