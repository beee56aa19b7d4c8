//! The one controller of this process, and who waits for news from it.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use control::{
    Controller, Directions, NotKnown,
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
    orders: PathBuf,
}

impl Room {
    pub(super) fn open(config: &ControllerConfig) -> Result<Self, Failure> {
        let orders = kept::read(&config.orders)?;
        let controller = Controller::new(config.settings.clone(), config.policies.clone());
        Ok(Self {
            controller: Mutex::new(controller.with_orders(orders)),
            news: watch::Sender::new(0),
            orders: config.orders.clone(),
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
    }

    pub(super) fn hear(&self, report: Report) -> Result<(), BadReport> {
        self.change(|controller, now| match controller.hear(report, now) {
            Ok(moved) => (Ok(()), moved),
            Err(error) => (Err(error), false),
        })
    }

    /// What a KM is to do, as soon as it is not what `tag` names; in any case after `longest`.
    pub(super) async fn directions(
        &self,
        cluster: &ClusterId,
        tag: &str,
        longest: std::time::Duration,
    ) -> Directions {
        let mut news = self.news.subscribe();
        let wait = async {
            loop {
                news.mark_unchanged();
                let directions = self.controller().directions(cluster);
                if directions.tag() != tag || news.changed().await.is_err() {
                    return directions;
                }
            }
        };
        let waited = tokio::time::timeout(longest, wait).await;
        waited.unwrap_or_else(|_| self.controller().directions(cluster))
    }

    pub(super) fn operate(&self, component: &Component, step: Step) -> Result<State, NotKnown> {
        let done = self.change(|controller, now| {
            let done = controller.operate(component, step, now);
            let moved = done.is_ok();
            (done, moved)
        });
        self.keep();
        done
    }

    pub(super) fn pin(&self, pin: Pin) {
        self.change(|controller, now| (controller.pin(pin, now), true));
        self.keep();
    }

    pub(super) fn unpin(&self, between: &[ClusterId; 2]) -> bool {
        let was = self.change(|controller, now| (controller.unpin(between, now), true));
        self.keep();
        was
    }

    fn keep(&self) {
        let orders = self.controller().orders();
        let kept = tokio::task::block_in_place(|| kept::write(&self.orders, &orders));
        if let Err(failure) = kept {
            warn!(%failure, alarm = "orders-not-kept", "an order is not on disk");
        }
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
