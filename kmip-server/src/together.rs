//! Cryptographic items that follow each other in a batch: their keys work at the same time, so that
//! the way to the token is gone once for many. Enter through [`Together`].
//!
//! Nothing else tells it from one after the other. Answers keep the order of the items. A use that
//! counts against Usage Limits waits until all before it are answered, and so does one that collects a
//! pool key, so that nothing is used up for an item that is not answered.

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use kmip::{
    Answer, Operation, attribute::UniqueIdentifier, enums::OperationCode, message::RequestItem,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    batch::{Done, allowed},
    context::Context,
    error::OpError,
    op,
};

/// Items under way at a time.
const MOST: usize = 32;

/// The operation and ID of an item, and what came of it.
type Outcome = (OperationCode, Option<Vec<u8>>, Result<Done, OpError>);

/// The items of one batch that are under way.
pub(crate) struct Together<'a> {
    running: FuturesOrdered<BoxFuture<'a, Outcome>>,
    begun: usize,
    answered: watch::Sender<usize>,
    until: Instant,
}

/// Where an item stands among those of its batch that are done together; when it begins, all others
/// before it are answered.
pub(crate) struct Turn {
    before: usize,
    answered: watch::Receiver<usize>,
}

impl Turn {
    /// Waits until all items before it are answered. After one that ends the batch this one is
    /// dropped while it waits.
    pub(crate) async fn come(&self) {
        let mut answered = self.answered.clone();
        // Whoever answers outlives the items.
        let _ = answered.wait_for(|answered| *answered >= self.before).await;
    }
}

/// Whether an item depends on no other and changes nothing but Usage Limits and whether a pool key was
/// collected.
pub(crate) fn may(item: &RequestItem) -> bool {
    let is_named = |id: &Option<UniqueIdentifier>| matches!(id, Some(UniqueIdentifier::Text(_)));
    let is_whole = |correlation: &Option<Vec<u8>>, init: Option<bool>, last: Option<bool>| {
        correlation.is_none() && init.is_none() && last.is_none()
    };
    macro_rules! alone {
        ($r:expr) => {
            is_named(&$r.id) && is_whole(&$r.correlation_value, $r.init, $r.last)
        };
    }
    item.extension.is_none()
        && match &item.operation {
            Ok(Operation::Encrypt(r)) => alone!(r),
            Ok(Operation::Decrypt(r)) => alone!(r),
            Ok(Operation::Sign(r)) => alone!(r),
            Ok(Operation::SignatureVerify(r)) => alone!(r),
            Ok(Operation::Mac(r)) => alone!(r),
            Ok(Operation::MacVerify(r)) => alone!(r),
            _ => false,
        }
}

impl<'a> Together<'a> {
    /// For a batch whose items begin before `until`.
    pub(crate) fn new(until: Instant) -> Self {
        let (running, answered) = (FuturesOrdered::new(), watch::Sender::new(0));
        Self { running, begun: 0, answered, until }
    }

    /// Whether one more item may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.running.len() < MOST
    }

    /// Begins an item that [`may`].
    pub(crate) fn begin(&mut self, cx: Context<'a>, item: RequestItem) {
        let mut cx = cx.at(Turn { before: self.begun, answered: self.answered.subscribe() });
        self.begun += 1;
        let until = self.until;
        self.running.push_back(Box::pin(async move {
            let (code, id) = (item.code, item.id.clone());
            let done = match (Instant::now() < until, allowed(&mut cx, item)) {
                (false, _) => Err(OpError::OutOfTime),
                (true, Ok(operation)) => act(&mut cx, operation).await.map(Done::Now),
                (true, Err(refused)) => Err(refused),
            };
            (code, id, done)
        }));
    }

    /// The first of those under way that is not answered yet, when it is done.
    pub(crate) async fn next(&mut self) -> Option<Outcome> {
        self.running.next().await
    }

    /// The item that [`next`](Self::next) gave last is answered, and the batch goes on.
    pub(crate) fn answered(&self) {
        self.answered.send_modify(|answered| *answered += 1);
    }
}

/// Boxed apart from all other operations: those are many times as large.
async fn act(cx: &mut Context<'_>, operation: Operation) -> Result<Answer, OpError> {
    Ok(match operation {
        Operation::Encrypt(r) => op::encrypt::encrypt(cx, r).await?.into(),
        Operation::Decrypt(r) => op::decrypt::decrypt(cx, r).await?.into(),
        Operation::Sign(r) => op::sign::sign(cx, r).await?.into(),
        Operation::SignatureVerify(r) => {
            op::signature_verify::signature_verify(cx, r).await?.into()
        }
        Operation::Mac(r) => op::mac::mac(cx, r).await?.into(),
        Operation::MacVerify(r) => op::mac_verify::mac_verify(cx, r).await?.into(),
        _ => return Err(OpError::Operation),
    })
}
