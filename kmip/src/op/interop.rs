//! Interop: marks begin and end of an interoperability test. (KMIP 2.1, 6.1)

use crate::enums::InteropFunction;
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// Which step.
        function: one InteropFunction = InteropFunction @ V2_0,
        /// Which test.
        identifier: opt String = InteropIdentifier @ V2_0,
    }
}

wire_struct! {
    /// Response payload: nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {}
}
