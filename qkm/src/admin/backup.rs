//! `/v1/store/backups`: a copy of the store of a running key manager. Enter through [`Backups::make`].

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use hyper::StatusCode;
use km_core::clock::now_ms;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tracing::info;
use transport::PeerIdentity;

use super::problem::Problem;
use crate::{fault::Code, serve::Node};

/// Where backups are, in the directory of the store.
const FOLDER: &str = "backups";
/// Backups there, at most: each takes as much of the disk as the store that must go on.
const MOST: usize = 16;

/// The backups beside a store.
pub(super) struct Backups {
    folder: PathBuf,
    /// One at a time.
    making: Mutex<()>,
}

impl Backups {
    pub(super) fn beside(store: &Path) -> Self {
        Self { folder: store.join(FOLDER), making: Mutex::default() }
    }

    /// `POST`: makes a copy, readable by the user of this process alone.
    pub(super) async fn make(&self, node: &Node, peer: &PeerIdentity) -> Result<Value, Problem> {
        let Ok(_making) = self.making.try_lock() else {
            return Err(refused("a backup is being made; try again when it is done".to_owned()));
        };
        let file = self.folder.join(format!("{}.qkm", now_ms()));
        self.room().map_err(|e| failed(&self.folder, &e))??;
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

    /// Makes the folder, unless it is full.
    fn room(&self) -> io::Result<Result<(), Problem>> {
        let folder = &self.folder;
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let there = std::fs::read_dir(folder)?.take(MOST).count();
        Ok(match there {
            MOST => Err(refused(format!(
                "{} holds {MOST} files, the most it may: move backups to another machine",
                folder.display()
            ))),
            _ => Ok(()),
        })
    }
}

fn refused(why: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, Code::S008, why)
}

fn failed(path: &Path, error: &dyn std::error::Error) -> Problem {
    let detail = format!("{}: {error}", path.display());
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::S001, detail)
}
