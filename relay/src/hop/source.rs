//! The relay as a source of keys for an end-to-end pool, in the place of a QKD module. Several batches
//! are on their way at once; they are given on in the order they were sent.

use std::{
    collections::{BTreeMap, VecDeque},
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
    provenance::{Grade, Provenance},
    route::{CipherPolicy, Route},
};
use tokio::{sync::Mutex as AsyncMutex, task::JoinHandle};

use super::{
    engine::{Fetched, Relay, Scheme},
    message::{HopFault, MAX_MATERIAL, TransferId},
    ration::Ration,
    split::{BETWEEN, joined},
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
    /// When it is fed while no controller says otherwise.
    pub mode: Mode,
    /// Over how many ways without a common node each key is split by exclusive or; 1: it is not.
    pub ways: usize,
}

impl RelayConfig {
    /// Whether the KM link to the cluster itself fills the pool: the way has no node between.
    pub fn by_km_link(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.middle().is_empty())
    }

    /// How a batch that must claim `grade` is brought. One-time pad and a key of QKD alone can claim more
    /// than the least, so they are taken then, whatever spares the stock otherwise.
    fn how(&self, grade: Grade) -> How {
        let Self { cipher, scheme, .. } = *self;
        match (grade, scheme) {
            (Grade::Computational, scheme) => (cipher, scheme),
            // It brings nothing better.
            (Grade::ItsRelay, scheme) if self.by_km_link() => (cipher, scheme),
            (Grade::ItsRelay, Scheme::Random) => (CipherPolicy::OtpOnly, Scheme::FirstKey),
            (Grade::ItsRelay, scheme) => (CipherPolicy::OtpOnly, scheme),
        }
    }
}

/// Which ciphers, and where the bits are born.
type How = (CipherPolicy, Scheme);

/// Keys for the pool with one cluster.
pub(crate) struct RelaySource {
    relay: Arc<Relay>,
    to: ClusterId,
    pool: Arc<Pool>,
    config: RelayConfig,
    feeder: Mutex<Feeder>,
    ration: Mutex<Ration>,
    /// In the order they were sent, and given on in that order.
    on_way: AsyncMutex<VecDeque<OnWay>>,
}

/// A batch on its way.
struct OnWay {
    bytes: u64,
    share: Share,
    sent: Instant,
    task: JoinHandle<Result<ModuleKey, ModuleError>>,
}

impl RelaySource {
    pub(crate) fn new(relay: Arc<Relay>, pool: Arc<Pool>, config: RelayConfig) -> Arc<Self> {
        let to = pool.config().peer.clone();
        let feeder = Mutex::new(Feeder::new(config.mode.clone()));
        let (ration, on_way) = (Mutex::default(), AsyncMutex::default());
        Arc::new(Self { relay, to, pool, config, feeder, ration, on_way })
    }

    /// Sends batches while keys are wanted, none longer than `most`. They go on when nobody waits
    /// for them: a connection that ends must not leave pad burned.
    fn send(self: &Arc<Self>, on_way: &mut VecDeque<OnWay>, most: usize) {
        while on_way.len() < MOST_ON_WAY {
            let wanted = self.wanted(on_way.iter().map(|batch| batch.bytes).sum());
            if wanted == 0 {
                return;
            }
            let (wanted, grade) = self.feeder().batch(wanted);
            let bytes = wanted.min((MAX_MATERIAL.min(most) - TAG_KEYS) as u64);
            let (source, len) = (self.clone(), bytes as usize + TAG_KEYS);
            let task = tokio::spawn(async move { source.fetch(len, grade).await });
            // What is lost on the way is spent as well.
            lock(&self.ration).spent(bytes);
            let (share, sent) = (self.feeder().sent(bytes, grade), Instant::now());
            on_way.push_back(OnWay { bytes, share, sent, task });
        }
    }

    /// `len` bytes for something else than the pool, which claim at least `grade` where that is more than
    /// the least; the other end finds them under the key's identifier. They go on when nobody waits for
    /// them.
    pub(crate) async fn pad(
        self: &Arc<Self>,
        len: usize,
        grade: Grade,
    ) -> Result<ModuleKey, ModuleError> {
        let allowed = lock(&self.ration).allowed(self.relay.ration(&self.to), Instant::now());
        if allowed.is_some_and(|bytes| bytes < len as u64) {
            let why = format!("the ration of {} is used up for now", self.to);
            return Err(ModuleError::Unavailable(why));
        }
        lock(&self.ration).spent(len as u64);
        let source = self.clone();
        let bringing = tokio::spawn(async move { source.fetch(len, grade).await });
        let stopping = |_| ModuleError::Unavailable("the relay is stopping".into());
        bringing.await.map_err(stopping)?
    }

    /// Bytes to send now beside those on their way; 0: none.
    fn wanted(&self, on_way: u64) -> u64 {
        let view = self.pool.view();
        let stored = view.stored_bits / 8 + on_way;
        if stored >= self.pool.config().max_stored {
            return 0;
        }
        let consumed = (view.ledger.absorbed - view.stored_bits) / 8;
        let now = Instant::now();
        let told = self.relay.feeding(&self.to);
        let mut feeder = self.feeder();
        if feeder.set_mode(told.as_ref().unwrap_or(&self.config.mode)) {
            tracing::info!(to = %self.to, mode = ?told, "the pool is fed another way");
        }
        feeder.add(self.pool.take_demand());
        let wanted = feeder.wanted(Stock { stored, consumed }, now, now_ms());
        let allowed = lock(&self.ration).allowed(self.relay.ration(&self.to), now);
        allowed.map_or(wanted, |bytes| wanted.min(bytes))
    }

    fn feeder(&self) -> MutexGuard<'_, Feeder> {
        lock(&self.feeder)
    }

    async fn fetch(&self, bytes: usize, grade: Grade) -> Result<ModuleKey, ModuleError> {
        let how = self.config.how(grade);
        match self.config.ways {
            ..=1 => self.fetch_whole(how, bytes).await.map(whole),
            ways => self.fetch_split(how, ways, bytes).await,
        }
    }

    /// One share over each of `ways` ways, all of which must arrive: rather no key than one that a node
    /// between knows. One after the other, so that a way that fails costs the others nothing.
    async fn fetch_split(
        &self,
        (cipher, scheme): How,
        ways: usize,
        bytes: usize,
    ) -> Result<ModuleKey, ModuleError> {
        let routes = self.relay.apart(&self.to, cipher);
        let (found, to) = (routes.len(), &self.to);
        if found < ways {
            let why = format!("{found} ways to {to} without a common node, {ways} are needed");
            return Err(ModuleError::Unavailable(why));
        }
        let chosen = self.relay.riskiest_first(routes, ways).ok_or_else(|| {
            let why = format!("of {found} ways to {to} without a common node too many rest");
            ModuleError::Unavailable(why)
        })?;
        let mut shares = BTreeMap::new();
        for (at, route) in chosen {
            let share = self.relay.fetch(&route, scheme, bytes).await;
            shares.insert(at, whole(share.map_err(lost)?));
        }
        let unlike = || ModuleError::Protocol("the ways of a split key meet".into());
        joined(shares.into_values()).ok_or_else(unlike)
    }

    async fn fetch_whole(
        &self,
        (cipher, scheme): How,
        bytes: usize,
    ) -> Result<Fetched, ModuleError> {
        let mut last = ModuleError::Unavailable(format!("no route to {}", self.to));
        for route in self.relay.ways(&self.to, self.config.route.as_ref(), cipher) {
            match self.relay.fetch(&route, scheme, bytes).await {
                Ok(fetched) => return Ok(fetched),
                Err(why) => last = lost(why),
            }
        }
        Err(last)
    }
}

impl RelaySource {
    fn collect_share(&self, id: &str) -> Option<ModuleKey> {
        let (bytes, provenance) = self.relay.collect(&(self.to.clone(), parse(id)?))?;
        Some(ModuleKey { id: id.to_owned(), bytes, came: Some(provenance) })
    }
}

fn lost(why: HopFault) -> ModuleError {
    match why {
        HopFault::NoPad => ModuleError::Empty,
        why => ModuleError::Unavailable(why.to_string()),
    }
}

fn whole(fetched: Fetched) -> ModuleKey {
    let Fetched { transfer, material, provenance } = fetched;
    ModuleKey { id: transfer.to_string(), bytes: material, came: Some(provenance) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            return Ok(vec![fetched.inspect_err(|_| source.feeder().failed(share))?]);
        }
    }

    async fn collect(&self, ids: &[String], _: &Provenance) -> Result<Vec<ModuleKey>, ModuleError> {
        let source = &self.0;
        let collect = |id: &String| {
            let shares = id.split(BETWEEN).map(|share| source.collect_share(share));
            let key = joined(shares.collect::<Option<Vec<_>>>()?)?;
            let provenance = key.came.as_ref()?;
            let allowed = provenance.hops().all(|hop| source.config.cipher.allows(hop.cipher));
            if !allowed || provenance.ways() < source.config.ways {
                let from = &source.to;
                tracing::warn!(%from, "relayed keys came another way than is allowed here");
                return None;
            }
            Some(key)
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
