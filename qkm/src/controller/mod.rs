//! The QKDN controller as a process: KMs report to it over mutual TLS and fetch their routes.
//! Enter through [`run`].
//!
//! - [`config`]: its file. `room`: the one `control::Controller` behind a lock, and who waits for
//!   news. `api`: what KMs and operators ask. `kept`: operators' orders on disk. `others`: what they
//!   ordered of other controllers. `metrics`: what Prometheus and probes see.

mod api;
pub mod config;
mod kept;
mod metrics;
mod others;
mod room;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tracing::info;
use transport::{ListenerStats, PeerIdentity, Profile, ServerStream, Shutdown};

use crate::{fault::Failure, monitor, serve::Listening};
use api::Api;
use config::ControllerConfig;
use room::Room;

/// How often silence and hours are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Runs a controller until `shutdown`.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: ControllerConfig, shutdown: Shutdown) -> Result<(), Failure> {
    let room = Arc::new(Room::open(&config)?);
    let open = Listening::open("controller", &config.front, Profile::Front).await?;
    let api = Arc::new(Api::new(&config, room.clone()));
    let stop = shutdown.clone();
    let handler = move |stream: ServerStream, peer: PeerIdentity| {
        let (api, stop) = (api.clone(), stop.clone());
        async move { api.serve(stream, peer, stop).await }
    };
    let mut tasks = JoinSet::new();
    monitor::start(config.monitor, &room, &mut tasks, &shutdown).await?;
    others::listen(&config, &room, &mut tasks, &shutdown)?;
    tasks.spawn(open.serve(Arc::new(ListenerStats::default()), handler, shutdown.clone()));
    let stop = shutdown.clone();
    tasks.spawn(async move {
        let ticking = async {
            loop {
                tokio::time::sleep(TICK).await;
                room.tick();
            }
        };
        tokio::select! {
            () = ticking => {}
            () = stop.requested() => {}
        }
    });
    info!(kms = config.kms.len(), "controller runs");
    while tasks.join_next().await.is_some() {}
    info!("controller stopped");
    Ok(())
}
