//! Ping: whether the server answers. (KMIP 2.1, 6.1)

use crate::wire::wire_struct;

wire_struct! {
    /// Request payload: nothing.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {}
}

wire_struct! {
    /// Response payload: nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}
