//! One opening of an object for all who ask for it at that moment. Enter through [`Flights::join`].
//!
//! Nothing is kept: who comes after the token has answered starts a new opening, so clear bytes
//! live no longer than the requests they were opened for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OnceCell;

use crate::{hsm::HsmError, material::ClearBytes};

type Opened = Result<Arc<ClearBytes>, HsmError>;

/// The openings under way, by what is opened.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Vec<u8>, Arc<OnceCell<Opened>>>>);

impl Flights {
    /// The bytes of what `name` names. `open` runs unless it already runs for another caller; if
    /// that one goes away, it runs again for the next.
    pub(super) async fn join<F>(&self, name: Vec<u8>, open: impl FnOnce() -> F) -> Opened
    where
        F: Future<Output = Result<ClearBytes, HsmError>>,
    {
        let flight = self.under_way(&name);
        let leave = Leave { flights: self, name: &name, flight: &flight };
        let opened = flight.get_or_init(|| async {
            let opened = open().await.map(Arc::new);
            // Before anyone is told: who comes from now on gets an opening of their own.
            leave.now();
            opened
        });
        opened.await.clone()
    }

    fn under_way(&self, name: &[u8]) -> Arc<OnceCell<Opened>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.entry(name.to_vec()).or_default().clone()
    }
}

/// Takes a flight off the board, at the latest when the last passenger leaves.
struct Leave<'a> {
    flights: &'a Flights,
    name: &'a [u8],
    flight: &'a Arc<OnceCell<Opened>>,
}

impl Leave<'_> {
    fn now(&self) {
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        if flights.get(self.name).is_some_and(|found| Arc::ptr_eq(found, self.flight)) {
            flights.remove(self.name);
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        // The board and this passenger hold it: nobody else waits.
        if Arc::strong_count(self.flight) <= 2 {
            self.now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_opening_and_nobody_later() {
        let (flights, openings) = (Flights::default(), AtomicUsize::new(0));
        let ask = || {
            flights.join(b"k".to_vec(), || async {
                openings.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
                Ok(ClearBytes::from_vec(vec![7]))
            })
        };
        let (a, b, c) = tokio::join!(ask(), ask(), ask());
        assert!([a, b, c].into_iter().all(|opened| opened.unwrap().len() == 1));
        assert_eq!(openings.load(Relaxed), 1);
        ask().await.unwrap();
        assert_eq!(openings.load(Relaxed), 2, "nothing is kept");
        assert!(flights.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_goes_away_holds_up_nobody_and_leaves_nothing() {
        let flights = Flights::default();
        let gone = flights.join(b"k".to_vec(), std::future::pending);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(10), gone).await;
        assert!(waited.is_err());
        assert!(flights.0.lock().unwrap().is_empty());
        let opened =
            flights.join(b"k".to_vec(), || async { Err(HsmError::Unavailable("x".into())) });
        assert!(opened.await.is_err());
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
