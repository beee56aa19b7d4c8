//! The error texts that ETSI GS QKD 014 V1.1.1 fixes for status 400, and ours where it is silent.

/// `size` is not a multiple of 8.
pub const SIZE_MULTIPLE_OF_8: &str = "size shall be a multiple of 8";
/// An entry of `extension_mandatory` is not known.
pub const MANDATORY_NOT_SUPPORTED: &str = "not all extension_mandatory parameters are supported";
/// An entry of `extension_mandatory` is known, and what it asks for is not to be had.
pub const MANDATORY_NOT_MET: &str = "not all extension_mandatory request options could be met";
/// dec_keys asked for a key that is not, or no longer, there.
pub const KEYS_NOT_FOUND: &str = "one or more keys specified are not found on KME";
