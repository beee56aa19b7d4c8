//! The door to hardware security modules: PKCS#11 tokens behind [`km_core::hsm::Hsm`].
//! Enter through [`Token::open`].
//!
//! | Module | What lives there |
//! |---|---|
//! | `config` | which token, which PIN file: part of the KM's TOML |
//! | `profile` | what differs between HSM products, as data (`profiles/*.toml`) |
//! | `library` | one loaded library per path and process |
//! | [`examine`] | what a token is and can do, without using it for data |
//! | `keys` | keys into the token and out of it |
//! | [`parcels`], `hybrid` | KEKs from token to token |
//! | `slot`, `kek` | the token by label or serial, its mechanisms, its keys |
//! | `link` | the login, and how it comes back |
//! | `token`, `here` | the door to all abilities; a token whose library this process loads |
//! | `request` | what a token can be asked, and what it answers |
//! | `queue`, `clock`, `worker`, `lane` | bounded queue, deadlines, one thread per session, the operations |
//! | `process`, `wire` | libraries in worker processes, one for each token; the frames between |
//! | `fault`, `health`, `watch` | what an error asks for; what the outside sees; which thread hangs |
//! | [`fuzzing`] | any bytes in, invariants checked |
//! | [`soft`] | tokens made on the spot for demonstrations and tests |
//! | [`suite`] | what every [`km_core::hsm::Hsm`] must do |
//!
//! Clear bytes pass through `lane`, `request` and `queue`, always as
//! [`km_core::material::ClearBytes`], and through `wire`, whose buffers are overwritten. No code here logs a message or a PIN.

mod clock;
mod config;
pub mod examine;
mod fault;
pub mod fuzzing;
mod health;
mod here;
mod hybrid;
mod kek;
mod keys;
mod lane;
mod library;
mod link;
pub mod parcels;
mod process;
mod profile;
mod queue;
mod request;
mod response;
mod slot;
pub mod soft;
pub mod suite;
mod token;
mod watch;
mod wire;
mod worker;

pub use config::{MemberConfig, PinSource, Spread, TokenConfig, TokenSelector};
pub use process::inside::serve as serve_worker;
pub use process::{Breaker, MemberStatus, Program, take_no_keks};
pub use profile::{
    BUILT_IN, Code, ErrorClasses, Flag, Import, IvOnOpen, IvSource, KeyUse, Keys, Kind, Limits,
    Login, LoginUser, MechanismName, OaepHash, Omitted, PinForm, Profile, Protection, Role, Seal,
    SealBy, Template, Trusted, Wrap, WrapForm,
};
pub use token::Token;
