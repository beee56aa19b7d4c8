//! An older copy of the store becomes the store, without a key of its pools. Enter through
//! [`restore`].
//!
//! Everything happens to a draft beside the store, which takes its place at the end: broken off, it
//! leaves the store as it was, and can be done again. The token learns of the new generation just
//! before, so that from then on only the restored store is the newest.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use km_core::{
    anchor::Anchor,
    cabinet::Cabinet,
    epoch::Epochs,
    hsm::Hsm,
    pool::{self, Pool, PoolConfig},
    records::Records,
    store::{Claim, SqliteStore, Store},
    vault::{RECORD_KEY, Vault},
};

use crate::{
    config::Config,
    fault::{Code, Failure},
    serve::{of_anchor, of_epochs, of_record, of_store, of_vault, open_token},
};

/// Longest wait for the draft to be closed.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

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
/// When it is no store of this HSM, or the store is in use. The store is as it was then.
pub(crate) async fn restore(config: &Config, from: &Path) -> Result<Restored, Failure> {
    let path = config.store_file();
    let draft = path.with_file_name("restoring.qkm");
    // Before the token learns of anything: the store of a running key manager stays the newest.
    let claim = Claim::take(&path).map_err(|e| of_store(&path, &e))?;
    copy(from, &draft)?;
    let token = open_token(config).await?;
    let (generation, burned_bits) = burn(config, &draft, token.clone()).await?;
    let draft = closed(&draft).await?;
    let replaced = claim.replace(draft).map_err(|e| of_store(&path, &e))?;
    drop(tokio::task::spawn_blocking(move || drop(token)).await);
    Ok(Restored { generation, burned_bits, replaced })
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
    let epochs = Epochs::open(hsm.clone(), records.clone(), config.epochs).await;
    let vault = vault.with_epochs(epochs.map_err(|e| of_epochs(draft, &e))?);
    let mut unknown: BTreeSet<u32> = BTreeSet::new();
    let tags = pool::pools_in(&records).await.map_err(|e| of_record(draft, &e))?;
    unknown.extend(tags.into_iter().map(|tag| tag.bits()));
    let mut burned = 0;
    for peer in &config.peers {
        let settings = PoolConfig {
            here: config.cluster.clone(),
            peer: peer.cluster.clone(),
            key_ttl: config.key_ttl,
            max_stored: peer.max_stored,
            storage: peer.storage,
        };
        let pool = Pool::open(settings, records.clone(), vault.clone()).await;
        let pool = pool.map_err(|e| of_record(draft, &e))?;
        burned += pool.burn_all().await;
        unknown.remove(&pool.tag().bits());
    }
    if !unknown.is_empty() {
        let text = "the copy has a pool with a cluster that is no [[peer]] here, so its keys cannot be \
                    burned";
        return Err(Failure::new(Code::S007, text)
            .help("add a [[peer]] for every cluster this key manager ever had a pool with"));
    }
    let anchor = Anchor::read(hsm, records, &config.cluster).await;
    let anchor = anchor.map_err(|e| of_anchor(draft, &e))?;
    anchor.surpass().await.map_err(|e| of_anchor(draft, &e))?;
    anchor.follow().await.map_err(|e| of_anchor(draft, &e))?;
    Ok((anchor.store(), burned))
}
