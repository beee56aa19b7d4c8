//! Carries out what [`Transfers`] decides. Enter through [`Relay::fetch`] at the beginning of a
//! way, [`Relay::opened`] and [`Relay::answered`] everywhere else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use km_core::{
    feeding::Mode,
    ids::ClusterId,
    material::ClearBytes,
    provenance::{Hop, Origin, Provenance},
    random::Random,
    route::{CipherPolicy, Route, Routes},
};
use serde::Serialize;
use tokio::sync::oneshot;
use transport::Shutdown;

use super::{
    message::{HopAnswer, HopFault, HopHead, SupplyAsk, TransferId, TransferName},
    neighbour::Neighbour,
    path,
    rest::Rests,
    seal::Given,
    transfers::{Step, Transfers},
};
use crate::frame::Frame;

/// Longest wait for the answer of the destination.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
const TICK: Duration = Duration::from_secs(1);

/// Where relayed bits are born (clause 6.2c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// They are a key of the first hop (figure 5).
    #[default]
    FirstKey,
    /// This KM's random sources make them (figure 6).
    Random,
    /// They are a key that the first cluster of the way shares with this one: asked for it, that cluster
    /// supplies the exclusive or with its keys of the next (clause 9.4).
    Supplied,
}

/// A batch that arrived at its destination.
pub(crate) struct Fetched {
    pub(crate) transfer: TransferId,
    pub(crate) material: ClearBytes,
    pub(crate) provenance: Provenance,
}

/// The relay of one KM.
pub(crate) struct Relay {
    here: ClusterId,
    random: Arc<Random>,
    routes: Arc<dyn Routes>,
    neighbours: BTreeMap<ClusterId, Arc<Neighbour>>,
    transfers: Mutex<Transfers>,
    waiting: Mutex<HashMap<TransferId, oneshot::Sender<HopAnswer>>>,
    rests: Mutex<Rests>,
    fetched: AtomicU64,
    lost: AtomicU64,
}

/// The relay of one KM as an operator sees it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RelayView {
    /// Batches of others passing through now.
    pub passing: usize,
    /// Batches that arrived here and are not agreed on yet.
    pub arrived: usize,
    /// Batches this KM brought to their destination since start.
    pub fetched: u64,
    /// Batches this KM sent that were lost since start.
    pub lost: u64,
}

impl Relay {
    pub(crate) fn new(
        here: ClusterId,
        random: Arc<Random>,
        routes: Arc<dyn Routes>,
        neighbours: impl IntoIterator<Item = Arc<Neighbour>>,
    ) -> Arc<Self> {
        let neighbours = neighbours.into_iter().map(|n| (n.cluster.clone(), n)).collect();
        let transfers = Mutex::new(Transfers::new(here.clone()));
        Arc::new(Self {
            here,
            random,
            routes,
            neighbours,
            transfers,
            waiting: Mutex::default(),
            rests: Mutex::default(),
            fetched: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    pub(crate) fn view(&self) -> RelayView {
        let (passing, arrived) = self.transfers().counts();
        let (fetched, lost) = (self.fetched.load(Relaxed), self.lost.load(Relaxed));
        RelayView { passing, arrived, fetched, lost }
    }

    /// The ways to a cluster whose first link is up, best first, none with more ciphers than
    /// `cipher` allows.
    pub(crate) fn ways(
        &self,
        to: &ClusterId,
        fixed: Option<&Route>,
        cipher: CipherPolicy,
    ) -> Vec<Route> {
        let up = |route: &&Route| self.neighbours.get(route.next()).is_some_and(|n| n.is_up());
        let table = self.routes.table();
        // A pool that its KM link fills has that way and no other.
        let own = fixed.filter(|route| route.hops().len() == 1);
        let ways: Vec<&Route> = match own {
            Some(route) => vec![route],
            None => table.ways(to, fixed).collect(),
        };
        ways.into_iter().filter(up).map(|route| route.restricted(cipher)).collect()
    }

    /// Ways to a cluster without a common node between, whose first links are up; see
    /// [`Relay::ways`].
    pub(crate) fn apart(&self, to: &ClusterId, cipher: CipherPolicy) -> Vec<Route> {
        let up = |route: &&Route| self.neighbours.get(route.next()).is_some_and(|n| n.is_up());
        let table = self.routes.table();
        table.disjoint(to).iter().filter(up).map(|route| route.restricted(cipher)).collect()
    }

    /// `count` of the routes that do not rest, each with its place among all, those first that are most
    /// likely to fail: what is tried after a rest, then what has least to send from. `None`: too few.
    pub(crate) fn riskiest_first(
        &self,
        routes: Vec<Route>,
        count: usize,
    ) -> Option<Vec<(usize, Route)>> {
        let (rests, now) = (self.rests(), Instant::now());
        let awake =
            routes.into_iter().enumerate().filter(|(_, route)| !rests.is_resting(route, now));
        let mut chosen: Vec<_> = awake.take(count).collect();
        let stock = |route: &Route| self.neighbours.get(route.next()).map_or(0, |n| n.stock());
        chosen.sort_by_cached_key(|(_, route)| (!rests.has_rested(route), stock(route)));
        (chosen.len() == count).then_some(chosen)
    }

    /// Most bits in a second that may be relayed to a cluster.
    pub(crate) fn ration(&self, to: &ClusterId) -> Option<u64> {
        self.routes.table().to.get(to).and_then(|ways| ways.max_bits_per_s)
    }

    /// When the pool with a cluster is fed, where the controller says so.
    pub(crate) fn feeding(&self, to: &ClusterId) -> Option<Mode> {
        self.routes.table().to.get(to).and_then(|ways| ways.feed.clone())
    }

    /// Brings `len` bytes of key material to the end of `route`.
    ///
    /// Run it in a task of its own: dropped half-way it leaves pad burned at the next start.
    pub(crate) async fn fetch(
        &self,
        route: &Route,
        scheme: Scheme,
        len: usize,
    ) -> Result<Fetched, HopFault> {
        let neighbour = self.neighbours.get(route.next()).ok_or(HopFault::NoLink)?;
        let transfer = self.name().await?;
        if !self.rests().admit(route, Instant::now()) {
            return Err(HopFault::Resting);
        }
        // Where the way begins without QKD there is no key to be passed on, and where nobody is between
        // nobody to supply one.
        let scheme = match scheme {
            Scheme::FirstKey if neighbour.link.is_none() => Scheme::Random,
            Scheme::Supplied if route.middle().is_empty() || neighbour.link.is_none() => {
                Scheme::Random
            }
            scheme => scheme,
        };
        let head = HopHead {
            transfer,
            from: self.here.clone(),
            route: route.hops()[1..].to_vec(),
            policy: route.cipher(),
            origin: self.random.origin(),
            path: Vec::new(),
        };
        let (answer, answered) = oneshot::channel();
        self.waiting().insert(transfer, answer);
        self.transfers().begin(transfer, neighbour.cluster.clone());
        let sent = self.send_first(neighbour, head, scheme, len).await;
        let left = sent.is_ok();
        let arrived = match sent {
            Err(why) => Err(why),
            Ok(given) => wait(answered).await.and_then(|seen| {
                let given = given.or_else(|| self.supplied(route, transfer));
                let Given { material, cipher, origin } = given.ok_or(HopFault::Refused)?;
                let way = path::agreed(route, cipher, seen).ok_or(HopFault::Refused)?;
                Ok(Fetched { transfer, material, provenance: Provenance::relayed(origin, way) })
            }),
        };
        self.waiting().remove(&transfer);
        self.transfers().forget(transfer);
        if scheme == Scheme::Supplied {
            // Of no use without the other end.
            drop(self.supplied(route, transfer));
        }
        match (left, &arrived) {
            (false, _) => self.rests().not_sent(route),
            (true, Ok(_)) => self.rests().arrived(route),
            (true, Err(_)) => self.rests().lost(route, Instant::now()),
        }
        let count = if arrived.is_ok() { &self.fetched } else { &self.lost };
        count.fetch_add(1, Relaxed);
        arrived
    }

    async fn send_first(
        &self,
        neighbour: &Arc<Neighbour>,
        head: HopHead,
        scheme: Scheme,
        len: usize,
    ) -> Result<Option<Given>, HopFault> {
        match scheme {
            Scheme::Supplied => {
                let HopHead { transfer, route, policy, .. } = head;
                let ask = SupplyAsk { transfer, route, policy, len: len as u32 };
                neighbour.tell(Frame::Supply(ask));
                Ok(None)
            }
            Scheme::FirstKey => neighbour.give(head, len).await.map(Some),
            Scheme::Random => {
                let material = self.random.bytes(len).await.map_err(|error| {
                    tracing::error!(%error, "no random bytes for the relay");
                    HopFault::Refused
                })?;
                let origin = head.origin.clone();
                let cipher = neighbour.send(head, &material).await?;
                Ok(Some(Given { material, cipher, origin }))
            }
        }
    }

    /// What the first cluster of `route` supplied for a batch.
    fn supplied(&self, route: &Route, transfer: TransferId) -> Option<Given> {
        let (material, came) = self.collect(&(route.next().clone(), transfer))?;
        let cipher = came.path.first()?.cipher;
        Some(Given { material, cipher, origin: came.origin })
    }

    async fn name(&self) -> Result<TransferId, HopFault> {
        let bytes = self.random.bytes(16).await.map_err(|_| HopFault::Refused)?;
        let name = bytes.expose(|bytes| <[u8; 16]>::try_from(bytes));
        name.map(TransferId).map_err(|_| HopFault::Refused)
    }

    /// The neighbour `from` sent a batch, which was opened.
    pub(crate) fn opened(self: &Arc<Self>, from: ClusterId, head: HopHead, material: ClearBytes) {
        let step = self.transfers().opened(from, head, material, Instant::now());
        self.carry_out(step);
    }

    /// The neighbour `from` says what became of a batch.
    pub(crate) fn answered(
        self: &Arc<Self>,
        from: &ClusterId,
        name: TransferName,
        answer: HopAnswer,
    ) {
        let step = self.transfers().answered(from, name, answer);
        step.into_iter().for_each(|step| self.carry_out(step));
    }

    /// What arrived under this name; once.
    pub(crate) fn collect(&self, name: &TransferName) -> Option<(ClearBytes, Provenance)> {
        self.transfers().collect(name)
    }

    pub(super) fn here(&self) -> &ClusterId {
        &self.here
    }

    pub(super) fn neighbour(&self, cluster: &ClusterId) -> Option<&Arc<Neighbour>> {
        self.neighbours.get(cluster)
    }

    pub(super) fn random_origin(&self) -> Origin {
        self.random.origin()
    }

    pub(super) fn carry_out(self: &Arc<Self>, step: Step) {
        match step {
            Step::Answer { to, name, answer } => {
                if let Some(neighbour) = self.neighbours.get(&to) {
                    neighbour.tell(Frame::HopAnswer { name, answer });
                }
            }
            Step::Done { transfer, answer } => {
                if let Some(waiting) = self.waiting().remove(&transfer) {
                    // Whoever waited may have given up.
                    let _ = waiting.send(answer);
                }
            }
            Step::Forward { to, head, material } => {
                let relay = self.clone();
                tokio::spawn(async move { relay.forward(&to, head, material).await });
            }
        }
    }

    async fn forward(self: &Arc<Self>, to: &ClusterId, head: HopHead, material: ClearBytes) {
        let name = (head.from.clone(), head.transfer);
        let sent = match self.neighbours.get(to) {
            Some(neighbour) => neighbour.send(head, &material).await,
            None => Err(HopFault::NoLink),
        };
        if let Err(why) = sent {
            let step = self.transfers().not_passed(name, why);
            step.into_iter().for_each(|step| self.carry_out(step));
        }
    }

    /// Drops what waited too long; runs until `shutdown`.
    pub(crate) async fn tend(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = shutdown.requested() => return,
            }
            let late = self.transfers().tick(Instant::now());
            late.into_iter().for_each(|step| self.carry_out(step));
            self.neighbours.values().for_each(|neighbour| neighbour.tend());
        }
    }

    fn rests(&self) -> MutexGuard<'_, Rests> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn transfers(&self) -> MutexGuard<'_, Transfers> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<TransferId, oneshot::Sender<HopAnswer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wait(answered: oneshot::Receiver<HopAnswer>) -> Result<Vec<Hop>, HopFault> {
    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(HopAnswer::Arrived(path))) => Ok(path),
        Ok(Ok(HopAnswer::Failed { at, why })) => {
            tracing::warn!(%at, %why, "a batch of relayed keys is lost");
            Err(why)
        }
        Ok(Err(_)) | Err(_) => Err(HopFault::Late),
    }
}
