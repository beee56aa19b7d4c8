//! `/v1/store/backups`: a copy of the store of a running key manager.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use hyper::StatusCode;
use km_core::{
    clock::now_ms,
    store::{Store, StoreError},
};
use serde_json::{Value, json};
use tracing::info;
use transport::PeerIdentity;

use super::problem::Problem;
use crate::{fault::Code, serve::Node};

/// Where backups are, in the directory of the store.
const FOLDER: &str = "backups";

/// `POST`: makes a copy in the folder of the store, readable by the user of this process alone.
pub(super) async fn make(node: &Node, store: &Path, peer: &PeerIdentity) -> Result<Value, Problem> {
    let (folder, now) = (store.join(FOLDER), now_ms());
    let file = folder.join(format!("{now}.qkm"));
    private(&folder)?;
    node.store.snapshot(&file).await.map_err(|e| failed(&file, &e))?;
    let bytes = std::fs::metadata(&file).map_or(0, |meta| meta.len());
    let generation = node.anchor.store();
    // From here on a start refuses the copy as it is: only a restore, which burns, takes it.
    let anchored = node.anchor.advance().await;
    info!(operator = %peer, file = %file.display(), bytes, generation, "backup made");
    Ok(json!({
        "file": file, "bytes": bytes, "generation": generation,
        "warning": anchored.err().map(|e| e.to_string()),
    }))
}

fn private(folder: &PathBuf) -> Result<(), Problem> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| failed(folder, &StoreError::Unavailable(e.to_string())))
}

fn failed(path: &Path, error: &StoreError) -> Problem {
    let detail = format!("{}: {error}", path.display());
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::S001, detail)
}
