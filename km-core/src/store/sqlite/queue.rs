//! Where commits wait for the writer. Enter through [`Queue::push`].

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, PoisonError},
};

use tokio::sync::{Semaphore, oneshot::Sender};

use super::lock;
use crate::store::{Commit, Outcome, StoreError};

/// Memory for waiting commits, in KiB. Callers wait for room, in order.
const ROOM: usize = 32 << 10;
/// Most of it that one transaction takes, in KiB.
const BATCH: usize = 8 << 10;

pub(super) type Answer = Result<Outcome, StoreError>;

/// A commit that waits.
pub(super) struct Job {
    pub(super) commit: Commit,
    pub(super) answer: Sender<Answer>,
    /// The room it takes.
    pub(super) cost: u32,
}

/// Commits that wait for the writer.
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    room: Semaphore,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    // The writer sleeps and wants a call.
    idle: bool,
    // The store is being dropped: finish what waits.
    closing: bool,
    // Why the writer stopped for good.
    stopped: Option<StoreError>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), room: Semaphore::new(ROOM) }
    }

    /// Leaves a commit that is within the limits.
    pub(super) async fn push(
        &self,
        commit: Commit,
        answer: Sender<Answer>,
    ) -> Result<(), StoreError> {
        let cost = u32::try_from(1 + commit.bytes() / 1024).unwrap_or(u32::MAX);
        // The writer gives the room back, even when the caller has gone away.
        let Ok(permit) = self.room.acquire_many(cost).await else {
            return self.check_open();
        };
        let wake = {
            let mut state = lock(&self.state);
            if let Some(error) = &state.stopped {
                return Err(error.clone());
            }
            permit.forget();
            state.jobs.push_back(Job { commit, answer, cost });
            std::mem::take(&mut state.idle)
        };
        if wake {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// The reason, when the store has stopped.
    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        lock(&self.state).stopped.clone().map_or(Ok(()), Err)
    }

    /// Lets the writer finish and end.
    pub(super) fn close(&self) {
        lock(&self.state).closing = true;
        self.filled.notify_one();
    }

    /// Waits for commits and takes as many as one transaction holds; none when closing.
    pub(super) fn take(&self) -> Vec<Job> {
        let mut state = lock(&self.state);
        while state.jobs.is_empty() && !state.closing {
            state.idle = true;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        let mut cost = 0;
        let fitting = state.jobs.iter().take_while(|job| {
            cost += job.cost as usize;
            cost <= BATCH
        });
        let fitting = fitting.count();
        state.jobs.drain(..fitting).collect()
    }

    /// Gives back the room of jobs that are done.
    pub(super) fn make_room(&self, cost: usize) {
        self.room.add_permits(cost);
    }

    /// Refuses everything from now on, and what waits, with this reason.
    pub(super) fn stop(&self, error: StoreError) {
        let left = {
            let mut state = lock(&self.state);
            state.stopped.get_or_insert(error.clone());
            std::mem::take(&mut state.jobs)
        };
        self.room.close();
        for job in left {
            // A caller that has gone away needs no answer.
            let _ = job.answer.send(Err(error.clone()));
        }
    }
}

/// Stops the queue when the writer ends, whatever ended it, so that every caller gets an answer.
pub(super) struct Stop<'q>(&'q Queue);

impl<'q> Stop<'q> {
    pub(super) fn when_dropped(queue: &'q Queue) -> Self {
        Self(queue)
    }
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop(StoreError::Unavailable("the store is closed; restart qkm".into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stopped_queue_says_why() {
        let queue = Queue::new();
        queue.stop(StoreError::Unavailable("gone".into()));
        let (answer, _answered) = tokio::sync::oneshot::channel();
        let refused = queue.push(Commit::new().put("k", "v"), answer).await;
        assert_eq!(refused, Err(StoreError::Unavailable("gone".into())));
    }

    #[tokio::test]
    async fn a_batch_is_bounded_and_room_comes_back() {
        let queue = Queue::new();
        let large = || Commit::new().put("k", vec![0; 1 << 20 >> 1]);
        let mut answers = Vec::new();
        while queue.room.available_permits() > 1024 {
            let (answer, answered) = tokio::sync::oneshot::channel();
            queue.push(large(), answer).await.unwrap();
            answers.push(answered);
        }
        let mut taken = 0;
        while taken < answers.len() {
            let jobs = queue.take();
            let cost: usize = jobs.iter().map(|job| job.cost as usize).sum();
            assert!(cost <= BATCH, "{cost}");
            taken += jobs.len();
            queue.make_room(cost);
        }
        assert_eq!(queue.room.available_permits(), ROOM);
        queue.close();
        assert!(queue.take().is_empty());
    }
}
