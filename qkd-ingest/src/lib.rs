//! The door to QKD modules.
//!
//! - [`Module`]: one module of ours, an ETSI GS QKD 014 server of any vendor, as the domain's
//!   [`km_core::module::ModuleSource`].
//! - [`sim`]: a simulated QKD link whose two modules look like vendor devices.

mod module;
pub mod sim;

pub use module::{
    ConfigError, Counters, LinkCondition, LinkReport, Module, ModuleConfig, ModuleStatus, Totals,
};
