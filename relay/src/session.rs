//! One connection of a KM link, sans-IO: [`Session::on_frame`] and [`Session::on_event`] take
//! what happened and give [`Action`]s to carry out.
//!
//! The end whose cluster name sorts lower is the **leader**: it takes new keys from its module and
//! proposes blocks; the follower collects the same keys by ID at its own module. What a lost
//! connection leaves half-done is settled by the next [`Hello`]: a block only one end kept is
//! burned, never used.

mod events;

use std::time::{Duration, Instant};

use km_core::{
    ids::{ClusterId, LinkId, PoolTag},
    pad::PadSpan,
};

use crate::{
    blocks::Blocks,
    combine::Combine,
    frame::{Assigned, Frame, Hello},
    hop::{HopFrame, link_key::LinkKey, pads_in::PadsIn, receive::received},
    kems::Kems,
};

pub use events::{Action, Agreed, Event};

/// Proposals on their way at once.
pub const MAX_IN_FLIGHT: usize = 8;
/// A proposal that is not settled after this is given up.
pub const AGREE_WITHIN: Duration = Duration::from_secs(20);

/// How long the leader proposes nothing after the other end said it is full.
pub const FULL_PAUSE: Duration = Duration::from_secs(3);

/// Why the connection must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer is not who this link is for.
    #[error("the peer says it is {0}, expected {1}; check `peer.cluster` at both ends")]
    WrongPeer(ClusterId, ClusterId),
    /// The ends mean different pools.
    #[error("the peer means another pool of keys")]
    WrongPool,
    /// What is set about combination does not fit, or an exchange was spoiled.
    #[error("keys cannot be combined: {0}; set `combine` alike at both ends")]
    Combination(&'static str),
    /// A frame that does not belong here.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
}

/// What fills a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feed {
    /// QKD links between the two clusters, of which one serves at a time; each key says which it came
    /// over.
    Qkd(Vec<LinkId>),
    /// Relay over other clusters.
    Relay,
    /// The KM link between the two clusters alone: there is no QKD on any way to one of them.
    KmLink,
}

/// What a session starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// This cluster.
    pub here: ClusterId,
    /// The cluster that must be at the other end.
    pub peer: ClusterId,
    /// The pool between them.
    pub pool: PoolTag,
    /// What fills it, if anything does.
    pub feed: Option<Feed>,
    /// How its blocks are combined with ML-KEM, if they are.
    pub combine: Option<Combine>,
    /// Our greeting.
    pub hello: Hello,
}

impl Start {
    /// Whether this end proposes blocks.
    pub(crate) fn leads(&self) -> bool {
        self.here < self.peer
    }
}

/// The state of one connection.
pub struct Session {
    start: Start,
    greeted: bool,
    blocks: Blocks,
    pads: PadsIn,
    kems: Kems,
}

type Actions = Vec<Action>;

impl Session {
    /// Begins; the first action greets the peer.
    pub fn new(start: Start, now: Instant) -> (Self, Actions) {
        let hello = Action::Send(Frame::Hello(start.hello.clone()));
        let blocks = Blocks::new(start.clone(), now);
        let (pads, kems) = (PadsIn::default(), Kems::new(start.combine, start.leads(), now));
        (Self { start, greeted: false, blocks, pads, kems }, vec![hello])
    }

    /// Whether the greeting is done.
    pub fn is_up(&self) -> bool {
        self.greeted
    }

    /// Takes what the pool is begun to be filled with, hidden by this connection's own key.
    pub fn set_link_key(&mut self, key: Option<LinkKey>) {
        self.pads.set_link_key(key);
    }

    /// Whether this end proposes blocks.
    pub fn is_leader(&self) -> bool {
        self.start.leads()
    }

    /// Whether another proposal may be started.
    pub fn has_room(&self) -> bool {
        self.greeted && self.blocks.has_room() && self.kems.allow()
    }

    /// Blocks being agreed on.
    pub fn in_flight(&self) -> usize {
        self.blocks.in_flight()
    }

    /// A frame came.
    pub fn on_frame(&mut self, frame: Frame) -> Result<Actions, SessionError> {
        if let Frame::Hello(hello) = frame {
            return self.greet(hello);
        }
        if !self.greeted {
            return Err(SessionError::Protocol("it did not greet first"));
        }
        Ok(match frame {
            Frame::Hello(_) => Vec::new(),
            Frame::Known { have, lack } => vec![Action::Confirmed(have), Action::Burn(lack)],
            Frame::Propose(proposal) => self.blocks.offered(proposal, &self.kems)?,
            Frame::Confirm { number, tag } => self.blocks.confirmed(number, tag),
            Frame::Stored { number } => self.blocks.peer_stored(number),
            Frame::Reject { number, why } => self.blocks.rejected(number, why),
            Frame::Assign { request, run } => vec![Action::TakeRun { request, run }],
            Frame::AssignResult { request, result } => {
                vec![Action::AssignDone { request, result }]
            }
            Frame::RunEnded { run, handed_out } => vec![Action::EndRun { run, handed_out }],
            Frame::Given(blocks) => vec![Action::TakeGiven(blocks)],
            Frame::AskBlocks(count, grade) => vec![Action::Give(count, grade)],
            Frame::Ping(number) => vec![Action::Send(Frame::Pong(number))],
            Frame::Pong(_) => Vec::new(),
            Frame::Floor(floor) => vec![Action::PeerFloor(floor)],
            Frame::Lend { request, span } => self.borrow(request, span),
            Frame::PadsUsed(pads) => {
                pads.iter().for_each(|used| self.pads.remove(used.span.id));
                vec![Action::PadsTold(pads)]
            }
            Frame::KemOffer { id, set, public } => self.kems.offered(id, set, public)?,
            Frame::KemAnswer { id, ciphertext } => self.kems.answered(id, ciphertext),
            Frame::KemReady { id, proof } => {
                self.kems.proven(id, &proof)?;
                Vec::new()
            }
            Frame::Order(bytes) => vec![Action::Order(bytes)],
            Frame::Gone(certificates) => vec![Action::Bar(certificates)],
            Frame::PadsKnown(spans) => vec![Action::PadsKnown(spans)],
            Frame::Hop(frame) => self.hop(*frame),
            Frame::Account(account) => vec![Action::PeerAccount(account)],
            Frame::HopAnswer { name, answer } => vec![Action::Answered { name, answer }],
            Frame::Offer(offer) => vec![Action::Offered(offer)],
            Frame::Placed { pad, placed } => vec![Action::Placed { pad, placed }],
            Frame::Supply(ask) => match &self.start.feed {
                Some(Feed::Qkd(_)) => vec![Action::Supply(ask)],
                _ => Vec::new(),
            },
        })
    }

    /// Something happened here.
    pub fn on_event(&mut self, event: Event) -> Actions {
        match event {
            Event::Keys { keys, owner } => self.blocks.propose(&keys, owner, &mut self.kems),
            Event::Collected { number, keys } => self.blocks.collected(number, keys, &self.kems),
            Event::Admitted { number, stored } => self.blocks.admitted(number, stored),
            Event::Room(room) => self.blocks.set_room(room),
            Event::Lent { id, pad } => {
                self.pads.opened(id, pad);
                Vec::new()
            }
            Event::KemMade { id, public } => self.kems.made(id, public),
            Event::KemSealed { id, public, ciphertext, secret, custody } => {
                self.kems.sealed(id, &public, ciphertext, (secret, custody))
            }
            Event::KemOpened { id, secret, custody } => self.kems.opened(id, secret, custody),
            Event::Tick(now) => {
                let mut actions = self.blocks.tick(now);
                if self.greeted {
                    actions.extend(self.kems.tick(now));
                }
                actions
            }
        }
    }

    fn borrow(&mut self, request: u64, span: PadSpan) -> Actions {
        if !self.pads.has_room() {
            let result = Assigned::NoRoom;
            return vec![Action::Send(Frame::AssignResult { request, result })];
        }
        self.pads.expect(span.id);
        vec![Action::Borrow { request, span }]
    }

    /// Relayed keys: opened here, so that only what fits this link gets any further.
    fn hop(&mut self, frame: HopFrame) -> Actions {
        let name = (frame.head.from.clone(), frame.head.transfer);
        let Start { here, peer, feed, .. } = &self.start;
        match received(&mut self.pads, feed.as_ref(), [here, peer], frame) {
            Ok((head, material)) => vec![Action::Opened { head, material }],
            Err((why, answer)) => {
                let told = Action::Send(Frame::HopAnswer { name, answer });
                vec![Action::NotOpened(why), told]
            }
        }
    }

    fn greet(&mut self, hello: Hello) -> Result<Actions, SessionError> {
        if self.greeted {
            return Err(SessionError::Protocol("it greeted twice"));
        }
        if hello.cluster != self.start.peer {
            return Err(SessionError::WrongPeer(hello.cluster, self.start.peer.clone()));
        }
        if hello.pool != self.start.pool {
            return Err(SessionError::WrongPool);
        }
        self.greeted = true;
        self.blocks.start_after(hello.highest);
        let settle = [
            Action::TellKnown(hello.doubtful),
            Action::TakeGiven(hello.given),
            Action::PeerFloor(hello.floor),
            Action::PeerKeyTtl(Duration::from_millis(hello.key_ttl_ms)),
            Action::Up,
        ];
        let mut actions = Vec::from(settle);
        actions.extend(self.kems.tick(self.blocks.now()));
        Ok(actions)
    }
}
