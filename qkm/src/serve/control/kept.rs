//! The last directions in the store, authenticated as every record is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use control::Directions;
use km_core::{
    ids::{ClusterId, LinkId},
    records::Records,
    store::Commit,
};
use serde::{Deserialize, Serialize};
use tracing::warn;

const KEY: &[u8] = b"meta/routes";
const WITHIN: Duration = Duration::from_secs(5);

/// What is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    /// The directions in force.
    pub(super) said: Directions,
    /// The QKD links that each controller said operators took out, by its address.
    pub(super) withheld: BTreeMap<String, BTreeSet<LinkId>>,
}

/// The directions of the last run; none when there are none, or they cannot be used here.
pub(super) async fn read(records: &Records, here: &ClusterId) -> Option<Kept> {
    match records.get::<Kept>(KEY).await {
        Ok(kept) => kept.filter(|kept| kept.said.table.check(here).is_ok()),
        Err(error) => {
            warn!(%error, "the routes of the last run cannot be read; the controller has new ones");
            None
        }
    }
}

/// Keeps the directions in force. They are a convenience: what fails is logged.
pub(super) async fn write(records: &Records, kept: &Kept) {
    let stored = records.encode(KEY, kept);
    let written = records.store().commit(Commit::new().put(KEY, stored));
    match tokio::time::timeout(WITHIN, written).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!(%error, "the routes in force are not in the store"),
        Err(_) => warn!("the store did not take the routes in force in time"),
    }
}
