//! One connection to the module, with back-off after errors. Enter through [`Channel::ask`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use km_core::module::ModuleError;
use tracing::{info, warn};
use transport::{
    ClientConfig, ConnectError,
    http::{BodyError, ClientError, ClientLimits, HttpClient},
};
use wiped::Wiped;

use super::{config::ModuleConfig, counters::Counters};

/// Wait after the first error; doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait.
const LAST_WAIT: Duration = Duration::from_secs(30);
/// Time for TCP and TLS.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Wiped,
}

pub(super) struct Channel {
    client: HttpClient,
    name: &'static str,
    counters: Arc<Counters>,
    backoff: Mutex<Backoff>,
}

#[derive(Default)]
struct Backoff {
    failures: u32,
    until: Option<Instant>,
    reason: String,
}

impl Channel {
    /// `name` tells the module's connections apart in the log.
    pub(super) fn new(
        name: &'static str,
        config: &ModuleConfig,
        tls: Arc<ClientConfig>,
        response_bytes: usize,
        counters: Arc<Counters>,
    ) -> Result<Self, ConnectError> {
        let request = config.request_time();
        let connect = CONNECT_TIME.min(request);
        let limits = ClientLimits { connect, request, response_bytes, ..ClientLimits::default() };
        let client = HttpClient::new(&config.address, config.server_name.as_deref(), tls, limits)?;
        let client = match &config.identity {
            Some(rule) => client.expecting(rule.clone()),
            None => client,
        };
        Ok(Self { client, name, counters, backoff: Mutex::default() })
    }

    /// GETs `path`, or POSTs `json` to it, and has `read` make sense of the answer. Answers that
    /// make none count as errors just like lost connections, and hold back the next request.
    pub(super) async fn ask<T>(
        &self,
        path: &str,
        json: Option<Vec<u8>>,
        read: impl FnOnce(Answer) -> Result<T, ModuleError>,
    ) -> Result<T, ModuleError> {
        self.may_ask(Instant::now())?;
        let sent = match json {
            Some(json) => self.client.post(path, Wiped::new(json)).await,
            None => self.client.get(path).await,
        };
        let result =
            sent.map_err(unanswered).and_then(|(status, body)| read(Answer { status, body }));
        match &result {
            Err(error @ (ModuleError::Unavailable(_) | ModuleError::Protocol(_))) => {
                self.failed(error);
            }
            Ok(_) | Err(ModuleError::Empty | ModuleError::UnknownId) => self.worked(),
        }
        result
    }

    /// Closes the idle connection.
    pub(super) async fn rest(&self) {
        self.client.close().await;
    }

    /// Whether the last request ended in a usable answer, or none was made yet.
    pub(super) fn is_well(&self) -> bool {
        self.lock().failures == 0
    }

    fn lock(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_ask(&self, now: Instant) -> Result<(), ModuleError> {
        let backoff = self.lock();
        let left = backoff.until.map_or(Duration::ZERO, |t| t.saturating_duration_since(now));
        if left.is_zero() {
            return Ok(());
        }
        let reason = &backoff.reason;
        Err(ModuleError::Unavailable(format!("next try in {left:.1?}, after: {reason}")))
    }

    fn failed(&self, error: &ModuleError) {
        self.counters.errors.fetch_add(1, Relaxed);
        let mut backoff = self.lock();
        let wait = wait(backoff.failures, random());
        backoff.failures = backoff.failures.saturating_add(1);
        backoff.until = Some(Instant::now() + wait);
        backoff.reason = error.to_string();
        // The rest of a long outage is told by the counter.
        if backoff.failures == 1 {
            let (module, connection) = (self.client.address(), self.name);
            warn!(alarm = "module-down", module, connection, %error, "QKD module fails");
        }
    }

    fn worked(&self) {
        let mut backoff = self.lock();
        if backoff.failures > 0 {
            self.counters.reconnects.fetch_add(1, Relaxed);
            let (module, connection) = (self.client.address(), self.name);
            info!(module, connection, failures = backoff.failures, "QKD module works again");
            *backoff = Backoff::default();
        }
    }
}

/// From half to all of the doubled wait, so that many KMs do not come back at once.
fn wait(failures: u32, random: u16) -> Duration {
    let full = FIRST_WAIT.saturating_mul(1 << failures.min(16)).min(LAST_WAIT);
    full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u16::MAX))
}

fn random() -> u16 {
    let mut dice = [0; 2];
    // Without randomness there is only no jitter.
    let _ = rand::fill(&mut dice);
    u16::from_be_bytes(dice)
}

fn unanswered(error: ClientError) -> ModuleError {
    match error {
        ClientError::Answer { source: BodyError::TooLarge { .. }, .. } | ClientError::Path(_) => {
            ModuleError::Protocol(error.to_string())
        }
        error => ModuleError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound() {
        assert_eq!(wait(0, u16::MAX), FIRST_WAIT);
        assert_eq!(wait(0, 0), FIRST_WAIT / 2);
        assert_eq!(wait(3, u16::MAX), FIRST_WAIT * 8);
        assert_eq!(wait(u32::MAX, u16::MAX), LAST_WAIT);
    }
}
