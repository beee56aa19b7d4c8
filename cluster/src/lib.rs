//! Several key managers on one store.
//!
//! - [`EtcdStore`]: the store on etcd.
//! - [`lead`]: which of them leads; enter through [`lead::Candidate`].
//! - [`roster`]: which of them there are, and how they are.
//! - [`members`]: which of them there may be.
//! - [`desk`]: what the others ask the one that leads.

pub mod desk;
mod etcd;
pub mod lead;
pub mod members;
pub mod roster;

pub use etcd::{EtcdConfig, EtcdStore, Member, MemberState};
