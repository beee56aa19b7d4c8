//! RNG Seed: the client offers random bytes to the server. (KMIP 1.2, 4.36; KMIP 2.1, 6.1)

use crate::wire::{SecretBytes, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Debug)]
    pub struct Request {
        /// What is offered.
        data: one SecretBytes = Data @ V1_2,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {
        /// Bytes of it that were used.
        length: one i32 = DataLength @ V1_2,
    }
}
