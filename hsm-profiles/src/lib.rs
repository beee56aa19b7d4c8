//! The door to hardware security modules: PKCS#11 tokens behind [`km_core::hsm::Hsm`].
//! Enter through [`Token::open`].
//!
//! | Module | What lives there |
//! |---|---|
//! | `config` | which token, which PIN file: part of the KM's TOML |
//! | `profile` | what differs between HSM products, as data (`profiles/*.toml`) |
//! | `library` | one loaded library per path and process |
//! | `slot`, `kek` | the token by label or serial, its mechanisms, its keys |
//! | `link` | the login, and how it comes back |
//! | `queue`, `clock`, `worker`, `lane` | bounded queue, deadlines, one thread per session, the operations |
//! | `fault`, `health` | what an error asks for; what the outside sees |
//! | [`softhsm`] | tokens made on the spot for demonstrations and tests |
//! | [`suite`] | what every [`km_core::hsm::Hsm`] must do |
//!
//! Clear bytes pass through `lane` and `queue` alone, always as
//! [`km_core::material::ClearBytes`]. No code here logs a message or a PIN.

mod clock;
mod config;
mod fault;
mod health;
mod kek;
mod lane;
mod library;
mod link;
mod profile;
mod queue;
mod slot;
pub mod softhsm;
pub mod suite;
mod token;
mod worker;

pub use config::{PinSource, TokenConfig, TokenSelector};
pub use profile::{
    Code, ErrorClasses, IvSource, KeyUse, Limits, MechanismName, Profile, Seal, SealMechanism,
};
pub use token::Token;
