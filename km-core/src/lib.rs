//! The domain of qkm: key material and its life, pools, vault, supply, managed objects.
//!
//! No sockets here. The doors are traits: [`hsm::Hsm`] (implemented in `hsm-profiles`),
//! [`store::Store`] (the embedded one is here), [`module::ModuleSource`] (`qkd-ingest`) and
//! [`peer::PeerLink`] (`relay`). Fronts enter through [`supply::Supply`] for pool keys and
//! [`objects::Objects`] for managed objects.

pub mod anchor;
pub mod audit;
pub mod block;
pub mod cabinet;
pub mod clock;
pub mod copies;
pub mod custody;
pub mod epoch;
pub mod feeding;
pub mod hsm;
pub mod ids;
pub mod journal;
pub mod key_id;
pub mod ledger;
pub mod material;
pub mod module;
pub mod objects;
pub mod pad;
pub mod payload;
pub mod peer;
pub mod pool;
pub mod provenance;
pub mod random;
pub mod records;
pub mod registry;
pub mod route;
pub mod run;
pub mod sealed;
pub mod store;
pub mod supply;
pub mod usage;
pub mod vault;
