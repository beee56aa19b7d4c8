//! Everything without sockets, opened in order. Enter through [`Node::open`].

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use cluster::{EtcdStore, desk::Client, lead::Candidate, roster::Roster};
use hsm_profiles::{Token, take_no_keks};
use km_core::{
    anchor::{self, Anchor},
    cabinet::Cabinet,
    epoch::{self, Epochs, Keeper},
    hsm::Hsm,
    journal::Fence,
    material::ClearBytes,
    objects::Objects,
    pool::{Pool, PoolConfig},
    random::Random,
    records::Records,
    store::{SqliteStore, Store, StoreError},
    supply::Supply,
    vault::{Vault, VaultError},
};
use tracing::{info, warn};
use transport::{Profile, Shutdown, client_config};

use super::failures::{
    of_anchor, of_epochs, of_hsm, of_objects, of_random, of_record, of_store, of_tls, of_vault,
};
use super::membership::Membership;
use crate::{
    config::Config,
    fault::{Code, Failure},
    migrate::refuse_marked,
};

/// Longest wait for the last users of store and token to let go.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How often the store that others use too is looked through for what is under old KEK epochs.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// The key manager's domain, in one process.
pub(crate) struct Node {
    pub(crate) token: Arc<Token>,
    pub(crate) store: Arc<dyn Store>,
    records: Records,
    /// Where it takes its turn at leading, if several KMs share the store.
    pub(crate) candidate: Option<Candidate>,
    /// Where it tells the others how it is, likewise.
    pub(crate) roster: Option<Roster>,
    /// What is decided of it there, likewise.
    pub(crate) membership: Option<Membership>,
    /// The store, if it is on etcd.
    pub(crate) etcd: Option<Arc<EtcdStore>>,
    pub(crate) supply: Arc<Supply>,
    pub(crate) objects: Objects,
    pub(crate) random: Arc<Random>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) cabinet: Arc<Cabinet>,
    pub(crate) anchor: Arc<Anchor>,
}

impl Node {
    /// Opens token, store and vault; the pools too, when this KM is the only one. `None` when `shutdown` came
    /// while it waited for the store.
    pub(crate) async fn open(
        config: &Config,
        shutdown: &Shutdown,
    ) -> Result<Option<Self>, Failure> {
        let token = open_token(config).await?;
        epoch_warnings(config).into_iter().for_each(|warning| warn!("{warning}"));
        if config.shared.is_none() {
            make_folder(config)?;
        }
        let path = config.store_file();
        let (store, etcd) = tokio::select! {
            // What is open already is used, or closed in order.
            biased;
            opened = open_store(config) => opened.map_err(|e| of_store(&path, &e))?,
            // A file is open at once, and what else is wrong with the start is told then.
            () = shutdown.requested(), if config.shared.is_some() => {
                // Waits for the HSM's threads: not on a thread others need.
                let _ = tokio::task::spawn_blocking(move || drop(token)).await;
                return Ok(None);
            }
        };
        refuse_marked(config, store.as_ref()).await?;
        let random = open_random(config, token.clone())?;
        let cabinet = Arc::new(Cabinet::new(config.cluster.clone(), config.token_objects));
        let vault =
            Vault::new(token.clone()).with_random(random.clone()).with_cabinet(cabinet.clone());
        let is_new = anchor::is_new(store.as_ref()).await.map_err(|e| of_store(&path, &e))?;
        let key =
            record_key(config, &vault, &token, &store).await.map_err(|e| of_vault(&path, &e))?;
        let records = Records::new(store.clone(), &key);
        drop(key);
        let membership = match (&config.shared, &etcd) {
            (Some(shared), Some(etcd)) => {
                Some(Membership::open(config, shared, records.clone(), etcd).await?)
            }
            _ => None,
        };
        let keeper = config.keeper_of_generations();
        let anchor = Anchor::open(token.clone(), records.clone(), &keeper, is_new).await;
        let anchor = Arc::new(anchor.map_err(|e| of_anchor(config, &e))?);
        let (hsm, kept, policy, drawn) =
            (token.clone(), records.clone(), config.epochs, random.clone());
        let epochs = match &config.shared {
            None => Epochs::open(hsm, kept, policy, drawn).await,
            Some(shared) => Epochs::open_shared(hsm, kept, policy, drawn, &shared.seat.node).await,
        };
        let epochs = epochs.map_err(|e| of_epochs(&path, &e))?;
        if let Some(membership) = &membership {
            membership.look(&epochs).await;
        }
        // Only now: a store with more in it than its key has records of its epochs.
        grow(&anchor).await;
        let vault = vault.with_epochs(epochs.clone());
        let (here, registry, limits) =
            (config.cluster.clone(), config.registry.clone(), config.limits);
        let (supply, candidate) = match config.shared.as_ref().zip(membership.as_ref()) {
            None => (Supply::new(here, registry, limits, []), None),
            Some((shared, membership)) => {
                let tls = client_config(&shared.desk.tls(), Profile::Front);
                let tls = tls.map_err(|e| of_tls("[node]", &e))?;
                let desk = Client::new(tls, shared.members.clone(), membership.gone());
                let (seat, lease) = (shared.seat.clone(), shared.lease);
                let candidate = Candidate::new(records.clone(), seat, lease, desk.clone());
                desk.follow(candidate.leader());
                (Supply::of_cluster(here, registry, limits, desk), Some(candidate))
            }
        };
        let roster = config.shared.as_ref();
        let roster = roster.map(|shared| Roster::new(records.clone(), shared.seat.clone()));
        let objects =
            Objects::new(records.clone(), vault.clone()).token_only(!config.crypto_in_process);
        let objects = objects
            .kept_in_token(config.kept_in_token.clone())
            .kept_as_asked(config.kept_as_asked.clone());
        let objects = objects.with_quotas(config.quotas.clone());
        let compared = match candidate {
            None => objects.compare_with_token().await,
            Some(_) => objects.count_kept().await,
        };
        compared.map_err(|e| of_objects(&path, &e))?;
        let kept = records.clone();
        let keeper = Keeper::new(epochs, vault.clone(), kept, supply.clone(), objects.clone());
        let keeper = Arc::new(match candidate {
            Some(_) => keeper.shared(LOOK_AGAIN),
            None => keeper,
        });
        let node = Self {
            token,
            store,
            records,
            candidate,
            roster,
            membership,
            etcd,
            supply,
            objects,
            random,
            keeper,
            cabinet,
            anchor,
        };
        if node.candidate.is_none() {
            node.supply.lead(node.open_pools(config, None).await?, Box::new(|| true));
        }
        Ok(Some(node))
    }

    /// Opens the pools, under `fence` where several KMs share the store.
    pub(crate) async fn open_pools(
        &self,
        config: &Config,
        fence: Option<Fence>,
    ) -> Result<Vec<Arc<Pool>>, Failure> {
        let path = config.store_file();
        let mut pools = Vec::with_capacity(config.peers.len());
        for peer in &config.peers {
            let settings = PoolConfig {
                here: config.cluster.clone(),
                peer: peer.cluster.clone(),
                key_ttl: config.key_ttl,
                max_stored: peer.max_stored,
                storage: peer.storage,
                fence: fence.clone(),
            };
            let vault = self.objects.vault().clone();
            let pool = Pool::open(settings, self.records.clone(), vault).await;
            let pool = pool.map_err(|e| of_record(&path, &e))?;
            let view = pool.view();
            if !view.balanced {
                return Err(unbalanced(config, &peer.cluster));
            }
            info!(peer = %peer.cluster, blocks = view.blocks, bits = view.stored_bits, "pool open");
            pools.push(pool);
        }
        Ok(pools)
    }

    /// The token as the domain sees it.
    pub(crate) fn hsm(&self) -> &dyn Hsm {
        self.token.as_ref()
    }
}

/// The key of the store's records. Of several KMs the others may have begun KEK epochs since our token was
/// looked through, or while this one was away.
async fn record_key(
    config: &Config,
    vault: &Vault,
    token: &Arc<Token>,
    store: &Arc<dyn Store>,
) -> Result<ClearBytes, VaultError> {
    let Some(shared) = &config.shared else { return vault.record_key(store.as_ref()).await };
    let me = &shared.seat.node;
    match epoch::catch_up(vault, token.as_ref(), store, me).await {
        Err(VaultError::Foreign(_)) => {
            token.probe().await;
            epoch::catch_up(vault, token.as_ref(), store, me).await
        }
        done => done,
    }
}

/// Copies of the store from before are older from now on. A token that is away is told later.
pub(super) async fn grow(anchor: &Anchor) {
    if let Err(error) = anchor.advance().await {
        warn!(%error, alarm = "generation-not-anchored",
            "the HSM was not told the generation of the store: an older copy may go unnoticed");
    }
}

pub(crate) async fn open_token(config: &Config) -> Result<Arc<Token>, Failure> {
    let opened = Token::start(config.hsm.clone(), config.worker.clone()).await;
    opened.map_err(|e| of_hsm(&e))
}

/// Of tokens that an epoch takes out of use which begins by itself, unless their HSM brings them its KEK.
pub(crate) fn epoch_warnings(config: &Config) -> Vec<String> {
    let tokens = take_no_keks(&config.hsm).unwrap_or_default().into_iter();
    let tokens = tokens.filter(|_| config.epochs.max_age.is_some());
    let warning = |(name, why): (String, String)| {
        format!(
            "HSM token {name} takes no KEK of another ({why}). Unless that HSM brings new keys into it by \
             itself, the next KEK epoch takes it out of use: then set epochs.max_age_days = 0, and copy \
             the KEK after each `qkm hsm epoch rotate`"
        )
    };
    tokens.map(warning).collect()
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

type Opened = (Arc<dyn Store>, Option<Arc<EtcdStore>>);

/// Opens the store; the second is the same one, if it is on etcd.
///
/// # Errors
/// Those of the engine.
pub(crate) async fn open_store(config: &Config) -> Result<Opened, StoreError> {
    if let Some(shared) = &config.shared {
        let store = Arc::new(EtcdStore::open(&shared.etcd).await?);
        return Ok((store.clone(), Some(store)));
    }
    let file = config.store_file();
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(file)).await;
    let stopped = |e| StoreError::Unavailable(format!("opening the store broke off: {e}"));
    Ok((Arc::new(opened.map_err(stopped)??), None))
}

/// The directory of an embedded store.
///
/// # Errors
/// When it is not there and cannot be made.
pub(crate) fn make_folder(config: &Config) -> Result<(), Failure> {
    let folder = &config.store;
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        Failure::new(Code::S001, format!("cannot create {}: {error}", folder.display()))
            .help("create the directory of [store] path, owned by the user of this process")
    })
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

fn in_use<T: ?Sized>(thing: &Weak<T>) -> bool {
    thing.strong_count() > 0
}
