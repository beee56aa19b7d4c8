//! Decrypt: data with a managed key. (KMIP 1.2, 4.30; KMIP 2.1, 6.1)

use crate::attribute::{CryptographicParameters, UniqueIdentifier};
use crate::wire::{SecretBytes, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// The key; absent means the ID placeholder.
        id: opt UniqueIdentifier = UniqueIdentifier @ V1_0,
        /// How; absent means as the key's attribute says.
        parameters: opt CryptographicParameters = CryptographicParameters @ V1_0,
        /// Ciphertext; absent means a later part, or none.
        data: opt Vec<u8> = Data @ V1_2,
        /// IV, counter or nonce.
        iv: opt Vec<u8> = IVCounterNonce @ V1_0,
        /// Which stream of parts (1.3).
        correlation_value: opt Vec<u8> = CorrelationValue @ V1_3,
        /// First of several parts (1.3).
        init: opt bool = InitIndicator @ V1_3,
        /// Last of several parts (1.3).
        last: opt bool = FinalIndicator @ V1_3,
        /// Associated data of GCM and the like (1.4).
        aad: opt Vec<u8> = AuthenticatedEncryptionAdditionalData @ V1_4,
        /// Tag of GCM and the like (1.4).
        tag: opt Vec<u8> = AuthenticatedEncryptionTag @ V1_4,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Debug)]
    pub struct Response {
        /// The key.
        id: one String = UniqueIdentifier @ V1_0,
        /// Plaintext.
        data: opt SecretBytes = Data @ V1_2,
        /// Which stream of parts (1.3).
        correlation_value: opt Vec<u8> = CorrelationValue @ V1_3,
    }
}
