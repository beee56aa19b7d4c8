//! Runs leave for the peer in the order they were reserved. Enter through [`Order::place`].
//!
//! The peer takes the runs of a block in the order they come: one that comes after its successor
//! finds its bytes passed over and is refused.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::journal::Ticket;

/// The runs of one pool that are reserved but not on their way yet.
#[derive(Default)]
pub(super) struct Order {
    waiting: Mutex<BTreeSet<Ticket>>,
    left: Notify,
}

/// A run's place in the order; dropping it lets the next one go.
pub(super) struct Place {
    order: Arc<Order>,
    ticket: Ticket,
}

impl Order {
    /// Takes a place. Call it under the lock the ticket was drawn under.
    pub(super) fn place(self: &Arc<Self>, ticket: Ticket) -> Place {
        self.waiting().insert(ticket);
        Place { order: self.clone(), ticket }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<Ticket>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until every run reserved before this one has left or was given up.
    pub(super) async fn turn(&self) {
        loop {
            // Made before the look, so that no one leaves unheard in between.
            let left = self.order.left.notified();
            if self.order.waiting().first() == Some(&self.ticket) {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.order.waiting().remove(&self.ticket);
        self.order.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::journal::ticket;

    #[tokio::test]
    async fn nobody_goes_before_those_who_came_earlier() {
        let order = Arc::<Order>::default();
        let places: Vec<Place> = (1..=3).map(|n| order.place(ticket(n))).collect();
        let gone = Arc::<Mutex<Vec<Ticket>>>::default();
        let (mut first, mut rest) = (None, Vec::new());
        for place in places {
            if first.is_none() {
                first = Some(place);
                continue;
            }
            let gone = gone.clone();
            // The last one to reserve is the first to wait.
            rest.insert(0, async move {
                place.turn().await;
                gone.lock().unwrap().push(place.ticket);
            });
        }
        let waiting: Vec<_> = rest.into_iter().map(tokio::spawn).collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(gone.lock().unwrap().is_empty(), "the first still holds its place");
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*gone.lock().unwrap(), [ticket(2), ticket(3)]);
    }
}
