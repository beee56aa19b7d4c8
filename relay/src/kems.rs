//! The ML-KEM exchanges of one connection; part of the [`session`](crate::session), sans-IO like it.
//! The leader offers a public key, the follower answers with a ciphertext, the leader proves that it
//! has the secret; then blocks may be combined with it. A new exchange begins after
//! [`RENEW_BLOCKS`] blocks or [`RENEW_TIME`]; while none gets through, the old secret serves for
//! [`MOST_BLOCKS`] or [`MOST_TIME`] at most.

use std::time::{Duration, Instant};

use km_core::{
    hsm::Custody,
    material::ClearBytes,
    provenance::{Combination, CombineMethod},
    usage::kem::KemSet,
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::{
    combine::{Combine, KemSecret},
    frame::Frame,
    session::{Action, SessionError},
};

/// Blocks after which a new exchange begins.
pub const RENEW_BLOCKS: u32 = 192;
/// Time after which a new exchange begins.
pub const RENEW_TIME: Duration = Duration::from_secs(480);
/// Most blocks combined with one secret.
pub const MOST_BLOCKS: u32 = 256;
/// How long one secret serves at most.
pub const MOST_TIME: Duration = Duration::from_secs(600);
/// An exchange that is not through after this is begun anew.
pub const EXCHANGE_WITHIN: Duration = Duration::from_secs(10);

/// What a proposal says of combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Combined {
    /// The exchange, as the leader counted it.
    pub kem: u64,
    /// How.
    pub method: CombineMethod,
}

/// A secret both ends hold.
struct Held {
    id: u64,
    secret: KemSecret,
    /// Where this end did its part of the exchange.
    custody: Custody,
    blocks: u32,
    since: Instant,
}

impl Held {
    /// Whether another block may be combined with it.
    fn serves(&self, now: Instant) -> bool {
        self.blocks < MOST_BLOCKS && now.duration_since(self.since) < MOST_TIME
    }
}

/// An exchange under way at the leader.
struct Asked {
    id: u64,
    since: Instant,
    public: Vec<u8>,
    ciphertext: Vec<u8>,
}

/// The exchanges of one connection.
pub(crate) struct Kems {
    settings: Option<Combine>,
    leads: bool,
    next: u64,
    asked: Option<Asked>,
    /// Follower: not proven yet by the leader.
    unproven: Option<Held>,
    /// The newest first; proposals with the one before may still be on their way.
    held: Vec<Held>,
    now: Instant,
}

impl Kems {
    pub(crate) fn new(settings: Option<Combine>, leads: bool, now: Instant) -> Self {
        Self { settings, leads, next: 1, asked: None, unproven: None, held: Vec::new(), now }
    }

    /// Whether the leader may propose: not while what is required is missing.
    pub(crate) fn allow(&self) -> bool {
        !self.settings.is_some_and(|settings| settings.required)
            || self.held.first().is_some_and(|held| held.serves(self.now))
    }

    /// Leader: begins an exchange when one is due. Call it when the link is up and at each tick.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Action> {
        self.now = now;
        let Some(settings) = self.settings.filter(|_| self.leads) else { return Vec::new() };
        let fresh =
            |held: &Held| held.blocks < RENEW_BLOCKS && now.duration_since(held.since) < RENEW_TIME;
        let under_way = |asked: &Asked| now.duration_since(asked.since) < EXCHANGE_WITHIN;
        if self.held.first().is_some_and(fresh) || self.asked.as_ref().is_some_and(under_way) {
            return Vec::new();
        }
        let id = self.next;
        self.next += 1;
        let (public, ciphertext) = (Vec::new(), Vec::new());
        self.asked = Some(Asked { id, since: now, public, ciphertext });
        vec![Action::KemMake { id, set: settings.set }]
    }

    /// Leader: the pair is made.
    pub(crate) fn made(&mut self, id: u64, public: Vec<u8>) -> Vec<Action> {
        let (Some(asked), Some(settings)) = (&mut self.asked, self.settings) else {
            return Vec::new();
        };
        if asked.id != id {
            return Vec::new();
        }
        asked.public.clone_from(&public);
        vec![Action::Send(Frame::KemOffer { id, set: settings.set, public })]
    }

    /// Follower: the leader offers a key.
    pub(crate) fn offered(
        &self,
        id: u64,
        set: KemSet,
        public: Vec<u8>,
    ) -> Result<Vec<Action>, SessionError> {
        match self.settings {
            // Not wanted here: the leader goes on without, or not at all, as it is told to.
            None => Ok(Vec::new()),
            Some(settings) if !self.leads && settings.set == set => {
                Ok(vec![Action::KemSeal { id, set, public }])
            }
            Some(_) => Err(SessionError::Combination("the ends are set to different ML-KEM")),
        }
    }

    /// Follower: the secret is made and hidden.
    pub(crate) fn sealed(
        &mut self,
        id: u64,
        public: &[u8],
        ciphertext: Vec<u8>,
        (secret, custody): (ClearBytes, Custody),
    ) -> Vec<Action> {
        let Some(settings) = self.settings else { return Vec::new() };
        let Some(secret) = KemSecret::new(settings.set, public, &ciphertext, secret) else {
            return Vec::new();
        };
        self.unproven = Some(Held { id, secret, custody, blocks: 0, since: self.now });
        vec![Action::Send(Frame::KemAnswer { id, ciphertext })]
    }

    /// Leader: the follower answered.
    pub(crate) fn answered(&mut self, id: u64, ciphertext: Vec<u8>) -> Vec<Action> {
        let asked = self.asked.as_mut().filter(|asked| asked.id == id && !asked.public.is_empty());
        let Some(asked) = asked.filter(|asked| asked.ciphertext.is_empty()) else {
            return Vec::new();
        };
        asked.ciphertext.clone_from(&ciphertext);
        vec![Action::KemOpen { id, ciphertext }]
    }

    /// Leader: the secret is opened.
    pub(crate) fn opened(&mut self, id: u64, secret: ClearBytes, custody: Custody) -> Vec<Action> {
        let (Some(asked), Some(settings)) = (self.asked.take_if(|a| a.id == id), self.settings)
        else {
            return Vec::new();
        };
        let secret = KemSecret::new(settings.set, &asked.public, &asked.ciphertext, secret);
        let Some(secret) = secret else { return Vec::new() };
        let proof = secret.proof().to_vec();
        self.hold(Held { id, secret, custody, blocks: 0, since: self.now });
        vec![Action::Send(Frame::KemReady { id, proof })]
    }

    /// Follower: the leader proves that it holds the secret.
    pub(crate) fn proven(&mut self, id: u64, proof: &[u8]) -> Result<(), SessionError> {
        let Some(held) = self.unproven.take_if(|held| held.id == id) else { return Ok(()) };
        if !bool::from(held.secret.proof().as_slice().ct_eq(proof)) {
            return Err(SessionError::Combination("the ends hold different ML-KEM secrets"));
        }
        self.hold(held);
        Ok(())
    }

    fn hold(&mut self, held: Held) {
        self.held.insert(0, held);
        self.held.truncate(2);
    }

    /// Leader: what the next block is combined with.
    pub(crate) fn next(&mut self) -> Option<Combined> {
        let method = self.settings?.method;
        let now = self.now;
        let held = self.held.first_mut().filter(|held| held.serves(now))?;
        held.blocks += 1;
        Some(Combined { kem: held.id, method })
    }

    /// Whether what a proposal says is as it is set here.
    pub(crate) fn accepts(&self, said: Option<Combined>) -> bool {
        match (self.settings, said) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(settings), None) => !settings.required,
            (Some(settings), Some(said)) => settings.method == said.method,
        }
    }

    /// The secret a proposal names, and what the provenance says of it.
    pub(crate) fn find(&self, said: Combined) -> Option<(&KemSecret, Combination)> {
        let held = self.held.iter().find(|held| held.id == said.kem)?;
        let (kem, method, custody) = (self.settings?.set, said.method, Some(held.custody));
        Some((&held.secret, Combination { kem, method, custody }))
    }
}
