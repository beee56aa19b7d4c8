//! MAC: of data with a managed key. (KMIP 1.2, 4.33; KMIP 2.1, 6.1)

use crate::attribute::{CryptographicParameters, UniqueIdentifier};
use crate::wire::{SecretBytes, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Debug, Default)]
    pub struct Request {
        /// The key; absent means the ID placeholder.
        id: opt UniqueIdentifier = UniqueIdentifier @ V1_0,
        /// How; absent means as the key's attributes say.
        parameters: opt CryptographicParameters = CryptographicParameters @ V1_0,
        /// What to authenticate.
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
        /// The key.
        id: one String = UniqueIdentifier @ V1_0,
        /// MAC.
        mac: opt Vec<u8> = MACData @ V1_2,
        /// Which stream of parts (1.3).
        correlation_value: opt Vec<u8> = CorrelationValue @ V1_3,
    }
}
