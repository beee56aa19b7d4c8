//! The KM's side of the controller: it reports, and takes its routes. Enter through [`Control`].
//!
//! - `report`: what it tells. `client`: the connections to one controller. `kept`: the last
//!   directions, in the store. `gate`: keeps the hands off modules that an operator took out.
//!   `switch`: the QKD links of one pool, of which one serves.
//!
//! The KM reports to every controller it has, and follows the first of the list that answered
//! lately. When none does it goes on with what it was told last, also after a restart. A QKD link that any
//! of them said operators took out stays out until that one gives it back: it may be away when another
//! that never heard of the order is followed.

mod client;
mod gate;
mod kept;
mod report;
mod switch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use control::{Directions, report::Report};
use km_core::{
    ids::{ClusterId, LinkId},
    route::{RouteBoard, Routes},
};
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tracing::{info, warn};
use transport::{Profile, Shutdown, client_config};

use super::{Inside, failures::of_tls, node::Node};
use crate::{
    config::Config,
    fault::{Code, Failure},
};
use client::Client;
pub(crate) use gate::Gate;
use kept::Kept;
pub(crate) use switch::{Switch, Way};

/// A controller that said nothing for so long is not followed while another says something.
const FRESH: Duration = Duration::from_secs(30);
/// How often the KM looks whether its state changed.
const LOOK: Duration = Duration::from_millis(100);

/// What a KM knows of its controllers and follows.
pub(crate) struct Control {
    /// The routes in force.
    pub(crate) board: Arc<RouteBoard>,
    /// The QKD links that operators took out.
    pub(crate) withheld: Arc<Mutex<BTreeSet<LinkId>>>,
    /// The QKD link in service towards each peer.
    pub(crate) serving: Arc<Mutex<BTreeMap<ClusterId, LinkId>>>,
    /// Asks for the directions in force to be stored.
    moved: Notify,
    here: ClusterId,
    seats: Vec<Mutex<Seat>>,
    followed: Mutex<Option<usize>>,
}

/// One controller of the list.
struct Seat {
    address: String,
    heard: Option<Instant>,
    said: Option<Directions>,
    /// QKD links that it said operators took out, perhaps in the last run.
    withheld: BTreeSet<LinkId>,
    trouble: Option<String>,
}

/// A controller as shown.
#[derive(Debug, Serialize)]
pub(crate) struct SeatView {
    address: String,
    reached: bool,
    followed: bool,
    trouble: Option<String>,
    version: u64,
}

impl Control {
    /// With the routes of the last run.
    pub(crate) async fn open(config: &Config, node: &Node) -> Self {
        let addresses = config.controller.iter().flat_map(|entry| entry.addresses.iter());
        let seats = addresses.map(|address| {
            let (address, withheld) = (address.clone(), BTreeSet::new());
            Mutex::new(Seat { address, heard: None, said: None, withheld, trouble: None })
        });
        let seats: Vec<_> = seats.collect();
        let here = config.cluster.clone();
        let control = Self {
            board: Arc::default(),
            withheld: Arc::default(),
            serving: Arc::default(),
            moved: Notify::new(),
            here,
            seats,
            followed: Mutex::default(),
        };
        control.refresh(node).await;
        control
    }

    /// Takes the directions that are stored: those of the last run, or of the KM that led before.
    pub(super) async fn refresh(&self, node: &Node) {
        if !self.seats.is_empty()
            && let Some(kept) = kept::read(node.keeper.records(), &self.here).await
        {
            info!(version = kept.said.table.version, "routes as they were stored");
            self.resume(kept);
        }
    }

    /// Goes on with what was in force. A controller that is no more on the list holds nothing back.
    fn resume(&self, mut kept: Kept) {
        for seat in &self.seats {
            let mut seat = lock(seat);
            seat.withheld = kept.withheld.remove(&seat.address).unwrap_or_default();
        }
        self.put(&kept.said);
    }

    /// Reports and fetches in `tasks` until `shutdown`.
    pub(crate) fn start(
        inside: &Arc<Inside>,
        config: &Config,
        tasks: &mut JoinSet<()>,
        shutdown: &Shutdown,
    ) -> Result<(), Failure> {
        let Some(entry) = &config.controller else { return Ok(()) };
        let tls = client_config(&entry.tls(), Profile::Front);
        let tls = tls.map_err(|e| of_tls("[controller]", &e))?;
        let (reports, latest) = watch::channel(Arc::new(report::gather(inside)));
        for (seat, address) in entry.addresses.iter().enumerate() {
            let client = Client::new(address, entry, tls.clone());
            let client = client
                .map_err(|e| Failure::new(Code::C003, format!("[controller] addresses: {e}")))?;
            let (client, inside) = (Arc::new(client), inside.clone());
            let (one, control) = (client.clone(), inside.clone());
            let (latest, interval) = (latest.clone(), entry.report);
            until(tasks, shutdown, async move {
                one.report(&control.control, seat, latest, interval).await;
            });
            until(tasks, shutdown, async move { client.follow(&inside.control, seat).await });
        }
        let keeping = inside.clone();
        until(tasks, shutdown, async move { keeping.control.keep(&keeping.node).await });
        let inside = inside.clone();
        until(tasks, shutdown, async move { watch_self(&inside, &reports).await });
        Ok(())
    }

    /// A controller answered, perhaps with directions.
    fn heard(&self, seat: usize, said: Option<Directions>) {
        if let Some(directions) = &said
            && let Err(error) = directions.table.check(&self.here)
        {
            warn!(%error, alarm = "routes-refused", "the controller's routes are not followed");
            return;
        }
        {
            let mut entry = lock(&self.seats[seat]);
            entry.heard = Some(Instant::now());
            entry.trouble = None;
            if let Some(said) = said {
                entry.withheld.clone_from(&said.withheld);
                entry.said = Some(said);
            }
        }
        self.choose();
    }

    fn failed(&self, seat: usize, trouble: String) {
        let mut entry = lock(&self.seats[seat]);
        if entry.trouble.is_none() {
            warn!(controller = %entry.address, %trouble, alarm = "controller-away",
                "a controller is away; routes stay as they are");
        }
        entry.trouble = Some(trouble);
        drop(entry);
        self.choose();
    }

    /// Follows the first of the list that answers and has said something; else stays.
    fn choose(&self) {
        let fresh = |entry: &Seat| {
            let lately = entry.heard.is_some_and(|at| at.elapsed() < FRESH);
            lately && entry.trouble.is_none() && entry.said.is_some()
        };
        let Some(seat) = (0..self.seats.len()).find(|seat| fresh(&lock(&self.seats[*seat]))) else {
            return;
        };
        let Some(said) = lock(&self.seats[seat]).said.clone() else { return };
        let before = lock(&self.followed).replace(seat);
        if before != Some(seat) {
            info!(controller = %lock(&self.seats[seat]).address, "follows this controller");
        }
        if self.put(&said) {
            self.moved.notify_one();
        }
    }

    /// Puts directions into force, and what any controller holds back. Whether that is other than before.
    fn put(&self, said: &Directions) -> bool {
        let withheld: BTreeSet<LinkId> =
            self.seats.iter().flat_map(|seat| lock(seat).withheld.clone()).collect();
        let was = std::mem::replace(&mut *lock(&self.withheld), withheld.clone());
        if was != withheld {
            info!(links = ?withheld, "QKD links that an operator took out");
        }
        let served = std::mem::replace(&mut *lock(&self.serving), said.qkd.clone());
        for (peer, link) in said.qkd.iter().filter(|(peer, link)| served.get(*peer) != Some(*link))
        {
            info!(%peer, %link, "QKD link in service");
        }
        let before = self.board.table();
        if before.to != said.table.to || before.version != said.table.version {
            self.board.put(said.table.as_ref().clone());
        }
        before.to != said.table.to || was != withheld || served != said.qkd
    }

    fn kept(&self) -> Kept {
        let said = Directions {
            table: self.board.table(),
            withheld: lock(&self.withheld).clone(),
            qkd: lock(&self.serving).clone(),
        };
        let each = self.seats.iter().map(|seat| {
            let seat = lock(seat);
            (seat.address.clone(), seat.withheld.clone())
        });
        Kept { said, withheld: each.collect() }
    }

    /// Stores what is in force whenever it changed, whoever said it.
    async fn keep(&self, node: &Node) {
        loop {
            self.moved.notified().await;
            kept::write(node.keeper.records(), &self.kept()).await;
        }
    }

    /// The controllers, as shown.
    pub(crate) fn seats(&self) -> Vec<SeatView> {
        let followed = *lock(&self.followed);
        let view = |(at, entry): (usize, &Mutex<Seat>)| {
            let entry = lock(entry);
            SeatView {
                address: entry.address.clone(),
                reached: entry.heard.is_some() && entry.trouble.is_none(),
                followed: followed == Some(at),
                trouble: entry.trouble.clone(),
                version: entry.said.as_ref().map_or(0, |said| said.table.version),
            }
        };
        self.seats.iter().enumerate().map(view).collect()
    }
}

/// Looks at this KM often, and passes on what it sees; `client` decides what is worth telling.
async fn watch_self(inside: &Inside, reports: &watch::Sender<Arc<Report>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let seen = report::gather(inside);
        // Without the lead it sees no pools, and another KM tells of them.
        if inside.node.supply.leads() {
            reports.send_replace(Arc::new(seen));
        }
    }
}

fn until(
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let stop = shutdown.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = work => {}
            () = stop.requested() => {}
        }
    });
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use km_core::route::{CipherPolicy, Route, RoutingTable, Ways};

    use super::*;

    fn directions(version: u64, hops: &[&str], withheld: &[&str]) -> Directions {
        let hops: Vec<_> = hops.iter().map(|hop| ClusterId::parse(hop).unwrap()).collect();
        let to = hops.last().unwrap().clone();
        let routes = vec![Route::new(hops, CipherPolicy::OtpElseAes).unwrap()];
        let ways = Ways { routes, ..Ways::default() };
        let table = Arc::new(RoutingTable { version, to: [(to, ways)].into() });
        let withheld = withheld.iter().map(|link| LinkId::parse(link).unwrap()).collect();
        Directions { table, withheld, ..Directions::default() }
    }

    async fn to_be_kept(control: &Control) -> bool {
        tokio::time::timeout(Duration::ZERO, control.moved.notified()).await.is_ok()
    }

    fn control(addresses: [&str; 2]) -> Control {
        let seat = |address: &str| {
            let (address, withheld) = (address.to_owned(), BTreeSet::new());
            Mutex::new(Seat { address, heard: None, said: None, withheld, trouble: None })
        };
        Control {
            board: Arc::default(),
            withheld: Arc::default(),
            serving: Arc::default(),
            moved: Notify::new(),
            here: ClusterId::parse("a").unwrap(),
            seats: addresses.map(seat).into(),
            followed: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn routes_follow_the_first_controller_there_is_and_are_kept() {
        let control = control(["one:1", "two:2"]);
        control.heard(0, Some(directions(5, &["b", "d"], &[])));
        assert!(control.board.table().version == 5 && to_be_kept(&control).await);
        control.heard(1, Some(directions(7, &["c", "d"], &[])));
        control.heard(0, None);
        assert!(control.board.table().version == 5 && !to_be_kept(&control).await);
        control.failed(0, "away".to_owned());
        assert!(control.board.table().version == 7 && to_be_kept(&control).await);
        control.heard(0, None);
        assert!(control.board.table().version == 5 && to_be_kept(&control).await);
        control.heard(1, Some(directions(9, &["a", "d"], &[])));
        control.failed(0, "away".to_owned());
        assert_eq!(control.board.table().version, 7, "a way back here is not taken");
    }

    #[tokio::test]
    async fn a_qkd_link_taken_out_stays_out_whichever_controller_is_followed() {
        let out = |control: &Control| lock(&control.withheld).len();
        let first = control(["one:1", "two:2"]);
        first.heard(0, Some(directions(5, &["b", "d"], &["l1"])));
        first.heard(1, Some(directions(7, &["c", "d"], &[])));
        first.failed(0, "away".to_owned());
        assert_eq!((first.board.table().version, out(&first)), (7, 1));
        assert!(to_be_kept(&first).await);

        let second = control(["one:1", "two:2"]);
        second.resume(first.kept());
        second.heard(1, Some(directions(8, &["c", "d"], &[])));
        assert_eq!((second.board.table().version, out(&second)), (8, 1), "after a restart too");
        second.heard(1, Some(directions(9, &["c", "d"], &["l2"])));
        second.heard(0, Some(directions(6, &["b", "d"], &[])));
        assert_eq!(out(&second), 1, "given back by who took it out; the other took out another");
        assert!(to_be_kept(&second).await);

        let third = control(["new:1", "two:2"]);
        third.resume(first.kept());
        assert_eq!(out(&third), 0, "that controller is gone for good");
    }
}
