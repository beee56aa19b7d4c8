//! Operations that are done in the background and asked for later (Asynchronous Indicator, Poll,
//! Cancel). Enter through [`submit`].
//!
//! They live in the memory of this process: after a restart nobody knows their correlation values,
//! and what had not begun is not done. What is done waits for a Poll for ten minutes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use km_core::{clock::now_ms, ids::SaeId};
use kmip::{
    DateTimeExtended, Operation, Version,
    enums::{
        AsynchronousIndicator, BatchErrorContinuationOption, CancellationResult, OperationCode,
        ProcessingStage, ResultReason,
    },
    message::{Failure, Outcome, RequestHeader, RequestItem, ResponseItem},
    op::query_asynchronous_requests::AsynchronousRequest,
};
use tokio::sync::Notify;

use crate::{
    Server,
    batch::{self, Done},
    caller::{Caller, Delegate},
    context::Context,
    error::OpError,
};

/// Most operations of one client that wait or are done and were not asked for.
const MOST_OF_ONE: usize = 64;
/// Most of all clients. The answer of each is at most as long as a frame.
const MOST: usize = 512;
/// How long an answer waits for a Poll.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long Process waits for an operation.
const PROCESS: Duration = Duration::from_secs(20);

type Id = [u8; 16];

/// How far an operation is.
enum Stage {
    Submitted,
    InProcess,
    Canceled,
    /// None once a Poll took it.
    Done(Option<Box<Outcome>>, Instant),
}

struct Entry {
    owner: SaeId,
    /// Who asked for it in the owner's name.
    delegate: Option<Delegate>,
    code: OperationCode,
    /// Microseconds since 1970.
    submitted: i64,
    stage: Mutex<Stage>,
    finished: Notify,
}

impl Entry {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is to be done.
    fn begin(&self) -> bool {
        let mut stage = self.stage();
        let wanted = matches!(*stage, Stage::Submitted);
        if wanted {
            *stage = Stage::InProcess;
        }
        wanted
    }

    /// Whether whoever asks now asked for it: each ticket has its own operations.
    fn is_of(&self, cx: &Context<'_>) -> bool {
        self.owner == *cx.caller.application()
            && Delegate::is_same(self.delegate.as_ref(), cx.delegate())
    }

    fn finish(&self, outcome: Outcome) {
        *self.stage() = Stage::Done(Some(Box::new(outcome)), Instant::now());
        self.finished.notify_waiters();
    }

    fn is_late(&self) -> bool {
        match &*self.stage() {
            Stage::Done(_, since) => since.elapsed() >= PATIENCE,
            Stage::Canceled => true,
            _ => false,
        }
    }
}

/// The operations in the background.
#[derive(Default)]
pub(crate) struct Later(Mutex<HashMap<Id, Arc<Entry>>>);

impl Later {
    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Arc<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets answers nobody came for.
    fn sweep(&self) {
        self.lock().retain(|_, entry| !entry.is_late());
    }

    fn enter(&self, entries: Vec<(Id, Arc<Entry>)>) -> Result<(), OpError> {
        self.sweep();
        let mut all = self.lock();
        let owner = entries.first().map(|(_, entry)| &entry.owner);
        let own = all.values().filter(|entry| Some(&entry.owner) == owner).count();
        if own + entries.len() > MOST_OF_ONE || all.len() + entries.len() > MOST {
            let text = "too many operations are in the background; poll or cancel some".to_owned();
            return Err(OpError::TooMuch(text));
        }
        all.extend(entries);
        Ok(())
    }

    fn find(&self, cx: &Context<'_>, id: &[u8]) -> Option<(Id, Arc<Entry>)> {
        let id = Id::try_from(id).ok()?;
        let entry = self.lock().get(&id).cloned();
        Some((id, entry.filter(|entry| entry.is_of(cx) && !entry.is_late())?))
    }
}

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
    let demanded = header.asynchronous.map(|asynchronous| asynchronous.0)
        == Some(AsynchronousIndicator::Mandatory);
    if !demanded {
        return None;
    }
    if items.len() > 1 && items.iter().any(|item| is_about_others(item.code)) {
        return Some(
            "Poll, Cancel, Process and Query Asynchronous Requests are answered at once; \
                     send them in a request of their own",
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

/// Takes `items` into the background, where they are done in order; the answers say under which
/// correlation values to ask for them.
pub(crate) async fn submit(
    server: &Server,
    (caller, delegate): (&Arc<Caller>, Option<Delegate>),
    version: Version,
    header: &RequestHeader,
    items: Vec<RequestItem>,
) -> Result<Vec<ResponseItem>, OpError> {
    let Some(server) = server.me.upgrade() else { return Err(OpError::OutOfTime) };
    let random = server.objects.vault().random().bytes(size_of::<Id>() * items.len()).await?;
    let ids: Vec<Id> = random.expose(|bytes| bytes.as_chunks().0.to_vec());
    let submitted = i64::try_from(now_ms()).unwrap_or(i64::MAX).saturating_mul(1000);
    let entry = |code| {
        let (owner, delegate) = (caller.application().clone(), delegate.clone());
        let (stage, finished) = (Mutex::new(Stage::Submitted), Notify::new());
        Arc::new(Entry { owner, delegate, code, submitted, stage, finished })
    };
    let entries: Vec<_> = ids.into_iter().zip(items.iter().map(|item| entry(item.code))).collect();
    server.later.enter(entries.clone())?;
    let answers = entries.iter().zip(&items).map(|((id, entry), item)| ResponseItem {
        code: Some(entry.code),
        id: item.id.clone(),
        outcome: Outcome::Pending(id.to_vec()),
        extension: None,
    });
    let answers = answers.collect();
    let go_on = header.batch_error_continuation == Some(BatchErrorContinuationOption::Continue);
    let tasks = entries.into_iter().map(|(_, entry)| entry).zip(items).collect();
    tokio::spawn(work(server, (caller.clone(), delegate), version, go_on, tasks));
    Ok(answers)
}

async fn work(
    server: Arc<Server>,
    (caller, delegate): (Arc<Caller>, Option<Delegate>),
    version: Version,
    go_on: bool,
    tasks: Vec<(Arc<Entry>, RequestItem)>,
) {
    let now = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
    let who = (&*caller, delegate);
    let mut cx = Context::new(&server, &server.objects, false, who, version, now);
    let mut stopped = false;
    for (entry, item) in tasks {
        if !entry.begin() {
            continue;
        }
        if stopped {
            entry.finish(canceled());
            continue;
        }
        let done = batch::do_item(&mut cx, item).await;
        let item = batch::outcome(&cx, entry.code, None, done);
        stopped = matches!(item.outcome, Outcome::Failed(_)) && !go_on;
        entry.finish(item.outcome);
    }
}

fn canceled() -> Outcome {
    let text = "an item before it failed, and this one was not begun".to_owned();
    let reason = ResultReason::OperationCanceledByRequester;
    Outcome::Failed(Failure { reason, message: Some(text) })
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
        Stage::Done(outcome, _) => outcome.take().ok_or_else(unknown)?,
        _ => return Ok(Done::Told(OperationCode::Poll, Outcome::Pending(id.to_vec()))),
    };
    cx.server.later.lock().remove(&id);
    Ok(Done::Told(entry.code, *outcome))
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
        Stage::Submitted => {
            *stage = Stage::Canceled;
            drop(stage);
            cx.server.later.lock().remove(&id);
            CancellationResult::Canceled
        }
        Stage::InProcess => CancellationResult::UnableToCancel,
        Stage::Done(Some(outcome), _) if matches!(**outcome, Outcome::Failed(_)) => {
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
        .iter()
        .filter(|(_, entry)| entry.is_of(cx) && !entry.is_late())
        .map(|(id, entry)| AsynchronousRequest {
            correlation_value: id.to_vec(),
            operation: entry.code,
            submitted: DateTimeExtended(entry.submitted),
            stage: match *entry.stage() {
                Stage::Submitted | Stage::Canceled => ProcessingStage::Submitted,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(owner: &str, stage: Stage) -> Arc<Entry> {
        let (owner, code) = (SaeId::parse(owner).unwrap(), OperationCode::Create);
        let (stage, finished) = (Mutex::new(stage), Notify::new());
        Arc::new(Entry { owner, delegate: None, code, submitted: 0, stage, finished })
    }

    #[test]
    fn places_are_bounded_and_answers_nobody_wants_make_room() {
        let later = Later::default();
        let several = |from: u8, owner: &str, count: usize| {
            let waiting = |n: usize| {
                ([from, n as u8].repeat(8).try_into().unwrap(), entry(owner, Stage::Submitted))
            };
            (0..count).map(waiting).collect::<Vec<(Id, _)>>()
        };
        later.enter(several(0, "a", MOST_OF_ONE)).unwrap();
        assert!(matches!(later.enter(several(1, "a", 1)), Err(OpError::TooMuch(_))));
        later.enter(several(2, "b", MOST_OF_ONE)).unwrap();
        let old = Instant::now().checked_sub(PATIENCE).unwrap();
        for entry in later.lock().values().filter(|entry| entry.owner.as_str() == "a") {
            *entry.stage() = Stage::Done(Some(Box::new(canceled())), old);
        }
        later.enter(several(3, "a", MOST_OF_ONE)).unwrap();
        assert_eq!(later.lock().len(), 2 * MOST_OF_ONE);
        for n in 4..10 {
            later.enter(several(n, &format!("c{n}"), MOST_OF_ONE)).unwrap();
        }
        assert!(matches!(later.enter(several(11, "d", 1)), Err(OpError::TooMuch(_))));
    }
}
