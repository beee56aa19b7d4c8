//! The last directions in the store, authenticated as every record is.

use std::time::Duration;

use control::Directions;
use km_core::{ids::ClusterId, records::Records, store::Commit};
use tracing::warn;

const KEY: &[u8] = b"meta/routes";
const WITHIN: Duration = Duration::from_secs(5);

/// The directions of the last run; none when there are none, or they cannot be used here.
pub(super) async fn read(records: &Records, here: &ClusterId) -> Option<Directions> {
    match records.get::<Directions>(KEY).await {
        Ok(said) => said.filter(|said| said.table.check(here).is_ok()),
        Err(error) => {
            warn!(%error, "the routes of the last run cannot be read; the controller has new ones");
            None
        }
    }
}

/// Keeps the directions in force. They are a convenience: what fails is logged.
pub(super) async fn write(records: &Records, said: &Directions) {
    let stored = records.encode(KEY, said);
    let written = records.store().commit(Commit::new().put(KEY, stored));
    match tokio::time::timeout(WITHIN, written).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!(%error, "the routes in force are not in the store"),
        Err(_) => warn!("the store did not take the routes in force in time"),
    }
}
