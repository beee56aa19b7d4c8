//! The error texts that ETSI GS QKD 014 V1.1.1 fixes for status 400, and ours where it is silent.

/// `size` is not a multiple of 8.
pub const SIZE_MULTIPLE_OF_8: &str = "size shall be a multiple of 8";
/// An entry of `extension_mandatory` is not known.
pub const MANDATORY_NOT_SUPPORTED: &str = "not all extension_mandatory parameters are supported";
/// An entry of `extension_mandatory` is known but cannot be granted.
pub const MANDATORY_NOT_MET: &str = "not all extension_mandatory request options could be met";
/// An entry of `extension_optional` was left out (this error is optional).
pub const OPTIONAL_NOT_HANDLED: &str = "not all extension_optional request options handled";
/// dec_keys asked for a key that is not, or no longer, there.
pub const KEYS_NOT_FOUND: &str = "one or more keys specified are not found on KME";
