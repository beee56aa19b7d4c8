//! An older copy of the store becomes the store, without a key of its pools. Enter through
//! [`restore`], and [`restore_shared`] where several KMs share the store and its engine was put back.
//!
//! Of an embedded store everything happens to a draft beside the store, which takes its place at the end: broken off, it
//! leaves the store as it was, and can be done again. But just before the end the tokens learn of the
//! new generation, so that from then on only the restored store is the newest: broken off there, the
//! store as it was is refused, and the restore has to be done again.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use cluster::lead::{Candidate, Lease, Pulse, Seat};
use hsm_profiles::Token;
use km_core::{
    anchor::Anchor,
    cabinet::Cabinet,
    epoch::Epochs,
    hsm::Hsm,
    ids::PoolTag,
    journal::Fence,
    pool::{self, Pool, PoolConfig},
    records::Records,
    store::{Claim, SqliteStore, Store},
    vault::{RECORD_KEY, Vault},
};

use crate::{
    config::{Config, Shared},
    fault::{Code, Failure},
    migrate::{refuse_marked, refuse_replacing},
    serve::{
        of_anchor, of_epochs, of_record, of_store, of_vault, open_random, open_store, open_token,
    },
};

/// Longest wait for the draft to be closed.
const CLOSE_WAIT: Duration = Duration::from_secs(30);
/// Longest wait for the lead beyond the lease of whoever had it.
const LEAD_WAIT: Duration = Duration::from_secs(5);

/// What was done.
pub(crate) struct Restored {
    /// Of the store now.
    pub(crate) generation: u64,
    /// Key bits that were in its pools.
    pub(crate) burned_bits: u64,
    /// The store that was there before.
    pub(crate) replaced: Option<PathBuf>,
}

/// Makes `from` the store of this configuration, whose key manager does not run.
///
/// # Errors
/// When it is no store of this HSM, a token is away, or the store is in use or was moved; it is as it was
/// then. The help says so where it must be done again.
pub(crate) async fn restore(config: &Config, from: &Path) -> Result<Restored, Failure> {
    let path = config.store_file();
    let draft = path.with_file_name("restoring.qkm");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&config.store);
    made.map_err(|e| Failure::new(Code::S001, format!("{}: {e}", config.store.display())))?;
    // Before the token learns of anything: the store of a running key manager stays the newest.
    let claim = Claim::take(&path).map_err(|e| of_store(&path, &e))?;
    refuse_replacing(&path, &claim)?;
    let token = open_token(config).await?;
    all_answer(&token).await?;
    copy(from, &draft)?;
    let (generation, burned_bits) = burn(config, &draft, token.clone()).await?;
    let draft = closed(&draft).await.map_err(again)?;
    let replaced = claim.replace(draft).map_err(|e| again(of_store(&path, &e)))?;
    drop(tokio::task::spawn_blocking(move || drop(token)).await);
    Ok(Restored { generation, burned_bits, replaced })
}

/// Once a token knows the new generation, it refuses the store as it was.
fn again(failure: Failure) -> Failure {
    failure
        .help("do the same restore again: the store that is there may be refused until it is done")
}

/// Every token will be told of the new generation: one that is away would stop it half-way.
async fn all_answer(token: &Token) -> Result<(), Failure> {
    token.probe().await;
    match token.members().into_iter().find(|member| !member.status.ready) {
        None => Ok(()),
        Some(away) => {
            let text = format!("HSM token {}: {}", away.name, away.status.detail);
            Err(Failure::new(Code::H002, text)
                .help("a restore is told to every token: try again when all of them work"))
        }
    }
}

/// With its log, which the copy of a running or killed store needs.
fn copy(from: &Path, draft: &Path) -> Result<(), Failure> {
    let failed = |what: &Path, error: std::io::Error| {
        Failure::new(Code::S007, format!("{}: {error}", what.display()))
    };
    let beside = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    for suffix in ["", "-wal", "-shm"] {
        let stale = beside(draft, suffix);
        match fs::remove_file(&stale) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(&stale, error));
            }
            _ => {}
        }
    }
    for suffix in ["", "-wal"] {
        let (from, to) = (beside(from, suffix), beside(draft, suffix));
        if suffix.is_empty() || from.exists() {
            fs::copy(&from, &to).map_err(|e| failed(&from, e))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600))
                .map_err(|e| failed(&to, e))?;
        }
    }
    Ok(())
}

/// Burns the pools of the draft and makes it the newest; its generation, and the bits burned.
async fn burn(config: &Config, draft: &Path, hsm: Arc<dyn Hsm>) -> Result<(u64, u64), Failure> {
    let file = draft.to_owned();
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(file)).await;
    let broken = |e| Failure::new(Code::S007, format!("opening the copy broke off: {e}"));
    let store = opened.map_err(broken)?.map_err(|e| of_store(draft, &e))?;
    burn_in(config, draft, hsm, Arc::new(store)).await
}

/// Waits for the last one who has the draft open: closing empties its log, and frees its path.
async fn closed(draft: &Path) -> Result<Claim, Failure> {
    let until = Instant::now() + CLOSE_WAIT;
    loop {
        match Claim::take(draft) {
            Ok(claim) => return Ok(claim),
            Err(error) if Instant::now() >= until => return Err(of_store(draft, &error)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn burn_in(
    config: &Config,
    draft: &Path,
    hsm: Arc<dyn Hsm>,
    store: Arc<SqliteStore>,
) -> Result<(u64, u64), Failure> {
    if store.get(RECORD_KEY).await.map_err(|e| of_store(draft, &e))?.is_none() {
        return Err(Failure::new(Code::S007, "the copy is an empty store"));
    }
    let cabinet = Arc::new(Cabinet::new(config.cluster.clone(), config.token_objects));
    let vault = Vault::new(hsm.clone()).with_cabinet(cabinet);
    let key = vault.record_key(store.as_ref()).await.map_err(|e| of_vault(draft, &e))?;
    let records = Records::new(store, &key);
    drop(key);
    let burned = burn_pools(config, draft, hsm.clone(), &records, vault, None).await?;
    let anchor = Anchor::read(hsm, records, &config.keeper_of_generations()).await;
    let anchor = anchor.map_err(|e| of_anchor(config, &e))?;
    anchor.surpass().await.map_err(|e| of_anchor(config, &e))?;
    anchor.follow().await.map_err(|e| again(of_anchor(config, &e)))?;
    Ok((anchor.store(), burned))
}

/// Burns everything in every pool of the store at `path`, and seals no more under its KEK; how many bits.
async fn burn_pools(
    config: &Config,
    path: &Path,
    hsm: Arc<dyn Hsm>,
    records: &Records,
    vault: Vault,
    fence: Option<Fence>,
) -> Result<u64, Failure> {
    let random = open_random(config, hsm.clone())?;
    let epochs = Epochs::open(hsm, records.clone(), config.epochs, random).await;
    let epochs = epochs.map_err(|e| of_epochs(path, &e))?;
    let vault = vault.with_epochs(epochs.clone());
    all_known(config, path, records).await?;
    let mut burned = 0;
    for peer in &config.peers {
        let settings = PoolConfig {
            here: config.cluster.clone(),
            peer: peer.cluster.clone(),
            key_ttl: config.key_ttl,
            max_stored: peer.max_stored,
            storage: peer.storage,
            fence: fence.clone(),
        };
        let pool = Pool::open_copy(settings, records.clone(), vault.clone()).await;
        let pool = pool.map_err(|e| of_record(path, &e))?;
        burned += pool.burn_all().await.map_err(|e| of_record(path, &e))?;
    }
    // The copy counts less than was sealed since it was made.
    epochs.spend().await.map_err(|e| of_epochs(path, &e))?;
    Ok(burned)
}

/// Keys of a pool that is not opened would not be burned.
async fn all_known(config: &Config, draft: &Path, records: &Records) -> Result<(), Failure> {
    let known = |tag: &PoolTag| {
        config.peers.iter().any(|peer| PoolTag::of_pair(&config.cluster, &peer.cluster) == *tag)
    };
    let tags = pool::pools_in(records).await.map_err(|e| of_record(draft, &e))?;
    if tags.iter().all(known) {
        return Ok(());
    }
    let text = "the copy has a pool with a cluster that is no [[peer]] here, so its keys cannot be \
                burned";
    Err(Failure::new(Code::S007, text)
        .help("add a [[peer]] for every cluster this key manager ever had a pool with"))
}

/// Takes the store that several KMs share for the newest, though its engine was put back to an older
/// copy: all of them must be stopped. Broken off, it can be done again, and none of them starts before.
///
/// # Errors
/// When one of them leads still, or it is no store of this HSM.
pub(crate) async fn restore_shared(config: &Config, shared: &Shared) -> Result<Restored, Failure> {
    let path = config.store_file();
    let token = open_token(config).await?;
    all_answer(&token).await?;
    let (store, _) = open_store(config).await.map_err(|e| of_store(&path, &e))?;
    refuse_marked(config, store.as_ref()).await?;
    if store.get(RECORD_KEY).await.map_err(|e| of_store(&path, &e))?.is_none() {
        return Err(Failure::new(Code::S007, format!("{} is an empty store", path.display())));
    }
    let vault = Vault::new(token.clone())
        .with_cabinet(Arc::new(Cabinet::new(config.cluster.clone(), config.token_objects)));
    let key = vault.record_key(store.as_ref()).await.map_err(|e| of_vault(&path, &e))?;
    let records = Records::new(store, &key);
    drop(key);
    let keeper = config.keeper_of_generations();
    let anchor = Anchor::read(token.clone(), records.clone(), &keeper).await;
    let anchor = anchor.map_err(|e| of_anchor(config, &e))?;
    let lease = sole_leader(shared, &records, "qkm store restore").await?;
    let burned_bits =
        burn_pools(config, &path, token, &records, vault, Some(lease.fence())).await?;
    // In this order: a KM that starts in between finds nothing that was handed out before.
    anchor.pardon_others().await.map_err(|e| of_anchor(config, &e))?;
    anchor.surpass().await.map_err(|e| of_anchor(config, &e))?;
    anchor.follow().await.map_err(|e| of_anchor(config, &e))?;
    lease.give_up().await;
    Ok(Restored { generation: anchor.store(), burned_bits, replaced: None })
}

/// The lead of a store whose key managers are stopped, once leases that came back with a copy have
/// ended. `name`: one that no key manager can have.
pub(crate) async fn sole_leader(
    shared: &Shared,
    records: &Records,
    name: &str,
) -> Result<Lease, Failure> {
    let seat = Seat { node: name.into(), desk: String::new() };
    let candidate = Candidate::new(records.clone(), seat, shared.lease, Arc::new(Unknown));
    let elected = tokio::time::timeout(shared.lease + LEAD_WAIT, candidate.elected());
    elected.await.map_err(|_| {
        let leader = candidate.leader().borrow().as_ref().map(|seat| seat.node.clone());
        let who = leader.unwrap_or_else(|| "one".into());
        Failure::new(Code::S011, format!("the key manager {who} still uses the store"))
            .help("stop all key managers that share it")
    })
}

/// Waits for leases to end, whatever became of their KMs.
struct Unknown;

#[async_trait::async_trait]
impl Pulse for Unknown {
    async fn is_gone(&self, _: &Seat) -> bool {
        false
    }
}
