//! Connections of an application's own over which it is told: it gave the server the client's role there
//! (Set Endpoint Role). Enter through [`Lent::pair`]; who serves the connection takes the
//! [`Order`]s.

use kmip::Version;
use tokio::sync::{mpsc, oneshot};
use wiped::Wiped;

/// A request to send over the connection, and where its answer goes; dropped when there is none.
pub(crate) struct Order {
    pub(crate) frame: Wiped,
    pub(crate) answer: oneshot::Sender<Vec<u8>>,
}

/// Such a connection; given back when dropped.
pub(crate) struct Lent {
    /// What its application understands.
    pub(super) version: Version,
    orders: mpsc::Sender<Order>,
}

impl Lent {
    /// A connection whose client spoke `version` last, and what is to be sent over it.
    pub(crate) fn pair(version: Version) -> (Self, mpsc::Receiver<Order>) {
        let (orders, inbox) = mpsc::channel(1);
        (Self { version, orders }, inbox)
    }

    /// Whether it can be used still.
    pub(super) fn is_open(&self) -> bool {
        !self.orders.is_closed()
    }

    /// The answer to `frame`; none when the connection ended, or its client asks again itself.
    pub(super) async fn exchange(&self, frame: Wiped) -> Option<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order { frame, answer }).await.ok()?;
        answered.await.ok()
    }
}
