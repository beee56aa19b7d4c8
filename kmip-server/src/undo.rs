//! Batches that are done as a whole or not at all (Batch Error Continuation Option: Undo).
//!
//! The changes of the batch are staged ([`km_core::store::Staged`]): later items see them, nobody
//! else does, and one commit publishes them when every item was done. Until then nothing of the
//! answer has left. A pool key that an item drew stays drawn: it is burned, never given back.

use std::sync::Arc;

use km_core::{objects::Objects, store::Staged};
use kmip::{
    Answer, ResponseWriter,
    enums::ResultReason,
    message::{Checkpoint, Failure, Outcome, ResponseItem},
};

use crate::unit;

/// A batch on its way.
pub(crate) struct Undo {
    /// Over the stage.
    objects: Objects,
    stage: Arc<Staged>,
    /// The items so far, as they were written.
    written: Vec<ResponseItem>,
}

impl Undo {
    /// A batch whose items work on `objects`, which are over `stage`.
    pub(crate) fn of(objects: Objects, stage: Arc<Staged>) -> Self {
        Self { objects, stage, written: Vec::new() }
    }

    /// Notes an item that was written.
    pub(crate) fn wrote(&mut self, item: ResponseItem) {
        self.written.push(item);
    }

    /// Makes the changes durable when every item was done; else, or when that fails, writes the
    /// items anew from `start` on, as undone. Says whether it was done.
    pub(crate) async fn settle(self, response: &mut ResponseWriter, start: Checkpoint) -> bool {
        let is_failed = |item: &ResponseItem| matches!(item.outcome, Outcome::Failed(_));
        let failure = match self.written.iter().any(is_failed) {
            true => {
                self.objects.undone().await;
                None
            }
            false => match unit::publish(&self.objects, &self.stage).await {
                Ok(()) => return true,
                Err(why) => {
                    let message = Some(format!("the batch was not done: {why}"));
                    Some(Failure { reason: ResultReason::GeneralFailure, message })
                }
            },
        };
        response.rollback(start);
        for item in self.written {
            response.item(&undone(item, failure.as_ref()));
        }
        false
    }
}

/// An item as one that was taken back, unless it is the one that failed.
fn undone(item: ResponseItem, failure: Option<&Failure>) -> ResponseItem {
    let outcome = match item.outcome {
        Outcome::Success(answer) => {
            let answer = Some(answer).filter(names_an_object);
            Outcome::Undone { failure: failure.cloned(), answer }
        }
        other => other,
    };
    ResponseItem { outcome, ..item }
}

/// Whether an answer may be told although it was taken back: it only names an object that is
/// there, and holds no key.
fn names_an_object(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Activate(_)
            | Answer::Revoke(_)
            | Answer::Destroy(_)
            | Answer::Archive(_)
            | Answer::Recover(_)
            | Answer::Check(_)
            | Answer::AddAttribute(_)
            | Answer::ModifyAttribute(_)
            | Answer::DeleteAttribute(_)
            | Answer::SetAttribute(_)
            | Answer::AdjustAttribute(_)
            | Answer::GetUsageAllocation(_)
    )
}
