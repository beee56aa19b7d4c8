//! The domain of qkm.
pub mod hsm;
pub mod ids;
pub mod key_id;
pub mod material;
pub mod provenance;
pub mod store;
