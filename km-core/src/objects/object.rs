//! What an object is: its record, its keys in the store, and the bounds of both.

use serde::{Deserialize, Serialize, Serializer};

use super::{BadObjectStep, ObjectState};
use crate::{
    hsm::{Custody, HsmError},
    ids::SaeId,
    provenance::Provenance,
    random::RandomError,
    records::{self, RecordError},
    vault::SealedObject,
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Stored")]
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

/// Its record: the fields of [`Object`] in their order, and what was added.
#[derive(Deserialize)]
struct Stored {
    uid: String,
    owner: SaeId,
    state: ObjectState,
    sealed: Option<SealedObject>,
    provenance: Provenance,
    created_ms: u64,
    attributes: Vec<u8>,
    terms: Vec<String>,
    #[serde(deserialize_with = "records::added")]
    custody: Option<Custody>,
}

impl From<Stored> for Object {
    fn from(stored: Stored) -> Self {
        let Stored { uid, owner, state, sealed, mut provenance, .. } = stored;
        provenance.tell_custody(stored.custody);
        let Stored { created_ms, attributes, terms, .. } = stored;
        Self { uid, owner, state, sealed, provenance, created_ms, attributes, terms }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, into: S) -> Result<S::Ok, S::Error> {
        let Self { uid, owner, state, sealed, provenance, created_ms, attributes, terms } = self;
        let fields = (uid, owner, state, sealed, provenance, created_ms, attributes, terms);
        records::with_added(&fields, provenance.custody().as_ref(), into)
    }
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

pub(crate) const OBJECT: &[u8] = b"object/";
pub(super) const INDEX: &[u8] = b"index/";

/// Several applications may each hold a pool key under its one identifier.
pub(super) fn object_key(uid: &str, owner: &SaeId) -> Vec<u8> {
    [&copies_prefix(uid), owner.as_str().as_bytes()].concat()
}

/// Every owner's object of this identifier.
pub(super) fn copies_prefix(uid: &str) -> Vec<u8> {
    [OBJECT, uid.as_bytes(), b"\0"].concat()
}

/// Every object of `owner` that has `term`, the newest first.
pub(super) fn index_prefix(owner: &SaeId, term: &str) -> Vec<u8> {
    [INDEX, owner.as_str().as_bytes(), b"\0", term.as_bytes(), b"\0"].concat()
}

/// An object's place among those that have a term. Inverted, so that the newest comes first; of the
/// same millisecond, identifiers of one generator are in order too.
fn index_place(created_ms: u64, uid: &str) -> impl Iterator<Item = u8> {
    created_ms.to_be_bytes().into_iter().chain(uid.bytes()).map(|byte| !byte)
}

/// The identifier in what [`index_place`] gave.
pub(super) fn placed_uid(place: &[u8]) -> String {
    let uid: Vec<u8> = place.iter().skip(size_of::<u64>()).map(|byte| !byte).collect();
    String::from_utf8_lossy(&uid).into_owned()
}

impl Object {
    pub(super) fn index_keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let place = self.place();
        self.terms.iter().map(move |term| [&index_prefix(&self.owner, term)[..], &place].concat())
    }

    /// Its place among those that have a term.
    pub(super) fn place(&self) -> Vec<u8> {
        index_place(self.created_ms, &self.uid).collect()
    }
}

/// Names this sealing of this object among all.
pub(super) fn sealing(object: &Object, sealed: &SealedObject) -> Vec<u8> {
    let mut name = object_key(&object.uid, &object.owner);
    name.extend_from_slice(sealed.nonce());
    name
}

pub(super) fn missing(uid: &str) -> ObjectError {
    ObjectError::NotFound(uid.chars().take(MAX_UID).collect())
}

pub(super) fn check_attributes(attributes: &[u8]) -> Result<(), ObjectError> {
    if attributes.len() <= MAX_ATTRIBUTES {
        Ok(())
    } else {
        let text = "the attributes of the object take more than 64 KiB";
        Err(ObjectError::TooLarge(text.to_owned()))
    }
}

/// NUL separates identifier and owner in the store.
pub(super) fn is_uid(uid: &str) -> bool {
    (1..=MAX_UID).contains(&uid.len()) && !uid.contains('\0')
}

pub(super) fn check_terms(terms: &[String]) -> Result<(), ObjectError> {
    let plain = |term: &String| !term.is_empty() && term.len() <= MAX_TERM && !term.contains('\0');
    if terms.len() <= MAX_TERMS && terms.iter().all(plain) {
        Ok(())
    } else {
        let text = "an object has at most 48 search terms of 1 to 512 bytes without NUL";
        Err(ObjectError::TooLarge(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::LinkId,
        provenance::{Combination, CombineMethod},
        usage::kem::KemSet,
    };

    /// Of a key combined with ML-KEM, as the version before that of [`Combination::custody`] wrote it.
    const OLD: &[u8] = b"\x01u\x02n1\x01\x00\x00\x02l1\x00\x00\x01\x00\x00\x09\x01\x2a\x01\x01t";

    #[test]
    fn an_object_of_before_opens_and_what_was_added_is_at_the_end_of_its_record() {
        let mut provenance = Provenance::direct(LinkId::parse("l1").unwrap());
        let (kem, method) = (KemSet::MlKem768, CombineMethod::Xor);
        provenance.combined = Some(Combination { kem, method, custody: None });
        let object = Object {
            uid: "u".into(),
            owner: SaeId::parse("n1").unwrap(),
            state: ObjectState::Active,
            sealed: None,
            provenance,
            created_ms: 9,
            attributes: vec![42],
            terms: vec!["t".into()],
        };
        assert_eq!(postcard::from_bytes::<Object>(OLD).unwrap(), object);
        assert_eq!(postcard::to_allocvec(&object).unwrap(), OLD);
        for custody in [Custody::InToken, Custody::HostTransient] {
            let mut told = object.clone();
            told.provenance.tell_custody(Some(custody));
            let new = postcard::to_allocvec(&told).unwrap();
            assert_eq!(postcard::from_bytes::<Object>(&new).unwrap(), told);
            assert!(new.starts_with(OLD), "a program of before reads what it knows first");
        }
    }
}
