//! What an operation may use: the server, the caller, the version, and what earlier items of the
//! same batch made.

use std::sync::{Mutex, PoisonError};

use km_core::objects::Objects;
use kmip::{
    Version,
    attribute::{Attribute, Attributes, Link, UniqueIdentifier},
    enums::{OperationCode, UniqueIdentifierCode},
};

use tokio::time::Instant;

use crate::{
    Server,
    caller::{Caller, Delegate},
    error::OpError,
    locks::Held,
    notices::Notice,
    together::Turn,
};

/// Who asks and who answers on the connection of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Roles {
    /// That stays as it is.
    Fixed,
    /// The request may change it.
    Open,
    /// It did.
    Turned,
}

pub(crate) struct Context<'a> {
    pub(crate) server: &'a Server,
    pub(crate) caller: &'a Caller,
    pub(crate) version: Version,
    objects: &'a Objects,
    /// Those of the request, whatever the item that is being done wants.
    usual: &'a Objects,
    /// The changes are staged: names are held until all of them are published.
    is_staged: bool,
    held: Mutex<Vec<Held>>,
    /// To be told when the changes are published.
    noted: Vec<Notice>,
    /// Who asks in the caller's name, where that is another application.
    delegate: Option<Delegate>,
    /// What is being done.
    operation: Option<OperationCode>,
    /// Seconds since 1970, one moment for the whole request.
    pub(crate) now: i64,
    /// Objects the Locates of this request have looked at so far.
    pub(crate) looked_at: usize,
    made: Vec<(OperationCode, Vec<String>)>,
    /// The public key of the last pair; its private key is in `made`.
    pub(crate) public_of_pair: Option<String>,
    /// The same of the last pair that took the place of another.
    pub(crate) public_of_rekeyed: Option<String>,
    /// Of an item that is done at the same time as others.
    turn: Option<Turn>,
    /// When the request is to be done; none in the background.
    until: Option<Instant>,
    pub(crate) roles: Roles,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        server: &'a Server,
        objects: &'a Objects,
        is_staged: bool,
        (caller, delegate): (&'a Caller, Option<Delegate>),
        version: Version,
        now: i64,
    ) -> Self {
        let held = Mutex::default();
        Self {
            server,
            caller,
            version,
            objects,
            usual: objects,
            is_staged,
            held,
            noted: Vec::new(),
            delegate,
            operation: None,
            now,
            looked_at: 0,
            made: Vec::new(),
            public_of_pair: None,
            public_of_rekeyed: None,
            turn: None,
            until: None,
            roles: Roles::Fixed,
        }
    }

    /// For a request that is to be done by then.
    pub(crate) fn by(mut self, until: Instant) -> Self {
        self.until = Some(until);
        self
    }

    /// How long the item that is being done may wait for others.
    pub(crate) fn until(&self) -> Instant {
        self.until.unwrap_or_else(|| Instant::now() + self.server.limits.request_time)
    }

    /// For an item that is done at the same time as others.
    pub(crate) fn at(mut self, turn: Turn) -> Self {
        self.turn = Some(turn);
        self
    }

    pub(crate) fn objects(&self) -> &'a Objects {
        self.objects
    }

    /// Has what the item makes kept inside the token, if it may be.
    pub(crate) fn keep_inside(&mut self) -> bool {
        let tenant = self.caller.tenant();
        if self.objects.keeps_inside(tenant) {
            return true;
        }
        // A stage knows what hangs on its publication for its own objects alone.
        if self.is_staged || !self.objects.may_keep_inside(tenant) {
            return false;
        }
        self.objects = &self.server.objects_inside;
        true
    }

    pub(crate) fn delegate(&self) -> Option<&Delegate> {
        self.delegate.as_ref()
    }

    /// Whose room what is kept for this request takes: that of whoever asks, in whosever name.
    pub(crate) fn payer(&self) -> &Caller {
        self.delegate.as_ref().map_or(self.caller, Delegate::holder)
    }

    /// An item begins that asks for `operation`, if that may be done.
    pub(crate) fn begin(&mut self, operation: OperationCode) -> Result<(), OpError> {
        self.operation = Some(operation);
        self.objects = self.usual;
        let delegate = self.delegate.as_ref();
        match self.caller.may(operation) && delegate.is_none_or(|who| who.may(operation)) {
            true => Ok(()),
            false => Err(OpError::NotAllowed(operation)),
        }
    }

    /// Whether the caller may ask for `operation`, in its own name.
    pub(crate) fn may_itself(&self, operation: OperationCode) -> bool {
        self.delegate.is_none() && self.caller.may(operation)
    }

    /// Refuses `operation` where no operator wrote that whoever asks may ask for it, and with a ticket
    /// whose it is too.
    pub(crate) fn check_named(&self, operation: OperationCode) -> Result<(), OpError> {
        match self.caller.is_named(operation) && self.payer().is_named(operation) {
            true => Ok(()),
            false => Err(OpError::NotAllowed(operation)),
        }
    }

    /// Refuses what is being done on the object `uid`, where a ticket gives no right to it.
    pub(crate) fn check_right(&self, uid: &str) -> Result<(), OpError> {
        let Some((delegate, operation)) = self.delegate.as_ref().zip(self.operation) else {
            return Ok(());
        };
        match delegate.may_on(operation, uid) {
            true => Ok(()),
            // As to strangers: whether there is such an object is not told.
            false => Err(OpError::NotFound(uid.to_owned())),
        }
    }

    /// Tells other applications of the tenant what was done; of changes that are staged, once they are
    /// published.
    pub(crate) async fn note(&mut self, done: impl FnOnce() -> Vec<Notice>) {
        if !self.server.notices.are_wanted(self.caller.tenant()) {
            return;
        }
        self.noted.extend(done());
        if !self.is_staged {
            self.tell().await;
        }
    }

    /// Tells what was noted.
    pub(crate) async fn tell(&mut self) {
        let noted = std::mem::take(&mut self.noted);
        let (tenant, by) = (self.caller.tenant(), self.payer().application());
        self.server.notices.note(self.server, tenant, Some(by), noted).await;
    }

    /// Waits until all items before this one are answered, where it is done at the same time as others:
    /// what cannot be taken back is done after that.
    pub(crate) async fn turn_comes(&self) {
        if let Some(turn) = &self.turn {
            turn.come().await;
        }
    }

    /// Whether changes wait to be published with the batch.
    pub(crate) fn is_staged(&self) -> bool {
        self.is_staged
    }

    /// Keeps names held for as long as they must be: to the end of a batch that may be undone, else
    /// as long as the caller keeps what it gets back.
    pub(crate) fn keep(&self, held: Held) -> Option<Held> {
        match self.is_staged {
            true => {
                self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
                None
            }
            false => Some(held),
        }
    }

    /// Of `locks`, those that this batch does not hold yet.
    pub(crate) fn not_held(&self, mut locks: Vec<String>) -> Vec<String> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|lock| !held.iter().any(|held| held.has(lock)));
        locks
    }

    /// Sets the ID placeholder: the identifiers an item made or found.
    pub(crate) fn remember(&mut self, operation: OperationCode, ids: Vec<String>) {
        self.made.push((operation, ids));
    }

    /// The identifier a request names, directly or through the ID placeholder.
    pub(crate) fn resolve(&self, id: Option<UniqueIdentifier>) -> Result<String, OpError> {
        let last = self.made.last().map(|(_, ids)| ids.as_slice());
        let found = match id {
            Some(UniqueIdentifier::Text(id)) => return Ok(id),
            None => last.and_then(only),
            Some(UniqueIdentifier::Index(at)) => {
                usize::try_from(at).ok().and_then(|at| last?.get(at).cloned())
            }
            Some(UniqueIdentifier::Reference(UniqueIdentifierCode::IdPlaceholder)) => {
                last.and_then(only)
            }
            Some(UniqueIdentifier::Reference(UniqueIdentifierCode::CreateKeyPairPublicKey)) => {
                self.public_of_pair.clone()
            }
            Some(UniqueIdentifier::Reference(UniqueIdentifierCode::ReKeyKeyPairPublicKey)) => {
                self.public_of_rekeyed.clone()
            }
            Some(UniqueIdentifier::Reference(code)) => self.made_by(code).and_then(only),
        };
        found.ok_or(OpError::NoPlaceholder)
    }

    /// With the identifiers of what earlier items made in the place of references to them: an object is
    /// stored with links that stay true.
    pub(crate) fn resolve_link(&self, attribute: Attribute) -> Result<Attribute, OpError> {
        match attribute {
            Attribute::Link(Link { kind, target }) => {
                let target = UniqueIdentifier::Text(self.resolve(Some(target))?);
                Ok(Attribute::Link(Link { kind, target }))
            }
            other => Ok(other),
        }
    }

    /// The same of several.
    pub(crate) fn resolve_links(&self, mut all: Attributes) -> Result<Attributes, OpError> {
        for instance in &mut all.list {
            if matches!(instance.attribute, Attribute::Link(_)) {
                instance.attribute = self.resolve_link(instance.attribute.clone())?;
            }
        }
        Ok(all)
    }

    fn made_by(&self, code: UniqueIdentifierCode) -> Option<&[String]> {
        let operation = match code {
            UniqueIdentifierCode::Create => OperationCode::Create,
            UniqueIdentifierCode::Register => OperationCode::Register,
            UniqueIdentifierCode::ReKey => OperationCode::ReKey,
            UniqueIdentifierCode::Import => OperationCode::Import,
            UniqueIdentifierCode::CreateSplitKey => OperationCode::CreateSplitKey,
            UniqueIdentifierCode::JoinSplitKey => OperationCode::JoinSplitKey,
            UniqueIdentifierCode::Locate => OperationCode::Locate,
            UniqueIdentifierCode::DeriveKey => OperationCode::DeriveKey,
            UniqueIdentifierCode::CreateKeyPairPrivateKey => OperationCode::CreateKeyPair,
            UniqueIdentifierCode::Certify => OperationCode::Certify,
            UniqueIdentifierCode::ReCertify => OperationCode::ReCertify,
            UniqueIdentifierCode::ReKeyKeyPairPrivateKey => OperationCode::ReKeyKeyPair,
            _ => return None,
        };
        let found = self.made.iter().rev().find(|(made, _)| *made == operation);
        found.map(|(_, ids)| ids.as_slice())
    }
}

/// A Locate that found several objects, or none, leaves the placeholder empty.
fn only(ids: &[String]) -> Option<String> {
    match ids {
        [id] => Some(id.clone()),
        _ => None,
    }
}
