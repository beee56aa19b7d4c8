//! The KM's side of the controller: it reports, and takes its routes. Enter through [`Control`].
//!
//! - `report`: what it tells. `client`: the connections to one controller. `kept`: the last routes,
//!   in the store.
//!
//! The KM reports to every controller it has, and follows the first of the list that answered
//! lately. When none does it goes on with what it was told last, also after a restart.

mod client;
mod kept;
mod report;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use control::{Directions, report::Report};
use km_core::{
    ids::ClusterId,
    route::{RouteBoard, Routes},
};
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet};
use tracing::{info, warn};
use transport::{Profile, Shutdown, client_config};

use super::{Inside, failures::of_tls, node::Node};
use crate::{
    config::Config,
    fault::{Code, Failure},
};
use client::Client;

/// A controller that said nothing for so long is not followed while another says something.
const FRESH: Duration = Duration::from_secs(30);
/// How often the KM looks whether its state changed.
const LOOK: Duration = Duration::from_millis(100);

/// What a KM knows of its controllers and follows.
pub(crate) struct Control {
    /// The routes in force.
    pub(crate) board: Arc<RouteBoard>,
    here: ClusterId,
    seats: Vec<Mutex<Seat>>,
    followed: Mutex<Option<usize>>,
}

/// One controller of the list.
struct Seat {
    address: String,
    heard: Option<Instant>,
    said: Option<Directions>,
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
            let address = address.clone();
            Mutex::new(Seat { address, heard: None, said: None, trouble: None })
        });
        let seats: Vec<_> = seats.collect();
        let board = Arc::new(RouteBoard::default());
        if !seats.is_empty()
            && let Some(table) = kept::read(node.keeper.records(), &config.cluster).await
        {
            info!(version = table.version, "routes of the last run");
            board.put(table);
        }
        let here = config.cluster.clone();
        Self { board, here, seats, followed: Mutex::default() }
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
            until(tasks, shutdown, async move { client.follow(&inside, seat).await });
        }
        let inside = inside.clone();
        until(tasks, shutdown, async move { watch_self(&inside, &reports).await });
        Ok(())
    }

    /// A controller answered, perhaps with directions. Whether the routes in force changed.
    fn heard(&self, seat: usize, said: Option<Directions>) -> bool {
        if let Some(directions) = &said
            && let Err(error) = directions.table.check(&self.here)
        {
            warn!(%error, alarm = "routes-refused", "the controller's routes are not followed");
            return false;
        }
        {
            let mut entry = lock(&self.seats[seat]);
            entry.heard = Some(Instant::now());
            entry.trouble = None;
            if said.is_some() {
                entry.said = said;
            }
        }
        self.choose()
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
    fn choose(&self) -> bool {
        let fresh = |entry: &Seat| {
            let lately = entry.heard.is_some_and(|at| at.elapsed() < FRESH);
            lately && entry.trouble.is_none() && entry.said.is_some()
        };
        let Some(seat) = (0..self.seats.len()).find(|seat| fresh(&lock(&self.seats[*seat]))) else {
            return false;
        };
        let Some(said) = lock(&self.seats[seat]).said.clone() else { return false };
        let before = lock(&self.followed).replace(seat);
        if before != Some(seat) {
            info!(controller = %lock(&self.seats[seat]).address, "follows this controller");
        }
        let moved = self.board.table().to != said.table.to;
        if moved || self.board.table().version != said.table.version {
            self.board.put(said.table.as_ref().clone());
        }
        moved
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
        reports.send_replace(Arc::new(report::gather(inside)));
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
