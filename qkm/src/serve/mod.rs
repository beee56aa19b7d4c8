//! A running key manager. Enter through [`run`].
//!
//! - `node`: store, token, vault, pools, supply, objects: everything without sockets.
//! - `fronts`: what applications and operators connect to. `links`: other KMs and QKD modules.
//! - `control`: the QKDN controller it reports to, and the routes it has from there.
//! - `term`: the time during which this KM leads, where several share the store.
//! - `attend`: what the KMs that share a store tell each other of themselves.
//! - `membership`: whether it is to work, or rests, or was taken out; the KEKs that wait for its token.
//! - `health`: whether it is ready. `failures`: errors of all parts as [`Failure`].
//!
//! Start goes from the inside out, the end from the outside in: fronts stop first, then the
//! supply ends its runs while the links can still tell the peers, then links, store and token.

mod attend;
mod control;
mod failures;
mod fronts;
mod health;
mod links;
pub(crate) mod membership;
mod node;
mod term;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinSet};
use tracing::{info, warn};
use transport::Shutdown;

use crate::{admin, config::Config, fault::Failure, monitor};
pub(crate) use control::Control;
pub(crate) use failures::{of_anchor, of_epochs, of_hsm, of_record, of_store, of_tls, of_vault};
pub(crate) use fronts::{Fronts, Listening, bind};
pub(crate) use health::{Health, custody_lines};
pub(crate) use links::Links;
pub(crate) use membership::Membership;
pub(crate) use node::{Node, epoch_warnings, make_folder, open_random, open_store, open_token};

/// How long the peers are told about ended runs before the links close.
const FAREWELL: Duration = Duration::from_secs(5);

/// How often copies of the store become older. A token writes it each time, and some wear out.
const GENERATION: Duration = Duration::from_secs(600);

/// How often what no record names is looked for in the token; a request takes much less.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// What the monitor and the admin API look at.
pub(crate) struct Inside {
    pub(crate) node: Arc<Node>,
    pub(crate) links: Links,
    pub(crate) fronts: Fronts,
    pub(crate) health: Arc<Health>,
    pub(crate) control: Control,
}

/// Runs a key manager until `shutdown`, then ends it in order.
///
/// # Errors
/// When it cannot start; once it runs it ends well, unless its store was moved away.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Failure> {
    let config = Arc::new(config);
    let Some(node) = Node::open(&config, &shutdown).await? else {
        info!("asked to stop while it waited for its store; nothing was begun");
        return Ok(());
    };
    let node = Arc::new(node);
    // Readiness tells of the sources from the start.
    node.random.renew().await;
    let health = Arc::new(Health::default());
    let control = Control::open(&config, &node).await;
    let links = Links::new(&config, &control)?;
    let fronts = Fronts::new(&config, &node);
    fronts.certify(&config, &node).await?;
    let inside =
        Arc::new(Inside { node: node.clone(), links, fronts, health: health.clone(), control });

    let (stop_fronts, fronts_end) = Shutdown::pair();
    let (stop_rest, rest_end) = Shutdown::pair();
    let (mut outer, mut inner) = (JoinSet::new(), JoinSet::new());
    inner.spawn(health::watch(health.clone(), node.clone(), rest_end.clone()));
    monitor::start(config.monitor, &inside, &mut inner, &rest_end).await?;
    Links::start(&inside, &config, &mut inner, &rest_end).await?;
    membership::serve_fronts(&inside, &config, &mut outer, &fronts_end).await?;
    admin::start(&config, &inside, &mut outer, &fronts_end).await?;
    let (give_up, given_up) = oneshot::channel();
    term::start(&inside, &config, &mut inner, &rest_end, give_up).await?;
    inner.spawn(attend::attend(inside.clone(), rest_end.clone()));
    inner.spawn(watch_membership(node.clone(), rest_end.clone()));
    inner.spawn(sweep(node.clone(), rest_end.clone()));
    inner.spawn(age(node.clone(), rest_end.clone()));
    inner.spawn(count(node.clone(), rest_end.clone()));
    let tending = tokio::spawn(node.supply.clone().tend());
    health.started();
    info!(cluster = %config.cluster, "key manager runs");

    // This thread, which is none of the runtime's, had the keys of certificates and records in hand.
    wiped::clear_registers();
    let end = tokio::select! {
        () = shutdown.requested() => Ok(()),
        Ok(failure) = given_up => Err(failure),
        failure = expelled(&node) => Err(failure),
    };
    health.stopping();
    stop_fronts.start();
    while outer.join_next().await.is_some() {}
    tending.abort();
    if tokio::time::timeout(FAREWELL, node.supply.stop()).await.is_err() {
        warn!("the store did not confirm the end of all runs in time; they are burned at start");
    }
    stop_rest.start();
    while inner.join_next().await.is_some() {}
    // Nothing is handed out any more: a copy from before this moment is no more the newest.
    let _ = tokio::time::timeout(FAREWELL, node::grow(&node.anchor)).await;
    drop(inside);
    node::close(node).await;
    info!(cluster = %config.cluster, "key manager stopped");
    end
}

/// Looks what the others decided of this KM, until `shutdown`.
async fn watch_membership(node: Arc<Node>, shutdown: Shutdown) {
    if let Some(membership) = &node.membership {
        membership.watch(&node.keeper, || node.supply.leads(), shutdown).await;
    }
}

/// Ends when this KM was taken out of its cluster.
async fn expelled(node: &Node) -> Failure {
    match &node.membership {
        Some(membership) => membership.expelled().await,
        None => std::future::pending().await,
    }
}

/// Removes from the token what should have been destroyed there and was not, until `shutdown`.
async fn sweep(node: Arc<Node>, shutdown: Shutdown) {
    let mut seen = BTreeSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = shutdown.requested() => return,
        }
        // A token that is away has its own alarm; the next round sees the same.
        seen = node.objects.sweep(&seen).await.unwrap_or(seen);
    }
}

/// Counts what tenants have, so that none of them waits for it later.
async fn count(node: Arc<Node>, shutdown: Shutdown) {
    tokio::select! {
        () = node.objects.count_ahead() => {}
        () = shutdown.requested() => {}
    }
}

/// Makes copies of the store older, until `shutdown`.
async fn age(node: Arc<Node>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(GENERATION) => node::grow(&node.anchor).await,
            () = shutdown.requested() => return,
        }
    }
}
