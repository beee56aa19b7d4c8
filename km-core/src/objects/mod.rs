//! Managed objects: named, sealed one by one, with a KMIP life cycle. Enter through [`Objects`].
//!
//! What an object means to a protocol (its attributes) is opaque here; what the domain must know
//! (owner, state, provenance, where its sealed bytes are) is not.

mod flight;
mod kept;
mod quota;
mod reseal;
mod state;
mod using;

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use flight::Flights;
use quota::Quotas;
pub use quota::{Place, Quota};
pub use state::{BadObjectStep, ObjectState, ObjectStep};

use crate::{
    clock::now_ms,
    epoch::Pin,
    hsm::HsmError,
    ids::SaeId,
    material::ClearBytes,
    provenance::Provenance,
    random::RandomError,
    records::{RecordError, Records},
    store::{Commit, MAX_RANGE, Outcome, Staged, Version},
    vault::{Kind, SealedObject, Vault},
};

/// Longest Unique Identifier, in bytes.
pub const MAX_UID: usize = 64;
/// Most bytes of attributes kept with an object.
pub const MAX_ATTRIBUTES: usize = 64 << 10;
/// Most search terms of an object. All of them may change in one commit.
pub const MAX_TERMS: usize = 48;
/// Most bytes in a search term.
const MAX_TERM: usize = 512;
/// Most objects [`Objects::inspect`] gives: one owner and every slave of a run.
pub const MAX_HOLDERS: usize = crate::run::MAX_SLAVES + 1;

/// An object as stored: sealed bytes and public metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Unique Identifier.
    pub uid: String,
    /// The application it belongs to.
    pub owner: SaeId,
    /// State.
    pub state: ObjectState,
    /// Its bytes; `None` once destroyed.
    pub sealed: Option<SealedObject>,
    /// How the bytes came to be.
    pub provenance: Provenance,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// What the protocol knows about it, in the protocol's own encoding.
    pub attributes: Vec<u8>,
    /// Exact-match search terms, such as `name:alpha`.
    pub terms: Vec<String>,
}

/// An object about to be made.
#[derive(Debug)]
pub struct NewObject {
    /// Unique Identifier; see [`Objects::fresh_uid`].
    pub uid: String,
    /// The application it will belong to.
    pub owner: SaeId,
    /// Its first state.
    pub state: ObjectState,
    /// How the bytes came to be.
    pub provenance: Provenance,
    /// Opaque metadata, at most [`MAX_ATTRIBUTES`] bytes.
    pub attributes: Vec<u8>,
    /// Search terms, at most [`MAX_TERMS`].
    pub terms: Vec<String>,
}

impl NewObject {
    /// Refuses what breaks a bound of this module. Whoever spends a key on an object asks first.
    pub fn check(&self) -> Result<(), ObjectError> {
        if !is_uid(&self.uid) {
            let text = "a Unique Identifier has 1 to 64 bytes and no NUL";
            return Err(ObjectError::TooLarge(text.to_owned()));
        }
        check_attributes(&self.attributes)?;
        check_terms(&self.terms)
    }
}

/// Why an object operation failed; nothing changed unless it says so.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ObjectError {
    /// No such object of this owner.
    #[error("there is no object {0}")]
    NotFound(String),
    /// The identifier is taken.
    #[error("an object {0} exists already")]
    Exists(String),
    /// Its bytes were destroyed.
    #[error("object {0} was destroyed")]
    Destroyed(String),
    /// Somebody changed it at the same time; read it again.
    #[error("object {0} changed at the same time")]
    Conflict(String),
    /// A bound of this module.
    #[error("{0}")]
    TooLarge(String),
    /// The owner's quota is used up.
    #[error(
        "{owner} may have {objects} objects and {bytes} bytes, and with this one it would have more; \
         destroy some, or have its quota raised"
    )]
    Quota {
        /// Whose.
        owner: SaeId,
        /// Most objects.
        objects: u64,
        /// Most bytes.
        bytes: u64,
    },
    /// The state machine says no.
    #[error(transparent)]
    Step(#[from] BadObjectStep),
    /// The HSM did not seal or open.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// A random source gives nothing that keys could be made of.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The store did not read or write.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Nobody knows whether the change happened; read it again.
    #[error("it is not known whether the change to object {0} was stored")]
    Unknown(String),
}

/// Records of a commit: keys, and values to put or `None` to delete.
pub type Puts = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// What hangs on the publication of a stage.
#[derive(Default)]
struct Hanging {
    /// They keep the epochs of what was sealed for it in use.
    pins: Vec<Pin>,
    /// Kept in the token for it.
    made: Vec<String>,
    /// In the token, and no longer named once it is published.
    replaced: Vec<String>,
    /// Under quotas.
    places: Vec<Place>,
}

/// The managed objects of a cluster.
#[derive(Clone)]
pub struct Objects {
    records: Records,
    vault: Vault,
    flights: Arc<Flights>,
    /// Over a stage: what hangs on its being published.
    staged: Option<Arc<Mutex<Hanging>>>,
    token_only: bool,
    /// Whose new objects are kept inside the token.
    inside: Arc<BTreeSet<SaeId>>,
    quotas: Arc<Quotas>,
}

pub(crate) const OBJECT: &[u8] = b"object/";
const INDEX: &[u8] = b"index/";

/// Several applications may each hold a pool key under its one identifier.
fn object_key(uid: &str, owner: &SaeId) -> Vec<u8> {
    [&copies_prefix(uid), owner.as_str().as_bytes()].concat()
}

/// Every owner's object of this identifier.
fn copies_prefix(uid: &str) -> Vec<u8> {
    [OBJECT, uid.as_bytes(), b"\0"].concat()
}

/// Every object of `owner` that has `term`, the newest first.
fn index_prefix(owner: &SaeId, term: &str) -> Vec<u8> {
    [INDEX, owner.as_str().as_bytes(), b"\0", term.as_bytes(), b"\0"].concat()
}

/// An object's place among those that have a term. Inverted, so that the newest comes first; of the
/// same millisecond, identifiers of one generator are in order too.
fn index_place(created_ms: u64, uid: &str) -> impl Iterator<Item = u8> {
    created_ms.to_be_bytes().into_iter().chain(uid.bytes()).map(|byte| !byte)
}

/// The identifier in what [`index_place`] gave.
fn placed_uid(place: &[u8]) -> String {
    let uid: Vec<u8> = place.iter().skip(size_of::<u64>()).map(|byte| !byte).collect();
    String::from_utf8_lossy(&uid).into_owned()
}

impl Object {
    fn index_keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.terms.iter().map(|term| {
            let mut key = index_prefix(&self.owner, term);
            key.extend(index_place(self.created_ms, &self.uid));
            key
        })
    }
}

impl Objects {
    /// Objects over these records and this vault.
    pub fn new(records: Records, vault: Vault) -> Self {
        let (flights, inside, quotas) = Default::default();
        Self { records, vault, flights, staged: None, token_only: false, inside, quotas }
    }

    /// Keys are used in the token or not at all; see [`Objects::use_key`].
    pub fn token_only(self, token_only: bool) -> Self {
        Self { token_only, ..self }
    }

    /// The same objects over a stage: changes wait there to be published together. What such an
    /// `Objects` calls durable is so only then; keep it until they are, and say what became of them:
    /// [`Objects::published`] or [`Objects::undone`].
    pub fn staged(&self) -> (Self, Arc<Staged>) {
        let (records, stage) = self.records.staged();
        (Self { records, staged: Some(Arc::default()), ..self.clone() }, stage)
    }

    /// The vault the objects are sealed in.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// A new identifier: a UUIDv7, so that new objects are neighbours in the store.
    pub fn fresh_uid() -> String {
        uuid::Uuid::now_v7().to_string()
    }

    /// Seals the object and gives the records that make it exist, for a commit of the caller's, who
    /// says [`Place::keep`] when it is made.
    pub async fn prepare(
        &self,
        new: NewObject,
        clear: &ClearBytes,
    ) -> Result<(Object, Puts, Place), ObjectError> {
        new.check()?;
        let place = self.place_for(&new, clear.len()).await?;
        let (object, puts) = self.sealed_record(new, clear).await?;
        Ok((object, puts, place))
    }

    async fn sealed_record(
        &self,
        new: NewObject,
        clear: &ClearBytes,
    ) -> Result<(Object, Puts), ObjectError> {
        let sealed = self.seal(&new.uid, &new.owner, clear).await?;
        Ok(self.record(new, sealed))
    }

    /// The places stay taken where the objects are stored, or may be.
    fn settle(&self, done: &Result<(), ObjectError>, places: Vec<Place>) {
        if matches!(done, Ok(()) | Err(ObjectError::Unknown(_))) {
            self.keep(places);
        }
    }

    /// Of a stage, whoever publishes it says whether the places are kept.
    fn keep(&self, places: Vec<Place>) {
        match &self.staged {
            Some(staged) => hanging(staged).places.extend(places),
            None => places.into_iter().for_each(Place::keep),
        }
    }

    fn record(&self, new: NewObject, sealed: SealedObject) -> (Object, Puts) {
        if let Some(staged) = &self.staged {
            hanging(staged).pins.push(sealed.pin());
        }
        let object = Object {
            uid: new.uid,
            owner: new.owner,
            state: new.state,
            sealed: Some(sealed),
            provenance: new.provenance,
            created_ms: now_ms(),
            attributes: new.attributes,
            terms: new.terms,
        };
        let key = object_key(&object.uid, &object.owner);
        let mut puts = vec![(key.clone(), Some(self.records.encode(&key, &object)))];
        for key in object.index_keys() {
            let value = self.records.encode(&key, &());
            puts.push((key, Some(value)));
        }
        (object, puts)
    }

    /// Creates an object; durable on return.
    pub async fn create(&self, new: NewObject, clear: &ClearBytes) -> Result<Object, ObjectError> {
        new.check()?;
        let place = self.place_for(&new, clear.len()).await?;
        self.create_in(place, new, clear).await
    }

    /// The same in a place that was taken ahead.
    pub async fn create_in(
        &self,
        place: Place,
        new: NewObject,
        clear: &ClearBytes,
    ) -> Result<Object, ObjectError> {
        new.check()?;
        let (object, puts) = self.sealed_record(new, clear).await?;
        let done = self.store_new(&[&object], puts).await;
        self.settle(&done, vec![place]);
        self.discard_unless(done, object.sealed.as_ref()).await?;
        Ok(object)
    }

    /// Creates objects whose bytes are sealed already, all or none; durable on return.
    pub async fn create_sealed(
        &self,
        new: Vec<(NewObject, SealedObject)>,
    ) -> Result<(), ObjectError> {
        let places = self.places_for(&new).await;
        let (mut objects, mut puts) = (Vec::new(), Vec::new());
        for (new, sealed) in new {
            let (object, more) = self.record(new, sealed);
            objects.push(object);
            puts.extend(more);
        }
        let done = match places {
            Ok(places) => {
                let done = self.store_new(&objects.iter().collect::<Vec<_>>(), puts).await;
                self.settle(&done, places);
                done
            }
            Err(refused) => Err(refused),
        };
        let sealed = objects.iter().filter_map(|object| object.sealed.as_ref());
        self.discard_unless(done, sealed).await
    }

    async fn places_for(
        &self,
        new: &[(NewObject, SealedObject)],
    ) -> Result<Vec<Place>, ObjectError> {
        new.iter().try_for_each(|(new, _)| new.check())?;
        let mut places = Vec::with_capacity(new.len());
        for (new, sealed) in new {
            places.push(self.place_for(new, sealed.stored_len()).await?);
        }
        Ok(places)
    }

    async fn store_new(&self, objects: &[&Object], puts: Puts) -> Result<(), ObjectError> {
        let key = |object: &&Object| object_key(&object.uid, &object.owner);
        let mut commit = objects.iter().map(key).fold(Commit::new(), Commit::absent);
        commit.puts = puts.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
        commit = objects.iter().fold(commit, |commit, object| guarded(object, commit));
        commit.within_limits().map_err(|error| ObjectError::TooLarge(error.to_string()))?;
        let first = || objects.first().map(|object| object.uid.clone()).unwrap_or_default();
        match self.commit(commit).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict => {
                self.unless_closed(objects).await?;
                Err(ObjectError::Exists(first()))
            }
            Outcome::Unknown => Err(ObjectError::Unknown(first())),
        }
    }

    /// Reads `owner`'s object `uid`.
    pub async fn get(&self, owner: &SaeId, uid: &str) -> Result<(Object, Version), ObjectError> {
        if !is_uid(uid) {
            return Err(missing(uid));
        }
        let key = object_key(uid, owner);
        let record = self.records.store().get(&key).await.map_err(RecordError::from)?;
        let record = record.ok_or_else(|| missing(uid))?;
        Ok((self.records.decode(&key, &record.value)?, record.version))
    }

    /// The objects known as `uid`, whoever owns them; at most [`MAX_HOLDERS`]. For operators;
    /// fronts use [`Objects::get`].
    pub async fn inspect(&self, uid: &str) -> Result<Vec<Object>, ObjectError> {
        if !is_uid(uid) {
            return Ok(Vec::new());
        }
        let prefix = copies_prefix(uid);
        let copies = self.records.store().range(&prefix, Bound::Unbounded, MAX_HOLDERS).await;
        let copies = copies.map_err(RecordError::from)?;
        let decode = |record: crate::store::Record| self.records.decode(&record.key, &record.value);
        Ok(copies.into_iter().map(decode).collect::<Result<_, _>>()?)
    }

    /// The clear bytes of an object. All who ask for it at the same moment share one opening by
    /// the token; the bytes are overwritten when the last of them is done.
    pub async fn open(&self, object: &Object) -> Result<Arc<ClearBytes>, ObjectError> {
        let sealed = object.sealed.as_ref();
        let sealed = sealed.ok_or_else(|| ObjectError::Destroyed(object.uid.clone()))?;
        let name = sealing(object, sealed);
        Ok(self.flights.join(name, || self.open_sealed(object, sealed)).await?)
    }

    async fn open_sealed(
        &self,
        object: &Object,
        sealed: &SealedObject,
    ) -> Result<ClearBytes, HsmError> {
        let (uid, owner) = (object.uid.as_str(), object.owner.as_str());
        let error = match self.vault.open_object(uid, owner, sealed).await {
            Ok(clear) => return Ok(clear),
            Err(error) => error,
        };
        // It may have been sealed anew, and the old KEK destroyed, since it was read.
        let now = self.get(&object.owner, uid).await.ok().and_then(|(now, _)| now.sealed);
        let done = match now.filter(|now| now != sealed) {
            Some(now) => self.vault.open_object(uid, owner, &now).await,
            None => Err(error),
        };
        done.inspect_err(|error| self.vault.note_refusal(Kind::Object, uid, error))
    }

    /// Writes a changed object back if nobody else did since `version`; durable on return.
    /// Its identifier and owner must be as read.
    pub async fn update(
        &self,
        old: &Object,
        version: Version,
        new: &Object,
    ) -> Result<(), ObjectError> {
        let place = self.place_to_grow(old, new).await?;
        let done = self.change(old, version, new).await;
        self.settle(&done, vec![place]);
        done
    }

    /// As [`Objects::update`], whatever the quota.
    async fn change(
        &self,
        old: &Object,
        version: Version,
        new: &Object,
    ) -> Result<(), ObjectError> {
        check_attributes(&new.attributes)?;
        check_terms(&new.terms)?;
        match self.write(old, version, new).await {
            Err(ObjectError::Conflict(uid)) => match self.only_resealed(old, new).await? {
                Some((old, version, new)) => self.write(&old, version, &new).await?,
                None => return Err(ObjectError::Conflict(uid)),
            },
            done => done?,
        }
        self.discard_replaced(old, new).await;
        Ok(())
    }

    async fn write(&self, old: &Object, version: Version, new: &Object) -> Result<(), ObjectError> {
        let commit = self.rewrite(old, version, new);
        match self.commit(commit).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict => {
                self.unless_closed(&[new]).await?;
                Err(ObjectError::Conflict(new.uid.clone()))
            }
            Outcome::Unknown => Err(ObjectError::Unknown(new.uid.clone())),
        }
    }

    /// The commit that writes `new` in the place of `old`.
    fn rewrite(&self, old: &Object, version: Version, new: &Object) -> Commit {
        let key = object_key(&new.uid, &new.owner);
        let value = self.records.encode(&key, new);
        let mut commit = Commit::new().unchanged(key.clone(), version).put(key, value);
        let before: Vec<Vec<u8>> = old.index_keys().collect();
        let after: Vec<Vec<u8>> = new.index_keys().collect();
        for key in before.iter().filter(|key| !after.contains(key)) {
            commit = commit.delete(key.clone());
        }
        for key in after.iter().filter(|key| !before.contains(key)) {
            let value = self.records.encode(key, &());
            commit = commit.put(key.clone(), value);
        }
        guarded(new, commit)
    }

    /// Creates an object, whose bytes are sealed already, and writes back another that it takes
    /// something over from, in one commit; durable on return. `old` is as read at `version`, `changed` has its identifier and owner.
    pub async fn supersede(
        &self,
        new: NewObject,
        sealed: SealedObject,
        (old, version): (&Object, Version),
        changed: &Object,
    ) -> Result<Object, ObjectError> {
        let checked = new
            .check()
            .and_then(|()| check_attributes(&changed.attributes))
            .and_then(|()| check_terms(&changed.terms));
        let place = match checked {
            Ok(()) => self.place_for(&new, sealed.stored_len()).await,
            Err(refused) => Err(refused),
        };
        let (object, puts) = self.record(new, sealed);
        let mut commit = self.rewrite(old, version, changed);
        commit = guarded(&object, commit.absent(object_key(&object.uid, &object.owner)));
        commit.puts.extend(puts.into_iter().filter_map(|(key, value)| Some((key, value?))));
        let done = match place {
            Ok(place) => {
                let mut done = self.commit(commit).await.and_then(|outcome| match outcome {
                    Outcome::Committed(_) => Ok(()),
                    Outcome::Conflict => Err(ObjectError::Conflict(changed.uid.clone())),
                    Outcome::Unknown => Err(ObjectError::Unknown(changed.uid.clone())),
                });
                if matches!(done, Err(ObjectError::Conflict(_))) {
                    done = self.unless_closed(&[&object]).await.and(done);
                }
                self.settle(&done, vec![place]);
                done
            }
            Err(refused) => Err(refused),
        };
        self.discard_unless(done, object.sealed.as_ref()).await?;
        Ok(object)
    }

    /// Puts an object with bytes of its own in the place of `old`, read at `version`, in one
    /// commit; durable on return. `new` has its identifier and owner.
    pub async fn replace(
        &self,
        new: NewObject,
        clear: &ClearBytes,
        (old, version): (&Object, Version),
    ) -> Result<Object, ObjectError> {
        new.check()?;
        let (object, _) = self.sealed_record(new, clear).await?;
        let done = self.update(old, version, &object).await;
        self.discard_unless(done, object.sealed.as_ref()).await?;
        Ok(object)
    }

    /// Takes one step of the state machine and writes it; a Destroy erases the sealed bytes in
    /// the same commit. `change` may adjust the metadata. No quota stands in the way: whoever has
    /// no more room must still be able to revoke and destroy.
    pub async fn step(
        &self,
        owner: &SaeId,
        uid: &str,
        step: ObjectStep,
        change: impl FnOnce(&mut Object),
    ) -> Result<Object, ObjectError> {
        let (old, version) = self.get(owner, uid).await?;
        let mut new = old.clone();
        new.state = old.state.after(step)?;
        if new.state.is_destroyed() {
            new.sealed = None;
        }
        change(&mut new);
        self.change(&old, version, &new).await?;
        if let Some(sealed) = old.sealed.as_ref().filter(|_| new.sealed.is_none()) {
            self.freed(&old, &new);
            self.vault.forget(&sealing(&old, sealed)).await;
        }
        Ok(new)
    }

    /// Identifiers of `owner`'s objects that have `term`, the newest first, after `after`.
    pub async fn search(
        &self,
        owner: &SaeId,
        term: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, ObjectError> {
        let prefix = index_prefix(owner, term);
        let after = match after {
            Some(uid) => {
                let created_ms = self.get(owner, uid).await?.0.created_ms;
                let place = index_place(created_ms, uid);
                Bound::Excluded(prefix.iter().copied().chain(place).collect())
            }
            None => Bound::Unbounded,
        };
        let store = self.records.store();
        let page = store.range(&prefix, after, limit.min(MAX_RANGE)).await;
        let uids = page
            .map_err(RecordError::from)?
            .into_iter()
            .map(|record| placed_uid(record.key.get(prefix.len()..).unwrap_or_default()));
        Ok(uids.collect())
    }

    /// An error when a commit of these met a conflict because their KEK epoch was closed.
    async fn unless_closed(&self, objects: &[&Object]) -> Result<(), ObjectError> {
        for pin in objects.iter().filter_map(|object| object.sealed.as_ref()).map(SealedObject::pin)
        {
            if self.vault.is_closed(&pin).await? {
                let why = "its KEK epoch ended while it was made; ask again".to_owned();
                return Err(HsmError::Unavailable(why).into());
            }
        }
        Ok(())
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, ObjectError> {
        Ok(self.records.store().commit(commit).await.map_err(RecordError::from)?)
    }
}

/// Stores an object that was just sealed only while its KEK epoch is not closed.
fn guarded(object: &Object, commit: Commit) -> Commit {
    match &object.sealed {
        Some(sealed) => sealed.pin().guard(commit),
        None => commit,
    }
}

fn hanging(staged: &Mutex<Hanging>) -> MutexGuard<'_, Hanging> {
    staged.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names this sealing of this object among all.
fn sealing(object: &Object, sealed: &SealedObject) -> Vec<u8> {
    let mut name = object_key(&object.uid, &object.owner);
    name.extend_from_slice(sealed.nonce());
    name
}

fn missing(uid: &str) -> ObjectError {
    ObjectError::NotFound(uid.chars().take(MAX_UID).collect())
}

fn check_attributes(attributes: &[u8]) -> Result<(), ObjectError> {
    if attributes.len() <= MAX_ATTRIBUTES {
        Ok(())
    } else {
        let text = "the attributes of the object take more than 64 KiB";
        Err(ObjectError::TooLarge(text.to_owned()))
    }
}

/// NUL separates identifier and owner in the store.
fn is_uid(uid: &str) -> bool {
    (1..=MAX_UID).contains(&uid.len()) && !uid.contains('\0')
}

fn check_terms(terms: &[String]) -> Result<(), ObjectError> {
    let plain = |term: &String| !term.is_empty() && term.len() <= MAX_TERM && !term.contains('\0');
    if terms.len() <= MAX_TERMS && terms.iter().all(plain) {
        Ok(())
    } else {
        let text = "an object has at most 48 search terms of 1 to 512 bytes without NUL";
        Err(ObjectError::TooLarge(text.to_owned()))
    }
}
