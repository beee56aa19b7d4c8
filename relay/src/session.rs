//! One connection of a KM link, sans-IO: [`Session::on_frame`] and [`Session::on_event`] take
//! what happened and give [`Action`]s to carry out.
//!
//! The end whose cluster name sorts lower is the **leader**: it takes new keys from its module and
//! proposes blocks; the follower collects the same keys by ID at its own module. What a lost
//! connection leaves half-done is settled by the next [`Hello`]: a block only one end kept is
//! burned, never used.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use km_core::{
    ids::{ClusterId, LinkId, PoolTag},
    module::{ModuleError, ModuleKey},
    peer::GivenBlock,
    run::RunSpec,
};

use crate::{
    agreement::{self, MAX_KEYS, Raw, Tag},
    frame::{Assigned, Frame, Hello, Proposal, Rejection},
};

/// Proposals on their way at once.
pub const MAX_IN_FLIGHT: usize = 8;
/// A proposal that is not settled after this is given up.
pub const AGREE_WITHIN: Duration = Duration::from_secs(20);

/// Why the connection must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer is not who this link is for.
    #[error("the peer says it is {0}, expected {1}; check `peer.cluster` at both ends")]
    WrongPeer(ClusterId, ClusterId),
    /// The ends mean different pools.
    #[error("the peer means another pool of keys")]
    WrongPool,
    /// A frame that does not belong here.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Action {
    /// Send a frame.
    Send(Frame),
    /// Collect these keys at our module; then [`Event::Collected`].
    Collect {
        /// For this block.
        number: u64,
        /// The module's key identifiers.
        ids: Vec<String>,
    },
    /// Seal and store; then [`Event::Admitted`].
    Admit(Agreed),
    /// The other end has stored these blocks.
    Confirmed(Vec<u64>),
    /// The other end does not have these blocks: burn them.
    Burn(Vec<u64>),
    /// Bits refused: account for them and raise an alarm.
    Refused {
        /// The block.
        number: u64,
        /// Bytes refused, tag keys included.
        bytes: u64,
        /// Why.
        why: Rejection,
    },
    /// Tell which of these blocks we have (`Known`).
    TellKnown(Vec<u64>),
    /// The peer assigned a run: take it and answer `AssignResult`.
    TakeRun {
        /// The request to answer.
        request: u64,
        /// The run.
        run: RunSpec,
    },
    /// The peer answered an assignment of ours.
    AssignDone {
        /// The request.
        request: u64,
        /// What became of it.
        result: Assigned,
    },
    /// The peer is through with a run.
    EndRun {
        /// The run.
        run: RunSpec,
        /// How many of its keys were handed out.
        handed_out: u16,
    },
    /// The peer gave us untouched blocks.
    TakeGiven(Vec<GivenBlock>),
    /// The peer asks for untouched blocks.
    Give(u16),
    /// The peer uses none of its blocks below this any more.
    PeerFloor(u64),
    /// The greeting is done: the link is up.
    Up,
}

/// A block on which both ends agree.
pub struct Agreed {
    /// Its number.
    pub number: u64,
    /// The end that will assign from it.
    pub owner: ClusterId,
    /// The QKD link its keys came over.
    pub link: LinkId,
    /// Its bits.
    pub raw: Raw,
    /// Whether the other end is known to have it stored.
    pub confirmed: bool,
}

impl std::fmt::Debug for Agreed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Agreed(block {}, {} bytes)", self.number, self.raw.len())
    }
}

/// What happened at this end.
#[derive(Debug)]
pub enum Event {
    /// Leader: our module gave these keys; propose them as one block of `owner`.
    Keys {
        /// The keys, in order; together within the bounds of a block.
        keys: Vec<ModuleKey>,
        /// The end that shall own the block.
        owner: ClusterId,
    },
    /// Follower: our module's answer for a proposal.
    Collected {
        /// The block.
        number: u64,
        /// The keys, in the order asked.
        keys: Result<Vec<ModuleKey>, ModuleError>,
    },
    /// The block is durable here, or cannot be.
    Admitted {
        /// The block.
        number: u64,
        /// Whether it is stored.
        stored: bool,
    },
    /// Time passed.
    Tick(Instant),
}

enum Proposed {
    /// Leader: waiting for the other end's answer.
    Waiting { owner: ClusterId, raw: Raw, since: Instant },
    /// Leader: the other end has it; we are storing it.
    Storing,
}

enum Offered {
    /// Follower: waiting for our module.
    Collecting { proposal: Proposal, since: Instant },
    /// Follower: storing; then this tag confirms it.
    Storing { confirm: Tag },
    /// Follower: refused while we were storing it; burned as soon as it is stored.
    Unwanted,
    /// Follower: confirmed; waiting for the proposer to say it stored its own.
    Confirmed { since: Instant },
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
    /// The QKD link that fills it, if one does.
    pub link: Option<LinkId>,
    /// Our greeting.
    pub hello: Hello,
}

/// The state of one connection.
pub struct Session {
    start: Start,
    greeted: bool,
    next: u64,
    proposed: BTreeMap<u64, Proposed>,
    offered: BTreeMap<u64, Offered>,
    now: Instant,
}

type Actions = Vec<Action>;

impl Session {
    /// Begins; the first action greets the peer.
    pub fn new(start: Start, now: Instant) -> (Self, Actions) {
        let hello = Action::Send(Frame::Hello(start.hello.clone()));
        let next = start.hello.highest + 1;
        let (proposed, offered) = (BTreeMap::new(), BTreeMap::new());
        (Self { start, greeted: false, next, proposed, offered, now }, vec![hello])
    }

    /// Whether the greeting is done.
    pub fn is_up(&self) -> bool {
        self.greeted
    }

    /// Whether this end proposes blocks.
    pub fn is_leader(&self) -> bool {
        self.start.here < self.start.peer
    }

    /// Whether another proposal may be started.
    pub fn has_room(&self) -> bool {
        self.greeted && self.proposed.len() < MAX_IN_FLIGHT
    }

    /// Blocks being agreed on.
    pub fn in_flight(&self) -> usize {
        self.proposed.len() + self.offered.len()
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
            Frame::Propose(proposal) => self.offered(proposal)?,
            Frame::Confirm { number, tag } => self.confirmed(number, tag),
            Frame::Stored { number } => self.peer_stored(number),
            Frame::Reject { number, why } => self.rejected(number, why),
            Frame::Assign { request, run } => vec![Action::TakeRun { request, run }],
            Frame::AssignResult { request, result } => {
                vec![Action::AssignDone { request, result }]
            }
            Frame::RunEnded { run, handed_out } => vec![Action::EndRun { run, handed_out }],
            Frame::Given(blocks) => vec![Action::TakeGiven(blocks)],
            Frame::AskBlocks(count) => vec![Action::Give(count)],
            Frame::Ping(number) => vec![Action::Send(Frame::Pong(number))],
            Frame::Pong(_) => Vec::new(),
            Frame::Floor(floor) => vec![Action::PeerFloor(floor)],
        })
    }

    /// Something happened here.
    pub fn on_event(&mut self, event: Event) -> Actions {
        match event {
            Event::Keys { keys, owner } => self.propose(&keys, owner),
            Event::Collected { number, keys } => self.collected(number, keys),
            Event::Admitted { number, stored } => self.admitted(number, stored),
            Event::Tick(now) => self.tick(now),
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
        self.next = self.next.max(hello.highest + 1);
        let settle = [
            Action::TellKnown(hello.unconfirmed),
            Action::TakeGiven(hello.given),
            Action::PeerFloor(hello.floor),
            Action::Up,
        ];
        Ok(settle.into())
    }

    fn propose(&mut self, keys: &[ModuleKey], owner: ClusterId) -> Actions {
        let (Some(link), Some(raw)) = (self.start.link.clone(), Raw::join(keys)) else {
            return Vec::new();
        };
        let number = self.next;
        self.next += 1;
        let keys = keys.iter().map(|key| (key.id.clone(), key.bytes.len() as u16)).collect();
        let mut proposal =
            Proposal { number, owner: owner.clone(), link, keys, tag: Tag::default() };
        proposal.tag = raw.proposal_tag(&proposal);
        self.proposed.insert(number, Proposed::Waiting { owner, raw, since: self.now });
        vec![Action::Send(Frame::Propose(proposal))]
    }

    fn offered(&mut self, proposal: Proposal) -> Result<Actions, SessionError> {
        let number = proposal.number;
        if self.is_leader() {
            return Err(SessionError::Protocol("it proposed a block though this end leads"));
        }
        if proposal.keys.len() > MAX_KEYS || self.offered.len() > 4 * MAX_IN_FLIGHT {
            return Err(SessionError::Protocol("it proposed too much at once"));
        }
        let ours = self.start.link.as_ref() == Some(&proposal.link);
        let known_owner = [&self.start.here, &self.start.peer].contains(&&proposal.owner);
        if !ours || !known_owner {
            return Ok(vec![reject(number, Rejection::Missing)]);
        }
        if number < self.next {
            // A repeated proposal, or a number of an earlier block.
            let known = self.offered.contains_key(&number);
            return Ok(if known { Vec::new() } else { vec![reject(number, Rejection::Used)] });
        }
        self.next = number + 1;
        let ids = proposal.keys.iter().map(|(id, _)| id.clone()).collect();
        self.offered.insert(number, Offered::Collecting { proposal, since: self.now });
        Ok(vec![Action::Collect { number, ids }])
    }

    fn collected(&mut self, number: u64, keys: Result<Vec<ModuleKey>, ModuleError>) -> Actions {
        let Some(Offered::Collecting { proposal, .. }) = self.offered.remove(&number) else {
            return Vec::new();
        };
        let Ok(keys) = keys else { return vec![reject(number, Rejection::Missing)] };
        let expected = proposal.keys.iter().map(|(_, len)| usize::from(*len));
        let same_lengths = keys.iter().map(|key| key.bytes.len()).eq(expected);
        let bytes: u64 = keys.iter().map(|key| key.bytes.len() as u64).sum();
        let raw = Raw::join(&keys).filter(|raw| {
            same_lengths && agreement::equal(&raw.proposal_tag(&proposal), &proposal.tag)
        });
        let Some(raw) = raw else {
            let why = Rejection::Mismatch;
            return vec![Action::Refused { number, bytes, why }, reject(number, why)];
        };
        let confirm = raw.confirm_tag(number);
        self.offered.insert(number, Offered::Storing { confirm });
        let Proposal { owner, link, .. } = proposal;
        vec![Action::Admit(Agreed { number, owner, link, raw, confirmed: false })]
    }

    fn confirmed(&mut self, number: u64, tag: Tag) -> Actions {
        let (owner, raw) = match self.proposed.remove(&number) {
            Some(Proposed::Waiting { owner, raw, .. }) => (owner, raw),
            // Said twice: the first time counts.
            Some(Proposed::Storing) => {
                self.proposed.insert(number, Proposed::Storing);
                return Vec::new();
            }
            None => return Vec::new(),
        };
        if !agreement::equal(&raw.confirm_tag(number), &tag) {
            let (bytes, why) = (raw.len() as u64, Rejection::Mismatch);
            return vec![Action::Refused { number, bytes, why }, reject(number, why)];
        }
        let Some(link) = self.start.link.clone() else { return Vec::new() };
        self.proposed.insert(number, Proposed::Storing);
        vec![Action::Admit(Agreed { number, owner, link, raw, confirmed: true })]
    }

    fn admitted(&mut self, number: u64, stored: bool) -> Actions {
        if let Some(Proposed::Storing) = self.proposed.get(&number) {
            self.proposed.remove(&number);
            return vec![match stored {
                true => Action::Send(Frame::Stored { number }),
                false => reject(number, Rejection::NotStored),
            }];
        }
        if let Some(Offered::Unwanted) = self.offered.get(&number) {
            self.offered.remove(&number);
            return vec![Action::Burn(vec![number])];
        }
        let Some(Offered::Storing { confirm }) = self.offered.get(&number) else {
            return Vec::new();
        };
        let tag = *confirm;
        if stored {
            self.offered.insert(number, Offered::Confirmed { since: self.now });
            vec![Action::Send(Frame::Confirm { number, tag })]
        } else {
            self.offered.remove(&number);
            vec![reject(number, Rejection::NotStored)]
        }
    }

    fn peer_stored(&mut self, number: u64) -> Actions {
        match self.offered.remove(&number) {
            Some(Offered::Confirmed { .. }) => vec![Action::Confirmed(vec![number])],
            // Nothing we confirmed: whatever it means, it confirms nothing.
            Some(other) => {
                self.offered.insert(number, other);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn rejected(&mut self, number: u64, why: Rejection) -> Actions {
        match (self.proposed.remove(&number), self.offered.remove(&number)) {
            (Some(Proposed::Waiting { raw, .. }), _) => {
                vec![Action::Refused { number, bytes: raw.len() as u64, why }]
            }
            // The other end confirmed it before: what it says now comes too late, and our answer
            // that we stored it still has to leave.
            (Some(storing @ Proposed::Storing), _) => {
                self.proposed.insert(number, storing);
                Vec::new()
            }
            (None, Some(Offered::Confirmed { .. })) => vec![Action::Burn(vec![number])],
            (None, Some(Offered::Storing { .. } | Offered::Unwanted)) => {
                self.offered.insert(number, Offered::Unwanted);
                Vec::new()
            }
            (None, Some(Offered::Collecting { .. }) | None) => Vec::new(),
        }
    }

    fn tick(&mut self, now: Instant) -> Actions {
        self.now = now;
        let late = |since: &Instant| now.duration_since(*since) > AGREE_WITHIN;
        let overdue: Vec<u64> = self
            .proposed
            .iter()
            .filter(|(_, p)| matches!(p, Proposed::Waiting { since, .. } if late(since)))
            .map(|(number, _)| *number)
            .collect();
        let mut actions = Vec::new();
        for number in overdue {
            actions.extend(self.rejected(number, Rejection::Late));
            actions.push(reject(number, Rejection::Late));
        }
        // What we confirmed and heard nothing of stays stored, and is settled by the next greeting.
        self.offered.retain(|_, offered| match offered {
            Offered::Collecting { since, .. } | Offered::Confirmed { since } => !late(since),
            Offered::Storing { .. } | Offered::Unwanted => true,
        });
        actions
    }
}

fn reject(number: u64, why: Rejection) -> Action {
    Action::Send(Frame::Reject { number, why })
}
