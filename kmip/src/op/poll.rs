//! Poll: what became of an asynchronous operation. The answer is that of the operation itself.
//! (KMIP 2.1, 6.1)

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
    /// Response payload of nothing: no server writes it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}
