//! Four clusters in a square with a controller. North and south have no QKD link: their keys are
//! relayed over east or west. Enter through [`run`], which breaks one part after the other.
//!
//! - `plan`: who is where, on disk. `watch`: keys, routes and faults while it runs.

mod plan;
mod watch;

use std::{io::Write, path::Path};

use super::{children::Children, layout::Site};
use crate::fault::Failure;
use plan::Square;
use watch::Watch;

/// A line to standard output; nobody may be reading any more, and the demonstration goes on.
macro_rules! say {
    ($($text:tt)*) => {{ let _ = writeln!(std::io::stdout(), $($text)*); }};
}

/// Makes it under `dir`, starts it, and shows what happens.
pub(super) async fn run(dir: &Path, base_port: u16) -> Result<(), Failure> {
    say!(
        "DEMO - SIMULATED QKD: links are simulations, HSMs are software, nothing here protects keys"
    );
    say!("making four clusters, four QKD links and a controller ...");
    let square = Square::provision(dir, base_port)?;
    let mut children = square.start()?;
    let shown = tokio::select! {
        shown = show(&square) => shown,
        ended = children.one_ended() => Err(ended),
    };
    let end = match shown {
        Ok(()) => lose_a_km(&square, &mut children).await,
        Err(failure) => Err(failure),
    };
    children.stop().await;
    end
}

async fn show(square: &Square) -> Result<(), Failure> {
    let watch = Watch::new(square)?;
    watch.all_ready().await?;
    let way = watch.settled().await?;
    say!("  north - east - south - west - north have QKD links; north and south have none");
    say!("keys between north and south go by {way}:");
    fresh(&watch, &way).await?;
    say!("  KMIP     key {} equal at both", watch.kmip_key().await?);

    let used = |way: &str| if way == "east" { "east-north" } else { "north-west" };
    say!("the fibre of {} is cut", used(&way));
    watch.fault(used(&way), r#"{"fault":"cut"}"#).await?;
    let other = moved(&watch, &way, "qkd-link-fault").await?;
    watch.fault(used(&way), r#"{"fault":"cut","on":false}"#).await?;

    say!("somebody listens on {}", used(&other));
    watch.all_live().await?;
    watch.fault(used(&other), r#"{"fault":"eavesdrop","percent":100}"#).await?;
    let way = moved(&watch, &other, "high-qber").await?;
    watch.fault(used(&other), r#"{"fault":"eavesdrop","on":false}"#).await?;

    say!("the applications of north and {way} use up what their clusters share");
    watch.all_live().await?;
    let moved_on = tokio::select! {
        moved = moved(&watch, &way, "low-keys") => moved,
        failed = watch.drain(&way) => Err(failed),
    };
    moved_on.map(drop)
}

async fn lose_a_km(square: &Square, children: &mut Children) -> Result<(), Failure> {
    let watch = Watch::new(square)?;
    watch.all_live().await?;
    let way = watch.way().await?;
    let Some(site) = square.sites().into_iter().find(|site| site.cluster == way) else {
        return Err(super::selfcheck::failed(format!("{way} is no middle node")));
    };
    let Site { cluster, .. } = site;
    say!("the key manager of {cluster} is killed");
    children.kill(cluster).await;
    moved(&watch, cluster, "km-link-fault").await?;
    say!("done: keys went on after every fault");
    Ok(())
}

/// Waits for the change of the way and shows it; then keys must come by the new one.
async fn moved(watch: &Watch<'_>, old: &str, why: &str) -> Result<String, Failure> {
    let new = watch.moved_from(old, why).await?;
    say!("  the controller sends keys by {new} instead of {old} ({why})");
    fresh(watch, &new).await?;
    Ok(new)
}

async fn fresh(watch: &Watch<'_>, way: &str) -> Result<(), Failure> {
    let (id, by) = watch.fresh_key(way).await?;
    say!("  ETSI 014 key {id} equal at both, relayed by {by}");
    Ok(())
}
