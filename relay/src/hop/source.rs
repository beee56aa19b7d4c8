//! The relay as a source of keys for an end-to-end pool, in the place of a QKD module. Several batches
//! are on their way at once; they are given on in the order they were sent.

use std::{
    collections::VecDeque,
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
use tokio::{sync::Mutex as AsyncMutex, task::JoinHandle};

use super::{
    engine::{Fetched, Relay, Scheme},
    message::{HopFault, MAX_MATERIAL, TransferId},
};
use crate::feed::{Feeder, Mode, Share, Stock};

/// How often a pool without news is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Batches of one pool on their way at once.
pub(crate) const MOST_ON_WAY: usize = 4;
/// One that was sent longer ago is given up: its destination is about to.
const FRESH: Duration = Duration::from_secs(20);

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
    /// In the order they were sent, and given on in that order.
    on_way: AsyncMutex<VecDeque<OnWay>>,
}

/// A batch on its way.
struct OnWay {
    bytes: u64,
    share: Share,
    sent: Instant,
    task: JoinHandle<Result<Fetched, ModuleError>>,
}

impl RelaySource {
    pub(crate) fn new(relay: Arc<Relay>, pool: Arc<Pool>, config: RelayConfig) -> Arc<Self> {
        pool.hears_demand();
        let to = pool.config().peer.clone();
        let feeder = Mutex::new(Feeder::new(config.mode.clone()));
        Arc::new(Self { relay, to, pool, config, feeder, on_way: AsyncMutex::default() })
    }

    /// Sends batches while keys are wanted, none longer than `most`. They go on when nobody waits
    /// for them: a connection that ends must not leave pad burned.
    fn send(self: &Arc<Self>, on_way: &mut VecDeque<OnWay>, most: usize) {
        while on_way.len() < MOST_ON_WAY {
            let wanted = self.wanted(on_way.iter().map(|batch| batch.bytes).sum());
            if wanted == 0 {
                return;
            }
            let bytes = wanted.min((MAX_MATERIAL.min(most) - TAG_KEYS) as u64);
            let source = self.clone();
            let task = tokio::spawn(async move { source.fetch(bytes as usize + TAG_KEYS).await });
            let (share, sent) = (self.feeder().sent(bytes), Instant::now());
            on_way.push_back(OnWay { bytes, share, sent, task });
        }
    }

    /// Bytes to send now beside those on their way; 0: none.
    fn wanted(&self, on_way: u64) -> u64 {
        let view = self.pool.view();
        let stored = view.stored_bits / 8 + on_way;
        if stored >= self.pool.config().max_stored {
            return 0;
        }
        let consumed = (view.ledger.absorbed - view.stored_bits) / 8;
        let mut feeder = self.feeder();
        feeder.add(self.pool.take_demand());
        feeder.wanted(Stock { stored, consumed }, Instant::now(), now_ms())
    }

    fn feeder(&self) -> MutexGuard<'_, Feeder> {
        self.feeder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, bytes: usize) -> Result<Fetched, ModuleError> {
        let mut last = ModuleError::Unavailable(format!("no route to {}", self.to));
        let RelayConfig { route, cipher, scheme, .. } = &self.config;
        for route in self.relay.ways(&self.to, route.as_ref(), *cipher) {
            match self.relay.fetch(&route, *scheme, bytes).await {
                Ok(fetched) => return Ok(fetched),
                Err(HopFault::NoPad) => last = ModuleError::Empty,
                Err(why) => last = ModuleError::Unavailable(why.to_string()),
            }
        }
        Err(last)
    }
}

/// The source as the intake of the pool's link sees it.
pub(crate) struct RelayModule(pub(crate) Arc<RelaySource>);

#[async_trait]
impl ModuleSource for RelayModule {
    async fn take(&self, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
        let source = &self.0;
        let mut on_way = source.on_way.lock().await;
        loop {
            let demanded = source.pool.demanded();
            source.send(&mut on_way, bytes);
            let Some(first) = on_way.front_mut() else {
                let _ = tokio::time::timeout(LOOK_AGAIN, demanded).await;
                continue;
            };
            let ended = tokio::select! {
                ended = &mut first.task => ended,
                _ = tokio::time::timeout(LOOK_AGAIN, demanded) => continue,
            };
            let (share, late) = (first.share, first.sent.elapsed() >= FRESH);
            on_way.pop_front();
            let stopping = || ModuleError::Unavailable("the relay is stopping".into());
            let fetched = match ended.map_err(|_| stopping()).flatten() {
                Ok(_) if late => Err(ModuleError::Unavailable("a batch came too late".into())),
                fetched => fetched,
            };
            let Fetched { transfer, material, provenance } =
                fetched.inspect_err(|_| source.feeder().failed(share))?;
            let relayed = Some(provenance);
            return Ok(vec![ModuleKey { id: transfer.to_string(), bytes: material, relayed }]);
        }
    }

    async fn collect(&self, ids: &[String]) -> Result<Vec<ModuleKey>, ModuleError> {
        let collect = |id: &String| {
            let RelaySource { relay, to, config, .. } = self.0.as_ref();
            let (bytes, provenance) = relay.collect(&(to.clone(), parse(id)?))?;
            if !provenance.path.iter().all(|hop| config.cipher.allows(hop.cipher)) {
                tracing::warn!(from = %to, "relayed keys came over a cipher not allowed here");
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
