//! Clear key material. Enter through [`ClearBytes`].
//!
//! Invariant: clear bytes live only here. The type has no `Clone`, no `Serialize`, its `Debug`
//! says only the length, its memory is overwritten on drop, and every reader's name begins as
//! [`ClearBytes::expose`], so `grep expose` is the audit.

use std::{fmt, ops::Range};

use subtle::ConstantTimeEq;
use wiped::{Wiped, wipe};

/// Clear key bytes on the heap; overwritten when dropped.
///
/// ```compile_fail
/// # use km_core::material::ClearBytes;
/// let key = ClearBytes::from_vec(vec![7; 32]);
/// let copy = key.clone();
/// ```
/// ```compile_fail
/// # use km_core::material::ClearBytes;
/// fn persist<T: serde::Serialize>(_: T) {}
/// persist(ClearBytes::from_vec(vec![7; 32]));
/// ```
pub struct ClearBytes(Wiped);

impl ClearBytes {
    /// Takes ownership of `bytes` without copying them.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self(Wiped::new(bytes))
    }

    /// Copies `bytes`; the caller stays answerable for the original.
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(Wiped::copy_of(bytes))
    }

    /// None yet, with room for `len` bytes, so that [`ClearBytes::append`] moves none of them.
    pub(crate) fn with_capacity(len: usize) -> Self {
        Self(Wiped::with_capacity(len))
    }

    /// Adds a copy of `other` at the end.
    pub(crate) fn append(&mut self, other: &Self) {
        debug_assert!(self.0.capacity() - self.0.len() >= other.len(), "it would leave a copy");
        self.0.append(&other.0);
    }

    /// The door to the bytes. They must not outlive the closure.
    pub fn expose<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(&self.0)
    }

    /// The buffer itself, for an answer that says what is in it, and for what is no secret any more (a
    /// ciphertext, a signature).
    pub fn expose_whole(self) -> Wiped {
        self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy of `range` as material of its own; `None` when it reaches past the end.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        self.0.get(range).map(Self::copy_from)
    }

    /// Exclusive or with `other`, byte by byte; what is past its end stays as it is.
    pub(crate) fn xor(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(byte, with)| *byte ^= with);
    }

    /// Overwrites `range` with zeros; what reaches past the end is left out.
    pub fn wipe(&mut self, range: Range<usize>) {
        let end = range.end.min(self.0.len());
        if let Some(part) = self.0.get_mut(range.start..end) {
            wipe(part);
        }
    }
}

impl From<Wiped> for ClearBytes {
    fn from(bytes: Wiped) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for ClearBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClearBytes({} bytes)", self.0.len())
    }
}

/// Constant-time in the bytes (the length is public).
impl PartialEq for ClearBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
impl Eq for ClearBytes {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_says_only_the_length() {
        let text = format!("{:?}", ClearBytes::from_vec(vec![0xAB; 3]));
        assert_eq!(text, "ClearBytes(3 bytes)");
    }

    #[test]
    fn slices_stay_inside() {
        let key = ClearBytes::from_vec((0..8).collect());
        assert_eq!(key.slice(2..4).unwrap(), ClearBytes::from_vec(vec![2, 3]));
        assert!(key.slice(6..9).is_none());
    }
}
