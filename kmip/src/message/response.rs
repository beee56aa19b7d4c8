//! Responses. The server writes item by item through [`ResponseWriter`], so that it can measure,
//! take back and stop; the client reads a [`ResponseMessage`].

use wiped::Wiped;

use super::{DecodeError, MessageExtension, Nonce, open};
use crate::enums::{AttestationType, OperationCode, ResultReason, ResultStatus};
use crate::op::Answer;
use crate::tag::Tag;
use crate::ttlv::{self, Error, Item, Limits, Mark, Writer};
use crate::version::{ProtocolVersion, Version};
use crate::wire::{DateTime, Field, SecretBytes, set, wire_struct};

wire_struct! {
    /// Response header. Batch Count is its last field on the wire.
    #[derive(Debug)]
    pub struct ResponseHeader {
        /// Version of the message.
        version: one ProtocolVersion = ProtocolVersion @ V1_0,
        /// Time at the server.
        time_stamp: opt DateTime = TimeStamp @ V1_0,
        /// Challenge for an attestation.
        nonce: opt Nonce = Nonce @ V1_2,
        /// Proof of the server towards a Hashed Password credential.
        server_hashed_password: opt SecretBytes = ServerHashedPassword @ V2_0,
        /// How the client may attest.
        attestation_types: many AttestationType = AttestationType @ V1_2,
        /// Sent back.
        client_correlation_value: opt String = ClientCorrelationValue @ V1_4,
        /// For later questions about this answer.
        server_correlation_value: opt String = ServerCorrelationValue @ V1_4,
        /// Number of items; [`ResponseWriter`] sets it.
        batch_count: one i32 = BatchCount @ V1_0,
    }
}

impl ResponseHeader {
    /// A header with version and time.
    pub fn new(version: Version, time_stamp: DateTime) -> Self {
        Self {
            version: version.number(),
            time_stamp: Some(time_stamp),
            nonce: None,
            server_hashed_password: None,
            attestation_types: Vec::new(),
            client_correlation_value: None,
            server_correlation_value: None,
            batch_count: 0,
        }
    }
}

/// Why an item failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Code; written as the nearest one that the client's version has.
    pub reason: ResultReason,
    /// Text for people.
    pub message: Option<String>,
}

/// What became of an item.
#[allow(clippy::large_enum_variant, reason = "one lives at a time, on its way to the wire")]
#[derive(Debug)]
pub enum Outcome {
    /// Done.
    Success(Answer),
    /// Not done.
    Failed(Failure),
    /// To be asked for later under this correlation value.
    Pending(Vec<u8>),
    /// Done and taken back because another item failed.
    Undone {
        /// Why, when the server says so.
        failure: Option<Failure>,
        /// What had been answered, when the server repeats it.
        answer: Option<Answer>,
    },
}

/// One item of a response.
#[derive(Debug)]
pub struct ResponseItem {
    /// The operation; absent when the request could not be read.
    pub code: Option<OperationCode>,
    /// Unique Batch Item ID of the request.
    pub id: Option<Vec<u8>>,
    /// What became of it.
    pub outcome: Outcome,
    /// Addition outside the standard.
    pub extension: Option<MessageExtension>,
}

impl ResponseItem {
    /// A successful item.
    pub fn success(id: Option<Vec<u8>>, answer: Answer) -> Self {
        let code = Some(answer.code());
        Self { code, id, outcome: Outcome::Success(answer), extension: None }
    }

    /// A failed item.
    pub fn failed(
        code: Option<OperationCode>,
        id: Option<Vec<u8>>,
        reason: ResultReason,
        message: impl Into<String>,
    ) -> Self {
        let failure = Failure { reason, message: Some(message.into()) };
        Self { code, id, outcome: Outcome::Failed(failure), extension: None }
    }

    fn read(item: &Item<'_>) -> ttlv::Result<Self> {
        let (mut code, mut id, mut status) = (None, None, None);
        let (mut reason, mut message, mut pending) = (None, None, None);
        let (mut extension, mut payload) = (None, None);
        for child in item.children()? {
            match child.tag() {
                Tag::Operation => set(&mut code, &child)?,
                Tag::UniqueBatchItemID => set(&mut id, &child)?,
                Tag::ResultStatus => set(&mut status, &child)?,
                Tag::ResultReason => set(&mut reason, &child)?,
                Tag::ResultMessage => set(&mut message, &child)?,
                Tag::AsynchronousCorrelationValue => set(&mut pending, &child)?,
                Tag::ResponsePayload => payload = Some(child),
                Tag::MessageExtension => set(&mut extension, &child)?,
                _ => {}
            }
        }
        let missing = |tag| Error::Missing { offset: item.offset(), tag };
        let failure = reason.map(|reason| Failure { reason, message });
        let outcome = match status.ok_or(missing(Tag::ResultStatus))? {
            ResultStatus::Success => {
                let payload = payload.ok_or(missing(Tag::ResponsePayload))?;
                Outcome::Success(Answer::read(code.ok_or(missing(Tag::Operation))?, &payload)?)
            }
            ResultStatus::OperationPending => {
                Outcome::Pending(pending.ok_or(missing(Tag::AsynchronousCorrelationValue))?)
            }
            ResultStatus::OperationUndone => Outcome::Undone {
                failure,
                answer: match (code, payload) {
                    (Some(code), Some(payload)) => Some(Answer::read(code, &payload)?),
                    _ => None,
                },
            },
            ResultStatus::OperationFailed | ResultStatus::Other(_) => {
                Outcome::Failed(failure.ok_or(missing(Tag::ResultReason))?)
            }
        };
        Ok(Self { code, id, outcome, extension })
    }

    fn write(&self, w: &mut Writer, version: Version) {
        w.structure(Tag::BatchItem, |w| {
            if let Some(code) = self.code {
                code.write(w, Tag::Operation, version);
            }
            if let Some(id) = &self.id {
                w.bytes(Tag::UniqueBatchItemID, id);
            }
            self.write_outcome(w, version);
            if let Some(extension) = &self.extension {
                extension.write(w, Tag::MessageExtension, version);
            }
        });
    }

    fn write_outcome(&self, w: &mut Writer, version: Version) {
        let status = |w: &mut Writer, s: ResultStatus| s.write(w, Tag::ResultStatus, version);
        match &self.outcome {
            Outcome::Success(answer) if answer.known(version) => {
                status(w, ResultStatus::Success);
                answer.write(w, version);
            }
            Outcome::Success(_) => {
                status(w, ResultStatus::OperationFailed);
                let text = format!("the object cannot be said in KMIP {version}; use a newer one");
                let reason = ResultReason::FeatureNotSupported;
                Failure { reason, message: Some(text) }.write(w, version);
            }
            Outcome::Failed(failure) => {
                status(w, ResultStatus::OperationFailed);
                failure.write(w, version);
            }
            Outcome::Pending(correlation) => {
                status(w, ResultStatus::OperationPending);
                w.bytes(Tag::AsynchronousCorrelationValue, correlation);
            }
            Outcome::Undone { failure, answer } => {
                status(w, ResultStatus::OperationUndone);
                if let Some(failure) = failure {
                    failure.write(w, version);
                }
                if let Some(answer) = answer.as_ref().filter(|answer| answer.known(version)) {
                    answer.write(w, version);
                }
            }
        }
    }
}

impl Failure {
    fn write(&self, w: &mut Writer, version: Version) {
        self.reason.in_version(version).write(w, Tag::ResultReason, version);
        if let Some(message) = &self.message {
            w.text(Tag::ResultMessage, message);
        }
    }
}

/// Writes a response item by item into a buffer that is overwritten when dropped.
pub struct ResponseWriter {
    w: Writer,
    version: Version,
    message: Mark,
    count_slot: Mark,
    count: i32,
}

/// A state to come back to with [`ResponseWriter::rollback`].
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint {
    mark: Mark,
    count: i32,
}

impl ResponseWriter {
    /// Starts a response in `version`.
    pub fn new(version: Version, header: ResponseHeader) -> Self {
        Self::start(Writer::default(), version, header)
    }

    /// As [`ResponseWriter::new`], in the memory of `buffer`; what it held is overwritten.
    pub fn over(buffer: Wiped, version: Version, header: ResponseHeader) -> Self {
        Self::start(Writer::over(buffer), version, header)
    }

    fn start(mut w: Writer, version: Version, header: ResponseHeader) -> Self {
        let message = w.open(Tag::ResponseMessage);
        let header = ResponseHeader { version: version.number(), ..header };
        header.write(&mut w, Tag::ResponseHeader, version);
        let count_slot = w.last_integer();
        Self { w, version, message, count_slot, count: 0 }
    }

    /// Adds an item.
    pub fn item(&mut self, item: &ResponseItem) {
        item.write(&mut self.w, self.version);
        self.count += 1;
    }

    /// Length of the response if it ended here, in bytes; to compare with Maximum Response Size.
    pub fn len(&self) -> usize {
        self.w.len()
    }

    /// Whether there is no item yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The present state.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { mark: self.w.mark(), count: self.count }
    }

    /// Forgets and overwrites the items added after `checkpoint`.
    pub fn rollback(&mut self, checkpoint: Checkpoint) {
        self.w.rollback(checkpoint.mark);
        self.count = checkpoint.count;
    }

    /// The finished response.
    pub fn finish(mut self) -> Wiped {
        self.w.patch_integer(self.count_slot, self.count);
        self.w.close(self.message);
        self.w.finish()
    }
}

/// The answer to a request that could not be read: one failed item without an operation.
pub fn error_response(
    version: Version,
    time_stamp: DateTime,
    reason: ResultReason,
    message: impl Into<String>,
) -> Wiped {
    let mut w = ResponseWriter::new(version, ResponseHeader::new(version, time_stamp));
    w.item(&ResponseItem::failed(None, None, reason, message));
    w.finish()
}

/// A response.
#[derive(Debug)]
pub struct ResponseMessage {
    /// Version of the message.
    pub version: Version,
    /// Header.
    pub header: ResponseHeader,
    /// Items in order.
    pub items: Vec<ResponseItem>,
}

impl ResponseMessage {
    /// Reads a whole frame under the default [`Limits`].
    ///
    /// # Errors
    /// See [`DecodeError`]; here also when an item cannot be read.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_within(frame, &Limits::default())
    }

    /// Reads a whole frame under `limits`.
    ///
    /// # Errors
    /// As [`ResponseMessage::decode`].
    pub fn decode_within(frame: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let opened = open(frame, limits, Tag::ResponseMessage, Tag::ResponseHeader)?;
        let version = opened.version;
        let refuse = |error| DecodeError::Frame { version: Some(version), error };
        let header = ResponseHeader::read(&opened.header).map_err(refuse)?;
        let items = opened.items.iter().map(ResponseItem::read).collect::<Result<_, _>>();
        Ok(Self { version, header, items: items.map_err(refuse)? })
    }
}
