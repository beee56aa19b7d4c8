//! The one controller of this process, and who waits for news from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use control::{
    Controller, Directions, NotKnown, Orders,
    component::{Component, State, Step},
    policy::Pin,
    report::{BadReport, Report},
};
use km_core::{clock::now_ms, ids::ClusterId};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{config::ControllerConfig, kept};
use crate::fault::Failure;

pub(super) struct Room {
    controller: Mutex<Controller>,
    /// Counts the times anything may have changed.
    news: watch::Sender<u64>,
    /// Where orders are kept; held from the look at them to the end of the write.
    orders: Mutex<PathBuf>,
    /// Whether the last of them is on disk.
    kept: AtomicBool,
    start: Mutex<Start>,
    /// Changes of routes since the start, by the reason.
    changes: Mutex<BTreeMap<&'static str, u64>>,
}

/// The time after the start in which the controller knows a part of the network only. Routes
/// computed then would take away those that KMs have from before.
struct Start {
    /// KMs that did not report yet, and other controllers that did not tell their orders, by their
    /// addresses; `None` when nobody is waited for any more.
    awaited: Option<(BTreeSet<ClusterId>, BTreeSet<String>)>,
    until: Instant,
}

impl Room {
    pub(super) fn open(config: &ControllerConfig) -> Result<Self, Failure> {
        let orders = kept::read(&config.orders)?;
        let controller = Controller::new(config.settings.clone(), config.policies.clone());
        Ok(Self {
            controller: Mutex::new(controller.with_orders(orders)),
            news: watch::Sender::new(0),
            orders: Mutex::new(config.orders.clone()),
            kept: AtomicBool::new(true),
            changes: Mutex::default(),
            start: Mutex::new(Start {
                awaited: Some((
                    config.kms.iter().map(|km| km.cluster.clone()).collect(),
                    config.others.iter().map(|other| other.address.clone()).collect(),
                )),
                until: Instant::now() + Duration::from_millis(config.settings.silence_ms),
            }),
        })
    }

    fn controller(&self) -> MutexGuard<'_, Controller> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change`, tells what routes it moved, and wakes who waits.
    fn change<T>(&self, change: impl FnOnce(&mut Controller, u64) -> (T, bool)) -> T {
        // All routes of a large network take some tenths of a second to compute.
        tokio::task::block_in_place(|| {
            let mut controller = self.controller();
            let now = now_ms();
            let (done, moved) = change(&mut controller, now);
            if moved {
                let fresh = controller.events().rev().take_while(|event| event.at_ms == now);
                for event in fresh {
                    let [a, b] = &event.between;
                    let (old, new) = (way(&event.old), way(&event.new));
                    info!(%a, %b, %old, %new, why = event.why.as_str(), "route changed");
                    let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
                    *changes.entry(event.why.as_str()).or_default() += 1;
                }
            }
            drop(controller);
            if moved {
                self.news.send_modify(|count| *count += 1);
            }
            done
        })
    }

    pub(super) fn tick(&self) {
        self.change(|controller, now| ((), controller.tick(now)));
        self.begun(|_, _| {});
    }

    pub(super) fn hear(&self, report: Report) -> Result<(), BadReport> {
        let cluster = report.cluster.clone();
        self.change(|controller, now| match controller.hear(report, now) {
            Ok(moved) => (Ok(()), moved),
            Err(error) => (Err(error), false),
        })?;
        self.begun(|kms, _| kms.retain(|km| *km != cluster));
        Ok(())
    }

    /// What operators ordered of another controller.
    pub(super) fn agree(&self, other: &str, orders: Orders) {
        let news = self.change(|controller, now| {
            let news = controller.merge(orders, now);
            (news, news)
        });
        if news {
            info!(%other, "takes orders that operators gave to another controller");
            // Its failure is logged, and what is not on disk comes again from the other.
            let _ = self.keep();
        }
        self.begun(|_, others| others.retain(|one| one != other));
    }

    /// Whether directions may be given: all KMs and other controllers said something, or were silent for
    /// long enough.
    fn begun(&self, heard: impl FnOnce(&mut BTreeSet<ClusterId>, &mut BTreeSet<String>)) -> bool {
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        let Start { awaited: Some((kms, others)), until } = &mut *start else { return true };
        heard(kms, others);
        if !(kms.is_empty() && others.is_empty()) && Instant::now() < *until {
            return false;
        }
        start.awaited = None;
        drop(start);
        self.news.send_modify(|count| *count += 1);
        true
    }

    /// What a KM is to do, as soon as it is not what `tag` names; in any case after `longest`.
    /// `None` when the network, or this KM, is not known by then.
    pub(super) async fn directions(
        &self,
        cluster: &ClusterId,
        tag: &str,
        longest: Duration,
    ) -> Option<Directions> {
        let mut news = self.news.subscribe();
        let wait = async {
            loop {
                news.mark_unchanged();
                let other = self.known(cluster).filter(|directions| directions.tag() != tag);
                if other.is_some() || news.changed().await.is_err() {
                    return other;
                }
            }
        };
        let waited = tokio::time::timeout(longest, wait).await;
        waited.unwrap_or_else(|_| self.known(cluster))
    }

    fn known(&self, cluster: &ClusterId) -> Option<Directions> {
        let begun = self.begun(|_, _| {});
        let directions = begun.then(|| self.controller().directions(cluster))?;
        (directions.table.version > 0).then_some(directions)
    }

    /// An operator's step. It is in force as soon as the state allows it; [`Room::keep`] keeps it.
    pub(super) fn operate(&self, component: &Component, step: Step) -> Result<State, NotKnown> {
        self.change(|controller, now| {
            let done = controller.operate(component, step, now);
            let moved = done.is_ok();
            (done, moved)
        })
    }

    pub(super) fn pin(&self, pin: Pin) {
        self.change(|controller, now| (controller.pin(pin, now), true));
    }

    pub(super) fn unpin(&self, between: &[ClusterId; 2]) -> bool {
        self.change(|controller, now| (controller.unpin(between, now), true))
    }

    /// Writes the orders of now; durable when it returns.
    pub(super) fn keep(&self) -> Result<(), Failure> {
        tokio::task::block_in_place(|| {
            let path = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            let orders = self.controller().orders().clone();
            kept::write(&path, &orders)
        })
        .inspect(|()| self.kept.store(true, Relaxed))
        .inspect_err(|failure| {
            self.kept.store(false, Relaxed);
            warn!(%failure, alarm = "orders-not-kept", "an order is not on disk");
        })
    }

    /// Why it is not ready.
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.begun(|_, _| {}) {
            let start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((kms, others)) = &start.awaited {
                let kms = kms.iter().map(|km| format!("the KM of {km}"));
                let others = others.iter().map(|other| format!("the controller at {other}"));
                reasons.extend(kms.chain(others).map(|who| format!("waits for {who}")));
            }
        }
        if !self.kept.load(Relaxed) {
            reasons.push("orders of operators are not on disk".to_owned());
        }
        reasons
    }

    /// Changes of routes since the start, by the reason.
    pub(super) fn changes(&self) -> BTreeMap<&'static str, u64> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Controller) -> T) -> T {
        look(&self.controller())
    }

    pub(super) fn orders(&self) -> Value {
        json!(self.controller().orders())
    }

    pub(super) fn components(&self) -> Value {
        json!({ "components": self.controller().components() })
    }

    pub(super) fn edges(&self) -> Value {
        json!({ "edges": self.controller().edges() })
    }

    pub(super) fn routes(&self) -> Value {
        json!({ "routes": self.controller().routes() })
    }

    pub(super) fn books(&self) -> Value {
        json!(self.controller().books())
    }

    pub(super) fn events(&self) -> Value {
        json!({ "events": self.controller().events().collect::<Vec<_>>() })
    }

    /// The table of one KM, and the version it said it goes by.
    pub(super) fn table(&self, cluster: &ClusterId) -> Value {
        let controller = self.controller();
        let (directions, at) = (controller.directions(cluster), controller.table_at(cluster));
        json!({ "cluster": cluster, "directions": directions, "followed": at })
    }
}

fn way(nodes: &[ClusterId]) -> String {
    match nodes {
        [] => "none".to_owned(),
        nodes => nodes.iter().map(ClusterId::as_str).collect::<Vec<_>>().join(" > "),
    }
}
