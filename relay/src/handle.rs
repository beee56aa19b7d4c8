//! The link as the pool sees it: a [`PeerLink`] that forwards to whichever connection is up.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use km_core::{
    copies::{CopyError, Placed},
    material::ClearBytes,
    pad::{PadSpan, PadUse},
    peer::{AssignError, GivenBlock, PeerLink},
    provenance::Grade,
    run::RunSpec,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    copies::Offer,
    frame::{Assigned, Frame},
    hop::{HopFault, HopFrame, HopHead, Lock, link_key::LinkKey},
};

/// Longest wait for the peer's answer to an assignment.
const ASSIGN_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for the peer to store an object.
const PLACE_WITHIN: Duration = Duration::from_secs(10);
/// Messages waiting for the connection; beyond it the link counts as slow.
pub(crate) const WAITING: usize = 1024;

/// What the pool asks of the connection.
pub(crate) enum Command {
    Assign(RunSpec, oneshot::Sender<Assigned>),
    Lend(PadSpan, oneshot::Sender<Assigned>),
    Offer(Box<Offer>, oneshot::Sender<Result<Placed, CopyError>>),
    Send(Frame),
}

/// A connection that is up, and which it is.
struct Connection {
    turn: u64,
    commands: mpsc::Sender<Command>,
    /// Hides what begins to fill a pool without QKD.
    link_key: Option<LinkKey>,
}

#[derive(Default)]
pub(crate) struct Handle {
    connection: Mutex<Option<Connection>>,
    /// Batches of relayed keys sent, and bytes of keys in them.
    pub(crate) hops: AtomicU64,
    pub(crate) hop_bytes: AtomicU64,
}

impl Handle {
    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is up: messages go there from now on.
    pub(crate) fn attach(
        &self,
        turn: u64,
        commands: mpsc::Sender<Command>,
        link_key: Option<LinkKey>,
    ) {
        *self.connection() = Some(Connection { turn, commands, link_key });
    }

    /// Which connection is up.
    pub(crate) fn turn(&self) -> Option<u64> {
        self.connection().as_ref().map(|connection| connection.turn)
    }

    /// No connection is up.
    pub(crate) fn detach(&self) {
        *self.connection() = None;
    }

    fn send(&self, command: Command) -> Result<(), AssignError> {
        let down = |why: &str| AssignError::Unavailable(why.to_owned());
        let connection = self.connection();
        let connection = connection.as_ref().ok_or_else(|| down("not connected"))?;
        connection.commands.try_send(command).map_err(|_| down("too many messages wait for it"))
    }

    /// Sends a batch of `bytes` of keys, over the connection `turn` only.
    pub(crate) fn send_hop(
        &self,
        turn: u64,
        frame: HopFrame,
        bytes: usize,
    ) -> Result<(), AssignError> {
        let down = |why: &str| AssignError::Unavailable(why.to_owned());
        let connection = self.connection();
        let connection = connection.as_ref().filter(|connection| connection.turn == turn);
        let connection = connection.ok_or_else(|| down("the connection is gone"))?;
        let sent = connection.commands.try_send(Command::Send(Frame::Hop(Box::new(frame))));
        sent.map_err(|_| down("too many messages wait for it"))?;
        self.hops.fetch_add(1, Relaxed);
        self.hop_bytes.fetch_add(bytes as u64, Relaxed);
        Ok(())
    }

    /// Sends a batch under the key of the connection that is up.
    pub(crate) fn send_link(&self, head: HopHead, material: &ClearBytes) -> Result<(), HopFault> {
        let mut connection = self.connection();
        let Connection { commands, link_key, .. } = connection.as_mut().ok_or(HopFault::NoLink)?;
        let keys = link_key.as_mut().ok_or(HopFault::NoLink)?;
        let (number, counter, key) = keys.next_frame().ok_or(HopFault::NoLink)?;
        let frame = key.seal(head, Lock::Link { key: number, counter }, material);
        let frame = Frame::Hop(Box::new(frame.ok_or(HopFault::Refused)?));
        commands.try_send(Command::Send(frame)).map_err(|_| HopFault::Busy)?;
        self.hops.fetch_add(1, Relaxed);
        self.hop_bytes.fetch_add(material.len() as u64, Relaxed);
        Ok(())
    }

    /// Offers an object and waits what becomes of it.
    pub(crate) async fn offer(&self, offer: Offer) -> Result<Placed, CopyError> {
        let (answer, answered) = oneshot::channel();
        let away = |why: &str| CopyError::Unavailable(why.to_owned());
        let sent = self.send(Command::Offer(Box::new(offer), answer));
        sent.map_err(|error| away(&error.to_string()))?;
        match tokio::time::timeout(PLACE_WITHIN, answered).await {
            Ok(Ok(placed)) => placed,
            Ok(Err(_)) => Err(away("the connection broke before the answer")),
            Err(_) => Err(away("no answer in time")),
        }
    }

    /// Sends if it can.
    pub(crate) fn send_best_effort(&self, frame: Frame) {
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
        judged(run.id.block.number, answered).await
    }

    async fn lend(&self, span: PadSpan) -> Result<(), AssignError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Lend(span, answer))?;
        judged(span.id.block.number, answered).await
    }

    fn pads_used(&self, pads: Vec<PadUse>) {
        self.send_best_effort(Frame::PadsUsed(pads));
    }

    fn run_ended(&self, run: &RunSpec, handed_out: u16) {
        self.send_best_effort(Frame::RunEnded { run: run.clone(), handed_out });
    }

    fn blocks_given(&self, blocks: Vec<GivenBlock>) {
        self.send_best_effort(Frame::Given(blocks));
    }

    fn ask_blocks(&self, count: u16, grade: Grade) {
        self.send_best_effort(Frame::AskBlocks(count, grade));
    }
}

/// The peer's answer about bytes of a block.
async fn judged(block: u64, answered: oneshot::Receiver<Assigned>) -> Result<(), AssignError> {
    let lost = |why: &str| AssignError::Unavailable(why.to_owned());
    match tokio::time::timeout(ASSIGN_WITHIN, answered).await {
        Ok(Ok(Assigned::Durable)) => Ok(()),
        Ok(Ok(Assigned::NoBlock)) => Err(AssignError::NoBlock(block)),
        Ok(Ok(Assigned::Refused(why))) => Err(AssignError::Refused(why)),
        Ok(Ok(Assigned::Behind(cursor))) => Err(AssignError::Behind(block, cursor)),
        Ok(Ok(Assigned::NotPaired)) => Err(AssignError::NotPaired),
        Ok(Ok(Assigned::BelowGrade(grade))) => Err(AssignError::BelowGrade(grade)),
        Ok(Ok(Assigned::NoRoom)) => Err(lost("the peer has too many spans of pad")),
        Ok(Err(_)) => Err(lost("the connection broke")),
        Err(_) => Err(lost("no answer in time")),
    }
}
