//! PKCS#11: a function of that interface, its parameters packed in one byte string. (KMIP 2.1, 6.1)

use crate::enums::{Pkcs11Function, Pkcs11ReturnCode};
use crate::wire::{SecretBytes, wire_struct};

wire_struct! {
    /// Request payload.
    #[derive(Debug)]
    pub struct Request {
        /// Name of the interface; absent means that of PKCS #11 version 3.0.
        interface: opt String = PKCS_11Interface @ V2_0,
        /// Which function.
        function: one Pkcs11Function = PKCS_11Function @ V2_0,
        /// As the server said in its last answer.
        correlation_value: opt Vec<u8> = CorrelationValue @ V2_0,
        /// The parameters that go in.
        input: opt SecretBytes = PKCS_11InputParameters @ V2_0,
    }
}

wire_struct! {
    /// Response payload.
    #[derive(Debug)]
    pub struct Response {
        /// Name of the interface.
        interface: opt String = PKCS_11Interface @ V2_0,
        /// Which function.
        function: one Pkcs11Function = PKCS_11Function @ V2_0,
        /// To be sent with the next request.
        correlation_value: opt Vec<u8> = CorrelationValue @ V2_0,
        /// The parameters that come out.
        output: opt SecretBytes = PKCS_11OutputParameters @ V2_0,
        /// As the function returned.
        code: one Pkcs11ReturnCode = PKCS_11ReturnCode @ V2_0,
    }
}
