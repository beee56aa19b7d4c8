//! The door to QKD modules.
//!
//! - [`sim`]: a simulated QKD link whose two modules look like vendor devices.

pub mod sim;
