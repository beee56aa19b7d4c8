//! Keys of a connection itself, from its TLS handshake (RFC 8446, 7.5): they hide what begins to fill the
//! pool beside a KM link without QKD. One for each direction; each end steps on to the next.

use aws_lc_rs::hkdf::{HKDF_SHA384, KeyType, Prk};
use km_core::material::ClearBytes;

use super::cipher::HopKey;

/// Label of the exporter.
const LABEL: &[u8] = b"EXPORTER-qkm-km-link-1";
/// Bytes for both directions.
const SEEDS: usize = 96;

/// What a connection gives to hide batches with, for both directions.
#[derive(Debug)]
pub struct Exported {
    /// For what this end sends.
    pub outgoing: ClearBytes,
    /// For what it receives.
    pub incoming: ClearBytes,
}

impl Exported {
    /// Of a connection that is up. `None` when its handshake gave no such key.
    pub fn of<D>(connection: &rustls::ConnectionCommon<D>, dialled: bool) -> Option<Self> {
        let seeds = connection.export_keying_material(vec![0; SEEDS], LABEL, None).ok()?;
        let seeds = ClearBytes::from_vec(seeds);
        let (one, other) = (seeds.slice(0..SEEDS / 2)?, seeds.slice(SEEDS / 2..SEEDS)?);
        Some(match dialled {
            true => Self { outgoing: one, incoming: other },
            false => Self { outgoing: other, incoming: one },
        })
    }
}

/// The keys of one direction.
pub struct LinkKey {
    seed: ClearBytes,
    number: u32,
    key: HopKey,
}

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

impl LinkKey {
    /// The first of them.
    pub fn new(seed: ClearBytes) -> Option<Self> {
        let key = derived(&seed, 0)?;
        Some(Self { seed, number: 0, key })
    }

    /// The key for the next frame, its number and its counter; the next key when this one served.
    pub fn next_frame(&mut self) -> Option<(u32, u64, &mut HopKey)> {
        if self.key.next().is_none() {
            self.step_to(self.number.checked_add(1)?)?;
        }
        Some((self.number, self.key.next()?, &mut self.key))
    }

    /// The key of that number, unless a later one was used already.
    pub fn at(&mut self, number: u32) -> Option<&mut HopKey> {
        match number {
            now if now == self.number => {}
            next if self.number.checked_add(1) == Some(next) => self.step_to(next)?,
            _ => return None,
        }
        Some(&mut self.key)
    }

    fn step_to(&mut self, number: u32) -> Option<()> {
        self.key = derived(&self.seed, number)?;
        self.number = number;
        Some(())
    }
}

fn derived(seed: &ClearBytes, number: u32) -> Option<HopKey> {
    let info = [b"qkm link key 1\0".as_slice(), &number.to_be_bytes()];
    let mut key = vec![0; 32];
    let filled = seed.expose(|seed| {
        let prk = Prk::new_less_safe(HKDF_SHA384, seed);
        prk.expand(&info, Bytes32).and_then(|okm| okm.fill(&mut key))
    });
    let key = ClearBytes::from_vec(key);
    filled.ok()?;
    HopKey::new(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_step_from_key_to_key_and_never_back() {
        let seed = || ClearBytes::copy_from(&[7; 48]);
        let (mut one, mut other) = (LinkKey::new(seed()).unwrap(), LinkKey::new(seed()).unwrap());
        assert_eq!(one.next_frame().map(|(number, counter, _)| (number, counter)), Some((0, 0)));
        one.step_to(1).unwrap();
        assert_eq!(one.next_frame().map(|(number, counter, _)| (number, counter)), Some((1, 0)));
        assert!(other.at(0).is_some() && other.at(1).is_some());
        assert!(other.at(0).is_none() && other.at(3).is_none() && other.at(1).is_some());
    }
}
