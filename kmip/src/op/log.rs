//! Log: a line of the client for the server's log. (KMIP 2.1, 6.1)

use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// The line.
        message: one String = LogMessage @ V2_0,
    }
}

wire_struct! {
    /// Response payload: nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}
