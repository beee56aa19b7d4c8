//! RNG Retrieve: random bytes. (KMIP 1.2, 4.35; KMIP 2.1, 6.1)

use crate::wire::{SecretBytes, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// Bytes wanted.
        length: one i32 = DataLength @ V1_2,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Debug)]
    pub struct Response {
        /// Random bytes.
        data: one SecretBytes = Data @ V1_2,
    }
}
