//! The blocks one connection is agreeing on, and how far each of them is. Enter through
//! [`Blocks`]; part of the [`session`](crate::session), sans-IO like it.

use std::{collections::BTreeMap, time::Instant};

use km_core::{
    ids::ClusterId,
    module::{ModuleError, ModuleKey},
    provenance::{Combination, Hop, HopCipher, Provenance},
};

use crate::{
    agreement::{self, MAX_KEYS, Raw, Tag},
    frame::{Frame, Proposal, Rejection},
    kems::{Combined, Kems},
    session::{AGREE_WITHIN, Action, Agreed, FULL_PAUSE, Feed, MAX_IN_FLIGHT, SessionError, Start},
};

enum Proposed {
    /// Leader: waiting for the other end's answer.
    Waiting { owner: ClusterId, provenance: Provenance, raw: Raw, since: Instant },
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

/// What is being agreed on.
pub(crate) struct Blocks {
    start: Start,
    next: u64,
    proposed: BTreeMap<u64, Proposed>,
    offered: BTreeMap<u64, Offered>,
    now: Instant,
    /// Follower: the pool here is full.
    full_here: bool,
    /// Leader: when the other end said it is full; it has taken nothing since.
    full_there: Option<Instant>,
}

type Actions = Vec<Action>;

impl Blocks {
    pub(crate) fn new(start: Start, now: Instant) -> Self {
        let next = start.hello.highest + 1;
        let (proposed, offered) = (BTreeMap::new(), BTreeMap::new());
        Self { start, next, proposed, offered, now, full_here: false, full_there: None }
    }

    /// The other end used numbers up to this one.
    pub(crate) fn start_after(&mut self, highest: u64) {
        self.next = self.next.max(highest + 1);
    }

    /// Whether another proposal may be started. After the other end was full, one at a time until
    /// it takes one: each it refuses costs the keys in it.
    pub(crate) fn has_room(&self) -> bool {
        match self.full_there {
            Some(since) => self.proposed.is_empty() && self.now.duration_since(since) >= FULL_PAUSE,
            None => self.proposed.len() < MAX_IN_FLIGHT,
        }
    }

    /// Whether the pool at this end takes more blocks.
    pub(crate) fn set_room(&mut self, room: bool) -> Actions {
        self.full_here = !room;
        Vec::new()
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.proposed.len() + self.offered.len()
    }

    pub(crate) fn propose(
        &mut self,
        keys: &[ModuleKey],
        owner: ClusterId,
        kems: &mut Kems,
    ) -> Actions {
        let (Some(provenance), Some(raw)) = (self.came(keys), Raw::join(keys)) else {
            return Vec::new();
        };
        let number = self.next;
        self.next += 1;
        let combined = kems.next();
        let Some((raw, combination)) = self.combined(raw, number, combined, kems) else {
            let (bytes, why) = (joined_bytes(keys), Rejection::Policy);
            return vec![Action::Refused { number, bytes, why }];
        };
        let keys = keys.iter().map(|key| (key.id.clone(), key.bytes.len() as u16)).collect();
        let mut proposal = Proposal {
            number,
            owner: owner.clone(),
            provenance,
            combined,
            keys,
            tag: Tag::default(),
        };
        proposal.tag = raw.proposal_tag(&proposal);
        let provenance = Provenance { combined: combination, ..proposal.provenance.clone() };
        let waiting = Proposed::Waiting { owner, provenance, raw, since: self.now };
        self.proposed.insert(number, waiting);
        vec![Action::Send(Frame::Propose(proposal))]
    }

    /// The bits as they are used: combined, if so said.
    fn combined(
        &self,
        raw: Raw,
        number: u64,
        said: Option<Combined>,
        kems: &Kems,
    ) -> Option<(Raw, Option<Combination>)> {
        let Some(said) = said else { return Some((raw, None)) };
        let (secret, combination) = kems.find(said)?;
        let raw = raw.combined(said.method, secret, self.start.pool, number)?;
        Some((raw, Some(combination)))
    }

    /// How the keys of one block came to be, as this end knows it.
    fn came(&self, keys: &[ModuleKey]) -> Option<Provenance> {
        match (self.start.feed.as_ref()?, keys) {
            (Feed::Qkd(_), keys) => {
                let first = keys.first()?.came.as_ref()?;
                keys.iter().all(|key| key.came.as_ref() == Some(first)).then(|| first.clone())
            }
            (Feed::Relay | Feed::KmLink, [key]) => key.came.clone(),
            (Feed::Relay | Feed::KmLink, _) => None,
        }
    }

    /// Whether a block that came that way belongs into this pool.
    fn fits(&self, announced: &Provenance) -> bool {
        match &self.start.feed {
            Some(Feed::Qkd(links)) => {
                links.iter().any(|link| *announced == Provenance::direct(link.clone()))
            }
            Some(Feed::Relay) => {
                let ends = announced.split.iter().all(|way| !way.path.is_empty());
                !announced.path.is_empty() && ends && announced.is_apart()
            }
            Some(Feed::KmLink) => {
                let alone =
                    |hop: &Hop| hop.to == self.start.here && hop.cipher == HopCipher::KmLink;
                announced.ways() == 1 && matches!(announced.path.as_slice(), [hop] if alone(hop))
            }
            None => false,
        }
    }

    pub(crate) fn offered(
        &mut self,
        proposal: Proposal,
        kems: &Kems,
    ) -> Result<Actions, SessionError> {
        let number = proposal.number;
        if self.start.leads() {
            return Err(SessionError::Protocol("it proposed a block though this end leads"));
        }
        if proposal.keys.len() > MAX_KEYS || self.offered.len() > 4 * MAX_IN_FLIGHT {
            return Err(SessionError::Protocol("it proposed too much at once"));
        }
        let ours = self.fits(&proposal.provenance);
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
        if !kems.accepts(proposal.combined) {
            return Ok(vec![reject(number, Rejection::Policy)]);
        }
        if self.full_here {
            return Ok(vec![reject(number, Rejection::Full)]);
        }
        let ids = proposal.keys.iter().map(|(id, _)| id.clone()).collect();
        let came = proposal.provenance.clone();
        self.offered.insert(number, Offered::Collecting { proposal, since: self.now });
        Ok(vec![Action::Collect { number, ids, came }])
    }

    pub(crate) fn collected(
        &mut self,
        number: u64,
        keys: Result<Vec<ModuleKey>, ModuleError>,
        kems: &Kems,
    ) -> Actions {
        let Some(Offered::Collecting { proposal, .. }) = self.offered.remove(&number) else {
            return Vec::new();
        };
        let Ok(keys) = keys else { return vec![reject(number, Rejection::Missing)] };
        let expected = proposal.keys.iter().map(|(_, len)| usize::from(*len));
        let same_lengths = keys.iter().map(|key| key.bytes.len()).eq(expected);
        let bytes = joined_bytes(&keys);
        let raw =
            Raw::join(&keys).and_then(|raw| self.combined(raw, number, proposal.combined, kems));
        let raw = raw.filter(|(raw, _)| {
            same_lengths && agreement::equal(&raw.proposal_tag(&proposal), &proposal.tag)
        });
        let (Some((raw, combined)), Some(seen)) = (raw, self.came(&keys)) else {
            let why = Rejection::Mismatch;
            return vec![Action::Refused { number, bytes, why }, reject(number, why)];
        };
        let Proposal { owner, provenance, .. } = proposal;
        // Else the leader would store it as more than it is: a node on the way lied to it.
        if !provenance.borne_out_by(&seen) {
            let why = Rejection::Path;
            return vec![Action::Refused { number, bytes, why }, reject(number, why)];
        }
        let confirm = raw.confirm_tag(number);
        self.offered.insert(number, Offered::Storing { confirm });
        let provenance = Provenance { combined, ..provenance };
        vec![Action::Admit(Agreed { number, owner, provenance, raw, confirmed: false })]
    }

    pub(crate) fn confirmed(&mut self, number: u64, tag: Tag) -> Actions {
        let (owner, provenance, raw) = match self.proposed.remove(&number) {
            Some(Proposed::Waiting { owner, provenance, raw, .. }) => (owner, provenance, raw),
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
        self.full_there = None;
        self.proposed.insert(number, Proposed::Storing);
        vec![Action::Admit(Agreed { number, owner, provenance, raw, confirmed: true })]
    }

    pub(crate) fn admitted(&mut self, number: u64, stored: bool) -> Actions {
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

    pub(crate) fn peer_stored(&mut self, number: u64) -> Actions {
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

    pub(crate) fn rejected(&mut self, number: u64, why: Rejection) -> Actions {
        match (self.proposed.remove(&number), self.offered.remove(&number)) {
            (Some(Proposed::Waiting { raw, .. }), _) => {
                if matches!(why, Rejection::Full | Rejection::Policy) {
                    self.full_there = Some(self.now);
                }
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

    pub(crate) fn tick(&mut self, now: Instant) -> Actions {
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

fn joined_bytes(keys: &[ModuleKey]) -> u64 {
    keys.iter().map(|key| key.bytes.len() as u64).sum()
}
