//! What a connection leaves to tasks beside it: collecting announced keys at our module, sealing
//! and storing blocks. Each reports to the connection when it is through.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use km_core::{
    module::{ModuleError, ModuleKey, ModuleSource},
    pad::{PadSpan, PadUse},
    pool::{NewBlock, PoolError},
    provenance::Provenance,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    frame::{Assigned, Frame},
    peer::Peer,
    session::{Agreed, Event},
};

/// How long the follower keeps asking its module for keys the leader announced.
const COLLECT_WITHIN: Duration = Duration::from_secs(12);
const COLLECT_PAUSE: Duration = Duration::from_millis(150);

/// What a task of a connection has to report.
pub(crate) enum Done {
    Event(Event),
    Send(Frame),
}

/// What a peer is told of bytes it assigned or lent.
pub(crate) fn assigned(taken: Result<(), PoolError>) -> Assigned {
    match taken {
        Ok(()) => Assigned::Durable,
        Err(PoolError::NoBlock(_)) => Assigned::NoBlock,
        Err(PoolError::Passed(_, cursor)) => Assigned::Behind(cursor),
        Err(PoolError::NotPaired) => Assigned::NotPaired,
        Err(PoolError::BelowGrade(grade)) => Assigned::BelowGrade(grade),
        Err(PoolError::TooManySpans) => Assigned::NoRoom,
        Err(error) => Assigned::Refused(error.to_string()),
    }
}

/// Collects the keys of a proposal at our module.
pub(crate) async fn collect(
    peer: Arc<Peer>,
    done: UnboundedSender<Done>,
    number: u64,
    ids: Vec<String>,
    came: Provenance,
) {
    let keys = match &peer.source {
        Some(source) => collect_patiently(source.as_ref(), &ids, &came).await,
        None => Err(ModuleError::Unavailable("no module is configured here".into())),
    };
    if let Err(error) = &keys {
        tracing::warn!(block = number, %error, "cannot collect announced keys");
    }
    let _ = done.send(Done::Event(Event::Collected { number, keys }));
}

/// The other end may be ahead of our module by a little: asks again for a while.
async fn collect_patiently(
    source: &dyn ModuleSource,
    ids: &[String],
    came: &Provenance,
) -> Result<Vec<ModuleKey>, ModuleError> {
    let until = Instant::now() + COLLECT_WITHIN;
    loop {
        match source.collect(ids, came).await {
            Err(ModuleError::Protocol(why)) => return Err(ModuleError::Protocol(why)),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => tokio::time::sleep(COLLECT_PAUSE).await,
            Ok(keys) => return Ok(keys),
        }
    }
}

/// Seals and stores an agreed block. Not tied to the connection: what is being sealed is stored
/// even if the link breaks.
pub(crate) fn admit(peer: &Arc<Peer>, done: &UnboundedSender<Done>, agreed: Agreed) {
    let (peer, done) = (peer.clone(), done.clone());
    let storing = peer.storing.clone().try_read_owned();
    tokio::spawn(async move {
        let _storing = storing;
        let number = agreed.number;
        let new = NewBlock {
            number,
            owner: agreed.owner,
            provenance: agreed.provenance,
            module: peer.config.module.clone(),
            clear: agreed.raw.into_bits(),
            confirmed: agreed.confirmed,
        };
        let admitted = peer.pool.admit(new).await;
        match &admitted {
            Ok(()) => drop(peer.counters.agreed.fetch_add(1, Relaxed)),
            Err(error) => tracing::error!(block = number, %error, "a block was not stored"),
        }
        let stored = admitted.is_ok();
        let _ = done.send(Done::Event(Event::Admitted { number, stored }));
    });
}

/// Takes a span the peer lends: durable here and opened before the peer hears of it.
pub(crate) fn borrow(
    peer: &Arc<Peer>,
    done: UnboundedSender<Done>,
    request: u64,
    span: PadSpan,
) -> impl Future<Output = ()> + Send + 'static {
    // In the order they came; only the wait for disk and token is elsewhere.
    let borrowed = peer.pool.borrow_pad(span);
    let pool = peer.pool.clone();
    async move {
        let taken = async {
            let (durable, opened) = tokio::join!(borrowed?.durable(), pool.open_pad(span));
            durable.and(opened)
        };
        let (pad, result) = match taken.await {
            Ok(pad) => (Some(pad), Assigned::Durable),
            Err(error) => (None, assigned(Err(error))),
        };
        let _ = done.send(Done::Event(Event::Lent { id: span.id, pad }));
        let _ = done.send(Done::Send(Frame::AssignResult { request, result }));
    }
}

/// Takes what became of the peer's spans into the account, and says so.
pub(crate) fn pads_told(
    peer: &Arc<Peer>,
    done: UnboundedSender<Done>,
    told: Vec<PadUse>,
) -> impl Future<Output = ()> + Send + 'static {
    let taken = peer.pool.pads_told(&told);
    async move {
        if taken.durable().await.is_ok() {
            let spans = told.iter().map(|used| used.span.id).collect();
            let _ = done.send(Done::Send(Frame::PadsKnown(spans)));
        }
    }
}
