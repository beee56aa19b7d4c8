//! Discover Versions: which protocol versions both sides speak (since 1.1). (KMIP 2.1, 6.1)

use crate::version::ProtocolVersion;
use crate::wire::wire_struct;

wire_struct! {
    /// Request payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// Versions of the client, preferred first; none asks for all.
        versions: many ProtocolVersion = ProtocolVersion @ V1_0,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Response {
        /// Versions of the server among those asked for, preferred first.
        versions: many ProtocolVersion = ProtocolVersion @ V1_0,
    }
}
