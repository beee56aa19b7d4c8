//! Cryptographic items that follow each other in a batch: their keys work at the same time, so that
//! the way to the token is gone once for many. Enter through [`Together`].
//!
//! Items that ask the same of one key look it up once, and the token is asked once for several of them.
//! Nothing else tells it from one after the other. Answers keep the order of the items. A use that
//! counts against Usage Limits waits until all before it are answered, and so does one that collects a
//! pool key, so that nothing is used up for an item that is not answered. (Of another request of the connection
//! it does not know.)

use std::{collections::VecDeque, sync::Arc};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use kmip::{
    Answer, Operation,
    attribute::{CryptographicParameters, UniqueIdentifier},
    enums::OperationCode,
    message::RequestItem,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    context::Context,
    error::OpError,
    item::{Done, allowed},
    op,
    usage::{self, Subject, Use},
    uses,
};

/// Items under way at a time.
pub(crate) const MOST: usize = 32;
/// Items the token is asked for at once, at most. While it does these, the next are made ready and the
/// answers before are written.
const PART: usize = 8;

/// The operation and ID of an item, and what came of it.
type Outcome = (OperationCode, Option<Vec<u8>>, Result<Done, OpError>);

/// The items of one batch that are under way.
pub(crate) struct Together<'a> {
    running: FuturesOrdered<BoxFuture<'a, Vec<Outcome>>>,
    /// Done, and not answered yet.
    done: VecDeque<Outcome>,
    /// Begun, and not answered yet.
    under_way: usize,
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
    item.extensions.is_empty()
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

/// What items must have in common to be done as one: the operation, the key, and how it is used.
#[derive(PartialEq)]
struct Kind<'i>(OperationCode, &'i str, Option<&'i CryptographicParameters>);

impl<'i> Kind<'i> {
    fn of(item: &'i RequestItem) -> Option<(Self, Use)> {
        let (id, parameters, wanted) = match item.operation.as_ref().ok()? {
            Operation::Encrypt(r) => (&r.id, &r.parameters, usage::ENCRYPT),
            Operation::Decrypt(r) => (&r.id, &r.parameters, usage::DECRYPT),
            Operation::Sign(r) => (&r.id, &r.parameters, usage::SIGN),
            Operation::Mac(r) => (&r.id, &r.parameters, usage::MAC_GENERATE),
            _ => return None,
        };
        let Some(UniqueIdentifier::Text(id)) = id else { return None };
        Some((Self(item.code, id, parameters.as_ref()), wanted))
    }

    fn is_of(&self, item: &RequestItem) -> bool {
        Kind::of(item).is_some_and(|(other, _)| other == *self)
    }
}

impl<'a> Together<'a> {
    /// For a batch whose items begin before `until`.
    pub(crate) fn new(until: Instant) -> Self {
        let (running, answered) = (FuturesOrdered::new(), watch::Sender::new(0));
        Self { running, done: VecDeque::new(), under_way: 0, begun: 0, answered, until }
    }

    /// Begins those at the front of `items` that [`may`], as far as there is room.
    pub(crate) async fn begin(
        &mut self,
        context: impl Fn() -> Context<'a>,
        items: &mut VecDeque<RequestItem>,
    ) {
        while self.under_way < MOST
            && let Some(first) = items.pop_front_if(|item| may(item))
        {
            let Some((kind, wanted)) = Kind::of(&first) else {
                self.begin_one(context(), first);
                continue;
            };
            let room = MOST - self.under_way;
            let alike = |item: &&RequestItem| may(item) && kind.is_of(item);
            let more = items.iter().take(room - 1).take_while(alike).count();
            let shared = match more {
                0 => None,
                _ => shared(&mut context(), &first, wanted).await,
            };
            let run = std::iter::once(first).chain(items.drain(..more));
            match shared {
                Some(subject) => self.begin_run(&context, &Arc::new(subject), run.collect()),
                None => run.for_each(|item| self.begin_one(context(), item)),
            }
        }
    }

    fn push(&mut self, count: usize, outcomes: BoxFuture<'a, Vec<Outcome>>) {
        self.under_way += count;
        self.begun += count;
        self.running.push_back(outcomes);
    }

    fn begin_one(&mut self, cx: Context<'a>, item: RequestItem) {
        let mut cx = cx.at(Turn { before: self.begun, answered: self.answered.subscribe() });
        let until = self.until;
        let one = async move {
            let (code, id) = (item.code, item.id.clone());
            let done = match (Instant::now() < until, allowed(&mut cx, item)) {
                (false, _) => Err(OpError::OutOfTime),
                (true, Ok(operation)) => act(&mut cx, operation).await.map(Done::Now),
                (true, Err(refused)) => Err(refused),
            };
            vec![(code, id, done)]
        };
        self.push(1, Box::pin(one));
    }

    /// Begins items that are alike, spread over what the token does at the same time.
    fn begin_run(
        &mut self,
        context: &impl Fn() -> Context<'a>,
        subject: &Arc<Subject>,
        mut run: Vec<RequestItem>,
    ) {
        let sessions = context().objects().vault().sessions();
        let most = run.len().div_ceil(sessions.max(1)).min(PART);
        while !run.is_empty() {
            let rest = run.split_off(most.min(run.len()));
            let part = std::mem::replace(&mut run, rest);
            let (cx, subject, until) = (context(), Arc::clone(subject), self.until);
            self.push(part.len(), Box::pin(act_alike(cx, subject, part, until)));
        }
    }

    /// The first of those under way that is not answered yet, when it is done.
    pub(crate) async fn next(&mut self) -> Option<Outcome> {
        while self.done.is_empty() {
            self.done.extend(self.running.next().await?);
        }
        self.under_way -= 1;
        self.done.pop_front()
    }

    /// The item that [`next`](Self::next) gave last is answered, and the batch goes on.
    pub(crate) fn answered(&self) {
        self.answered.send_modify(|answered| *answered += 1);
    }
}

/// The key of items that are alike, if one look at it does for all.
async fn shared(cx: &mut Context<'_>, first: &RequestItem, wanted: Use) -> Option<Subject> {
    cx.begin(first.code).ok()?;
    let (Kind(_, uid, parameters), _) = Kind::of(first)?;
    Subject::shared(cx, uid, parameters.cloned(), wanted).await
}

async fn act_alike(
    mut cx: Context<'_>,
    subject: Arc<Subject>,
    items: Vec<RequestItem>,
    until: Instant,
) -> Vec<Outcome> {
    let late = Instant::now() >= until;
    let (mut named, mut operations) = (Vec::new(), Vec::new());
    for item in items {
        let (code, id) = (item.code, item.id.clone());
        let operation = match late {
            true => Err(OpError::OutOfTime),
            false => allowed(&mut cx, item),
        };
        let refused = operation.map(|operation| operations.push(operation)).err();
        named.push((code, id, refused));
    }
    let mut answers = uses::each(&cx, &subject, operations).await.into_iter();
    let mut next = || answers.next().unwrap_or(Err(OpError::Operation)).map(Done::Now);
    let outcome = |(code, id, refused): (_, _, Option<OpError>)| {
        (code, id, refused.map_or_else(&mut next, Err))
    };
    named.into_iter().map(outcome).collect()
}

/// The uses of a key.
pub(crate) async fn act(cx: &mut Context<'_>, operation: Operation) -> Result<Answer, OpError> {
    match operation {
        Operation::Encrypt(r) => uses::once(cx, *r).await,
        Operation::Decrypt(r) => uses::once(cx, *r).await,
        Operation::Sign(r) => uses::once(cx, *r).await,
        Operation::Mac(r) => uses::once(cx, *r).await,
        Operation::SignatureVerify(r) => {
            Ok(Box::pin(op::signature_verify::signature_verify(cx, *r)).await?.into())
        }
        Operation::MacVerify(r) => Ok(Box::pin(op::mac_verify::mac_verify(cx, *r)).await?.into()),
        _ => Err(OpError::Operation),
    }
}
