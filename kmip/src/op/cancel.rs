//! Cancel: an asynchronous operation is wanted no more. (KMIP 2.1, 6.1)

use crate::enums::CancellationResult;
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// Which one.
        correlation_value: one Vec<u8> = AsynchronousCorrelationValue @ V1_0,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {
        /// Which one.
        correlation_value: one Vec<u8> = AsynchronousCorrelationValue @ V1_0,
        /// What became of it.
        result: one CancellationResult = CancellationResult @ V1_0,
    }
}
