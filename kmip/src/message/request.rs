//! Requests, as a server reads them and a client writes them.

use wiped::Wiped;

use super::{Credential, DecodeError, EncodeError, MessageExtension, open};
use crate::enums::{
    AsynchronousIndicator, AttestationType, BatchErrorContinuationOption, OperationCode,
};
use crate::op::Operation;
use crate::tag::Tag;
use crate::ttlv::{self, Error, Item, Limits, Type, Writer};
use crate::version::{ProtocolVersion, Version};
use crate::wire::{DateTime, Field, put, set, wire_struct};

wire_struct! {
    /// Request header. Batch Count is its last field on the wire.
    #[derive(Debug)]
    pub struct RequestHeader {
        /// Version of the message.
        version: one ProtocolVersion = ProtocolVersion @ V1_0,
        /// Largest response the client takes, in bytes.
        maximum_response_size: opt i32 = MaximumResponseSize @ V1_0,
        /// For the client's log.
        client_correlation_value: opt String = ClientCorrelationValue @ V1_4,
        /// For the server's log.
        server_correlation_value: opt String = ServerCorrelationValue @ V1_4,
        /// Whether the answer may come later.
        asynchronous: opt Asynchronous = AsynchronousIndicator @ V1_0,
        /// The client can attest.
        attestation_capable: opt bool = AttestationCapableIndicator @ V1_2,
        /// How the client can attest.
        attestation_types: many AttestationType = AttestationType @ V1_2,
        /// Credentials.
        authentication: opt Authentication = Authentication @ V1_0,
        /// What to do after a failed item; absent means Stop.
        batch_error_continuation: opt BatchErrorContinuationOption =
            BatchErrorContinuationOption @ V1_0,
        /// Items in order; see [`RequestHeader::ordered`] for the default.
        batch_order: opt bool = BatchOrderOption @ V1_0,
        /// Time at the client.
        time_stamp: opt DateTime = TimeStamp @ V1_0,
        /// Number of items.
        batch_count: one i32 = BatchCount @ V1_0,
    }
}

impl RequestHeader {
    /// A header with nothing but the version.
    pub fn new(version: Version) -> Self {
        Self {
            version: version.number(),
            maximum_response_size: None,
            client_correlation_value: None,
            server_correlation_value: None,
            asynchronous: None,
            attestation_capable: None,
            attestation_types: Vec::new(),
            authentication: None,
            batch_error_continuation: None,
            batch_order: None,
            time_stamp: None,
            batch_count: 0,
        }
    }

    /// Whether items must be done in order. The default changed from no (1.x) to yes (2.x).
    pub fn ordered(&self) -> bool {
        self.batch_order.unwrap_or(self.version.major >= 2)
    }
}

/// Asynchronous Indicator: an enumeration in 2.x, a Boolean ("may") in 1.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asynchronous(pub AsynchronousIndicator);

impl Field for Asynchronous {
    fn read(item: &Item<'_>) -> ttlv::Result<Self> {
        Ok(Self(match item.kind() {
            Type::Boolean if item.boolean()? => AsynchronousIndicator::Optional,
            Type::Boolean => AsynchronousIndicator::Prohibited,
            _ => Field::read(item)?,
        }))
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        if version.is_v2() {
            self.0.write(w, tag, version);
        } else {
            w.boolean(tag, self.0 != AsynchronousIndicator::Prohibited);
        }
    }
}

/// The credentials of a request.
#[derive(Debug, Default)]
pub struct Authentication {
    /// In the order sent.
    pub credentials: Vec<Credential>,
}

impl Field for Authentication {
    /// Takes Credential structures, and the two forms seen in the field besides: the fields of one
    /// credential without their structure, and Authentication inside Authentication.
    fn read(item: &Item<'_>) -> ttlv::Result<Self> {
        let mut credentials = Vec::new();
        if item.child(Tag::CredentialType)?.is_some() {
            credentials.push(Credential::read(item)?);
        }
        for child in item.children()? {
            match child.tag() {
                Tag::Credential => credentials.push(Credential::read(&child)?),
                Tag::Authentication => credentials.extend(Self::read(&child)?.credentials),
                _ => {}
            }
        }
        Ok(Self { credentials })
    }

    fn write(&self, w: &mut Writer, tag: Tag, version: Version) {
        w.structure(tag, |w| {
            for credential in &self.credentials {
                put(credential, w, Tag::Credential, version);
            }
        });
    }

    fn known(&self, version: Version) -> bool {
        self.credentials.iter().any(|credential| credential.known(version))
    }
}

/// One item of a request.
#[derive(Debug)]
pub struct RequestItem {
    /// Which operation, also when its payload could not be read.
    pub code: OperationCode,
    /// Unique Batch Item ID, to be sent back.
    pub id: Option<Vec<u8>>,
    /// Do not send back what the operation gives (2.0).
    pub ephemeral: Option<bool>,
    /// The operation, or why its payload could not be read.
    pub operation: Result<Operation, Error>,
    /// Additions outside the standard.
    pub extensions: Vec<MessageExtension>,
}

impl RequestItem {
    /// An item without an ID.
    pub fn new(operation: Operation) -> Self {
        let code = operation.code();
        Self { code, id: None, ephemeral: None, operation: Ok(operation), extensions: Vec::new() }
    }

    fn read(item: &Item<'_>) -> ttlv::Result<Self> {
        let (mut code, mut id, mut ephemeral) = (None, None, None);
        let (mut extensions, mut payload) = (Vec::new(), None);
        for child in item.children()? {
            match child.tag() {
                Tag::Operation => set(&mut code, &child)?,
                Tag::UniqueBatchItemID => set(&mut id, &child)?,
                Tag::Ephemeral => set(&mut ephemeral, &child)?,
                Tag::MessageExtension => extensions.push(Field::read(&child)?),
                Tag::RequestPayload if payload.is_some() => {
                    return Err(Error::Repeated { offset: child.offset(), tag: child.tag() });
                }
                Tag::RequestPayload => payload = Some(child),
                _ => {}
            }
        }
        let missing = |tag| Error::Missing { offset: item.offset(), tag };
        let code = code.ok_or(missing(Tag::Operation))?;
        let operation = payload
            .ok_or(missing(Tag::RequestPayload))
            .and_then(|payload| Operation::read(code, &payload));
        Ok(Self { code, id, ephemeral, operation, extensions })
    }

    fn write(&self, w: &mut Writer, operation: &Operation, version: Version) {
        w.structure(Tag::BatchItem, |w| {
            self.code.write(w, Tag::Operation, version);
            if let Some(ephemeral) = self.ephemeral.filter(|_| version.is_v2()) {
                w.boolean(Tag::Ephemeral, ephemeral);
            }
            if let Some(id) = &self.id {
                w.bytes(Tag::UniqueBatchItemID, id);
            }
            operation.write(w, version);
            for extension in &self.extensions {
                extension.write(w, Tag::MessageExtension, version);
            }
        });
    }
}

/// A request.
#[derive(Debug)]
pub struct RequestMessage {
    /// Version of the message, which is also that of the answer.
    pub version: Version,
    /// Header.
    pub header: RequestHeader,
    /// Items in order.
    pub items: Vec<RequestItem>,
}

impl RequestMessage {
    /// Reads a whole frame under the default [`Limits`].
    ///
    /// # Errors
    /// See [`DecodeError`]; a payload that cannot be read is no error here but in its item.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_within(frame, &Limits::default())
    }

    /// Reads a whole frame under `limits`.
    ///
    /// # Errors
    /// As [`RequestMessage::decode`].
    pub fn decode_within(frame: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let opened = open(frame, limits, Tag::RequestMessage, Tag::RequestHeader)?;
        let version = opened.version;
        let refuse = |error| DecodeError::Frame { version: Some(version), error };
        let header = RequestHeader::read(&opened.header).map_err(refuse)?;
        let items = opened.items.iter().map(RequestItem::read).collect::<Result<_, _>>();
        Ok(Self { version, header, items: items.map_err(refuse)? })
    }

    /// Writes the request; Batch Count is set from the items. `header.version` must be `version`.
    ///
    /// # Errors
    /// [`EncodeError`] when an item cannot be said in this version.
    pub fn encode(&self) -> Result<Wiped, EncodeError> {
        let version = self.version;
        let mut w = Writer::default();
        let message = w.open(Tag::RequestMessage);
        self.header.write(&mut w, Tag::RequestHeader, version);
        let count = w.last_integer();
        w.patch_integer(count, i32::try_from(self.items.len()).unwrap_or(i32::MAX));
        for item in &self.items {
            match &item.operation {
                Ok(operation) if operation.known(version) => item.write(&mut w, operation, version),
                _ => return Err(EncodeError::NotInVersion { operation: item.code, version }),
            }
        }
        w.close(message);
        Ok(w.finish())
    }
}
