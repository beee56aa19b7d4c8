//! Managed objects: named, sealed one by one, with a KMIP life cycle. Enter through [`Objects`].
//!
//! What an object means to a protocol (its attributes) is opaque here; what the domain must know
//! (owner, state, provenance, where its sealed bytes are) is not.

mod changing;
mod flight;
mod kept;
mod making;
mod object;
mod quota;
mod reseal;
mod state;
mod using;
mod walk;

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use flight::Flights;
pub(crate) use object::OBJECT;
pub use object::{MAX_ATTRIBUTES, MAX_HOLDERS, MAX_TERMS, MAX_UID, NewObject, Object, ObjectError};
use object::{copies_prefix, index_prefix, is_uid, missing, object_key, placed_uid, sealing};
use quota::Quotas;
pub use quota::{Place, Quota};
pub use state::{BadObjectStep, ObjectState, ObjectStep};
pub use walk::{Walk, WalkError};

use crate::{
    epoch::Pin,
    hsm::HsmError,
    ids::SaeId,
    material::ClearBytes,
    records::{RecordError, Records},
    store::{Commit, MAX_RANGE, Outcome, Record, Staged, Version},
    vault::{Kind, SealedObject, Vault},
};

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
    /// Of whose new objects each may be, as its client asks.
    as_asked: Arc<BTreeSet<SaeId>>,
    /// All of them are: these objects were asked for so.
    all_inside: bool,
    quotas: Arc<Quotas>,
}

impl Objects {
    /// Objects over these records and this vault.
    pub fn new(records: Records, vault: Vault) -> Self {
        let (flights, quotas, inside, as_asked) = Default::default();
        Self {
            records,
            vault,
            flights,
            staged: None,
            token_only: false,
            inside,
            as_asked,
            all_inside: false,
            quotas,
        }
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
        let decode = |record: Record| self.records.decode(&record.key, &record.value);
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

    /// Identifiers of the newest of `owner`'s objects that have `term`, at most `limit`; all of them:
    /// [`Walk`].
    pub async fn search(
        &self,
        owner: &SaeId,
        term: &str,
        limit: usize,
    ) -> Result<Vec<String>, ObjectError> {
        let places = self.listed(owner, term, None, limit).await?;
        Ok(places.iter().map(|place| placed_uid(place)).collect())
    }

    /// Where the objects of `owner` that have `term` stand among these, the newest first, after a place.
    async fn listed(
        &self,
        owner: &SaeId,
        term: &str,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, ObjectError> {
        let prefix = index_prefix(owner, term);
        let after = match after {
            Some(place) => Bound::Excluded([&prefix, place].concat()),
            None => Bound::Unbounded,
        };
        let page = self.records.store().range(&prefix, after, limit.min(MAX_RANGE)).await;
        let page = page.map_err(RecordError::from)?.into_iter();
        let place = |record: Record| record.key.get(prefix.len()..).unwrap_or_default().to_vec();
        Ok(page.map(place).collect())
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
