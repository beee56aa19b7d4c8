//! Operations in the background and what they came to: whose they are, how far, and how much room they
//! take.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use km_core::ids::SaeId;
use kmip::{
    DateTime, ResponseWriter, Version,
    enums::OperationCode,
    message::{Failure, Outcome, RequestItem, ResponseHeader, ResponseItem},
};
use tokio::sync::Notify;

use crate::{
    caller::{Caller, Delegate},
    context::Context,
    error::OpError,
    swept::{Swept, Waiting},
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
pub(super) type Id = [u8; 16];

/// How far an operation is.
pub(super) enum Stage {
    Submitted(Box<RequestItem>),
    InProcess,
    Canceled,
    Done(Kept),
}

/// An answer that waits for a Poll.
pub(super) struct Kept {
    /// None while it is told.
    pub(super) outcome: Option<Box<Outcome>>,
    /// Its length as it is sent.
    bytes: usize,
    since: Instant,
}

pub(crate) struct Entry {
    pub(super) owner: SaeId,
    /// Who asked for it in the owner's name.
    pub(super) delegate: Option<Delegate>,
    pub(super) code: OperationCode,
    /// Microseconds since 1970.
    pub(super) submitted: i64,
    /// Bytes of the request it came with, which it has in common with all of that.
    pub(super) request: Arc<usize>,
    pub(super) stage: Mutex<Stage>,
    pub(super) finished: Notify,
}

impl Entry {
    pub(super) fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose room it takes.
    fn payer(&self) -> &SaeId {
        let holder = self.delegate.as_ref().map(Delegate::holder);
        holder.map_or(&self.owner, Caller::application)
    }

    /// What is to be done, unless it was canceled.
    pub(super) fn begin(&self) -> Option<RequestItem> {
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
    pub(super) fn is_of(&self, cx: &Context<'_>) -> bool {
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
pub(crate) struct All {
    pub(super) entries: HashMap<Id, Arc<Entry>>,
}

impl Waiting for All {
    fn drop_late(&mut self) {
        self.entries.retain(|_, entry| !entry.is_late());
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The operations in the background. Whoever holds this lock may take that of a stage, and nobody
/// takes them the other way round.
pub(crate) type Later = Swept<All>;

/// The place of an answer that is told.
pub(crate) type Place = (Id, Arc<Entry>);

impl Later {
    pub(super) fn enter(&self, entries: Vec<(Id, Arc<Entry>)>) -> Result<(), OpError> {
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

    pub(super) fn find(&self, cx: &Context<'_>, id: &[u8]) -> Option<(Id, Arc<Entry>)> {
        let id = Id::try_from(id).ok()?;
        let entry = self.lock().entries.get(&id).cloned();
        Some((id, entry.filter(|entry| entry.is_of(cx))?))
    }

    /// Keeps what `entry` came to, where there is room for it.
    pub(super) fn finish(&self, entry: &Entry, item: ResponseItem, version: Version) {
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

#[cfg(test)]
mod tests {
    use kmip::enums::ResultReason;

    use super::*;

    fn entry(owner: &str, stage: Stage) -> Arc<Entry> {
        let (owner, code) = (SaeId::parse(owner).unwrap(), OperationCode::Create);
        let (stage, finished) = (Mutex::new(stage), Notify::new());
        let (delegate, submitted, request) = (None, 0, Arc::default());
        Arc::new(Entry { owner, delegate, code, submitted, request, stage, finished })
    }

    fn refused(text: &str) -> ResponseItem {
        let (code, reason) = (OperationCode::Create, ResultReason::OperationCanceledByRequester);
        ResponseItem::failed(Some(code), None, reason, text)
    }

    fn done(since: Instant) -> Stage {
        let outcome = refused("x").outcome;
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
            later.finish(&entry, refused(&"x".repeat(len)), version);
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
