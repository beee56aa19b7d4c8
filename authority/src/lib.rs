//! X.509 certificates signed by a key that never leaves the HSM. Enter through [`Authority`].
//!
//! | Module | What lives there |
//! |---|---|
//! | `authority` | the key and certificate of an authority, kept as an object of the store; signing |
//! | `leaf` | what a certificate is asked for, by hand or by PKCS #10 |
//! | `chain` | whether a chain of certificates holds |
//! | `signature` | algorithms of X.509 in the words of the domain |
//!
//! No sockets, and no policy: who may have a certificate, and with which name, is decided by whoever
//! calls.

mod authority;
mod chain;
mod leaf;
mod signature;

pub use authority::{Authority, AuthorityError, Span, pem};
pub use chain::{Chain, Verdict};
pub use leaf::{BadRequest, Leaf, Uses};
