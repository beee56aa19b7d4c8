//! Buffers for bytes that may be secret: overwritten when they are dropped, cleared or grown, as fast as
//! memory can be set. Enter through [`Wiped`].
//!
//! `Zeroizing<Vec<u8>>` of the crate `zeroize` does the same one byte at a time (about 0.35 us for each
//! KiB, every time a buffer changes hands), and leaves a copy behind when it grows. The compiler is kept
//! from leaving the writes out by that crate's [`zeroize::optimization_barrier`].
//! [`clear_registers`] overwrites what the processor keeps of them.

mod registers;

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

pub use registers::{clear_registers, leaving_none};
use subtle::ConstantTimeEq;

/// Bytes on the heap that are overwritten before their memory is given back. No `Clone`; `Debug` says only
/// the length.
///
/// ```compile_fail
/// let key = wiped::Wiped::copy_of(&[7; 32]);
/// let copy = key.clone();
/// ```
#[derive(Default)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// Takes the buffer over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Copies; the caller stays answerable for the original.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// None yet, with room for `len` bytes.
    pub fn with_capacity(len: usize) -> Self {
        Self(Vec::with_capacity(len))
    }

    /// `len` zeros, to be written over.
    pub fn zeros(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// How many bytes fit without moving.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// For what writes into a `Vec` itself. It leaves a copy behind where it needs more than the room that
    /// [`Wiped::reserve`] made.
    pub fn as_vec_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Makes room for `more` bytes. What moves is overwritten where it was.
    pub fn reserve(&mut self, more: usize) {
        if self.0.capacity() - self.0.len() < more {
            let room = (self.0.capacity() * 2).max(self.0.len() + more);
            let mut larger = Self::with_capacity(room);
            larger.0.extend_from_slice(&self.0);
            *self = larger;
        }
    }

    /// Adds a copy of `bytes` at the end.
    pub fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Adds a byte at the end.
    pub fn push(&mut self, byte: u8) {
        self.append(&[byte]);
    }

    /// Adds zeros at the end, up to `len` bytes in all.
    pub fn grow_to(&mut self, len: usize) {
        self.reserve(len.saturating_sub(self.0.len()));
        self.0.resize(len.max(self.0.len()), 0);
    }

    /// Overwrites what is past `len`, and forgets it.
    pub fn truncate(&mut self, len: usize) {
        if let Some(tail) = self.0.get_mut(len..) {
            wipe(tail);
            self.0.truncate(len);
        }
    }

    /// Overwrites and forgets all, and keeps the memory.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Gives the bytes away. Whoever takes them is answerable for them.
    pub fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl From<Vec<u8>> for Wiped {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        // All of the memory: what was cut off before may still stand past the end.
        self.0.clear();
        self.0.resize(self.0.capacity(), 0);
        zeroize::optimization_barrier(self.0.as_slice());
    }
}

impl Deref for Wiped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Constant-time in the bytes (the length is public).
impl PartialEq for Wiped {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
impl Eq for Wiped {}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Wiped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wiped({} bytes)", self.0.len())
    }
}

/// Overwrites memory that stays in use.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    zeroize::optimization_barrier(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_overwritten_and_the_memory_stays() {
        let mut bytes = Wiped::with_capacity(16);
        bytes.append(&[7; 16]);
        let memory = bytes.as_ptr();
        bytes.truncate(3);
        assert_eq!(*bytes, [7; 3]);
        bytes.grow_to(16);
        assert_eq!(bytes[3..], [0; 13]);
        bytes.clear();
        assert!(bytes.is_empty());
        bytes.append(&[1; 16]);
        assert_eq!(bytes.as_ptr(), memory);
        bytes.truncate(99);
        assert_eq!(bytes.len(), 16);
    }

    #[test]
    fn it_grows_as_it_must() {
        let mut bytes = Wiped::default();
        for byte in 0..200 {
            bytes.append(&[byte]);
        }
        assert_eq!(*bytes, (0..200).collect::<Vec<u8>>());
        assert_eq!(format!("{bytes:?}"), "Wiped(200 bytes)");
        assert_eq!(bytes.into_vec().len(), 200);
    }
}
