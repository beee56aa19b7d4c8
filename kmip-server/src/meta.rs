//! What the server keeps with an object besides its sealed bytes: [`Meta`], a compact head that
//! every operation reads, and the remaining attributes, which few do.
//!
//! Stored form: one format byte, the head in postcard, then the remaining attributes in TTLV (those
//! KMIP 2.1 can say as 2.1 says them, the others as 1.4 does).

use km_core::objects::{Object, ObjectState};
use kmip::{
    Field, Version,
    attribute::{Attribute, AttributeKind, Attributes},
    enums::{CryptographicAlgorithm, KeyFormatType, LinkType, ObjectType},
    object::KeyWrappingData,
    op::get_attributes::Response as Row,
    tag::Tag,
    ttlv::{self, Writer},
};
use serde::{Deserialize, Serialize};

use crate::{error::OpError, numbering, usage_limits};

/// The format byte stored attributes start with.
const FORMAT: u8 = 1;

/// Times of an object's life, seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dates {
    pub(crate) initial: i64,
    pub(crate) changed: i64,
    pub(crate) original: Option<i64>,
    pub(crate) activation: Option<i64>,
    pub(crate) process_start: Option<i64>,
    pub(crate) protect_stop: Option<i64>,
    pub(crate) deactivation: Option<i64>,
    pub(crate) destroyed: Option<i64>,
    pub(crate) compromise_occurrence: Option<i64>,
    pub(crate) compromise: Option<i64>,
    /// Since when it is in archival storage, if it is.
    pub(crate) archived: Option<i64>,
}

impl Dates {
    /// A date must not lie before the one it follows; else the attribute to blame.
    pub(crate) fn check(&self) -> Result<(), OpError> {
        let order = [
            (self.activation, self.deactivation, AttributeKind::DeactivationDate),
            (self.activation, self.process_start, AttributeKind::ProcessStartDate),
            (self.process_start, self.deactivation, AttributeKind::ProcessStartDate),
            (self.protect_stop, self.deactivation, AttributeKind::ProtectStopDate),
        ];
        for (first, second, kind) in order {
            if first.zip(second).is_some_and(|(first, second)| second < first) {
                return Err(OpError::invalid(kind, "the dates of the object are out of order"));
            }
        }
        Ok(())
    }
}

/// Form of the sealed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Form {
    /// The bytes of Key Material, of an opaque object or of a certificate.
    Bytes,
    /// The fields of a transparent key, still TTLV.
    Transparent,
    /// A wrapped Key Value: a byte string in place of the structure.
    WrappedValue,
}

/// What tells one part of a split key from the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) parts: i32,
    pub(crate) part: i32,
    pub(crate) threshold: i32,
    pub(crate) method: u32,
    /// Prime Field Size.
    pub(crate) prime: Option<Vec<u8>>,
}

/// Bits of a key that nobody guesses from its hash.
const UNGUESSABLE: usize = 128;

/// Whether the hash of an object may stand in the store: from the hash of a password, of data
/// nobody knows anything about, or of a short key, its bytes could be guessed.
fn hash_is_public(kind: ObjectType, len: usize) -> bool {
    match kind {
        ObjectType::Certificate | ObjectType::CertificateRequest | ObjectType::PublicKey => true,
        ObjectType::SymmetricKey | ObjectType::PrivateKey => len * 8 >= UNGUESSABLE,
        _ => false,
    }
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

/// The object that a link of this kind among the attributes leads to.
pub(crate) fn linked(rest: &Attributes, kind: LinkType) -> Option<&str> {
    rest.iter().find_map(|attribute| match attribute {
        Attribute::Link(link) if link.kind == kind => link.target.as_text(),
        _ => None,
    })
}

/// What was not so from the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Locked {
    pub(crate) sensitive: bool,
    pub(crate) not_extractable: bool,
}

/// The head. Numbers are those of the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    kind: u32,
    pub(crate) form: Form,
    /// Key Format Type, for objects with a key block.
    format: Option<u32>,
    /// Secret Data Type, Opaque Data Type, Certificate Type, Certificate Request Type or PGP Key
    /// Version.
    pub(crate) subtype: u32,
    /// Key Compression Type.
    pub(crate) compression: Option<u32>,
    algorithm: Option<u32>,
    /// Cryptographic Length in bits.
    pub(crate) length: Option<i32>,
    pub(crate) usage_mask: Option<i32>,
    /// SHA-256 of the bytes, when it is safe to keep in clear; see [`hash_is_public`].
    pub(crate) digest: Option<[u8; 32]>,
    /// Length of the bytes.
    pub(crate) bytes: u32,
    /// Never given to a client.
    pub(crate) fresh: bool,
    pub(crate) sensitive: bool,
    pub(crate) extractable: bool,
    /// Key Wrapping Data in TTLV, when the client brought the key wrapped.
    pub(crate) wrapping: Option<Vec<u8>>,
    /// Which part it is, for a Split Key.
    pub(crate) part: Option<Part>,
    /// It became sensitive, or ceased to be extractable, after it was made.
    pub(crate) locked_later: Locked,
    /// Indices (1.x) of the remaining attributes, where deletions left gaps; else empty.
    numbers: Vec<i32>,
    /// Among the remaining attributes are Usage Limits.
    pub(crate) limited: bool,
    /// Made in the token, and never outside it.
    pub(crate) in_token: bool,
    pub(crate) dates: Dates,
    /// Revocation reason: code and text.
    pub(crate) revocation: Option<(u32, Option<String>)>,
}

impl Meta {
    /// The head of an object that holds `bytes`, made at `now`.
    pub(crate) fn new(kind: ObjectType, form: Form, bytes: &[u8], now: i64) -> Self {
        let digest = hash_is_public(kind, bytes.len()).then(|| sha256(bytes));
        Self {
            kind: kind.number(),
            form,
            format: None,
            subtype: 0,
            compression: None,
            algorithm: None,
            length: None,
            usage_mask: None,
            digest,
            bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            fresh: true,
            sensitive: false,
            extractable: true,
            wrapping: None,
            part: None,
            locked_later: Locked::default(),
            numbers: Vec::new(),
            limited: false,
            in_token: false,
            dates: Dates { initial: now, changed: now, ..Dates::default() },
            revocation: None,
        }
    }

    /// The head of a key of `len` bytes that was made in the token at `now` and stays there.
    /// [`crate::wanted::Wanted::apply`] comes after; it cannot make the key leave.
    pub(crate) fn unseen(kind: ObjectType, len: usize, now: i64) -> Self {
        let mut meta = Self::new(kind, Form::Bytes, &[], now);
        meta.bytes = u32::try_from(len).unwrap_or(u32::MAX);
        meta.dates.original = Some(now);
        meta.in_token = true;
        meta
    }

    pub(crate) fn kind(&self) -> ObjectType {
        ObjectType::from_number(self.kind)
    }

    pub(crate) fn format(&self) -> Option<KeyFormatType> {
        self.format.map(KeyFormatType::from_number)
    }

    pub(crate) fn set_format(&mut self, format: KeyFormatType) {
        self.format = Some(format.number());
    }

    /// How the stored bytes are wrapped, when the client brought them so.
    pub(crate) fn wrapping_data(&self) -> Option<KeyWrappingData> {
        let bytes = self.wrapping.as_deref()?;
        let item = ttlv::parse(bytes, &ttlv::Limits::default()).ok()?;
        KeyWrappingData::read(&item).ok()
    }

    pub(crate) fn set_wrapping(&mut self, data: &KeyWrappingData) {
        let mut w = Writer::default();
        data.write(&mut w, Tag::KeyWrappingData, Version::V2_1);
        self.wrapping = Some(w.finish().to_vec());
    }

    pub(crate) fn algorithm(&self) -> Option<CryptographicAlgorithm> {
        self.algorithm.map(CryptographicAlgorithm::from_number)
    }

    pub(crate) fn set_algorithm(&mut self, algorithm: CryptographicAlgorithm) {
        self.algorithm = Some(algorithm.number());
    }

    /// The state at `now`: dates that have passed count although nobody wrote them down yet.
    pub(crate) fn state_at(&self, stored: ObjectState, now: i64) -> ObjectState {
        let passed = |date: Option<i64>| date.is_some_and(|date| date <= now);
        let mut state = stored;
        if state == ObjectState::PreActive && passed(self.dates.activation) {
            state = ObjectState::Active;
        }
        if state == ObjectState::Active && passed(self.dates.deactivation) {
            state = ObjectState::Deactivated;
        }
        state
    }

    /// The stored form of this head with `rest`.
    pub(crate) fn encode(&self, rest: &Attributes) -> Vec<u8> {
        let (numbers, limited) = (numbering::of(rest), usage_limits::of(rest).is_some());
        let mut bytes = Self { numbers, limited, ..self.clone() }.head();
        if !rest.is_empty() {
            bytes.extend_from_slice(&encode_list(rest));
        }
        bytes
    }

    fn head(&self) -> Vec<u8> {
        // Plain data: postcard has a form for all of it.
        postcard::to_extend(self, vec![FORMAT]).unwrap_or_default()
    }

    /// Reads the head alone.
    pub(crate) fn of(object: &Object) -> Result<Self, OpError> {
        split(object).map(|(meta, _)| meta)
    }

    /// Reads head and remaining attributes.
    pub(crate) fn with_rest(object: &Object) -> Result<(Self, Attributes), OpError> {
        let (meta, rest) = split(object)?;
        let mut rest = decode_list(rest).map_err(|_| damaged(object))?;
        numbering::apply(&mut rest, &meta.numbers);
        Ok((meta, rest))
    }

    /// Changes the head of a stored object and leaves the remaining attributes as they are.
    pub(crate) fn change(object: &mut Object, change: impl FnOnce(&mut Self)) {
        let Ok((mut meta, rest)) = split(object) else { return };
        change(&mut meta);
        let mut bytes = meta.head();
        bytes.extend_from_slice(rest);
        object.attributes = bytes;
    }
}

fn split(object: &Object) -> Result<(Meta, &[u8]), OpError> {
    let (format, head) = object.attributes.split_first().ok_or_else(|| damaged(object))?;
    if *format != FORMAT {
        let text = format!("object {} was stored by a newer qkm; use that one", object.uid);
        return Err(OpError::Internal(text));
    }
    postcard::take_from_bytes(head).map_err(|_| damaged(object))
}

fn damaged(object: &Object) -> OpError {
    OpError::Internal(format!("the attributes of object {} cannot be read", object.uid))
}

/// A list of attributes as it is stored.
pub(crate) fn encode_list(rest: &Attributes) -> Vec<u8> {
    let (new, old): (Vec<_>, Vec<_>) =
        rest.iter().cloned().partition(|attribute| attribute.known(Version::V2_1));
    let mut w = Writer::default();
    w.structure(Tag::ResponsePayload, |w| {
        for (list, version) in [(new, Version::V2_1), (old, Version::V1_4)] {
            let row = Row { id: String::new(), attributes: list.into_iter().collect() };
            row.write(w, Tag::ResponsePayload, version);
        }
    });
    w.finish().to_vec()
}

/// Reads a stored list of attributes.
pub(crate) fn decode_list(bytes: &[u8]) -> ttlv::Result<Attributes> {
    if bytes.is_empty() {
        return Ok(Attributes::default());
    }
    let root = ttlv::parse(bytes, &ttlv::Limits::default())?;
    let mut all = Attributes::default();
    for row in root.children()? {
        for instance in Row::read(&row)?.attributes.list {
            all.push(instance.attribute);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmip::attribute::{Attribute, Name, VendorAttribute};

    #[test]
    fn attributes_of_every_version_come_back() {
        let rest: Attributes = [
            Attribute::Name(Name::text("alpha")),
            Attribute::OperationPolicyName("default".into()),
            Attribute::Vendor(VendorAttribute {
                vendor: "acme".into(),
                name: "shelf".into(),
                value: kmip::ttlv::Value::Integer(7),
            }),
            Attribute::RotateGeneration(3),
        ]
        .into_iter()
        .collect();
        let read: Vec<_> = decode_list(&encode_list(&rest)).unwrap().iter().cloned().collect();
        assert_eq!(read.len(), 4);
        assert!(rest.iter().all(|attribute| read.contains(attribute)));
    }
}
