//! The relay as a source of keys for an end-to-end pool, in the place of a QKD module.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use km_core::{
    block::TAG_KEYS,
    clock::now_ms,
    ids::ClusterId,
    module::{ModuleError, ModuleKey, ModuleSource},
    pool::Pool,
    route::{CipherPolicy, Route},
};

use super::{
    engine::{Fetched, Relay, Scheme},
    message::{HopFault, MAX_MATERIAL, TransferId},
};
use crate::feed::{Feeder, Mode, Stock};

/// How often a pool without news is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How a pool is fed by relay.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// The way taken while no controller gives another.
    pub route: Option<Route>,
    /// Which ciphers its keys may come over, whatever the route says.
    pub cipher: CipherPolicy,
    /// Where the bits are born.
    pub scheme: Scheme,
    /// When it is fed.
    pub mode: Mode,
}

impl RelayConfig {
    /// Whether the KM link to the cluster itself fills the pool: the way has no node between.
    pub fn by_km_link(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.middle().is_empty())
    }
}

/// Keys for the pool with one cluster.
pub(crate) struct RelaySource {
    relay: Arc<Relay>,
    to: ClusterId,
    pool: Arc<Pool>,
    config: RelayConfig,
    feeder: Mutex<Feeder>,
}

impl RelaySource {
    pub(crate) fn new(relay: Arc<Relay>, pool: Arc<Pool>, config: RelayConfig) -> Self {
        pool.hears_demand();
        let to = pool.config().peer.clone();
        let feeder = Mutex::new(Feeder::new(config.mode.clone()));
        Self { relay, to, pool, config, feeder }
    }

    /// Waits until keys are wanted, and how many bytes.
    async fn wanted(&self) -> usize {
        loop {
            let demanded = self.pool.demanded();
            let wanted = {
                let view = self.pool.view();
                let stored = view.stored_bits / 8;
                let consumed = (view.ledger.absorbed - view.stored_bits) / 8;
                let mut feeder = self.feeder();
                feeder.add(self.pool.take_demand());
                feeder.wanted(Stock { stored, consumed }, Instant::now(), now_ms())
            };
            if wanted > 0 {
                return wanted.min(MAX_MATERIAL as u64 - TAG_KEYS as u64) as usize + TAG_KEYS;
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, demanded).await;
        }
    }

    fn feeder(&self) -> MutexGuard<'_, Feeder> {
        self.feeder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, bytes: usize) -> Result<Fetched, ModuleError> {
        let mut last = ModuleError::Unavailable(format!("no route to {}", self.to));
        let RelayConfig { route, cipher, .. } = &self.config;
        for route in self.relay.ways(&self.to, route.as_ref(), *cipher) {
            let (relay, scheme) = (self.relay.clone(), self.config.scheme);
            let fetching = tokio::spawn(async move { relay.fetch(&route, scheme, bytes).await });
            match fetching.await {
                Ok(Ok(fetched)) => return Ok(fetched),
                Ok(Err(HopFault::NoPad)) => last = ModuleError::Empty,
                Ok(Err(why)) => last = ModuleError::Unavailable(why.to_string()),
                Err(_) => last = ModuleError::Unavailable("the relay is stopping".into()),
            }
        }
        Err(last)
    }
}

#[async_trait]
impl ModuleSource for RelaySource {
    async fn take(&self, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
        let wanted = self.wanted().await.min(bytes);
        let fetched = self.fetch(wanted).await;
        match &fetched {
            Ok(_) => self.feeder().fed(wanted.saturating_sub(TAG_KEYS) as u64),
            Err(_) => self.feeder().failed(),
        }
        let Fetched { transfer, material, provenance } = fetched?;
        let relayed = Some(provenance);
        Ok(vec![ModuleKey { id: transfer.to_string(), bytes: material, relayed }])
    }

    async fn collect(&self, ids: &[String]) -> Result<Vec<ModuleKey>, ModuleError> {
        let collect = |id: &String| {
            let name = (self.to.clone(), parse(id)?);
            let (bytes, provenance) = self.relay.collect(&name)?;
            if !provenance.path.iter().all(|hop| self.config.cipher.allows(hop.cipher)) {
                tracing::warn!(from = %self.to, "relayed keys came over a cipher not allowed here");
                return None;
            }
            Some(ModuleKey { id: id.clone(), bytes, relayed: Some(provenance) })
        };
        ids.iter().map(collect).collect::<Option<_>>().ok_or(ModuleError::UnknownId)
    }

    async fn rest(&self) {}
}

/// Reads what a [`TransferId`] shows as.
fn parse(text: &str) -> Option<TransferId> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|two| two[0] << 4 | two[1]).collect();
    bytes.try_into().ok().filter(|_| digits.len() == 32).map(TransferId)
}
