//! One QKD module of ours behind ETSI GS QKD 014, whoever made it. Enter through [`Module`].
//!
//! - `config`, `counters`, `status`: what goes in and what can be seen.
//! - `limits`: what to ask, from what the module allows. `take`, `collect`: the two requests.
//! - `channel`: a connection with back-off; `answer`: refusals; `seen`: repeated identifiers;
//!   `held`: keys of a `collect` that is yet to be finished.
//!
//! Nothing is believed about the module: answers are bounded in bytes, keys and time, and what
//! does not fit is dropped with an alarm.

mod answer;
mod channel;
mod collect;
mod config;
mod counters;
mod held;
mod limits;
mod seen;
mod status;
mod take;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use etsi014::{Status, path};
use km_core::{
    module::{ModuleError, ModuleKey, ModuleSource},
    provenance::Provenance,
};
use tracing::warn;
use transport::{ClientConfig, Shutdown};

use channel::{Answer, Channel};
use held::Held;
use limits::Limits;
use seen::Seen;

pub use config::{ConfigError, ModuleConfig};
pub use counters::{Counters, Totals};
pub use status::{LinkCondition, LinkReport, ModuleStatus};

/// How long limits and stock are believed.
const STATUS_AGE: Duration = Duration::from_secs(30);
/// Most bytes of a status resource.
const RESOURCE: usize = 64 * 1024;

/// A QKD module. Taking and collecting have a connection each, so neither waits for the other.
pub struct Module {
    config: ModuleConfig,
    counters: Arc<Counters>,
    taking: Channel,
    collecting: Channel,
    /// Never carries keys.
    watching: Channel,
    status_path: String,
    enc_path: String,
    dec_path: String,
    known: Mutex<Option<Known>>,
    link: Mutex<Option<LinkReport>>,
    seen: Mutex<Seen>,
    held: Arc<Held>,
}

/// What the module's last status said.
#[derive(Clone, Copy)]
struct Known {
    limits: Limits,
    /// Stock in bits, less what was taken since.
    available: u64,
    at: Instant,
}

impl Module {
    /// Checks the configuration. Connects when first used.
    pub fn new(config: ModuleConfig, tls: Arc<ClientConfig>) -> Result<Arc<Self>, ConfigError> {
        config.check()?;
        let counters = Arc::new(Counters::default());
        let channel = |name, max| Channel::new(name, &config, tls.clone(), max, counters.clone());
        let path = |method| path::build(&config.peer_sae, method);
        Ok(Arc::new(Self {
            taking: channel("take", limits::ENC_ANSWER)?,
            collecting: channel("collect", limits::DEC_ANSWER)?,
            watching: channel("status", RESOURCE)?,
            status_path: path(path::Method::Status),
            enc_path: path(path::Method::EncKeys),
            dec_path: path(path::Method::DecKeys),
            known: Mutex::default(),
            link: Mutex::default(),
            seen: Mutex::default(),
            held: Arc::default(),
            counters,
            config,
        }))
    }

    /// Totals since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is known now, without asking the module.
    pub fn status(&self) -> ModuleStatus {
        ModuleStatus {
            reachable: [&self.taking, &self.collecting, &self.watching].iter().all(|c| c.is_well()),
            stored_bits: lock(&self.known).map(|known| known.available),
            link: lock(&self.link).clone(),
        }
    }

    /// Reads the status resource at its interval until `shutdown`; ends at once without one.
    pub async fn watch(&self, shutdown: Shutdown) {
        let Some(path) = &self.config.status_path else { return };
        let pause = Duration::from_millis(self.config.status_interval_ms);
        let poll = async {
            loop {
                let report = self.watching.ask(path, None, |answer| report(&answer)).await;
                *lock(&self.link) = report.ok();
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = poll => {}
            () = shutdown.requested() => {}
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    fn cached(&self) -> Option<Known> {
        lock(&self.known).filter(|known| known.at.elapsed() < STATUS_AGE)
    }

    fn forget_limits(&self) {
        *lock(&self.known) = None;
    }

    fn spend(&self, bits: u64) {
        if let Some(known) = lock(&self.known).as_mut() {
            known.available = known.available.saturating_sub(bits);
        }
    }

    async fn batch(&self) -> Result<usize, ModuleError> {
        let known = match self.cached() {
            Some(known) => known,
            None => self.refresh(&self.collecting).await?,
        };
        Ok(known.limits.batch(self.config.key_size_bits))
    }

    /// Asks for the module's status.
    async fn refresh(&self, channel: &Channel) -> Result<Known, ModuleError> {
        let known = channel.ask(&self.status_path, None, |answer| self.learn(&answer)).await?;
        *lock(&self.known) = Some(known);
        Ok(known)
    }

    fn learn(&self, answer: &Answer) -> Result<Known, ModuleError> {
        if answer.status != 200 {
            return Err(answer::refusal("status", answer));
        }
        let status =
            Status::parse(&answer.body).map_err(|e| ModuleError::Protocol(e.to_string()))?;
        let limits = Limits::of(&status).map_err(ModuleError::Protocol)?;
        if status.master_sae_id != self.config.sae && lock(&self.known).is_none() {
            let (module, ours) = (&self.config.address, &self.config.sae);
            let theirs: String = status.master_sae_id.escape_debug().take(256).collect();
            warn!(%module, %ours, %theirs, alarm = "module-sae", "it has another SAE ID for us");
        }
        let available = status.stored_key_count.saturating_mul(status.key_size);
        Ok(Known { limits, available, at: Instant::now() })
    }
}

fn report(answer: &Answer) -> Result<LinkReport, ModuleError> {
    if answer.status != 200 {
        return Err(answer::refusal("the status resource", answer));
    }
    LinkReport::parse(&answer.body, Instant::now()).map_err(ModuleError::Protocol)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl ModuleSource for Module {
    async fn take(&self, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
        take::take(self, bytes).await
    }

    async fn collect(&self, ids: &[String], _: &Provenance) -> Result<Vec<ModuleKey>, ModuleError> {
        collect::collect(self, ids).await
    }

    async fn rest(&self) {
        self.held.sweep(Instant::now());
        tokio::join!(self.taking.rest(), self.collecting.rest(), self.watching.rest());
    }
}
