//! The two connections to one controller: reports go out on one, directions come in on the other.

use std::{sync::Arc, time::Duration};

use control::{Directions, report::Report};
use tokio::sync::watch;
use tracing::debug;
use transport::{
    ClientConfig, ConnectError,
    http::{ClientError, ClientLimits, HttpClient},
};
use wiped::Wiped;

use super::{Control, report::urgent};
use crate::config::Controller;

/// Most bytes of directions: thousands of destinations with all their routes.
const DIRECTIONS: usize = 16 << 20;
/// Longest wait for a report to be taken.
const REPORT_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait for directions; the controller holds the request for less.
const FOLLOW_WITHIN: Duration = Duration::from_secs(30);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Client {
    reporting: HttpClient,
    following: HttpClient,
}

/// Why a controller is no help.
#[derive(Debug, thiserror::Error)]
enum NoHelp {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("it answered {0}: {1}")]
    Refused(u16, String),
    #[error("its answer cannot be read: {0}")]
    Answer(String),
}

impl Client {
    pub(super) fn new(
        address: &str,
        entry: &Controller,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, ConnectError> {
        let client = |request, response_bytes| {
            let limits = ClientLimits { request, response_bytes, ..ClientLimits::default() };
            let client = HttpClient::new(address, None, tls.clone(), limits)?;
            Ok::<_, ConnectError>(client.expecting(entry.identity.clone()))
        };
        let reporting = client(REPORT_WITHIN, 64 * 1024)?;
        Ok(Self { reporting, following: client(FOLLOW_WITHIN, DIRECTIONS)? })
    }

    /// Tells how this KM is: at `interval`, and at once when something broke or came back.
    pub(super) async fn report(
        &self,
        control: &Control,
        seat: usize,
        mut latest: watch::Receiver<Arc<Report>>,
        interval: Duration,
    ) {
        let mut told: Option<Arc<Report>> = None;
        let mut at = tokio::time::Instant::now();
        loop {
            let report = latest.borrow_and_update().clone();
            let due = at.elapsed() >= interval;
            if due || told.as_ref().is_none_or(|told| urgent(told, &report)) {
                at = tokio::time::Instant::now();
                match self.tell(&report).await {
                    Ok(()) => {
                        told = Some(report);
                        control.heard(seat, None);
                    }
                    Err(error) => {
                        told = None;
                        control.failed(seat, error.to_string());
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            if latest.changed().await.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, report: &Report) -> Result<(), NoHelp> {
        let body = serde_json::to_vec(report).map_err(|e| NoHelp::Answer(e.to_string()))?;
        let (status, answer) = self.reporting.post("/v1/report", Wiped::new(body)).await?;
        understood(status, &answer)
    }

    /// Takes directions as they come.
    pub(super) async fn follow(&self, control: &Control, seat: usize) {
        let mut tag = String::new();
        loop {
            match self.ask(&tag).await {
                Ok(directions) => {
                    tag = directions.tag();
                    // Version 0 is no table yet, and no reason to leave the one there is.
                    control.heard(seat, Some(directions).filter(|said| said.table.version > 0));
                }
                Err(error) => {
                    debug!(%error, "no directions");
                    tag.clear();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn ask(&self, tag: &str) -> Result<Directions, NoHelp> {
        let (status, answer) = self.following.get(&format!("/v1/directions?have={tag}")).await?;
        understood(status, &answer)?;
        serde_json::from_slice(&answer).map_err(|e| NoHelp::Answer(e.to_string()))
    }
}

fn understood(status: u16, answer: &[u8]) -> Result<(), NoHelp> {
    if status == 200 {
        return Ok(());
    }
    let problem: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("no reason given");
    Err(NoHelp::Refused(status, detail.chars().take(300).collect()))
}
