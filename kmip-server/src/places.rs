//! Keys in use at a time. Whoever uses one waits here for a place, so that no client fills the queue
//! of the token, which refuses what is too much: of one application half, so that the other half is
//! for others. Who comes first goes first. Enter through [`Places::take`].

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{context::Context, error::OpError};

/// Keys in use at a time. The queue of the token takes twice as many: what keys are sealed and opened
/// for comes beside.
const MOST: usize = 512;
/// Of them for one application.
const MOST_OF_ONE: usize = MOST / 2;

/// Places of all applications, or of one.
#[derive(Debug)]
pub(crate) struct Places(Semaphore);

/// Places taken; given back when dropped.
pub(crate) struct Place<'a> {
    _of_one: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Places {
    pub(crate) fn of_one() -> Self {
        Self(Semaphore::new(MOST_OF_ONE))
    }

    pub(crate) fn of_all() -> Self {
        Self(Semaphore::new(MOST))
    }

    /// Waits for places for `uses` uses of whoever asks, as long as the request may take.
    pub(crate) async fn take<'a>(cx: &'a Context<'_>, uses: usize) -> Result<Place<'a>, OpError> {
        let uses = u32::try_from(uses.min(MOST_OF_ONE)).unwrap_or(1);
        let both = async {
            let of_one = cx.payer().places().0.acquire_many(uses).await?;
            let of_all = cx.server.places.0.acquire_many(uses).await?;
            Ok::<_, tokio::sync::AcquireError>(Place { _of_one: of_one, _of_all: of_all })
        };
        let taken = tokio::time::timeout_at(cx.until(), both).await;
        taken.ok().and_then(Result::ok).ok_or_else(|| {
            OpError::Temporary("the token is busy with what was asked before".to_owned())
        })
    }
}
