//! Operations that are done in the background and asked for later (Asynchronous Indicator, Poll,
//! Cancel). Enter through [`submit`].
//!
//! They live in the memory of this process: after a restart nobody knows their correlation values,
//! and what had not begun is not done. What is done waits for a Poll for ten minutes, in bounded room,
//! and is forgotten then even when nobody comes: it may be a clear key.

mod kept;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use km_core::clock::now_ms;
use kmip::{
    DateTimeExtended, Operation, Version,
    enums::{
        AsynchronousIndicator, BatchErrorContinuationOption, CancellationResult, OperationCode,
        ProcessingStage, ResultReason,
    },
    message::{Outcome, RequestHeader, RequestItem, ResponseItem},
    op::query_asynchronous_requests::AsynchronousRequest,
};
use tokio::sync::Notify;

use crate::{
    Server,
    caller::{Caller, Delegate},
    context::Context,
    error::OpError,
    item::{self, Done},
};
use kept::{Entry, Id, Kept, Stage};
pub(crate) use kept::{Later, Place};

/// How often answers are looked for that waited too long.
const SWEEP: Duration = Duration::from_secs(5);
/// How long Process waits for an operation.
const PROCESS: Duration = Duration::from_secs(20);

/// Whether the items of a request go into the background: all of them where the client demands it,
/// and one that may take seconds where the client allows it.
pub(crate) fn is_wanted(header: &RequestHeader, items: &[RequestItem]) -> bool {
    match header.asynchronous.map(|asynchronous| asynchronous.0) {
        Some(AsynchronousIndicator::Mandatory) => {
            !items.iter().any(|item| is_about_others(item.code))
        }
        Some(AsynchronousIndicator::Optional) => {
            matches!(items, [item] if is_slow(item.code)) && !undoes(header)
        }
        _ => false,
    }
}

/// Why a request is refused that demands what is not had.
pub(crate) fn refused(header: &RequestHeader, items: &[RequestItem]) -> Option<&'static str> {
    let tells =
        |item: &RequestItem| matches!(item.code, OperationCode::Poll | OperationCode::Process);
    // What was told could not be untold.
    if undoes(header) && items.len() > 1 && items.iter().any(tells) {
        return Some(
            "Poll and Process are not part of a batch that is to be undone as a whole; send them in \
             a request of their own",
        );
    }
    let demanded = header.asynchronous.map(|asynchronous| asynchronous.0)
        == Some(AsynchronousIndicator::Mandatory);
    if !demanded {
        return None;
    }
    if items.len() > 1 && items.iter().any(|item| is_about_others(item.code)) {
        return Some(
            "Poll, Cancel, Process and Query Asynchronous Requests are answered at once; send them in a \
             request of their own",
        );
    }
    (undoes(header) && items.len() > 1)
        .then_some("a batch that is to be undone as a whole is not done in the background")
}

fn undoes(header: &RequestHeader) -> bool {
    header.batch_error_continuation == Some(BatchErrorContinuationOption::Undo)
}

fn is_about_others(code: OperationCode) -> bool {
    matches!(
        code,
        OperationCode::Poll
            | OperationCode::Cancel
            | OperationCode::Process
            | OperationCode::QueryAsynchronousRequests
    )
}

/// Tokens take seconds for the primes of an RSA key.
fn is_slow(code: OperationCode) -> bool {
    matches!(code, OperationCode::CreateKeyPair | OperationCode::ReKeyKeyPair)
}

/// Takes the `items` of a request of `bytes` bytes into the background, where they are done in order;
/// the answers say under which correlation values to ask for them.
pub(crate) async fn submit(
    server: &Server,
    (caller, delegate): (&Arc<Caller>, Option<Delegate>),
    version: Version,
    header: &RequestHeader,
    (items, bytes): (Vec<RequestItem>, usize),
) -> Result<Vec<ResponseItem>, OpError> {
    let Some(server) = server.me.upgrade() else { return Err(OpError::OutOfTime) };
    let random = server.objects.vault().random().bytes(size_of::<Id>() * items.len()).await?;
    let ids: Vec<Id> = random.expose(|bytes| bytes.as_chunks().0.to_vec());
    let submitted = i64::try_from(now_ms()).unwrap_or(i64::MAX).saturating_mul(1000);
    let request = Arc::new(bytes);
    let entry = |item: RequestItem| {
        let (owner, delegate) = (caller.application().clone(), delegate.clone());
        let (code, stage) = (item.code, Mutex::new(Stage::Submitted(Box::new(item))));
        let (request, finished) = (request.clone(), Notify::new());
        Arc::new(Entry { owner, delegate, code, submitted, request, stage, finished })
    };
    let own_ids: Vec<_> = items.iter().map(|item| item.id.clone()).collect();
    let entries: Vec<_> = ids.into_iter().zip(items.into_iter().map(entry)).collect();
    server.later.enter(entries.clone())?;
    server.later.sweep(SWEEP);
    let answers = entries.iter().zip(own_ids).map(|((id, entry), own_id)| ResponseItem {
        code: Some(entry.code),
        id: own_id,
        outcome: Outcome::Pending(id.to_vec()),
        extension: None,
    });
    let answers = answers.collect();
    let go_on = header.batch_error_continuation == Some(BatchErrorContinuationOption::Continue);
    let tasks = entries.into_iter().map(|(_, entry)| entry).collect();
    tokio::spawn(work(server, (caller.clone(), delegate), version, go_on, tasks));
    Ok(answers)
}

async fn work(
    server: Arc<Server>,
    (caller, delegate): (Arc<Caller>, Option<Delegate>),
    version: Version,
    go_on: bool,
    tasks: Vec<Arc<Entry>>,
) {
    let now = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
    let who = (&*caller, delegate);
    let mut cx = Context::new(&server, &server.objects, false, who, version, now);
    let mut stopped = false;
    for entry in tasks {
        let Some(item) = entry.begin() else { continue };
        if stopped {
            server.later.finish(&entry, canceled(entry.code), version);
            continue;
        }
        let done = item::do_item(&mut cx, item).await;
        let item = item::outcome(&cx, entry.code, None, done);
        stopped = matches!(item.outcome, Outcome::Failed(_)) && !go_on;
        server.later.finish(&entry, item, version);
    }
}

fn canceled(code: OperationCode) -> ResponseItem {
    let reason = ResultReason::OperationCanceledByRequester;
    let text = "an item before it failed, and this one was not begun";
    ResponseItem::failed(Some(code), None, reason, text)
}

fn unknown() -> OpError {
    let text = "no operation of this client has this Asynchronous Correlation Value: it was told \
                already, canceled, waited too long, or the server was restarted";
    OpError::AsynchronousValue(text)
}

/// What became of an operation, or that it is not done.
pub(crate) fn poll(cx: &Context<'_>, id: &[u8]) -> Result<Done, OpError> {
    let (id, entry) = cx.server.later.find(cx, id).ok_or_else(unknown)?;
    let outcome = match &mut *entry.stage() {
        Stage::Done(kept) => *kept.outcome.take().ok_or_else(unknown)?,
        _ => {
            let (code, outcome) = (OperationCode::Poll, Outcome::Pending(id.to_vec()));
            return Ok(Done::Told(code, outcome, None));
        }
    };
    Ok(Done::Told(entry.code, outcome, Some((id, entry))))
}

/// As [`poll`], after a while in which it may be done.
pub(crate) async fn process(cx: &Context<'_>, id: &[u8]) -> Result<Done, OpError> {
    let (_, entry) = cx.server.later.find(cx, id).ok_or_else(unknown)?;
    let finished = entry.finished.notified();
    tokio::pin!(finished);
    finished.as_mut().enable();
    let is_done = matches!(*entry.stage(), Stage::Done(..));
    if !is_done {
        // Whether it came in time is seen below.
        let _ = tokio::time::timeout(PROCESS, finished).await;
    }
    poll(cx, id)
}

/// Keeps an operation from being done, when it has not begun.
pub(crate) fn cancel(cx: &Context<'_>, id: &[u8]) -> CancellationResult {
    let Some((id, entry)) = cx.server.later.find(cx, id) else {
        return CancellationResult::Unavailable;
    };
    let mut stage = entry.stage();
    match &*stage {
        Stage::Submitted(_) => {
            *stage = Stage::Canceled;
            drop(stage);
            cx.server.later.lock().entries.remove(&id);
            CancellationResult::Canceled
        }
        Stage::InProcess => CancellationResult::UnableToCancel,
        Stage::Done(Kept { outcome: Some(outcome), .. })
            if matches!(**outcome, Outcome::Failed(_)) =>
        {
            CancellationResult::Failed
        }
        Stage::Done(..) => CancellationResult::Completed,
        Stage::Canceled => CancellationResult::Unavailable,
    }
}

/// The operations of the caller, the oldest first.
pub(crate) fn list(cx: &Context<'_>) -> Vec<AsynchronousRequest> {
    let mut list: Vec<_> = cx
        .server
        .later
        .lock()
        .entries
        .iter()
        .filter(|(_, entry)| entry.is_of(cx))
        .map(|(id, entry)| AsynchronousRequest {
            correlation_value: id.to_vec(),
            operation: entry.code,
            submitted: DateTimeExtended(entry.submitted),
            stage: match *entry.stage() {
                Stage::Submitted(_) | Stage::Canceled => ProcessingStage::Submitted,
                Stage::InProcess => ProcessingStage::InProcess,
                Stage::Done(..) => ProcessingStage::Completed,
            },
        })
        .collect();
    list.sort_by_key(|request| request.submitted);
    list
}

/// Whether `operation` is answered by what another one did.
pub(crate) async fn told(cx: &Context<'_>, operation: &Operation) -> Option<Result<Done, OpError>> {
    match operation {
        Operation::Poll(request) => Some(poll(cx, &request.correlation_value)),
        Operation::Process(request) => Some(process(cx, &request.correlation_value).await),
        _ => None,
    }
}
