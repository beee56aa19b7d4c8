//! The store on etcd: three or five members that the site runs. Enter through [`EtcdStore::open`].
//!
//! - `proto`: the messages of etcd's API that are used, field numbers as published.
//! - `channel`: one gRPC connection; `client`: the members, and which of them answers.
//! - `setup`: versions of server and schema, checked at the start.
//! - `commit`, `sessions`, `watch`, `copy`: what the trait asks for; `flights`: many reads or commits as one
//!   transaction.
//!
//! Below the configured prefix: `format`, `d/` and each record's key, `s/` and each live session.
//! A record's version is the revision of its last change. A session is a lease that holds a key;
//! fenced commits check that key, so that time plays no part.

mod channel;
mod client;
mod commit;
mod copy;
mod flights;
mod proto;
mod sessions;
mod setup;
mod watch;

use std::{
    fmt,
    ops::Bound,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use km_core::store::{
    Commit, Event, MAX_RANGE, Outcome, Record, Session, SessionId, Store, StoreError, Version,
};
use tokio::sync::mpsc::Receiver;
use transport::TlsFiles;

use client::Client;
use flights::Flights;
use setup::START_WAIT;
pub use setup::{Member, MemberState};

/// Records read with one request: a whole page of blocks would be 64 MiB.
const PAGE: usize = 128;

/// Where the engine is.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// `host:port` of each member.
    pub endpoints: Vec<String>,
    /// Our certificate towards them. Its common name is the user, where the engine asks for one.
    pub files: TlsFiles,
    /// What all keys of this cluster begin with. The user needs to read and write there alone.
    pub prefix: String,
    /// Whether releases that get no fixes any more are accepted. For tests.
    pub allow_unmaintained: bool,
}

/// A store that several key managers share.
pub struct EtcdStore {
    engine: Arc<Engine>,
    flights: Arc<Flights>,
}

/// The engine's members, and our part of what they hold.
struct Engine {
    client: Arc<Client>,
    keys: Keys,
    /// See [`EtcdStore::write_while_absent`].
    bar: OnceLock<Vec<u8>>,
}

impl EtcdStore {
    /// Connects, and checks the versions of engine and schema; an empty prefix is taken into use. An engine
    /// that does not answer yet, or has no leader, is waited for: ten seconds, and for what was asked last.
    ///
    /// # Errors
    /// `Unavailable` when no member answers or one is of a release that is not maintained,
    /// `NewerFormat` and `Damaged` when what is there is not ours to read.
    pub async fn open(config: &EtcdConfig) -> Result<Self, StoreError> {
        let client = Arc::new(Client::new(config)?);
        let keys = Keys(config.prefix.clone().into_bytes());
        let engine = Arc::new(Engine { client, keys, bar: OnceLock::new() });
        let until = Instant::now() + START_WAIT;
        engine.check_engine(config.allow_unmaintained, until).await?;
        engine.check_format(until).await?;
        tracing::info!(endpoints = ?config.endpoints, prefix = config.prefix, "store open on etcd");
        Ok(Self { flights: Flights::new(engine.clone()), engine })
    }
}

impl EtcdStore {
    /// From now on it writes only while there is no record `key`: the engine looks with each commit. Once.
    pub fn write_while_absent(&self, key: Vec<u8>) {
        let _ = self.engine.bar.set(key);
    }

    /// Asks every member how it is.
    pub async fn members(&self) -> Vec<Member> {
        self.engine.members().await
    }

    /// Whether the engine was seen in a state from before: an older copy of it was put back. Then every
    /// request ends in [`StoreError::Damaged`].
    pub fn is_set_back(&self) -> bool {
        self.engine.client.is_set_back()
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("keys", &self.engine.keys).finish_non_exhaustive()
    }
}

/// How keys of the trait are named in the engine.
#[derive(Clone, Debug)]
struct Keys(Vec<u8>);

impl Keys {
    fn named(&self, room: &[u8], key: &[u8]) -> Vec<u8> {
        [&self.0, room, key].concat()
    }

    fn format(&self) -> Vec<u8> {
        self.named(b"format", b"")
    }

    fn data(&self, key: &[u8]) -> Vec<u8> {
        self.named(b"d/", key)
    }

    /// `None` for a number no lease can have.
    fn session(&self, session: SessionId) -> Option<Vec<u8>> {
        let lease = lease(session)?;
        Some(self.named(b"s/", format!("{lease:016x}").as_bytes()))
    }

    /// The trait's key of an engine's key under `d/`.
    fn own(&self, named: &[u8]) -> Vec<u8> {
        named.get(self.0.len() + 2..).unwrap_or_default().to_owned()
    }

    fn record(&self, pair: proto::KeyValue) -> Record {
        let version = Version(pair.mod_revision.unsigned_abs());
        Record { key: self.own(&pair.key), value: pair.value, version }
    }
}

/// A session is a lease of the same number, which is above 0.
fn lease(session: SessionId) -> Option<i64> {
    i64::try_from(session.0).ok().filter(|lease| *lease > 0)
}

/// The first key behind all that begin with `prefix`.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // For etcd: to the end of all keys.
    vec![0]
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        self.flights.get(key.to_vec()).await
    }

    async fn range(
        &self,
        prefix: &[u8],
        after: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let limit = limit.min(MAX_RANGE);
        let pairs = self.engine.pairs(prefix, after, limit, false).await?;
        Ok(pairs.into_iter().map(|pair| self.engine.keys.record(pair)).collect())
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        self.flights.commit(commit).await
    }

    async fn watch(&self, prefix: &[u8]) -> Result<Receiver<Event>, StoreError> {
        watch::start(self.engine.client.clone(), self.engine.keys.clone(), prefix).await
    }

    async fn session(&self, ttl: Duration) -> Result<Session, StoreError> {
        self.engine.open_session(ttl).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<bool, StoreError> {
        self.engine.renew_session(session).await
    }

    async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.engine.revoke_session(session).await
    }

    async fn purge(&self, prefix: &[u8]) -> Result<(), StoreError> {
        loop {
            let keys = self.engine.pairs(prefix, Bound::Unbounded, MAX_RANGE, true).await?;
            let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return Ok(()) };
            let range_end = [last.key.as_slice(), b"\0"].concat();
            self.engine.client.delete_range(first.key.clone(), range_end).await?;
        }
    }

    async fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        self.engine.copy_to(to).await
    }
}

impl Engine {
    /// The records at `keys`, all of one revision.
    async fn read(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Record>>, StoreError> {
        let look = |key: &Vec<u8>| {
            let range = proto::RangeRequest { key: self.keys.data(key), ..Default::default() };
            proto::RequestOp { request: Some(proto::Request::Range(range)) }
        };
        let request =
            proto::TxnRequest { success: keys.iter().map(look).collect(), ..Default::default() };
        let seen = self.client.seen();
        let answer: proto::TxnResponse =
            self.client.call("KV/Txn", &request, true).await.map_err(client::refused)?;
        self.client.follow(seen, answer.header.as_ref()).map_err(client::refused)?;
        if answer.responses.len() != keys.len() {
            let what = format!("etcd answered {} of {} reads", answer.responses.len(), keys.len());
            return Err(StoreError::Unavailable(what));
        }
        let found =
            |op: proto::ResponseOp| Some(self.keys.record(op.range?.kvs.into_iter().next()?));
        Ok(answer.responses.into_iter().map(found).collect())
    }

    /// Pairs under `prefix`, all of one revision.
    async fn pairs(
        &self,
        prefix: &[u8],
        after: Bound<Vec<u8>>,
        limit: usize,
        keys_only: bool,
    ) -> Result<Vec<proto::KeyValue>, StoreError> {
        let prefix = self.keys.data(prefix);
        let mut key = match after {
            Bound::Unbounded => prefix.clone(),
            Bound::Included(key) => self.keys.data(&key),
            Bound::Excluded(key) => [&self.keys.data(&key), b"\0".as_slice()].concat(),
        };
        let range_end = behind(&prefix);
        key = key.max(prefix);
        let (mut pairs, mut revision) = (Vec::new(), 0);
        while pairs.len() < limit && (key < range_end || range_end == [0]) {
            let page = if keys_only { limit } else { (limit - pairs.len()).min(PAGE) };
            let request = proto::RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit: page as i64,
                revision,
                keys_only,
            };
            let answer = self.client.range(&request).await?;
            // The header tells the newest revision, also of an answer from an older one.
            if revision == 0 {
                revision = answer.header.map_or(0, |header| header.revision);
            }
            let Some(last) = answer.kvs.last() else { break };
            key = [last.key.as_slice(), b"\0"].concat();
            pairs.extend(answer.kvs);
            if !answer.more {
                break;
            }
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_all_that_begins_with_it() {
        let cases: [(&[u8], &[u8]); 5] = [
            (b"a", b"b"),
            (b"a\xff", b"b"),
            (b"a\xfe", b"a\xff"),
            (b"\xff\xff", b"\0"),
            (b"", b"\0"),
        ];
        for (prefix, end) in cases {
            assert_eq!(behind(prefix), end, "{prefix:x?}");
        }
    }

    #[test]
    fn sessions_are_leases_and_no_other_numbers() {
        let keys = Keys(b"/qkm/north/".to_vec());
        assert_eq!(keys.session(SessionId(0)), None);
        assert_eq!(keys.session(SessionId(u64::MAX)), None);
        assert_eq!(keys.session(SessionId(10)).unwrap(), b"/qkm/north/s/000000000000000a");
        assert_eq!(keys.own(&keys.data(b"pool/1")), b"pool/1");
    }
}
