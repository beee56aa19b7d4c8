//! What this KM tells the others that share its store, and what they tell. Enter through [`attend`].

use std::{sync::Arc, time::Duration};

use cluster::roster::Condition;
use km_core::clock::now_ms;
use transport::Shutdown;

use super::{Inside, Node};

/// How often it tells and looks. News of its own is told sooner.
const EVERY: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for the store.
const WAIT: Duration = Duration::from_secs(5);

/// Tells how this KM is, and keeps what the others told, until `shutdown`. Nothing where it is alone.
pub(super) async fn attend(inside: Arc<Inside>, shutdown: Shutdown) {
    let (Some(roster), Some(membership)) = (&inside.node.roster, &inside.node.membership) else {
        return;
    };
    let started_ms = now_ms();
    let condition = || Condition {
        build: env!("CARGO_PKG_VERSION").to_owned(),
        started_ms,
        troubles: inside.health.reasons(&inside.node),
        drained: membership.is_drained(inside.node.supply.leads()),
        certificate: membership.certificate.clone(),
        link_certificate: membership.link_certificate.clone(),
        store_ms: inside.health.store_ms(),
        lease_ms: granted(&inside.node),
    };
    loop {
        let told = condition();
        let exchange = async {
            roster.tell(told.clone()).await?;
            roster.list().await
        };
        match tokio::time::timeout(WAIT, exchange).await {
            Ok(Ok(nodes)) => drop(inside.health.nodes(Some(nodes))),
            Ok(Err(error)) => tracing::debug!(%error, "the other key managers were not told"),
            Err(_) => tracing::debug!("the other key managers were not told in time"),
        }
        let news = async {
            for _ in 0..EVERY.as_millis() / LOOK.as_millis() {
                tokio::time::sleep(LOOK).await;
                let now = condition();
                if (&now.troubles, now.drained, now.lease_ms)
                    != (&told.troubles, told.drained, told.lease_ms)
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = news => {}
            () = shutdown.requested() => break,
        }
    }
    let _ = tokio::time::timeout(WAIT, roster.leave()).await;
}

/// How long the lead lasts that this KM took, in milliseconds.
fn granted(node: &Node) -> Option<u64> {
    let granted = node.candidate.as_ref()?.granted()?;
    u64::try_from(granted.as_millis()).ok()
}
