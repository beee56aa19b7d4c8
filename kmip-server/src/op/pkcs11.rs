//! PKCS#11 (2.0): the functions that say what is there. Keys are used by the operations of KMIP; all
//! other functions answer that they are not supported.

use kmip::{
    SecretBytes,
    enums::{Pkcs11Function, Pkcs11ReturnCode},
    op::pkcs11::{Request, Response},
};

use crate::{context::Context, error::OpError};

/// The one interface there is (PKCS #11 version 3.0, 5.4.4).
const INTERFACE: &str = "PKCS 11";
const MAKER: &str = "qkm";
const LIBRARY: &str = "qkm over KMIP";
/// Version of the interface: 2.40.
const CRYPTOKI: [u8; 2] = [2, 40];
/// A client sends it back; nothing is kept for it.
const CORRELATION: [u8; 8] = *b"pkcs11 1";

pub(crate) async fn pkcs11(_: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let Request { interface, function, correlation_value, .. } = request;
    if interface.as_deref().is_some_and(|interface| interface != INTERFACE) {
        return Err(OpError::Pkcs11Interface);
    }
    let known = correlation_value.is_none_or(|value| value == CORRELATION);
    let is_first = function == Pkcs11Function::Initialize;
    let (code, output) = match function {
        _ if !known => (Pkcs11ReturnCode::CryptokiNotInitialized, None),
        Pkcs11Function::Initialize | Pkcs11Function::Finalize => (Pkcs11ReturnCode::Ok, None),
        Pkcs11Function::GetInfo => (Pkcs11ReturnCode::Ok, Some(info())),
        _ => (Pkcs11ReturnCode::FunctionNotSupported, None),
    };
    Ok(Response {
        interface,
        function,
        correlation_value: is_first.then(|| CORRELATION.to_vec()),
        output: output.map(|bytes| SecretBytes::copy_from(&bytes)),
        code,
    })
}

/// CK_INFO: version, maker, flags, description, version of the library.
fn info() -> Vec<u8> {
    let padded = |text: &str| format!("{text:32}").into_bytes();
    let number = |text: &str| text.parse().unwrap_or(0);
    let library = [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR")].map(number);
    let parts: [&[u8]; 5] = [&CRYPTOKI, &padded(MAKER), &[0; 8], &padded(LIBRARY), &library];
    parts.concat()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_structure_has_the_length_of_the_vector() {
        assert_eq!(super::info().len(), 2 + 32 + 8 + 32 + 2);
    }
}
