//! The last routes in the store, authenticated as every record is.

use std::time::Duration;

use km_core::{
    ids::ClusterId,
    records::Records,
    route::{RouteBoard, Routes, RoutingTable},
    store::Commit,
};
use tracing::warn;

const KEY: &[u8] = b"meta/routes";
const WITHIN: Duration = Duration::from_secs(5);

/// The routes of the last run; none when there are none, or they cannot be used here.
pub(super) async fn read(records: &Records, here: &ClusterId) -> Option<RoutingTable> {
    match records.get::<RoutingTable>(KEY).await {
        Ok(table) => table.filter(|table| table.check(here).is_ok()),
        Err(error) => {
            warn!(%error, "the routes of the last run cannot be read; the controller has new ones");
            None
        }
    }
}

/// Keeps the routes in force. They are a convenience: what fails is logged.
pub(super) async fn write(records: &Records, board: &RouteBoard) {
    let stored = records.encode(KEY, board.table().as_ref());
    let written = records.store().commit(Commit::new().put(KEY, stored));
    match tokio::time::timeout(WITHIN, written).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!(%error, "the routes in force are not in the store"),
        Err(_) => warn!("the store did not take the routes in force in time"),
    }
}
