//! A commit is one transaction of the engine, sent at most once: nobody knows what became of one
//! whose answer is missing.

use std::collections::{BTreeMap, HashSet};

use km_core::store::{Check, Commit, Outcome, StoreError, Version};

use super::{
    Engine,
    client::{is_doubtful, refused},
    proto::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, Request, RequestOp, TxnRequest,
        TxnResponse,
    },
};

impl Engine {
    /// Carries out `commits` as one: all of them or none. They change different keys.
    pub(super) async fn commit_once(&self, commits: &[Commit]) -> Result<Outcome, StoreError> {
        let Some(mut request) = self.transaction(commits) else { return Ok(Outcome::Conflict) };
        let reads_only = request.success.is_empty();
        if reads_only {
            // A transaction that does nothing is answered from what the member has, which may be behind
            // the others. One that reads, whether the checks hold or not, waits until it is not.
            request.success.push(self.looking());
            request.failure.push(self.looking());
        }
        let seen = self.client.seen();
        let done: Result<TxnResponse, _> = self.client.call("KV/Txn", &request, reads_only).await;
        if let Ok(answer) = &done
            && self.client.follow(seen, answer.header.as_ref()).is_err()
        {
            return Ok(Outcome::Unknown);
        }
        match done {
            Ok(TxnResponse { succeeded: false, .. }) => match self.is_barred().await? {
                true => Err(StoreError::Barred),
                false => Ok(Outcome::Conflict),
            },
            Ok(TxnResponse { header, .. }) => {
                let revision = header.map_or(0, |header| header.revision);
                Ok(Outcome::Committed(Version(revision.unsigned_abs())))
            }
            Err(error) if is_doubtful(&error) && !reads_only => {
                tracing::warn!(?error, "it is not known whether etcd carried out a commit");
                Ok(Outcome::Unknown)
            }
            Err(error) => Err(refused(error)),
        }
    }

    async fn is_barred(&self) -> Result<bool, StoreError> {
        match self.bar.get() {
            Some(key) => Ok(self
                .read(std::slice::from_ref(key))
                .await?
                .into_iter()
                .any(|found| found.is_some())),
            None => Ok(false),
        }
    }

    fn looking(&self) -> RequestOp {
        let look = RangeRequest {
            key: self.keys.format(),
            limit: 1,
            keys_only: true,
            ..Default::default()
        };
        RequestOp { request: Some(Request::Range(look)) }
    }

    /// `None` when a check cannot hold.
    fn transaction(&self, commits: &[Commit]) -> Option<TxnRequest> {
        let mut compare = Vec::new();
        let checks: HashSet<&Check> = commits.iter().flat_map(|commit| &commit.checks).collect();
        for check in checks {
            compare.push(match check {
                Check::Absent(key) => Compare::absent(self.keys.data(key)),
                Check::Is(key, Version(version)) => {
                    let revision = i64::try_from(*version).ok().filter(|revision| *revision > 0)?;
                    Compare::changed_at(self.keys.data(key), revision)
                }
            });
        }
        if let Some(key) = self.bar.get() {
            compare.push(Compare::absent(self.keys.data(key)));
        }
        let sessions = commits.iter().filter_map(|commit| commit.session);
        let sessions: HashSet<_> = sessions.collect();
        for session in sessions {
            compare.push(Compare::present(self.keys.session(session)?));
        }
        // The engine takes each key once.
        let mut changes: BTreeMap<&[u8], Option<&Vec<u8>>> = BTreeMap::new();
        for commit in commits {
            changes.extend(commit.puts.iter().map(|(key, value)| (key.as_slice(), Some(value))));
            changes.extend(commit.deletes.iter().map(|key| (key.as_slice(), None)));
        }
        let op = |(key, value): (&[u8], Option<&Vec<u8>>)| {
            let key = self.keys.data(key);
            let request = match value.cloned() {
                Some(value) => Request::Put(PutRequest { key, value, lease: 0 }),
                None => Request::DeleteRange(DeleteRangeRequest { key, range_end: Vec::new() }),
            };
            RequestOp { request: Some(request) }
        };
        Some(TxnRequest {
            compare,
            success: changes.into_iter().map(op).collect(),
            failure: Vec::new(),
        })
    }
}
