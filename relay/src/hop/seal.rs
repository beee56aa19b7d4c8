//! How one end of a hop hides a batch with the bytes that are lent to it: which cipher, and what it
//! costs. Without I/O: simulated networks do it with this code too. Enter through [`Choice::of`].

use std::time::Instant;

use km_core::{
    material::ClearBytes,
    provenance::{HopCipher, Origin},
    route::CipherPolicy,
};

use super::{
    cipher,
    message::{HopFault, HopFrame, HopHead, Lock, TAG_KEY},
    pads_in::of_pad,
    pads_out::{PadsOut, Taken},
};

/// With less than this to assign from, a hop that may use AES spares its stock.
const LOW_STOCK: u64 = 256 << 10;
/// Fewer bytes are not passed on.
const LEAST_GIVEN: usize = 2048;

/// The cipher of a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// One-time pad.
    Otp,
    /// AES-256-GCM.
    Aes,
}

/// A key that was passed on.
#[derive(Debug)]
pub struct Given {
    /// Its bytes.
    pub material: ClearBytes,
    /// What both ends hold it by.
    pub cipher: HopCipher,
    /// The QKD link it came over.
    pub origin: Origin,
}

impl Choice {
    /// For a batch of `len` bytes, where the policy leaves it to the `stock`: bytes there are to assign
    /// from.
    pub fn of(policy: CipherPolicy, stock: u64, len: usize) -> Self {
        let low = || stock < LOW_STOCK.max(2 * (TAG_KEY + len) as u64);
        match policy {
            CipherPolicy::OtpOnly => Self::Otp,
            CipherPolicy::AesOnly => Self::Aes,
            CipherPolicy::OtpElseAes if low() => Self::Aes,
            CipherPolicy::OtpElseAes => Self::Otp,
        }
    }
}

impl PadsOut {
    /// Bytes that must be lent before a batch of `len` bytes can be sealed so.
    pub fn need(&self, choice: Choice, len: usize) -> usize {
        match choice {
            Choice::Otp => TAG_KEY + len,
            Choice::Aes if self.has_hop_key() => 0,
            Choice::Aes => TAG_KEY,
        }
    }

    /// Seals a batch for the next hop; and the cipher it announces.
    ///
    /// # Errors
    /// [`HopFault::NoPad`] when too few bytes are lent, or they are in too many pieces; then they are
    /// given up.
    pub fn seal(
        &mut self,
        choice: Choice,
        head: HopHead,
        material: &ClearBytes,
        now: Instant,
    ) -> Result<(HopFrame, HopCipher), HopFault> {
        let (frame, cipher) = match choice {
            Choice::Otp => {
                let taken = self.take(material.len(), now);
                let taken = self.found(taken)?;
                let frame = cipher::seal_otp(head, Lock::Otp(taken.pieces), &taken.bytes, material);
                (frame, of_pad(HopCipher::Otp, taken.grade))
            }
            Choice::Aes => {
                let (piece, key) = self.hop_key(now).ok_or(HopFault::NoPad)?;
                let counter = key.next().ok_or(HopFault::NoPad)?;
                let frame = key.seal(head, Lock::Aes { key: piece, counter }, material);
                (frame, HopCipher::Aes256Gcm)
            }
        };
        Ok((frame.ok_or(HopFault::Refused)?, cipher))
    }

    /// Passes on `len` bytes that both ends hold, or fewer where another QKD link took over; nothing but
    /// their place is in the frame. The head's origin becomes the link they came over.
    ///
    /// # Errors
    /// As [`PadsOut::seal`]; [`HopFault::Refused`] when it is not known which link that was.
    pub fn give(
        &mut self,
        head: HopHead,
        len: usize,
        now: Instant,
    ) -> Result<(HopFrame, Given), HopFault> {
        let taken = self.take_alike(len, LEAST_GIVEN, now);
        let taken = self.found(taken)?;
        let origin = Origin::Qkd(taken.link.ok_or(HopFault::Refused)?);
        let head = HopHead { origin: origin.clone(), ..head };
        let given = cipher::seal_given(head, Lock::Given(taken.pieces), &taken.bytes);
        let (frame, material) = given.ok_or(HopFault::Refused)?;
        Ok((frame, Given { material, cipher: of_pad(HopCipher::Shared, taken.grade), origin }))
    }

    fn found(&mut self, taken: Option<Taken>) -> Result<Taken, HopFault> {
        if taken.is_none() {
            // In too many pieces: fewer and longer ones come next.
            self.end();
        }
        taken.ok_or(HopFault::NoPad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_decides_where_policy_lets_it() {
        use CipherPolicy::{AesOnly, OtpElseAes, OtpOnly};
        let plenty = 1 << 30;
        assert_eq!(Choice::of(OtpElseAes, plenty, 1024), Choice::Otp);
        assert_eq!(Choice::of(OtpElseAes, LOW_STOCK - 1, 1024), Choice::Aes);
        assert_eq!(Choice::of(OtpElseAes, LOW_STOCK, 65_504), Choice::Otp);
        for stock in [0, plenty] {
            assert_eq!(Choice::of(OtpOnly, stock, 1024), Choice::Otp);
            assert_eq!(Choice::of(AesOnly, stock, 1024), Choice::Aes);
        }
    }
}
