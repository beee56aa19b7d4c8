//! Four clusters in a square and a fifth without QKD, with two controllers. North and south share no QKD
//! link: their keys are relayed over east or west. The village has KM links to east and west alone,
//! and all its keys come over them. Enter through [`run`], which breaks one part after the other.
//!
//! - `plan`: who is where, on disk. `watch`: keys, routes and faults while it runs.

mod plan;
mod watch;

use std::{io::Write, path::Path, time::Instant};

use super::{children::Children, layout::Site};
use crate::fault::Failure;
use plan::{CONTROLLERS, Square};
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
    say!("making five clusters, four QKD links and two controllers ...");
    let square = Square::provision(dir, base_port)?;
    let mut children = square.start()?;
    let shown = tokio::select! {
        shown = watch_links(&square) => shown,
        ended = children.one_ended() => Err(ended),
    };
    let end = match shown {
        Ok(()) => lose_parts(&square, &mut children).await,
        Err(failure) => Err(failure),
    };
    children.stop().await;
    end
}

/// The link from north to its neighbour `way`.
fn first_link(way: &str) -> &'static str {
    if way == "east" { "east-north" } else { "north-west" }
}

/// What can befall a link.
async fn watch_links(square: &Square) -> Result<(), Failure> {
    let watch = Watch::new(square, 0)?;
    watch.all_ready().await?;
    let way = watch.settled().await?;
    say!("  north - east - south - west - north have QKD links; north and south have none");
    say!("  the village has no QKD at all, only KM links to east and west");
    say!("keys between north and south go by {way}:");
    keys(&watch, &way, None).await?;

    // What was used may have left a link with few keys, and the way may have moved for that.
    let way = watch.settled().await?;
    say!("the fibre of {} is cut", first_link(&way));
    let struck = Instant::now();
    watch.fault(first_link(&way), r#"{"fault":"cut"}"#).await?;
    moved(&watch, &way, "qkd-link-fault", struck).await?;
    watch.fault(first_link(&way), r#"{"fault":"cut","on":false}"#).await?;

    let way = watch.settled().await?;
    say!("somebody listens on {}", first_link(&way));
    let struck = Instant::now();
    watch.fault(first_link(&way), r#"{"fault":"eavesdrop","percent":100}"#).await?;
    moved(&watch, &way, "high-qber", struck).await?;
    watch.fault(first_link(&way), r#"{"fault":"eavesdrop","on":false}"#).await?;

    let way = watch.settled().await?;
    say!("the applications of north and {way} use up what their clusters share");
    let drained = async {
        watch.low(&way).await?;
        moved(&watch, &way, "low-keys", Instant::now()).await
    };
    tokio::select! {
        moved = drained => moved.map(drop),
        failed = watch.drain(&way) => Err(failed),
    }
}

/// Modules and a KM that end.
async fn lose_parts(square: &Square, children: &mut Children) -> Result<(), Failure> {
    let watch = Watch::new(square, 0)?;
    let way = watch.settled().await?;
    let link = first_link(&way);
    say!("both modules of {link} are switched off");
    let struck = Instant::now();
    children.kill(link).await;
    moved(&watch, &way, "module-fault", struck).await?;
    square.start_link(children, link)?;

    // With the link back, the way may have moved again.
    watch.settled().await?;
    say!("the controller is killed; another stands by");
    let struck = Instant::now();
    children.kill(CONTROLLERS[0]).await;
    watch.followed(1).await?;
    say!("  after {} ms north follows the other", struck.elapsed().as_millis());
    // This one came to its routes by itself, and they need not be those of the other.
    let watch = Watch::new(square, 1)?;
    let way = watch.settled().await?;
    keys(&watch, &way, None).await?;

    let Some(site) = square.sites().into_iter().find(|site| site.cluster == way) else {
        return Err(super::selfcheck::failed(format!("{way} is no middle node")));
    };
    let Site { cluster, .. } = site;
    say!("the key manager of {cluster} is killed");
    let struck = Instant::now();
    children.kill(cluster).await;
    let way = moved(&watch, cluster, "km-link-fault", struck).await?;

    say!("the other controller is killed as well; keys go on by the routes there are");
    children.kill(CONTROLLERS[1]).await;
    keys(&watch, &way, Some(cluster)).await?;
    say!("done: keys went on after every fault");
    Ok(())
}

/// Waits for the change of the way and shows it; then keys must come by the new one.
async fn moved(
    watch: &Watch<'_>,
    old: &str,
    why: &str,
    struck: Instant,
) -> Result<String, Failure> {
    let (new, took) = watch.moved_from(old, why, struck).await?;
    let ms = took.as_millis();
    say!("  after {ms} ms the controller sends keys by {new} instead of {old} ({why})");
    keys(watch, &new, Some(old)).await?;
    Ok(new)
}

/// Fresh keys over both fronts, between the far corners, not by the middle node `left`, and for the
/// village.
async fn keys(watch: &Watch<'_>, way: &str, left: Option<&str>) -> Result<(), Failure> {
    let (id, by) = watch.fresh_key("south", Some(way), left).await?;
    say!("  ETSI 014 key {id} equal at both, relayed by {by}");
    say!("  KMIP     key {} equal at both", watch.kmip_key("south").await?);
    let (id, by) = watch.fresh_key("village", None, None).await?;
    say!("  ETSI 014 key {id} equal at north and the village, relayed by {by}");
    Ok(())
}
