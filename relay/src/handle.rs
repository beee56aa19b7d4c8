//! The link as the pool sees it: a [`PeerLink`] that forwards to whichever connection is up.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use km_core::{
    peer::{AssignError, GivenBlock, PeerLink},
    run::RunSpec,
};
use tokio::sync::{mpsc, oneshot};

use crate::frame::{Assigned, Frame};

/// Longest wait for the peer's answer to an assignment.
const ASSIGN_WITHIN: Duration = Duration::from_secs(3);
/// Messages waiting for the connection; beyond it the link counts as slow.
pub(crate) const WAITING: usize = 1024;

/// What the pool asks of the connection.
pub(crate) enum Command {
    Assign(RunSpec, oneshot::Sender<Assigned>),
    Send(Frame),
}

#[derive(Default)]
pub(crate) struct Handle {
    connection: Mutex<Option<mpsc::Sender<Command>>>,
}

impl Handle {
    fn connection(&self) -> MutexGuard<'_, Option<mpsc::Sender<Command>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is up: messages go there from now on.
    pub(crate) fn attach(&self, commands: mpsc::Sender<Command>) {
        *self.connection() = Some(commands);
    }

    /// No connection is up.
    pub(crate) fn detach(&self) {
        *self.connection() = None;
    }

    fn send(&self, command: Command) -> Result<(), AssignError> {
        let down = |why: &str| AssignError::Unavailable(why.to_owned());
        let connection = self.connection();
        let commands = connection.as_ref().ok_or_else(|| down("not connected"))?;
        commands.try_send(command).map_err(|_| down("too many messages wait for it"))
    }

    fn send_best_effort(&self, frame: Frame) {
        if let Err(error) = self.send(Command::Send(frame)) {
            tracing::debug!(%error, "message to the peer dropped");
        }
    }
}

#[async_trait]
impl PeerLink for Handle {
    fn is_up(&self) -> bool {
        self.connection().is_some()
    }

    async fn assign(&self, run: &RunSpec) -> Result<(), AssignError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Assign(run.clone(), answer))?;
        let lost = |why: &str| AssignError::Unavailable(why.to_owned());
        match tokio::time::timeout(ASSIGN_WITHIN, answered).await {
            Ok(Ok(Assigned::Durable)) => Ok(()),
            Ok(Ok(Assigned::NoBlock)) => Err(AssignError::NoBlock(run.id.block.number)),
            Ok(Ok(Assigned::Refused(why))) => Err(AssignError::Refused(why)),
            Ok(Ok(Assigned::Behind(cursor))) => {
                Err(AssignError::Behind(run.id.block.number, cursor))
            }
            Ok(Ok(Assigned::NotPaired)) => Err(AssignError::NotPaired),
            Ok(Err(_)) => Err(lost("the connection broke")),
            Err(_) => Err(lost("no answer in time")),
        }
    }

    fn run_ended(&self, run: &RunSpec, handed_out: u16) {
        self.send_best_effort(Frame::RunEnded { run: run.clone(), handed_out });
    }

    fn blocks_given(&self, blocks: Vec<GivenBlock>) {
        self.send_best_effort(Frame::Given(blocks));
    }

    fn ask_blocks(&self, count: u16) {
        self.send_best_effort(Frame::AskBlocks(count));
    }
}
