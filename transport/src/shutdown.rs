//! The orderly end: one [`ShutdownHandle`] gives the signal, every [`Shutdown`] hears it.

use tokio::sync::watch;

/// Gives the signal, by [`ShutdownHandle::start`] or by being dropped.
#[derive(Debug)]
pub struct ShutdownHandle(watch::Sender<bool>);

/// Hears the signal. Clone it into everything that runs.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// A connected pair.
    pub fn pair() -> (ShutdownHandle, Shutdown) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownHandle(sender), Shutdown(receiver))
    }

    /// Returns when the end was asked for; at once if it already was. Cancel-safe.
    pub async fn requested(&self) {
        // An error means the handle is gone, which is the same signal.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl ShutdownHandle {
    /// Asks everything to end.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}
