//! Everything without sockets, opened in order. Enter through [`Node::open`].

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use hsm_profiles::Token;
use km_core::{
    anchor::Anchor,
    cabinet::Cabinet,
    epoch::{Epochs, Keeper},
    hsm::Hsm,
    objects::Objects,
    pool::{Pool, PoolConfig},
    random::Random,
    records::Records,
    store::{SqliteStore, Store},
    supply::Supply,
    vault::{RECORD_KEY, Vault},
};
use tracing::{info, warn};

use super::failures::{
    of_anchor, of_epochs, of_hsm, of_objects, of_random, of_record, of_store, of_vault,
};
use crate::{
    config::Config,
    fault::{Code, Failure},
};

/// Longest wait for the last users of store and token to let go.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The key manager's domain, in one process.
pub(crate) struct Node {
    pub(crate) token: Arc<Token>,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) supply: Arc<Supply>,
    pub(crate) objects: Objects,
    pub(crate) random: Arc<Random>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) cabinet: Arc<Cabinet>,
    pub(crate) anchor: Arc<Anchor>,
}

impl Node {
    /// Opens token, store, vault and pools.
    pub(crate) async fn open(config: &Config) -> Result<Self, Failure> {
        let token = open_token(config).await?;
        let store = open_store(config).await?;
        let path = config.store_file();
        let random = open_random(config, token.clone())?;
        let cabinet = Arc::new(Cabinet::new(config.cluster.clone(), config.token_objects));
        let vault =
            Vault::new(token.clone()).with_random(random.clone()).with_cabinet(cabinet.clone());
        let is_new = is_new(&path, store.as_ref()).await?;
        let key = vault.record_key(store.as_ref()).await.map_err(|e| of_vault(&path, &e))?;
        let records = Records::new(store.clone(), &key);
        drop(key);
        let anchor = Anchor::open(token.clone(), records.clone(), &config.cluster, is_new).await;
        let anchor = Arc::new(anchor.map_err(|e| of_anchor(&path, &e))?);
        let epochs = Epochs::open(token.clone(), records.clone(), config.epochs).await;
        let epochs = epochs.map_err(|e| of_epochs(&path, &e))?;
        // Only now: a store with more in it than its key has records of its epochs.
        grow(&anchor).await;
        let vault = vault.with_epochs(epochs.clone());
        let mut pools = Vec::with_capacity(config.peers.len());
        for peer in &config.peers {
            let settings = PoolConfig {
                here: config.cluster.clone(),
                peer: peer.cluster.clone(),
                key_ttl: config.key_ttl,
                max_stored: peer.max_stored,
                storage: peer.storage,
            };
            let pool = Pool::open(settings, records.clone(), vault.clone()).await;
            let pool = pool.map_err(|e| of_record(&path, &e))?;
            let view = pool.view();
            if !view.balanced {
                return Err(unbalanced(config, &peer.cluster));
            }
            info!(peer = %peer.cluster, blocks = view.blocks, bits = view.stored_bits, "pool open");
            pools.push(pool);
        }
        let (here, registry) = (config.cluster.clone(), config.registry.clone());
        let supply = Supply::new(here, registry, config.limits, pools.clone());
        let objects =
            Objects::new(records.clone(), vault.clone()).token_only(!config.crypto_in_process);
        let objects = objects.kept_in_token(config.kept_in_token.clone());
        let objects = objects.with_quotas(config.quotas.clone());
        objects.compare_with_token().await.map_err(|e| of_objects(&path, &e))?;
        let keeper = Arc::new(Keeper::new(epochs, vault, records, pools, objects.clone()));
        Ok(Self { token, store, supply, objects, random, keeper, cabinet, anchor })
    }

    /// The token as the domain sees it.
    pub(crate) fn hsm(&self) -> &dyn Hsm {
        self.token.as_ref()
    }
}

/// Copies of the store from before are older from now on. A token that is away is told later.
pub(super) async fn grow(anchor: &Anchor) {
    if let Err(error) = anchor.advance().await {
        warn!(%error, alarm = "generation-not-anchored",
            "the HSM was not told the generation of the store: an older copy may go unnoticed");
    }
}

/// A store nobody ever used.
async fn is_new(path: &Path, store: &SqliteStore) -> Result<bool, Failure> {
    Ok(store.get(RECORD_KEY).await.map_err(|e| of_store(path, &e))?.is_none())
}

pub(crate) async fn open_token(config: &Config) -> Result<Arc<Token>, Failure> {
    let opened = Token::start(config.hsm.clone(), config.worker.clone()).await;
    opened.map_err(|e| of_hsm(&e))
}

/// The sources as configured; one that is away keeps the KM from being ready, not from starting.
pub(crate) fn open_random(config: &Config, hsm: Arc<dyn Hsm>) -> Result<Arc<Random>, Failure> {
    let random = match &config.random.qrng {
        None => Random::of_token(hsm),
        Some(qrng) => Random::with_qrng(config.random.token.then_some(hsm), qrng.clone())
            .map_err(|e| of_random(&e))?,
    };
    Ok(Arc::new(random))
}

async fn open_store(config: &Config) -> Result<Arc<SqliteStore>, Failure> {
    let (folder, path) = (config.store.clone(), config.store_file());
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| {
        Failure::new(Code::S001, format!("cannot create {}: {error}", folder.display()))
            .help("create the directory of [store] path, owned by the user of this process")
    })?;
    let file = path.clone();
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(file)).await;
    let stopped = |e| Failure::new(Code::S001, format!("opening the store broke off: {e}"));
    opened.map_err(stopped)?.map(Arc::new).map_err(|e| of_store(&path, &e))
}

fn unbalanced(config: &Config, peer: &km_core::ids::ClusterId) -> Failure {
    let path = config.store_file();
    Failure::new(
        Code::S003,
        format!("store {}: the account of the pool with {peer} does not balance", path.display()),
    )
    .help(
        "put this store aside and start with an empty one; with this one keys might be used twice",
    )
}

/// Gives up the node and waits until its store and token are closed.
pub(super) async fn close(node: Arc<Node>) {
    let (store, token) = (Arc::downgrade(&node.store), Arc::downgrade(&node.token));
    // Closing syncs, and waits for the HSM's threads: not on a thread others need.
    drop(tokio::task::spawn_blocking(move || drop(node)).await);
    let until = Instant::now() + CLOSE_WAIT;
    while (in_use(&store) || in_use(&token)) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if in_use(&store) || in_use(&token) {
        warn!("store or token are still in use and close with the process");
    }
}

fn in_use<T>(thing: &Weak<T>) -> bool {
    thing.strong_count() > 0
}
