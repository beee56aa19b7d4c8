//! Names of things in the network. Each is parsed once and trusted from then on.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

/// A name was empty, too long, or held a character that does not belong in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {max} characters out of letters, digits and . _ : @ -, got {got:?}")]
pub struct BadName {
    what: &'static str,
    max: usize,
    got: String,
}

/// Longest name accepted, in bytes.
pub const MAX_NAME: usize = 64;

fn parse_name(what: &'static str, text: &str) -> Result<Arc<str>, BadName> {
    let fits = (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:@-".contains(&b));
    if fits {
        Ok(Arc::from(text))
    } else {
        Err(BadName { what, max: MAX_NAME, got: text.chars().take(MAX_NAME + 1).collect() })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The only way to one; see [`BadName`] for what is refused.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                parse_name($what, text).map(Self)
            }
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

name!(
    /// A cluster: the KMs of one site. It is the KME ID applications see (ETSI GS QKD 014).
    ClusterId,
    "a cluster ID"
);
name!(
    /// A secure application entity (SAE): one registered application.
    SaeId,
    "an SAE ID"
);
name!(
    /// A QKD link: one pair of QKD modules.
    LinkId,
    "a link ID"
);

/// What the names of applications may not start with: the key manager itself owns objects, too.
const RESERVED: &str = "qkm.";

impl SaeId {
    /// Whether no application may have the name.
    pub fn is_reserved(&self) -> bool {
        self.as_str().starts_with(RESERVED)
    }
}

/// 24 bits that name the pool of a pair of clusters inside key identifiers. Equal at both ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolTag(u32);

impl PoolTag {
    /// The tag of the pair `a`, `b`, in either order.
    ///
    /// Two pairs may collide (1 in 16 million); configuration refuses a KM whose pools do.
    pub fn of_pair(a: &ClusterId, b: &ClusterId) -> Self {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let text = format!("qkm pool\0{low}\0{high}");
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let h = hash.as_ref();
        Self(u32::from_be_bytes([0, h[0], h[1], h[2]]))
    }
    /// From its 24 bits; higher bits are dropped.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & 0xFF_FFFF)
    }
    /// The 24 bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for PoolTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

/// Largest block number (40 bits).
pub const MAX_BLOCK_NUMBER: u64 = (1 << 40) - 1;

/// Addresses one block: its pool and its number in it. Equal at both ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockId {
    /// The pool.
    pub pool: PoolTag,
    /// The number, at most [`MAX_BLOCK_NUMBER`]; never used twice in a pool.
    pub number: u64,
}

impl BlockId {
    /// Eight bytes that sort like the block number within a pool: 24 bits pool, 40 bits number.
    pub fn sort_key(self) -> [u8; 8] {
        (u64::from(self.pool.bits()) << 40 | (self.number & MAX_BLOCK_NUMBER)).to_be_bytes()
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.pool, self.number)
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_plain() {
        assert!(SaeId::parse("bank.hq:1@a_b-c").is_ok());
        for bad in ["", "a b", "a/b", "é", &"x".repeat(65)] {
            assert!(SaeId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pool_tag_is_the_same_at_both_ends() {
        let (n, s) = (ClusterId::parse("north").unwrap(), ClusterId::parse("south").unwrap());
        assert_eq!(PoolTag::of_pair(&n, &s), PoolTag::of_pair(&s, &n));
    }
}
