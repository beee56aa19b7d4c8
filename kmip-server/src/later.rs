//! Operations that are done in the background and asked for later (Asynchronous Indicator, Poll,
//! Cancel). Enter through [`submit`].
//!
//! They live in the memory of this process: after a restart nobody knows their correlation values,
//! and what had not begun is not done. What is done waits for a Poll for ten minutes, in bounded room,
//! and is forgotten then even when nobody comes: it may be a clear key.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use km_core::{clock::now_ms, ids::SaeId};
use kmip::{
    DateTime, DateTimeExtended, Operation, ResponseWriter, Version,
    enums::{
        AsynchronousIndicator, BatchErrorContinuationOption, CancellationResult, OperationCode,
        ProcessingStage, ResultReason,
    },
    message::{Failure, Outcome, RequestHeader, RequestItem, ResponseHeader, ResponseItem},
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

/// Most operations of one client that wait or are done and were not asked for. Those that it asks for
/// in another's name count among its own.
const MOST_OF_ONE: usize = 64;
/// Most of all clients.
const MOST: usize = 512;
/// Most bytes of the answers of one client, as they are sent, and as much again of its requests that
/// wait, as they came.
const ROOM_OF_ONE: usize = 2 << 20;
/// Most bytes of all answers, and of all requests that wait.
const ROOM: usize = 16 << 20;
/// Shorter answers are kept whatever the room: who made something must learn its identifier.
const SHORT: usize = 4 << 10;
/// How long an answer waits for a Poll.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often answers are looked for that waited too long.
const SWEEP: Duration = Duration::from_secs(5);
/// How long Process waits for an operation.
const PROCESS: Duration = Duration::from_secs(20);

type Id = [u8; 16];

/// How far an operation is.
enum Stage {
    Submitted(Box<RequestItem>),
    InProcess,
    Canceled,
    Done(Kept),
}

/// An answer that waits for a Poll.
struct Kept {
    /// None while it is told.
    outcome: Option<Box<Outcome>>,
    /// Its length as it is sent.
    bytes: usize,
    since: Instant,
}

pub(crate) struct Entry {
    owner: SaeId,
    /// Who asked for it in the owner's name.
    delegate: Option<Delegate>,
    code: OperationCode,
    /// Microseconds since 1970.
    submitted: i64,
    /// Bytes of the request it came with, which it has in common with all of that.
    request: Arc<usize>,
    stage: Mutex<Stage>,
    finished: Notify,
}

impl Entry {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose room it takes.
    fn payer(&self) -> &SaeId {
        let holder = self.delegate.as_ref().map(Delegate::holder);
        holder.map_or(&self.owner, Caller::application)
    }

    /// What is to be done, unless it was canceled.
    fn begin(&self) -> Option<RequestItem> {
        let mut stage = self.stage();
        if !matches!(*stage, Stage::Submitted(_)) {
            return None;
        }
        match std::mem::replace(&mut *stage, Stage::InProcess) {
            Stage::Submitted(item) => Some(*item),
            _ => None,
        }
    }

    /// Whether whoever asks now asked for it: each ticket has its own operations.
    fn is_of(&self, cx: &Context<'_>) -> bool {
        self.owner == *cx.caller.application()
            && Delegate::is_same(self.delegate.as_ref(), cx.delegate())
    }

    fn is_waiting(&self) -> bool {
        matches!(&*self.stage(), Stage::Submitted(_) | Stage::InProcess)
    }

    /// Bytes of its answer.
    fn bytes(&self) -> usize {
        match &*self.stage() {
            Stage::Done(kept) => kept.bytes,
            _ => 0,
        }
    }

    fn is_late(&self) -> bool {
        match &*self.stage() {
            Stage::Done(kept) => kept.since.elapsed() >= PATIENCE,
            Stage::Canceled => true,
            _ => false,
        }
    }
}

#[derive(Default)]
struct All {
    entries: HashMap<Id, Arc<Entry>>,
    /// A task looks after them.
    swept: bool,
}

/// The operations in the background. Whoever holds this lock may take that of a stage, and nobody
/// takes them the other way round.
#[derive(Default)]
pub(crate) struct Later(Arc<Mutex<All>>);

/// The place of an answer that is told.
pub(crate) type Place = (Id, Arc<Entry>);

impl Later {
    /// Without answers nobody came for.
    fn lock(&self) -> MutexGuard<'_, All> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entries.retain(|_, entry| !entry.is_late());
        all
    }

    /// Forgets answers nobody comes for, also when nobody asks for anything any more.
    fn sweep(&self, every: Duration) {
        if std::mem::replace(&mut self.lock().swept, true) {
            return;
        }
        let later = Self(self.0.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let mut all = later.lock();
                if all.entries.is_empty() {
                    all.swept = false;
                    return;
                }
            }
        });
    }

    fn enter(&self, entries: Vec<(Id, Arc<Entry>)>) -> Result<(), OpError> {
        let all = &mut self.lock().entries;
        let payer = entries.first().map(|(_, entry)| entry.payer());
        let own = || all.values().filter(|entry| Some(entry.payer()) == payer);
        if own().count() + entries.len() > MOST_OF_ONE || all.len() + entries.len() > MOST {
            let text = "too many operations are in the background; poll or cancel some".to_owned();
            return Err(OpError::TooMuch(text));
        }
        let bytes = waiting(entries.iter().map(|(_, entry)| entry));
        let (of_one, of_all) = (bytes + waiting(own()), bytes + waiting(all.values()));
        if bytes > SHORT && (of_one > ROOM_OF_ONE || of_all > ROOM) {
            let text = "the requests in the background are too long together; wait until some are \
                        done, or ask at once";
            return Err(OpError::TooMuch(text.to_owned()));
        }
        all.extend(entries);
        Ok(())
    }

    fn find(&self, cx: &Context<'_>, id: &[u8]) -> Option<(Id, Arc<Entry>)> {
        let id = Id::try_from(id).ok()?;
        let entry = self.lock().entries.get(&id).cloned();
        Some((id, entry.filter(|entry| entry.is_of(cx))?))
    }

    /// Keeps what `entry` came to, where there is room for it.
    fn finish(&self, entry: &Entry, item: ResponseItem, version: Version) {
        let mut bytes = length(&item, version);
        let mut outcome = item.outcome;
        let all = self.lock();
        let own = all.entries.values().filter(|other| other.payer() == entry.payer());
        let of_one: usize = own.map(|entry| entry.bytes()).sum();
        let of_all: usize = all.entries.values().map(|entry| entry.bytes()).sum();
        if bytes > SHORT && (of_one + bytes > ROOM_OF_ONE || of_all + bytes > ROOM) {
            let error = no_room(bytes);
            let (reason, message) = (error.reason(version), Some(error.to_string()));
            outcome = Outcome::Failed(Failure { reason, message });
            bytes = 0;
        }
        let kept = Kept { outcome: Some(Box::new(outcome)), bytes, since: Instant::now() };
        *entry.stage() = Stage::Done(kept);
        drop(all);
        entry.finished.notify_waiters();
    }

    /// Forgets what was told; what was not, `left`, waits for another Poll.
    pub(crate) fn settle(&self, (id, entry): Place, left: Option<Outcome>) {
        let Some(outcome) = left else {
            self.lock().entries.remove(&id);
            return;
        };
        if let Stage::Done(kept) = &mut *entry.stage() {
            kept.outcome = Some(Box::new(outcome));
        }
    }
}

/// Bytes of the requests that are not done altogether.
fn waiting<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>) -> usize {
    let waiting = entries.filter(|entry| entry.is_waiting());
    let mut requests: Vec<_> = waiting.map(|entry| &entry.request).collect();
    requests.sort_by_key(|request| Arc::as_ptr(request));
    requests.dedup_by(|one, other| Arc::ptr_eq(one, other));
    requests.into_iter().map(|bytes| **bytes).sum()
}

/// The length of an item as it is sent.
fn length(item: &ResponseItem, version: Version) -> usize {
    let mut response = ResponseWriter::new(version, ResponseHeader::new(version, DateTime(0)));
    let before = response.len();
    response.item(item);
    response.len() - before
}

fn no_room(bytes: usize) -> OpError {
    OpError::TooMuch(format!(
        "it was done, but there is no room in the background for its answer of {bytes} bytes; poll \
         the other answers, and ask for it again, best at once"
    ))
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
        let done = batch::do_item(&mut cx, item).await;
        let item = batch::outcome(&cx, entry.code, None, done);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(owner: &str, stage: Stage) -> Arc<Entry> {
        let (owner, code) = (SaeId::parse(owner).unwrap(), OperationCode::Create);
        let (stage, finished) = (Mutex::new(stage), Notify::new());
        let (delegate, submitted, request) = (None, 0, Arc::default());
        Arc::new(Entry { owner, delegate, code, submitted, request, stage, finished })
    }

    fn done(since: Instant) -> Stage {
        let outcome = canceled(OperationCode::Create).outcome;
        Stage::Done(Kept { outcome: Some(Box::new(outcome)), bytes: 0, since })
    }

    #[test]
    fn places_are_bounded_and_answers_nobody_wants_make_room() {
        let later = Later::default();
        let several = |from: u8, owner: &str, count: usize| {
            let waiting = |n: usize| {
                ([from, n as u8].repeat(8).try_into().unwrap(), entry(owner, Stage::InProcess))
            };
            (0..count).map(waiting).collect::<Vec<(Id, _)>>()
        };
        later.enter(several(0, "a", MOST_OF_ONE)).unwrap();
        assert!(matches!(later.enter(several(1, "a", 1)), Err(OpError::TooMuch(_))));
        later.enter(several(2, "b", MOST_OF_ONE)).unwrap();
        let old = Instant::now().checked_sub(PATIENCE).unwrap();
        for entry in later.lock().entries.values().filter(|entry| entry.owner.as_str() == "a") {
            *entry.stage() = done(old);
        }
        later.enter(several(3, "a", MOST_OF_ONE)).unwrap();
        assert_eq!(later.lock().entries.len(), 2 * MOST_OF_ONE);
        for n in 4..10 {
            later.enter(several(n, &format!("c{n}"), MOST_OF_ONE)).unwrap();
        }
        assert!(matches!(later.enter(several(11, "d", 1)), Err(OpError::TooMuch(_))));
    }

    #[tokio::test]
    async fn an_answer_that_waits_too_long_goes_though_nobody_comes() {
        let later = Later::default();
        let old = Instant::now().checked_sub(PATIENCE).unwrap();
        later.enter(vec![([1; 16], entry("a", Stage::InProcess))]).unwrap();
        later.sweep(Duration::from_millis(1));
        later.0.lock().unwrap().entries.insert([2; 16], entry("a", done(old)));
        while later.0.lock().unwrap().entries.len() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(later.0.lock().unwrap().swept, "one is not done yet");
        later.0.lock().unwrap().entries.clear();
        while later.0.lock().unwrap().swept {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn answers_have_bounded_room_and_short_ones_always_some() {
        let later = Later::default();
        let (version, mut number) = (Version::V2_1, 0u8);
        let mut finish = |owner: &str, len: usize| {
            number += 1;
            let entry = entry(owner, Stage::InProcess);
            later.enter(vec![([number; 16], entry.clone())]).unwrap();
            let reason = ResultReason::OperationCanceledByRequester;
            let item = ResponseItem::failed(Some(entry.code), None, reason, "x".repeat(len));
            later.finish(&entry, item, version);
            let stage = entry.stage();
            let Stage::Done(Kept { outcome: Some(outcome), .. }) = &*stage else { panic!() };
            let Outcome::Failed(failure) = &**outcome else { panic!() };
            failure.reason == ResultReason::OperationCanceledByRequester
        };
        let half = ROOM_OF_ONE / 2 - SHORT;
        for owner in 0..ROOM / ROOM_OF_ONE {
            let owner = format!("app-{owner}");
            assert!(finish(&owner, half) && finish(&owner, half));
            assert!(!finish(&owner, half), "of one");
            assert!(finish(&owner, SHORT / 2));
        }
        assert!(finish("other", 6 * SHORT) && !finish("other", half), "of all");
        let first = later.lock().entries.iter().find(|(_, e)| e.bytes() > half).map(|(id, _)| *id);
        let id = first.unwrap();
        let entry = later.lock().entries.get(&id).cloned().unwrap();
        later.settle((id, entry), None);
        assert!(finish("other", half), "what was told makes room");
    }
}
