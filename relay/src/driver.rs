//! The socket around a [`Session`]: reads, writes, and carries out its actions. No opinions here.

mod carry_out;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use km_core::{
    block::MAX_BLOCK,
    copies::{CopyError, Placed},
    module::ModuleKey,
    peer::Fingerprint,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use transport::Shutdown;

use crate::{
    dialling::altered,
    frame::{Assigned, Frame, FrameError, Frames, Hello, MAX_LIST},
    handle::{Command, WAITING},
    hop::{
        link_key::{Exported, LinkKey},
        source::MOST_ON_WAY,
    },
    intake, kem,
    peer::Peer,
    session::{Action, Event, Feed, MAX_IN_FLIGHT, Session, SessionError, Start},
    work::Done,
};

const TICK: Duration = Duration::from_secs(1);
/// The peer must say something at least this often, and greet within it; both ends ping every
/// tick.
const SILENCE: Duration = Duration::from_secs(10);
/// What a leader of the same bound may have on its way, or in its hand, when it finds its pool
/// full: the follower still takes that.
const ON_ITS_WAY: u64 = ((MAX_IN_FLIGHT + MOST_ON_WAY + 2) * MAX_BLOCK) as u64;
const READ_BYTES: usize = 64 << 10;
/// How long what was said last may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the peer said nothing for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the peer does not read what is sent to it")]
    Stuck,
    #[error("a newer connection took its place")]
    Replaced,
    #[error("the peer says that this very key manager was taken out of its cluster")]
    TakenOut,
    #[error(
        "the store here does not confirm what the greeting is made of, or another key manager leads; see its alarm"
    )]
    NotSettled,
}

impl LinkError {
    /// Whether it cannot be the peer's doing alone: TLS refused a record, or what was in one is no
    /// message of this protocol.
    pub(crate) fn shows_tampering(&self) -> bool {
        match self {
            Self::Io(error) => altered(error),
            Self::Frame(FrameError::Version(_)) => false,
            Self::Frame(_) => true,
            Self::Session(error) => matches!(error, SessionError::Protocol(_)),
            Self::Silent | Self::Stuck | Self::Replaced | Self::TakenOut | Self::NotSettled => {
                false
            }
        }
    }
}

struct Driver<'a> {
    peer: &'a Arc<Peer>,
    turn: u64,
    /// The peer's certificate.
    shown: Fingerprint,
    session: Session,
    tasks: JoinSet<()>,
    done: mpsc::UnboundedSender<Done>,
    commands: mpsc::Sender<Command>,
    asked: HashMap<u64, oneshot::Sender<Assigned>>,
    /// By pad.
    offered: HashMap<String, oneshot::Sender<Result<Placed, CopyError>>>,
    kem: kem::Pair,
    /// Until the link is up.
    link_key: Option<LinkKey>,
    next_request: u64,
    out: Vec<u8>,
    writer: mpsc::Sender<Vec<u8>>,
    writing: JoinSet<()>,
}

/// Runs one connection until it ends. `Ok`: it ended in order.
pub(crate) async fn run<S>(
    peer: &Arc<Peer>,
    stream: S,
    (shown, exported): (Fingerprint, Option<Exported>),
    turn: u64,
    shutdown: &Shutdown,
) -> Result<(), LinkError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    // The greeting says what this end has and gave away: facts only, even after a crash, and not of a KM
    // that was paused while another led. What it lacks the other end burns.
    if !matches!(peer.pool.is_true().await, Ok(true)) {
        return Err(LinkError::NotSettled);
    }
    let (read, write) = tokio::io::split(stream);
    let (done, reports) = mpsc::unbounded_channel();
    let (commands, commanded) = mpsc::channel(WAITING);
    let (mut driver, hello) = Driver::start(peer, (turn, shown), write, done, commands);
    driver.take_keys(exported);
    let ended = match driver.carry_out(hello) {
        Ok(()) => driver.pump(read, reports, commanded, shutdown).await,
        Err(error) => Err(error),
    };
    driver.wind_up().await;
    ended
}

impl<'a> Driver<'a> {
    fn start<W>(
        peer: &'a Arc<Peer>,
        (turn, shown): (u64, Fingerprint),
        write: W,
        done: mpsc::UnboundedSender<Done>,
        commands: mpsc::Sender<Command>,
    ) -> (Self, Vec<Action>)
    where
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let pool = &peer.pool;
        let mut doubtful = pool.doubtful();
        doubtful.truncate(MAX_LIST);
        let here = pool.config().here.clone();
        let hello = Hello {
            cluster: here.clone(),
            pool: pool.tag(),
            highest: pool.highest_block(),
            doubtful,
            floor: pool.floor(),
            given: pool.given_blocks(),
            key_ttl_ms: pool.config().key_ttl.as_millis() as u64,
        };
        let start = Start {
            here,
            peer: peer.config.cluster.clone(),
            pool: pool.tag(),
            feed: peer.config.feed(),
            combine: peer.config.combine,
            hello,
        };
        let (session, actions) = Session::new(start, Instant::now());
        let (tasks, mut writing) = (JoinSet::new(), JoinSet::new());
        let (writer, chunks) = mpsc::channel(WAITING);
        writing.spawn(write_all(write, chunks));
        let (asked, offered, out) = (HashMap::new(), HashMap::new(), Vec::new());
        let next_request = 0;
        let driver = Self {
            peer,
            turn,
            shown,
            session,
            tasks,
            done,
            commands,
            asked,
            offered,
            kem: kem::Pair::default(),
            link_key: None,
            next_request,
            out,
            writer,
            writing,
        };
        (driver, actions)
    }

    /// The connection's own keys, where they are needed.
    fn take_keys(&mut self, exported: Option<Exported>) {
        if self.peer.config.feed() == Some(Feed::KmLink)
            && let Some(Exported { outgoing, incoming }) = exported
        {
            self.link_key = LinkKey::new(outgoing);
            self.session.set_link_key(LinkKey::new(incoming));
        }
    }

    /// Everything that happens on the connection, one thing at a time.
    async fn pump<R: AsyncRead + Unpin>(
        &mut self,
        mut read: R,
        mut reports: mpsc::UnboundedReceiver<Done>,
        mut commanded: mpsc::Receiver<Command>,
        shutdown: &Shutdown,
    ) -> Result<(), LinkError> {
        let peer = self.peer;
        let (keys, mut taken) = mpsc::channel(1);
        let mut keys = Some(keys);
        let mut gone = peer.gone.subscribe();
        let mut frames = Frames::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut tick = tokio::time::interval(TICK);
        let began = Instant::now();
        let mut heard = began;
        loop {
            self.flush()?;
            if self.session.is_up()
                && let Some(keys) = keys.take()
            {
                self.start_intake(keys);
            }
            tokio::select! {
                read = read.read(&mut buffer) => {
                    let count = read?;
                    if count == 0 {
                        return Ok(());
                    }
                    heard = Instant::now();
                    frames.push(&buffer[..count]);
                    while let Some(frame) = frames.next_frame()? {
                        self.frame(frame)?;
                    }
                }
                Some(report) = reports.recv() => {
                    self.report(report)?;
                    while let Ok(report) = reports.try_recv() {
                        self.report(report)?;
                    }
                }
                Some(command) = commanded.recv() => {
                    self.command(command);
                    while let Ok(command) = commanded.try_recv() {
                        self.command(command);
                    }
                }
                Some(keys) = taken.recv(), if self.session.has_room() => self.propose(keys)?,
                _ = tick.tick() => {
                    let no_greeting = !self.session.is_up() && began.elapsed() > SILENCE;
                    if no_greeting || heard.elapsed() > SILENCE {
                        return Err(LinkError::Silent);
                    }
                    // The notice may have come while we were not listening for it.
                    if peer.turns.load(Relaxed) != self.turn {
                        return Err(LinkError::Replaced);
                    }
                    self.tick()?;
                }
                Ok(()) = gone.changed(), if self.session.is_up() => self.tell_gone(),
                () = peer.replaced.notified() => return Err(LinkError::Replaced),
                () = shutdown.requested() => {
                    // What the pool said last, such as which runs are over, still leaves.
                    while let Ok(command) = commanded.try_recv() {
                        self.command(command);
                    }
                    return self.flush();
                }
            }
        }
    }

    fn start_intake(&mut self, keys: mpsc::Sender<Vec<ModuleKey>>) {
        if let (true, Some(source)) = (self.session.is_leader(), self.peer.source.clone()) {
            self.tasks.spawn(intake::run(source, self.peer.pool.clone(), keys));
        }
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        self.peer.counters.in_flight.store(self.session.in_flight() as u64, Relaxed);
        if !self.out.is_empty() {
            let chunk = std::mem::take(&mut self.out);
            self.writer.try_send(chunk).map_err(|_| LinkError::Stuck)?;
        }
        Ok(())
    }

    fn frame(&mut self, frame: Frame) -> Result<(), LinkError> {
        if let Frame::Propose(_) = frame {
            let room = self.peer.pool.has_room_beyond(ON_ITS_WAY);
            let actions = self.session.on_event(Event::Room(room));
            self.carry_out(actions)?;
        }
        let actions = self.session.on_frame(frame)?;
        self.carry_out(actions)
    }

    fn report(&mut self, report: Done) -> Result<(), LinkError> {
        match report {
            Done::Send(frame) => frame.encode(&mut self.out),
            Done::Event(event) => {
                let actions = self.session.on_event(event);
                self.carry_out(actions)?;
            }
        }
        Ok(())
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Send(frame) => frame.encode(&mut self.out),
            Command::Assign(run, answer) => {
                let request = self.request(answer);
                Frame::Assign { request, run }.encode(&mut self.out);
            }
            Command::Lend(span, answer) => {
                let request = self.request(answer);
                Frame::Lend { request, span }.encode(&mut self.out);
            }
            Command::Offer(offer, answer) => {
                self.offered.retain(|_, waiting| !waiting.is_closed());
                self.offered.insert(offer.pad.clone(), answer);
                Frame::Offer(offer).encode(&mut self.out);
            }
        }
    }

    /// A request whose answer goes there.
    fn request(&mut self, answer: oneshot::Sender<Assigned>) -> u64 {
        self.asked.retain(|_, waiting| !waiting.is_closed());
        self.next_request += 1;
        self.asked.insert(self.next_request, answer);
        self.next_request
    }

    fn tick(&mut self) -> Result<(), LinkError> {
        let actions = self.session.on_event(Event::Tick(Instant::now()));
        if self.session.is_up() {
            Frame::Ping(self.next_request).encode(&mut self.out);
            Frame::Floor(self.peer.pool.floor()).encode(&mut self.out);
            Frame::Account(self.peer.pool.account()).encode(&mut self.out);
        }
        while self.tasks.try_join_next().is_some() {}
        self.carry_out(actions)
    }

    /// A new block goes to the end that has less to assign from.
    fn propose(&mut self, keys: Vec<ModuleKey>) -> Result<(), LinkError> {
        let pool = &self.peer.pool;
        let config = pool.config();
        let ours = pool.own_bytes() <= pool.peer_bytes();
        let owner = if ours { config.here.clone() } else { config.peer.clone() };
        let actions = self.session.on_event(Event::Keys { keys, owner });
        self.carry_out(actions)
    }

    /// Lets what is being stored finish, so that the next connection starts from settled facts.
    async fn wind_up(mut self) {
        self.peer.handle.detach();
        self.tasks.abort_all();
        drop(self.writer);
        let _ = tokio::time::timeout(LAST_WORDS, self.writing.join_next()).await;
        while self.tasks.join_next().await.is_some() {}
        drop(self.peer.storing.write().await);
        kem::forget(self.peer, &self.kem).await;
    }
}

async fn write_all<W: AsyncWrite + Unpin>(mut write: W, mut chunks: mpsc::Receiver<Vec<u8>>) {
    while let Some(chunk) = chunks.recv().await {
        if write.write_all(&chunk).await.is_err() {
            return;
        }
        if chunks.is_empty() && write.flush().await.is_err() {
            return;
        }
    }
    let _ = write.shutdown().await;
}
