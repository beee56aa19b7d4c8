//! Process: an asynchronous operation is to be done now, and waited for. (KMIP 2.1, 6.1)

use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// Which one.
        correlation_value: one Vec<u8> = AsynchronousCorrelationValue @ V2_1,
    }
}

wire_struct! {
    /// Response payload of nothing: the answer is that of the operation itself.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}
