//! Which KMs may be part of a cluster: who is invited, who joined, who rests, who was taken out. Enter
//! through [`Members`].
//!
//! A KM that was there before others joined has no record of its own until something is decided of it.
//! Of one that was taken out two things stay: its certificates, which nobody of the cluster accepts, and
//! its mark, beside which its own store writes nothing any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use km_core::{
    clock::now_ms,
    epoch::{self, OUT},
    peer::Fingerprint,
    records::{RecordError, Records},
    store::{Commit, MAX_RANGE, Outcome, Store, StoreError},
};
use serde::{Deserialize, Serialize};

use crate::lead;

/// Before all that is decided of KMs.
pub const ALL: &[u8] = b"member/";
const INVITE: &[u8] = b"member/invite/";
const MEMBER: &[u8] = b"member/km/";
const GONE: &[u8] = b"member/gone/";
const DUE: &[u8] = b"member/due/";
/// Invitations that were not used, at most.
const MOST_INVITES: usize = 256;

/// Whoever shows a certain certificate may join as this KM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Invite {
    name: String,
    until_ms: u64,
}

/// What the cluster has decided of a KM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The certificate it joined with; none of one that was there before others joined.
    pub certificate: Option<Fingerprint>,
    /// When it joined, in milliseconds since 1970.
    pub joined_ms: u64,
    /// It is to leave the work to others.
    pub rests: bool,
}

/// All that is decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// By name.
    pub members: BTreeMap<String, Member>,
    /// Names of those that were taken out.
    pub out: BTreeSet<String>,
    /// Certificates that nobody accepts.
    pub gone: BTreeSet<Fingerprint>,
    /// Names of those since whose end no KEK epoch is known to have begun.
    pub due: BTreeSet<String>,
}

/// The decisions of a cluster, in its store.
#[derive(Clone)]
pub struct Members(Records);

impl Members {
    /// Over these records.
    pub fn new(records: Records) -> Self {
        Self(records)
    }

    /// The mark of a KM that was taken out: while it is there, the KM is to write nothing.
    pub fn mark(name: &str) -> Vec<u8> {
        of(OUT, name.as_bytes())
    }

    /// The store below.
    pub fn store(&self) -> &dyn Store {
        self.0.store()
    }

    /// Whoever shows this certificate may join once as `name`, until then.
    ///
    /// # Errors
    /// Those of the store; full, when very many were invited and did not come.
    pub async fn invite(
        &self,
        certificate: &Fingerprint,
        name: &str,
        until_ms: u64,
    ) -> Result<(), RecordError> {
        let (mut waiting, mut commit, now) = (0, Commit::new(), now_ms());
        for found in self.store().range(INVITE, Bound::Unbounded, MAX_RANGE).await? {
            let invite: Invite = self.0.decode(&found.key, &found.value)?;
            match invite.until_ms < now && commit.ops() < MOST_INVITES / 4 {
                true => commit = commit.delete(found.key),
                false => waiting += 1,
            }
        }
        if waiting >= MOST_INVITES {
            let why = format!("{waiting} invitations were not used; wait until they are over");
            return Err(StoreError::Full(why).into());
        }
        let invite = Invite { name: name.to_owned(), until_ms };
        self.put(commit, of(INVITE, certificate), &invite).await
    }

    /// The name that this certificate was invited as. It is used up: of several that ask one is told, and
    /// whoever is not told what became of it does not ask again.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn accept(&self, certificate: &Fingerprint) -> Result<Option<String>, RecordError> {
        let (store, key) = (self.store(), of(INVITE, certificate));
        let Some(found) = store.get(&key).await? else { return Ok(None) };
        let invite: Invite = self.0.decode(&key, &found.value)?;
        let commit = Commit::new().unchanged(key.clone(), found.version).delete(key);
        match store.commit(commit).await? {
            Outcome::Committed(_) => Ok((now_ms() < invite.until_ms).then_some(invite.name)),
            Outcome::Conflict | Outcome::Unknown => Ok(None),
        }
    }

    /// Everything.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn all(&self) -> Result<Decisions, RecordError> {
        let (mut all, mut after) = (Decisions::default(), Bound::Unbounded);
        loop {
            let page = self.store().range(ALL, after, MAX_RANGE).await?;
            for found in &page {
                let key = found.key.as_slice();
                let text = |from: &[u8]| String::from_utf8_lossy(&key[from.len()..]).into_owned();
                if key.starts_with(MEMBER) {
                    all.members.insert(text(MEMBER), self.0.decode(key, &found.value)?);
                } else if key.starts_with(OUT) {
                    self.0.decode::<()>(key, &found.value)?;
                    all.out.insert(text(OUT));
                } else if key.starts_with(DUE) {
                    self.0.decode::<()>(key, &found.value)?;
                    all.due.insert(text(DUE));
                } else if let Some(Ok(gone)) = key.strip_prefix(GONE).map(TryInto::try_into) {
                    self.0.decode::<()>(key, &found.value)?;
                    all.gone.insert(gone);
                }
            }
            match page.last() {
                Some(last) => after = Bound::Excluded(last.key.clone()),
                None => return Ok(all),
            }
        }
    }

    /// `name` joined with this certificate, in place of an earlier one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn add(&self, name: &str, certificate: Fingerprint) -> Result<(), RecordError> {
        let member = Member { certificate: Some(certificate), joined_ms: now_ms(), rests: false };
        let before = self.get(name).await?.certificate;
        let commit = before.map(|before| self.without(Commit::new(), before)).unwrap_or_default();
        let commit = commit.delete(Self::mark(name)).delete(of(DUE, name.as_bytes()));
        self.put(commit, of(MEMBER, name.as_bytes()), &member).await
    }

    /// `name` is to let others work, or need not any more.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn rest(&self, name: &str, rests: bool) -> Result<(), RecordError> {
        let member = Member { rests, ..self.get(name).await? };
        self.put(Commit::new(), of(MEMBER, name.as_bytes()), &member).await
    }

    /// Takes `name` out with its certificates, those `shown` among them, and its lead, all at once. A KEK
    /// epoch is due then, until [`Members::settled`].
    ///
    /// # Errors
    /// Those of the store. When it is not known, it may be done again.
    pub async fn revoke(&self, name: &str, shown: &[Fingerprint]) -> Result<(), RecordError> {
        let known = self.get(name).await?.certificate;
        let all = shown.iter().copied().chain(known).collect::<BTreeSet<_>>();
        let commit = all.into_iter().fold(Commit::new(), |commit, one| self.without(commit, one));
        // From here on nobody wraps a KEK for any of its tokens.
        let commit = epoch::expelled(&self.0, name, commit).await?;
        let commit = lead::depose(&self.0, name, commit).await?;
        let due = of(DUE, name.as_bytes());
        let value = self.0.encode(&due, &());
        self.put(commit.put(due, value), Self::mark(name), &()).await
    }

    /// A KEK epoch began whose keys `name` does not get.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn settled(&self, name: &str) -> Result<(), RecordError> {
        // Whatever becomes of it: another epoch would begin.
        self.store().commit(Commit::new().delete(of(DUE, name.as_bytes()))).await?;
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<Member, RecordError> {
        Ok(self.0.get(&of(MEMBER, name.as_bytes())).await?.unwrap_or_default())
    }

    fn without(&self, commit: Commit, certificate: Fingerprint) -> Commit {
        let key = of(GONE, &certificate);
        let value = self.0.encode(&key, &());
        commit.put(key, value)
    }

    async fn put<T: Serialize>(
        &self,
        commit: Commit,
        key: Vec<u8>,
        value: &T,
    ) -> Result<(), RecordError> {
        let value = self.0.encode(&key, value);
        match self.store().commit(commit.put(key, value)).await? {
            Outcome::Committed(_) => Ok(()),
            outcome => {
                let why =
                    format!("a change of the cluster's members was not written ({outcome:?})");
                Err(StoreError::Unavailable(why).into())
            }
        }
    }
}

fn of(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    [prefix, name].concat()
}
