//! What the cluster has decided of this KM, and the keys its token is to hold: looked at all the time.
//! Enter through [`Membership::open`]. [`serve_fronts`] keeps the fronts open while it is to work.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use cluster::{
    EtcdStore,
    members::{ALL, Decisions, Members},
};
use km_core::{
    epoch::{Epoch, EpochError, Epochs, Keeper},
    peer::Fingerprint,
    records::Records,
};
use tokio::{sync::watch, task::JoinSet};
use tracing::{error, info, warn};
use transport::Shutdown;

use super::{Inside, failures::of_record};
use crate::{
    config::{Config, Front, Shared},
    fault::{Code, Failure},
};

/// How often it looks though nobody told of news.
const EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the store.
const WAIT: Duration = Duration::from_secs(5);
/// How long whoever took a KM out has to begin an epoch.
const OWED: Duration = Duration::from_secs(5);
/// Pause before the fronts are tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// What becomes of who connects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fronts {
    Open,
    /// Nobody new is let in; connections are still at work.
    Closing,
    Closed,
}

/// This KM as a member of its cluster.
pub(crate) struct Membership {
    pub(crate) members: Members,
    name: String,
    /// Of the certificate it shows, in hexadecimal.
    pub(crate) certificate: String,
    /// Of that of its KM links.
    pub(crate) link_certificate: Option<String>,
    decided: watch::Sender<Decisions>,
    gone: watch::Sender<BTreeSet<Fingerprint>>,
    /// Why it is not to work.
    idle: watch::Sender<Option<String>>,
    fronts: watch::Sender<Fronts>,
}

impl Membership {
    /// # Errors
    /// When the KM was taken out, and those of the store.
    pub(super) async fn open(
        config: &Config,
        shared: &Shared,
        records: Records,
        etcd: &EtcdStore,
    ) -> Result<Self, Failure> {
        let name = shared.seat.node.clone();
        etcd.write_while_absent(Members::mark(&name));
        let members = Members::new(records);
        let decided = members.all().await.map_err(|e| of_record(&config.store_file(), &e))?;
        if decided.out.contains(&name) {
            return Err(taken_out(&name));
        }
        let gone = watch::Sender::new(decided.gone.clone());
        let (decided, idle) = (watch::Sender::new(decided), watch::Sender::new(None));
        let fronts = watch::Sender::new(Fronts::Closed);
        let certificate = certificate("[node]", &shared.desk)?;
        let link = config.km_link.as_ref();
        let link_certificate = link.map(|link| self::certificate("[km_link]", link)).transpose()?;
        Ok(Self { members, name, certificate, link_certificate, decided, gone, idle, fronts })
    }

    /// Why this KM is not to work.
    pub(crate) fn idle(&self) -> Option<String> {
        self.idle.borrow().clone()
    }

    /// Why nobody is served here: it is not to work, or its fronts are not open yet.
    pub(crate) fn unserved(&self) -> Option<String> {
        let closed = *self.fronts.borrow() != Fronts::Open;
        self.idle().or_else(|| closed.then(|| "its fronts are closed".to_owned()))
    }

    /// What is decided of all.
    pub(crate) fn decided(&self) -> Decisions {
        self.decided.borrow().clone()
    }

    /// Certificates that are accepted no more.
    pub(super) fn gone(&self) -> watch::Receiver<BTreeSet<Fingerprint>> {
        self.gone.subscribe()
    }

    /// Whether it is to leave the work to others.
    fn rests(&self) -> bool {
        self.decided.borrow().members.get(&self.name).is_some_and(|member| member.rests)
    }

    /// Whether it was drained and has nothing left to do.
    pub(super) fn is_drained(&self, leads: bool) -> bool {
        self.rests() && !leads && *self.fronts.borrow() == Fronts::Closed
    }

    /// Ends when the KM may work.
    pub(super) async fn may_work(&self) {
        let _ = self.idle.subscribe().wait_for(Option::is_none).await;
    }

    /// Ends when the KM is not to work.
    pub(super) async fn is_to_rest(&self) {
        let _ = self.idle.subscribe().wait_for(Option::is_some).await;
    }

    /// Ends when the fronts are closed.
    pub(super) async fn fronts_closed(&self) {
        let _ = self.fronts.subscribe().wait_for(|now| *now == Fronts::Closed).await;
    }

    /// Ends when the KM was taken out.
    pub(super) async fn expelled(&self) -> Failure {
        let out = |decided: &Decisions| decided.out.contains(&self.name);
        let _ = self.decided.subscribe().wait_for(out).await;
        taken_out(&self.name)
    }

    /// Looks now.
    pub(crate) async fn look(&self, epochs: &Epochs) {
        match tokio::time::timeout(WAIT, self.members.all()).await {
            Ok(Ok(decided)) => {
                self.gone.send_if_modified(|known| differs(known, decided.gone.clone()));
                self.decided.send_if_modified(|known| differs(known, decided));
            }
            Ok(Err(error)) => tracing::debug!(%error, "what the cluster decided is not known"),
            Err(_) => tracing::debug!("what the cluster decided is not known in time"),
        }
        let idle = match (self.rests(), epochs.lacks()) {
            (true, _) => Some("drained: `qkm node drain --undo` ends that".to_owned()),
            (false, lacks) if lacks.is_empty() => None,
            (false, lacks) => Some(format!(
                "something is still sealed under KEK epochs of before it joined, which its HSM lacks ({lacks:?})"
            )),
        };
        self.idle.send_if_modified(|known| differs(known, idle));
    }

    /// Whoever took a KM out begins an epoch at once; where that one ended in between, this one does.
    async fn pay(&self, keeper: &Arc<Keeper>, owed: &mut BTreeMap<String, Instant>) {
        let due = self.decided().due;
        owed.retain(|name, _| due.contains(name));
        for name in due {
            let since = owed.entry(name.clone()).or_insert_with(Instant::now);
            if since.elapsed() < OWED {
                continue;
            }
            match without(keeper, &self.members, &name, "the one that leads").await {
                Ok(made) => {
                    warn!(
                        node = name,
                        epoch = made.number,
                        "a key manager is taken out: epoch begins"
                    )
                }
                Err(error) => {
                    warn!(node = name, %error, alarm = "epoch-overdue", "a new KEK epoch is due")
                }
            }
        }
    }

    /// Looks, takes what is there for the token, and while this KM `leads` has the epochs begin that another
    /// one owes, until `shutdown`.
    pub(super) async fn watch(
        &self,
        keeper: &Arc<Keeper>,
        leads: impl Fn() -> bool,
        shutdown: Shutdown,
    ) {
        let (epochs, mut news, mut owed) = (keeper.epochs(), None, BTreeMap::new());
        loop {
            if let Err(error) = epochs.receive().await {
                warn!(%error, alarm = "kek-not-taken", "the keys of a new epoch are not in the token");
            }
            self.look(epochs).await;
            if leads() {
                self.pay(keeper, &mut owed).await;
            }
            if news.is_none() {
                news = self.members.store().watch(ALL).await.ok();
            }
            tokio::select! {
                told = async {
                    match &mut news {
                        Some(news) => news.recv().await,
                        None => std::future::pending().await,
                    }
                } => if told.is_none() { news = None },
                () = tokio::time::sleep(EVERY) => {}
                () = shutdown.requested() => return,
            }
        }
    }
}

/// A new epoch, whose keys the token of `name` does not get, and the record key under it.
pub(crate) async fn without(
    keeper: &Arc<Keeper>,
    members: &Members,
    name: &str,
    who: &str,
) -> Result<Epoch, EpochError> {
    let made = keeper.epochs().expel(name, who).await?;
    keeper.move_record_key().await?;
    members.settled(name).await?;
    Ok(made)
}

fn differs<T: PartialEq>(known: &mut T, now: T) -> bool {
    let news = *known != now;
    *known = now;
    news
}

fn taken_out(name: &str) -> Failure {
    Failure::new(Code::J002, format!("the key manager {name} was taken out of its cluster"))
}

/// SHA-256 of the certificate that is shown there.
fn certificate(table: &'static str, front: &Front) -> Result<String, Failure> {
    let shown = front.tls().fingerprint().map_err(|e| super::of_tls(table, &e))?;
    Ok(hex::encode(shown))
}

/// Opens the fronts; in `tasks` they are closed while this KM is not to work, and opened again, until
/// `shutdown`.
///
/// # Errors
/// When they cannot be opened at the start.
pub(super) async fn serve_fronts(
    inside: &Arc<Inside>,
    config: &Arc<Config>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let Some(membership) = &inside.node.membership else {
        return inside.fronts.start(config, tasks, shutdown).await;
    };
    let (mut open, mut end) = (JoinSet::new(), Shutdown::pair());
    if membership.idle().is_none() {
        inside.fronts.start(config, &mut open, &end.1).await?;
        membership.fronts.send_replace(Fronts::Open);
    }
    let (inside, config, shutdown) = (inside.clone(), config.clone(), shutdown.clone());
    tasks.spawn(async move {
        let Some(membership) = &inside.node.membership else { return };
        loop {
            if *membership.fronts.borrow() == Fronts::Open {
                tokio::select! {
                    () = membership.is_to_rest() => info!("the fronts close"),
                    () = shutdown.requested() => {}
                }
            }
            membership.fronts.send_replace(Fronts::Closing);
            end.0.start();
            while open.join_next().await.is_some() {}
            membership.fronts.send_replace(Fronts::Closed);
            tokio::select! {
                () = membership.may_work() => {}
                () = shutdown.requested() => return,
            }
            if shutdown.is_requested() {
                return;
            }
            end = Shutdown::pair();
            match inside.fronts.start(&config, &mut open, &end.1).await {
                Ok(()) => drop(membership.fronts.send_replace(Fronts::Open)),
                Err(failure) => {
                    error!(%failure, alarm = "fronts-closed", "the fronts do not open");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    Ok(())
}
