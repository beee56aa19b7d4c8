//! The time during which this KM has the pools, the links and the epochs. A KM that is alone has them
//! from start to end; of several that share a store, the one that leads. Enter through [`start`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use cluster::{
    desk::{Bring, Desk},
    lead::Lease,
};
use km_core::{ids::SaeId, journal::Over, key_id::KeyId, pool::Pool, supply::SupplyError};
use tokio::{sync::oneshot, task::JoinSet};
use tracing::{info, warn};
use transport::{PeerIdentity, Profile, ServerStream, Shutdown};

use super::{
    Control, FAREWELL, Inside, Listening,
    failures::{of_anchor, of_epochs, older_copy},
    membership::Membership,
    node,
};
use crate::{
    config::Config,
    fault::{Code, Failure},
    migrate::refuse_marked,
};

/// Pause after a term that could not begin, so that another KM may try.
const PAUSE: Duration = Duration::from_secs(1);

/// Begins the only term, or takes turns with others, in `tasks` until `shutdown`. `give_up` is told when
/// nothing may be done with the store any more.
pub(super) async fn start(
    inside: &Arc<Inside>,
    config: &Arc<Config>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
    give_up: oneshot::Sender<Failure>,
) -> Result<(), Failure> {
    let Some(shared) = &config.shared else {
        return begin(inside, config, tasks, shutdown);
    };
    let front = &shared.desk;
    let bring = Arc::new(Front(inside.fronts.kmip.clone()));
    let Some(membership) = &inside.node.membership else { return Ok(()) };
    let supply = inside.node.supply.clone();
    let desk = Desk::new(supply, bring, shared.members.clone(), membership.gone());
    let stop = shutdown.clone();
    let handler = move |stream: ServerStream, peer: PeerIdentity| {
        let (desk, stop) = (desk.clone(), stop.clone());
        async move { desk.serve(stream, peer, stop).await }
    };
    let open = Listening::open("node", front, Profile::Front).await?;
    tasks.spawn(open.serve(inside.fronts.stats.desk.clone(), handler, shutdown.clone()));
    tasks.spawn(take_turns(inside.clone(), config.clone(), shutdown.clone(), give_up));
    Ok(())
}

/// What only the KM that leads does.
fn begin(
    inside: &Arc<Inside>,
    config: &Config,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    inside.links.begin(inside, tasks, shutdown);
    Control::start(inside, config, tasks, shutdown)?;
    let (keeper, stop) = (inside.node.keeper.clone(), shutdown.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = keeper.tend() => {}
            () = stop.requested() => {}
        }
    });
    Ok(())
}

async fn take_turns(
    inside: Arc<Inside>,
    config: Arc<Config>,
    shutdown: Shutdown,
    give_up: oneshot::Sender<Failure>,
) {
    let (Some(candidate), Some(membership)) = (&inside.node.candidate, &inside.node.membership)
    else {
        return;
    };
    loop {
        // Whoever rests still follows.
        candidate.rest(membership.idle().is_some());
        let lease = tokio::select! {
            () = changed(membership) => continue,
            lease = candidate.elected() => lease,
            () = shutdown.requested() => return,
        };
        info!(cluster = %config.cluster, "this key manager leads");
        let done = lead(&inside, &config, &lease, &shutdown).await;
        lease.give_up().await;
        if shutdown.is_requested() {
            return;
        }
        match done {
            Ok(()) if membership.idle().is_some() => {
                info!("this key manager leaves the lead to others")
            }
            Ok(()) => warn!(alarm = "lead-lost", "this key manager leads no more"),
            // Its fronts would go on to change objects that nobody uses any more.
            Err(failure) if failure.code() == Code::S011 => {
                tracing::error!(%failure, alarm = "store-moved", "this key manager ends");
                let _ = give_up.send(failure);
                return;
            }
            Err(failure) => {
                tracing::error!(%failure, alarm = "lead-failed", "this key manager cannot lead");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One term, until the lease is lost or another KM leads.
async fn lead(
    inside: &Arc<Inside>,
    config: &Config,
    lease: &Lease,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let (supply, anchor) = (&inside.node.supply, inside.node.anchor.clone());
    anchor.check().await.map_err(|e| of_anchor(config, &e))?;
    // It may have been moved while this key manager was paused or cut off.
    refuse_marked(config, inside.node.store.as_ref()).await?;
    let keeper = &inside.node.keeper;
    let begun = keeper.begin_term(lease.fence()).await;
    begun.map_err(|e| of_epochs(&config.store_file(), &e))?;
    let pools = inside.node.open_pools(config, Some(lease.fence())).await?;
    supply.lead(pools.clone(), Box::new(lease.holds()));
    let (stop, ended) = Shutdown::pair();
    let mut tasks = JoinSet::new();
    inside.control.refresh(&inside.node).await;
    let mut done = begin(inside, config, &mut tasks, &ended);
    let counting = anchor.clone();
    tasks.spawn(async move { node::grow(&counting).await });
    if done.is_ok() {
        let over = tokio::select! {
            () = lease.lost() => Over::Deposed,
            over = one_is_over(&pools) => over,
            () = shutdown.requested() => Over::Deposed,
            () = rest(inside) => Over::Deposed,
        };
        if over == Over::SetBack {
            // The store may be from a moment since the count grew, so the token has to know.
            done = Err(match anchor.condemn().await {
                Ok(()) => older_copy(config, "an older copy of it was put back"),
                Err(error) => of_anchor(config, &error),
            });
        }
    }
    supply.resign();
    keeper.end_term();
    inside.links.end();
    stop.start();
    while tasks.join_next().await.is_some() {}
    done
}

/// Ends when it was told to rest and what it had begun is done.
async fn rest(inside: &Inside) {
    let Some(membership) = &inside.node.membership else { return std::future::pending().await };
    membership.is_to_rest().await;
    membership.fronts_closed().await;
    if tokio::time::timeout(FAREWELL, inside.node.supply.stop()).await.is_err() {
        warn!(
            "the store did not confirm the end of all runs in time; whoever leads next burns them"
        );
    }
}

/// Ends when it is to rest and did not, or the other way round.
async fn changed(membership: &Membership) {
    match membership.idle() {
        Some(_) => membership.may_work().await,
        None => membership.is_to_rest().await,
    }
}

async fn one_is_over(pools: &[Arc<Pool>]) -> Over {
    let mut watching: JoinSet<Over> =
        pools.iter().cloned().map(|pool| async move { pool.over().await }).collect();
    match watching.join_next().await {
        Some(Ok(over)) => over,
        _ => std::future::pending().await,
    }
}

struct Front(Arc<kmip_server::Server>);

#[async_trait]
impl Bring for Front {
    async fn bring(&self, slave: &SaeId, owner: &SaeId, id: KeyId) -> Result<(), SupplyError> {
        self.0.bring(slave, owner, id).await
    }
}
