//! A copy of all records as an embedded store: what `qkm store` moves and keeps.

use std::path::{Path, PathBuf};

use km_core::store::{Commit, MAX_COMMIT_BYTES, MAX_OPS, Outcome, SqliteStore, Store, StoreError};

use super::{Engine, PAGE, behind, proto};

impl Engine {
    /// All of one revision. Versions begin anew in the copy. It takes its name when it is whole.
    pub(super) async fn copy_to(&self, to: &Path) -> Result<(), StoreError> {
        if to.try_exists().unwrap_or(true) {
            return Err(StoreError::Unavailable(format!("{} is there already", to.display())));
        }
        let part = beside(to, ".part");
        let target = SqliteStore::open(&part)?;
        self.fill(&target).await?;
        let (part, to) = (part.clone(), to.to_owned());
        let moved = tokio::task::spawn_blocking(move || {
            drop(target);
            std::fs::rename(&part, &to)?;
            std::fs::remove_file(beside(&part, ".lock"))
        });
        let failed = |e: String| StoreError::Unavailable(format!("finishing the copy: {e}"));
        moved.await.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
    }

    async fn fill(&self, target: &SqliteStore) -> Result<(), StoreError> {
        let prefix = self.keys.data(b"");
        let mut request = proto::RangeRequest {
            key: prefix.clone(),
            range_end: behind(&prefix),
            limit: PAGE as i64,
            ..Default::default()
        };
        let mut commit = Commit::new();
        loop {
            let page = self.client.range(&request).await?;
            if request.revision == 0 {
                request.revision = page.header.map_or(0, |header| header.revision);
            }
            let Some(last) = page.kvs.last() else { break };
            request.key = [last.key.as_slice(), b"\0"].concat();
            for pair in page.kvs {
                let size = pair.key.len() + pair.value.len();
                if commit.ops() == MAX_OPS || commit.bytes() + size > MAX_COMMIT_BYTES {
                    put(target, std::mem::take(&mut commit)).await?;
                }
                commit = commit.put(self.keys.own(&pair.key), pair.value);
            }
        }
        put(target, commit).await
    }
}

async fn put(target: &SqliteStore, commit: Commit) -> Result<(), StoreError> {
    match target.commit(commit).await? {
        Outcome::Committed(_) => Ok(()),
        other => Err(StoreError::Unavailable(format!("writing the copy was answered {other:?}"))),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
