//! The ciphers of one hop.
//!
//! **One-time pad**: the material is added to as many fresh bytes of pad; a one-time Poly1305 tag
//! over head, lock and ciphertext is keyed by 32 more. Whoever does not hold the pad learns nothing
//! and forges with a chance of at most 8·⌈L/16⌉ / 2^106 for L bytes (Bernstein 2005, "The
//! Poly1305-AES message-authentication code", theorem 3.3): below 2^-90 for the largest batch.
//! A batch of 2,047 keys costs 0.05 % more than its own bits.
//!
//! **AES-256-GCM**: under a key taken from the pool, or from the connection's TLS, the frame's counter
//! as nonce.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use km_core::material::ClearBytes;
use wiped::Wiped;

use super::message::{HopFrame, HopHead, Lock, TAG_KEY};
use crate::agreement::{self, Tag};

/// Frames under one hop key; then a fresh one is taken.
pub const MOST_FRAMES: u64 = 4096;

/// Seals `material` with one-time pad. `pad` holds the key of the tag and then as many bytes as the
/// material; `None` when it does not.
pub fn seal_otp(
    head: HopHead,
    lock: Lock,
    pad: &ClearBytes,
    material: &ClearBytes,
) -> Option<HopFrame> {
    if pad.len() != TAG_KEY + material.len() {
        return None;
    }
    let body = pad.expose(|pad| material.expose(|clear| added(clear, &pad[TAG_KEY..])));
    Some(tagged(head, lock, body, pad))
}

/// A frame that passes on what `pad` holds after the key of the tag.
pub fn seal_given(head: HopHead, lock: Lock, pad: &ClearBytes) -> Option<(HopFrame, ClearBytes)> {
    let material = pad.slice(TAG_KEY..pad.len()).filter(|material| !material.is_empty())?;
    Some((tagged(head, lock, Vec::new(), pad), material))
}

fn tagged(head: HopHead, lock: Lock, body: Vec<u8>, pad: &ClearBytes) -> HopFrame {
    let mut frame = HopFrame { head, lock, body, tag: Tag::default() };
    frame.tag = pad.expose(|pad| agreement::one_time(&pad[..TAG_KEY], &covered(&frame)));
    frame
}

/// Opens a frame of one-time pad, or one whose material is what the pad holds. `None` when the tag
/// does not fit.
pub fn open_otp(frame: &HopFrame, pad: &ClearBytes) -> Option<ClearBytes> {
    if pad.len() <= TAG_KEY {
        return None;
    }
    let tag = pad.expose(|pad| agreement::one_time(&pad[..TAG_KEY], &covered(frame)));
    if !agreement::equal(&tag, &frame.tag) {
        return None;
    }
    match frame.lock {
        Lock::Given(_) => pad.slice(TAG_KEY..pad.len()),
        _ if pad.len() != TAG_KEY + frame.body.len() => None,
        _ => Some(pad.expose(|pad| ClearBytes::from_vec(added(&frame.body, &pad[TAG_KEY..])))),
    }
}

/// Head, lock and body, each behind its length.
fn covered(frame: &HopFrame) -> Vec<u8> {
    let mut message = described(&frame.head, &frame.lock);
    message.extend_from_slice(&(frame.body.len() as u64).to_be_bytes());
    message.extend_from_slice(&frame.body);
    message
}

fn described(head: &HopHead, lock: &Lock) -> Vec<u8> {
    // Plain owned data; postcard fails only on types it has no form for.
    let parts = postcard::to_extend(&(head, lock), Vec::new()).unwrap_or_default();
    let mut message = b"qkm hop 1\0".to_vec();
    message.extend_from_slice(&(parts.len() as u64).to_be_bytes());
    message.extend_from_slice(&parts);
    message
}

fn added(bytes: &[u8], pad: &[u8]) -> Vec<u8> {
    bytes.iter().zip(pad).map(|(byte, pad)| byte ^ pad).collect()
}

/// A hop key at either end. Frames under it carry counters that only grow.
pub struct HopKey {
    key: LessSafeKey,
    next: u64,
}

impl HopKey {
    /// `None` unless `key` is 32 bytes.
    pub fn new(key: &ClearBytes) -> Option<Self> {
        let key = key.expose(|key| UnboundKey::new(&AES_256_GCM, key)).ok()?;
        Some(Self { key: LessSafeKey::new(key), next: 0 })
    }

    /// The counter of the next frame; `None` when a fresh key is due.
    pub fn next(&self) -> Option<u64> {
        (self.next < MOST_FRAMES).then_some(self.next)
    }

    /// Seals under the lock's counter, which must be [`HopKey::next`].
    pub fn seal(&mut self, head: HopHead, lock: Lock, material: &ClearBytes) -> Option<HopFrame> {
        let counter = self.counter(&lock)?;
        let aad = described(&head, &lock);
        let mut body = Wiped::new(material.expose(<[u8]>::to_vec));
        let nonce = nonce(counter);
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::from(&aad), &mut body).ok()?;
        let tag = sealed.as_ref().try_into().ok()?;
        self.next = counter + 1;
        Some(HopFrame { head, lock, body: body.into_vec(), tag })
    }

    /// Opens a frame whose counter was not seen before. The counter is spent even if it fails.
    pub fn open(&mut self, frame: &HopFrame) -> Option<ClearBytes> {
        let counter = self.counter(&frame.lock)?;
        self.next = counter + 1;
        let aad = described(&frame.head, &frame.lock);
        let mut sealed = Wiped::new(frame.body.clone());
        sealed.append(&frame.tag);
        let opened = self.key.open_in_place(nonce(counter), Aad::from(&aad), &mut sealed).ok()?;
        Some(ClearBytes::copy_from(opened))
    }

    fn counter(&self, lock: &Lock) -> Option<u64> {
        let (Lock::Aes { counter, .. } | Lock::Link { counter, .. }) = lock else { return None };
        (self.next..MOST_FRAMES).contains(counter).then_some(*counter)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
