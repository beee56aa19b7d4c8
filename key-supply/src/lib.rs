//! Fronts that hand pool keys to applications (clause 6.3), each thin over one
//! [`km_core::supply::Supply`].
//!
//! - [`Etsi014`]: ETSI GS QKD 014, the key delivery interface over HTTPS.
//!
//! A key issued through one front may be collected through another: its identifier is the same.

mod qkd014;

pub use qkd014::{Counters, Etsi014};
