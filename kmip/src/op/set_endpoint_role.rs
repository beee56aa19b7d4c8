//! Set Endpoint Role: which end of the connection asks. (KMIP 2.1, 6.1)

use crate::enums::EndpointRole;
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// The role the sender of this request will have.
        role: one EndpointRole = EndpointRole @ V2_0,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Response {
        /// The role it has now.
        role: one EndpointRole = EndpointRole @ V2_0,
    }
}
