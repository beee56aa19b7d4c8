//! The client's side without I/O: [`Client`] makes the bytes of a request and reads the bytes of
//! its response; whoever holds the connection carries them.
//!
//! ```
//! use kmip::{Version, client::Client};
//! let client = Client::new(Version::V1_4);
//! let frame = client.request(kmip::client::get("a-key")).unwrap();
//! assert_eq!(kmip::ttlv::frame_len(&frame, 1 << 20), Ok(Some(frame.len())));
//! ```

use wiped::Wiped;

use crate::attribute::{
    Attribute, AttributeRef, Attributes, Name, RevocationReason, UniqueIdentifier,
};
use crate::enums::*;
use crate::message::{
    Authentication, Credential, DecodeError, EncodeError, Outcome, RequestHeader, RequestItem,
    RequestMessage, ResponseMessage, UsernameAndPassword,
};
use crate::object::{KeyBlock, Object, SecretData};
use crate::op::{self, Answer, Operation};
use crate::ttlv::Limits;
use crate::version::Version;
use crate::wire::{SecretBytes, SecretText};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server's bytes cannot be read.
    #[error("the server's answer cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The server refused.
    #[error("the server refused: {reason:?}: {message}")]
    Refused {
        /// Code.
        reason: ResultReason,
        /// The server's text.
        message: String,
    },
    /// The server answered something else than was asked.
    #[error("the server answered {found} items where {expected} were asked")]
    Unexpected {
        /// Items asked.
        expected: usize,
        /// Items answered.
        found: usize,
    },
    /// The server will answer later, which was not asked for.
    #[error("the server answers later; poll for it")]
    Pending,
}

/// Version and options of one client.
#[derive(Debug)]
pub struct Client {
    version: Version,
    limits: Limits,
    login: Option<(String, SecretText)>,
    maximum_response_size: Option<i32>,
}

impl Client {
    /// A client that speaks `version`.
    pub fn new(version: Version) -> Self {
        Self { version, limits: Limits::default(), login: None, maximum_response_size: None }
    }

    /// Sends a user name and password with each request.
    pub fn with_login(mut self, username: impl Into<String>, password: SecretText) -> Self {
        self.login = Some((username.into(), password));
        self
    }

    /// Asks the server for at most `bytes` and takes no more.
    pub fn with_maximum_response_size(mut self, bytes: i32) -> Self {
        self.maximum_response_size = Some(bytes);
        self.limits.frame = usize::try_from(bytes).unwrap_or(0);
        self
    }

    /// The bytes of a request with one item.
    ///
    /// # Errors
    /// [`EncodeError`] when the version lacks the operation.
    pub fn request(&self, operation: impl Into<Operation>) -> Result<Wiped, EncodeError> {
        self.batch([operation.into()])
    }

    /// The bytes of a request with several items, done in order; each gets its number as ID.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn batch(
        &self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Result<Wiped, EncodeError> {
        let mut items: Vec<_> = operations.into_iter().map(RequestItem::new).collect();
        let mut header = RequestHeader::new(self.version);
        header.maximum_response_size = self.maximum_response_size;
        header.authentication = self.login.as_ref().map(|(username, password)| Authentication {
            credentials: vec![Credential::UsernameAndPassword(UsernameAndPassword {
                username: username.clone(),
                password: Some(password.expose(SecretText::copy_from)),
            })],
        });
        if items.len() > 1 {
            header.batch_order = Some(true);
            for (number, item) in (1u32..).zip(&mut items) {
                item.id = Some(number.to_be_bytes().to_vec());
            }
        }
        RequestMessage { version: self.version, header, items }.encode()
    }

    /// Reads the answer to a request with one item.
    ///
    /// # Errors
    /// [`ClientError`] when it cannot be read or the server refused.
    pub fn answer(&self, frame: &[u8]) -> Result<Answer, ClientError> {
        let message = ResponseMessage::decode_within(frame, &self.limits)?;
        let found = message.items.len();
        let mut items = message.items.into_iter();
        let (Some(item), None) = (items.next(), items.next()) else {
            return Err(ClientError::Unexpected { expected: 1, found });
        };
        outcome(item.outcome)
    }

    /// Reads the answers to a request with several items, one result each.
    ///
    /// # Errors
    /// [`ClientError::Decode`] when the message as a whole cannot be read.
    pub fn answers(&self, frame: &[u8]) -> Result<Vec<Result<Answer, ClientError>>, ClientError> {
        let message = ResponseMessage::decode_within(frame, &self.limits)?;
        Ok(message.items.into_iter().map(|item| outcome(item.outcome)).collect())
    }
}

fn outcome(outcome: Outcome) -> Result<Answer, ClientError> {
    let refused = |failure: Option<crate::message::Failure>| {
        let reason = failure.as_ref().map_or(ResultReason::GeneralFailure, |f| f.reason);
        let message = failure.and_then(|f| f.message).unwrap_or_default();
        ClientError::Refused { reason, message }
    };
    match outcome {
        Outcome::Success(answer) => Ok(answer),
        Outcome::Failed(failure) => Err(refused(Some(failure))),
        Outcome::Undone { failure, .. } => Err(refused(failure)),
        Outcome::Pending(_) => Err(ClientError::Pending),
    }
}

/// Get by identifier.
pub fn get(id: &str) -> op::get::Request {
    op::get::Request { id: Some(id.into()), ..Default::default() }
}

/// Create a symmetric key of `bits` bits with the given usage mask; `more` adds attributes such as
/// Name or Object Group.
pub fn create(
    algorithm: CryptographicAlgorithm,
    bits: i32,
    usage: i32,
    more: impl IntoIterator<Item = Attribute>,
) -> op::create::Request {
    let mut attributes = key_attributes(algorithm, bits, usage);
    more.into_iter().for_each(|attribute| attributes.push(attribute));
    op::create::Request {
        object_type: ObjectType::SymmetricKey,
        attributes,
        protection_storage_masks: None,
    }
}

/// Register a symmetric key in Raw form.
pub fn register_key(
    material: SecretBytes,
    algorithm: CryptographicAlgorithm,
    usage: i32,
    more: impl IntoIterator<Item = Attribute>,
) -> op::register::Request {
    let bits = i32::try_from(material.len() * 8).unwrap_or(i32::MAX);
    let mut attributes = key_attributes(algorithm, bits, usage);
    more.into_iter().for_each(|attribute| attributes.push(attribute));
    let block = KeyBlock::raw(material, Some(algorithm), Some(bits));
    op::register::Request::new(Object::SymmetricKey(block), attributes)
}

/// Register secret data such as a password, kept as opaque bytes.
pub fn register_secret(
    kind: SecretDataType,
    material: SecretBytes,
    more: impl IntoIterator<Item = Attribute>,
) -> op::register::Request {
    let mut block = KeyBlock::raw(material, None, None);
    block.format = KeyFormatType::Opaque;
    let mut attributes = Attributes::default();
    attributes.push(Attribute::CryptographicUsageMask(0));
    more.into_iter().for_each(|attribute| attributes.push(attribute));
    op::register::Request::new(Object::SecretData(SecretData { kind, block }), attributes)
}

fn key_attributes(algorithm: CryptographicAlgorithm, bits: i32, usage: i32) -> Attributes {
    Attributes::from_iter([
        Attribute::CryptographicAlgorithm(algorithm),
        Attribute::CryptographicLength(bits),
        Attribute::CryptographicUsageMask(usage),
    ])
}

/// Locate everything that has all of `filters`.
pub fn locate(filters: impl IntoIterator<Item = Attribute>) -> op::locate::Request {
    op::locate::Request { attributes: filters.into_iter().collect(), ..Default::default() }
}

/// Locate by name.
pub fn locate_name(name: &str) -> op::locate::Request {
    locate([Attribute::Name(Name::text(name))])
}

/// Locate one never-used key of an object group.
pub fn locate_fresh(group: &str) -> op::locate::Request {
    op::locate::Request {
        maximum_items: Some(1),
        object_group_member: Some(ObjectGroupMember::GroupMemberFresh),
        ..locate([Attribute::ObjectGroup(group.to_owned())])
    }
}

/// Attributes of an object; no `names` asks for all.
pub fn get_attributes(
    id: &str,
    names: impl IntoIterator<Item = AttributeRef>,
) -> op::get_attributes::Request {
    op::get_attributes::Request { id: Some(id.into()), attributes: names.into_iter().collect() }
}

/// Names of the attributes of an object.
pub fn get_attribute_list(id: &str) -> op::get_attribute_list::Request {
    op::get_attribute_list::Request { id: Some(id.into()) }
}

/// Activate.
pub fn activate(id: &str) -> op::activate::Request {
    op::activate::Request { id: Some(id.into()) }
}

/// Revoke for `code`.
pub fn revoke(id: &str, code: RevocationReasonCode) -> op::revoke::Request {
    op::revoke::Request {
        id: Some(UniqueIdentifier::from(id)),
        reason: RevocationReason { code, message: None },
        compromise_occurrence_date: None,
    }
}

/// Destroy.
pub fn destroy(id: &str) -> op::destroy::Request {
    op::destroy::Request { id: Some(id.into()) }
}

/// Query.
pub fn query(functions: impl IntoIterator<Item = QueryFunction>) -> op::query::Request {
    op::query::Request { functions: functions.into_iter().collect(), groups: None }
}

/// Discover every version the server speaks.
pub fn discover_versions() -> op::discover_versions::Request {
    op::discover_versions::Request::default()
}
