//! How a key is, or is to be, wrapped.

use crate::attribute::{CryptographicParameters, UniqueIdentifier};
use crate::enums::{EncodingOption, WrappingMethod};
use crate::wire::wire_struct;

wire_struct! {
    /// The key that encrypts or authenticates, and how.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct KeyInformation {
        /// Which key.
        id: one UniqueIdentifier = UniqueIdentifier @ V1_0,
        /// How it is used.
        parameters: opt CryptographicParameters = CryptographicParameters @ V1_0,
    }
}

wire_struct! {
    /// How a key block is wrapped.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct KeyWrappingData {
        /// Method.
        method: one WrappingMethod = WrappingMethod @ V1_0,
        /// Encrypting key.
        encryption: opt KeyInformation = EncryptionKeyInformation @ V1_0,
        /// Authenticating key.
        mac: opt KeyInformation = MACSignatureKeyInformation @ V1_0,
        /// MAC or signature.
        mac_signature: opt Vec<u8> = MACSignature @ V1_0,
        /// IV, counter or nonce.
        iv: opt Vec<u8> = IVCounterNonce @ V1_0,
        /// What was wrapped: TTLV or bare bytes.
        encoding: opt EncodingOption = EncodingOption @ V1_1,
    }
}

wire_struct! {
    /// How a key block is to be wrapped.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct KeyWrappingSpecification {
        /// Method.
        method: one WrappingMethod = WrappingMethod @ V1_0,
        /// Encrypting key.
        encryption: opt KeyInformation = EncryptionKeyInformation @ V1_0,
        /// Authenticating key.
        mac: opt KeyInformation = MACSignatureKeyInformation @ V1_0,
        /// Attributes to wrap along.
        attribute_names: many String = AttributeName @ V1_0,
        /// What is to be wrapped: TTLV or bare bytes.
        encoding: opt EncodingOption = EncodingOption @ V1_1,
    }
}
