//! The protocol versions this room speaks. [`Version`] is what the gates on encode compare.

use std::fmt;

use crate::wire::wire_struct;

/// A KMIP version of the field, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// KMIP 1.0.
    V1_0,
    /// KMIP 1.1.
    V1_1,
    /// KMIP 1.2.
    V1_2,
    /// KMIP 1.3.
    V1_3,
    /// KMIP 1.4.
    V1_4,
    /// KMIP 2.0.
    V2_0,
    /// KMIP 2.1.
    V2_1,
}

impl Version {
    /// Every version, newest first: the order Discover Versions answers in.
    pub const ALL: [Self; 7] =
        [Self::V2_1, Self::V2_0, Self::V1_4, Self::V1_3, Self::V1_2, Self::V1_1, Self::V1_0];

    /// Whether attributes are typed tags (2.x) and not named values (1.x).
    pub fn is_v2(self) -> bool {
        self >= Self::V2_0
    }

    /// The numbers on the wire.
    pub fn number(self) -> ProtocolVersion {
        let (major, minor) = match self {
            Self::V1_0 => (1, 0),
            Self::V1_1 => (1, 1),
            Self::V1_2 => (1, 2),
            Self::V1_3 => (1, 3),
            Self::V1_4 => (1, 4),
            Self::V2_0 => (2, 0),
            Self::V2_1 => (2, 1),
        };
        ProtocolVersion { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

wire_struct! {
    /// Major and minor number as a peer wrote them, known to us or not.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ProtocolVersion {
        /// Major number.
        major: one i32 = ProtocolVersionMajor @ V1_0,
        /// Minor number.
        minor: one i32 = ProtocolVersionMinor @ V1_0,
    }
}

impl ProtocolVersion {
    /// The version, when this room speaks it.
    pub fn known(self) -> Option<Version> {
        Version::ALL.into_iter().find(|v| v.number() == self)
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
