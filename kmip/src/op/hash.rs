//! Hash: of data, without a key. (KMIP 1.2, 4.37; KMIP 2.1, 6.1)

use crate::attribute::CryptographicParameters;
use crate::wire::{SecretBytes, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Debug)]
    pub struct Request {
        /// Which hash.
        parameters: one CryptographicParameters = CryptographicParameters @ V1_0,
        /// What to hash.
        data: opt SecretBytes = Data @ V1_2,
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
        /// Hash.
        data: opt Vec<u8> = Data @ V1_2,
        /// Which stream of parts (1.3).
        correlation_value: opt Vec<u8> = CorrelationValue @ V1_3,
    }
}
