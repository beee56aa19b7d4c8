//! Sign: data, or its hash, with a managed private key. (KMIP 1.2, 4.31; KMIP 2.1, 6.1)

use crate::attribute::{CryptographicParameters, UniqueIdentifier};
use crate::wire::{SecretBytes, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Debug, Default)]
    pub struct Request {
        /// The key; absent means the ID placeholder.
        id: opt UniqueIdentifier = UniqueIdentifier @ V1_0,
        /// How; absent means as the key's attribute says.
        parameters: opt CryptographicParameters = CryptographicParameters @ V1_0,
        /// What to sign.
        data: opt SecretBytes = Data @ V1_2,
        /// Its hash, in place of the data (1.4).
        digested: opt Vec<u8> = DigestedData @ V1_4,
        /// Which stream of parts (1.3).
        correlation_value: opt Vec<u8> = CorrelationValue @ V1_3,
        /// First of several parts (1.3).
        init: opt bool = InitIndicator @ V1_3,
        /// Last of several parts (1.3).
        last: opt bool = FinalIndicator @ V1_3,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Response {
        /// The key.
        id: one String = UniqueIdentifier @ V1_0,
        /// Signature.
        signature: opt Vec<u8> = SignatureData @ V1_2,
        /// Which stream of parts (1.3).
        correlation_value: opt Vec<u8> = CorrelationValue @ V1_3,
    }
}
