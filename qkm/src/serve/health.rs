//! Whether this key manager is ready: HSM logged in, store writes, random sources well. Enter through [`watch`].

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use cluster::{Member, lead::Candidate, roster};
use km_core::{
    anchor::AnchorError,
    clock::now_ms,
    custody::{CustodyView, QUICK},
    hsm::Custody,
    store::{Commit, Outcome, Store},
};
use transport::Shutdown;

use super::Node;

/// How often token and store are tried.
const EVERY: Duration = Duration::from_secs(5);
/// Longest wait for the store's answer.
const STORE_WAIT: Duration = Duration::from_secs(3);
/// Written at every try and never read.
const PROBE_KEY: &[u8] = b"meta/health";

/// What the probes found last.
#[derive(Debug, Default)]
pub(crate) struct Health {
    started: AtomicBool,
    stopping: AtomicBool,
    store: Mutex<Option<String>>,
    store_ms: Mutex<Option<u64>>,
    engine: Mutex<Vec<Member>>,
    nodes: Mutex<Vec<roster::Node>>,
    /// Why the store is not the one that was opened.
    older: Mutex<Option<String>>,
    condemned: AtomicBool,
}

impl Health {
    pub(super) fn started(&self) {
        self.started.store(true, Relaxed);
    }

    pub(super) fn stopping(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Whether the store wrote when it was last asked to.
    pub(crate) fn store_ready(&self) -> bool {
        self.store_trouble().is_none()
    }

    fn store_trouble(&self) -> Option<String> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The members of the engine several KMs share, as they were last.
    pub(crate) fn engine(&self) -> Vec<Member> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long the last write took; `None`: it failed.
    pub(crate) fn store_ms(&self) -> Option<u64> {
        *self.store_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The KMs that share the store, as they were when this one looked last; replaced by `news`.
    pub(crate) fn nodes(&self, news: Option<Vec<roster::Node>>) -> Vec<roster::Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(news) = news {
            *nodes = news;
        }
        nodes.clone()
    }

    async fn look_at_engine(&self, node: &Node) {
        if let Some(etcd) = &node.etcd {
            let members = etcd.members().await;
            *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = members;
        }
    }

    /// Whether an older copy of the store was put in its place. The token learns of it, so that no start
    /// takes that copy for the newest.
    async fn look_at_copy(&self, node: &Node) {
        let set_back = node.etcd.as_ref().is_some_and(|etcd| etcd.is_set_back());
        if set_back && !self.condemned.load(Relaxed) {
            match node.anchor.condemn().await {
                Ok(()) => self.condemned.store(true, Relaxed),
                Err(error) => tracing::error!(%error, alarm = "store-set-back",
                    "the HSM was not told that the store is an older copy: do not restart"),
            }
        }
        if let Err(error @ AnchorError::Older { .. }) = node.anchor.check().await {
            tracing::error!(%error, alarm = "store-set-back", "the store is not the newest copy");
            *self.older.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
    }

    async fn try_store(&self, store: &dyn Store) {
        let asked = Instant::now();
        let trouble = write(store).await.err();
        let took = trouble.is_none().then(|| asked.elapsed().as_millis() as u64);
        *self.store_ms.lock().unwrap_or_else(PoisonError::into_inner) = took;
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// What an operator should look at although it is ready.
    pub(crate) fn warnings(&self, node: &Node) -> Vec<String> {
        let members = node.token.members();
        let away = members.iter().filter(|member| !member.status.ready);
        let away = away.map(|m| format!("warning: HSM token {}: {}", m.name, m.status.detail));
        let engine = self.engine().into_iter().filter_map(|member| {
            let why = match member.state {
                Ok(state) => state.advice(),
                Err(why) => Some(why),
            };
            why.map(|why| format!("warning: etcd at {}: {why}", member.address))
        });
        let full = node.cabinet.view().nearly_full();
        let out = node.membership.as_ref().map(|of| of.decided().out).unwrap_or_default();
        let others = self.nodes(None).into_iter().filter(|other| !out.contains(&other.name));
        let others = others.filter_map(|other| {
            let why = match (other.alive, other.condition.troubles.is_empty()) {
                (false, _) => "is away".to_owned(),
                (true, true) => return None,
                (true, false) => other.condition.troubles.join("; "),
            };
            Some(format!("warning: key manager {}: {why}", other.name))
        });
        away.chain(engine)
            .chain(others)
            .chain(full.map(|why| format!("warning: HSM nearly full: {why}")))
            .collect()
    }

    /// Where keys are while they are used, a line for each custody that a function has.
    pub(crate) fn custodies(&self, node: &Node) -> Vec<String> {
        custody_lines(&node.objects.vault().custodies().list())
    }

    /// Why it is not ready; empty when it is.
    pub(crate) fn reasons(&self, node: &Node) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.started.load(Relaxed) {
            reasons.push("starting".to_owned());
        }
        if self.stopping.load(Relaxed) {
            reasons.push("stopping".to_owned());
        }
        let token = node.hsm().status();
        if !token.ready {
            reasons.push(format!("HSM token {:?}: {}", token.token, token.detail));
        }
        reasons.extend(self.store_trouble().map(|trouble| format!("store: {trouble}")));
        let older = self.older.lock().unwrap_or_else(PoisonError::into_inner).clone();
        reasons.extend(older.map(|older| format!("store: {older}")));
        reasons.extend(node.membership.as_ref().and_then(|membership| membership.unserved()));
        let followed = |candidate: &Candidate| candidate.leader().borrow().is_some();
        if node.candidate.as_ref().is_some_and(|candidate| !followed(candidate)) {
            reasons.push("no key manager of the cluster leads".to_owned());
        }
        reasons.extend(node.random.status().into_iter().filter_map(|source| source.trouble));
        reasons
    }
}

/// One line for each custody: the functions with it.
pub(crate) fn custody_lines(functions: &[(&'static str, CustodyView)]) -> Vec<String> {
    let with = |wanted: Option<Custody>| {
        let fitting = functions.iter().filter(move |(_, view)| view.best == Some(wanted));
        fitting.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    [
        ("keys in token", with(Some(Custody::InToken))),
        ("keys host-transient", with(Some(Custody::HostTransient))),
        ("not at all", with(None)),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| format!("{what}: {names}"))
    .collect()
}

/// Tries token, store and random sources at intervals until `shutdown`.
pub(super) async fn watch(health: Arc<Health>, node: Arc<Node>, shutdown: Shutdown) {
    let mut surveyed = false;
    loop {
        if !surveyed && node.hsm().status().ready {
            let (custodies, process) =
                (node.objects.vault().custodies(), !node.objects.is_token_only());
            surveyed = custodies.survey(node.hsm(), QUICK, process).await.is_ok();
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.requested() => return,
        }
        // Together: a token that hangs does not hide what the store does.
        let store = node.store.as_ref();
        tokio::join!(
            node.hsm().probe(),
            health.try_store(store),
            health.look_at_engine(&node),
            health.look_at_copy(&node),
            node.random.renew(),
            node.cabinet.look(node.hsm())
        );
    }
}

/// Makes a tiny record durable. Reading proves little: it works on a full disk, and from memory.
async fn write(store: &dyn Store) -> Result<(), String> {
    let now = now_ms().to_be_bytes();
    let written = store.commit(Commit::new().put(PROBE_KEY, now));
    match tokio::time::timeout(STORE_WAIT, written).await {
        Ok(Ok(Outcome::Committed(_))) => Ok(()),
        Ok(Ok(_)) => Err("it is not known whether a write is durable".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("a write took more than {STORE_WAIT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use km_core::store::{
        SqliteStore,
        faulty::{Fault, FaultyStore},
    };

    use super::*;

    #[tokio::test]
    async fn a_store_that_reads_but_does_not_write_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let store = FaultyStore::new(SqliteStore::open(dir.path().join("db")).unwrap());
        let health = Health::default();
        for (fault, expected) in [
            (Fault::None, None),
            (Fault::Full, Some("full")),
            (Fault::Unavailable, Some("not available")),
            (Fault::UnknownDropped, Some("not known")),
            (Fault::None, None),
        ] {
            store.inject([fault]);
            health.try_store(&store).await;
            store.get(PROBE_KEY).await.unwrap();
            let trouble = health.store_trouble();
            let told = expected.is_none_or(|word| trouble.as_ref().unwrap().contains(word));
            assert!(told && trouble.is_some() == expected.is_some(), "{fault:?}: {trouble:?}");
            assert_eq!(health.store_ready(), expected.is_none());
        }
        assert_eq!(store.waiting(), 0);
    }
}
