//! Keys that one end has issued and the other has yet to collect. Enter through [`Buffer`].
//!
//! Keys made together share their identifier but for the lowest 16 bits, the index, so a request
//! of thousands of keys costs one entry. Invariants: at most `capacity` bytes; a key is given out
//! at most once; the oldest keys go first.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use uuid::Uuid;
use wiped::Wiped;

const INDEX_BITS: u32 = 16;

/// Identifiers of keys made together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Series(u128);

impl Series {
    /// A fresh random one (UUID version 4 but for the index).
    pub(crate) fn new(random: [u8; 16]) -> Self {
        let uuid = uuid::Builder::from_random_bytes(random).into_uuid();
        Self(uuid.as_u128() >> INDEX_BITS)
    }

    pub(crate) fn id(self, index: u16) -> Uuid {
        Uuid::from_u128(self.0 << INDEX_BITS | u128::from(index))
    }

    fn split(id: Uuid) -> (Self, u16) {
        let number = id.as_u128();
        // Truncation is the point: the lowest 16 bits.
        (Self(number >> INDEX_BITS), (number & 0xFFFF) as u16)
    }
}

struct Batch {
    made: Instant,
    key_bytes: usize,
    taken: Vec<bool>,
    left: usize,
    bytes: Wiped,
}

pub(crate) struct Buffer {
    batches: HashMap<Series, Batch>,
    order: VecDeque<Series>,
    held: usize,
    capacity: usize,
}

/// Keys collected: their sizes, and all bytes in order.
pub(crate) struct Collected {
    pub(crate) sizes: Vec<usize>,
    pub(crate) bytes: Wiped,
}

impl Buffer {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { batches: HashMap::new(), order: VecDeque::new(), held: 0, capacity }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    /// Keeps `bytes`, keys of `key_bytes` each, dropping the oldest keys for room.
    pub(crate) fn put(&mut self, series: Series, key_bytes: usize, bytes: Wiped, made: Instant) {
        self.held += bytes.len();
        while self.held > self.capacity {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(oldest);
        }
        let keys = bytes.len() / key_bytes;
        let batch = Batch { made, key_bytes, taken: vec![false; keys], left: keys, bytes };
        self.batches.insert(series, batch);
        self.order.push_back(series);
    }

    fn forget(&mut self, series: Series) {
        if let Some(batch) = self.batches.remove(&series) {
            self.held -= batch.bytes.len();
        }
    }

    /// All of `ids`, or nothing when one is unknown, given out before, asked for twice, or
    /// younger than `delay`.
    pub(crate) fn collect(
        &mut self,
        ids: &[Uuid],
        now: Instant,
        delay: Duration,
    ) -> Option<Collected> {
        let mut marked = Vec::with_capacity(ids.len());
        let mut total = 0;
        for id in ids {
            let Some(size) = self.mark(*id, now, delay) else {
                self.unmark(&marked);
                return None;
            };
            total += size;
            marked.push(Series::split(*id));
        }
        let mut sizes = Vec::with_capacity(ids.len());
        let mut bytes = Wiped::with_capacity(total);
        for (series, index) in &marked {
            let Some(batch) = self.batches.get(series) else { continue };
            let start = usize::from(*index) * batch.key_bytes;
            bytes.append(&batch.bytes[start..start + batch.key_bytes]);
            sizes.push(batch.key_bytes);
        }
        self.sweep(&marked);
        Some(Collected { sizes, bytes })
    }

    fn mark(&mut self, id: Uuid, now: Instant, delay: Duration) -> Option<usize> {
        let (series, index) = Series::split(id);
        let batch = self.batches.get_mut(&series)?;
        let taken = batch.taken.get_mut(usize::from(index))?;
        if *taken || now.saturating_duration_since(batch.made) < delay {
            return None;
        }
        *taken = true;
        batch.left -= 1;
        Some(batch.key_bytes)
    }

    fn unmark(&mut self, marked: &[(Series, u16)]) {
        for (series, index) in marked {
            if let Some(batch) = self.batches.get_mut(series) {
                batch.taken[usize::from(*index)] = false;
                batch.left += 1;
            }
        }
    }

    /// Forgets batches that are used up.
    fn sweep(&mut self, marked: &[(Series, u16)]) {
        for (series, _) in marked {
            if self.batches.get(series).is_some_and(|batch| batch.left == 0) {
                self.forget(*series);
            }
        }
        // Names of used-up batches wait here for their turn; no more of them than live ones.
        if self.order.len() > 2 * self.batches.len() + 16 {
            self.order.retain(|series| self.batches.contains_key(series));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(capacity: usize, batches: u8) -> (Buffer, Vec<Series>, Instant) {
        let (mut buffer, now) = (Buffer::new(capacity), Instant::now());
        let series: Vec<_> = (0..batches).map(|n| Series::new([n; 16])).collect();
        for (n, name) in series.iter().enumerate() {
            buffer.put(*name, 4, Wiped::new(vec![n as u8; 8]), now);
        }
        (buffer, series, now)
    }

    #[test]
    fn a_key_is_collected_once_and_only_whole_requests() {
        let (mut buffer, series, now) = filled(100, 2);
        let mut collect = |ids: &[Uuid]| buffer.collect(ids, now, Duration::ZERO);
        let (first, second) = (series[0].id(0), series[1].id(1));
        assert!(collect(&[first, series[0].id(2)]).is_none());
        assert!(collect(&[first, first]).is_none());
        assert!(collect(&[first, Uuid::nil()]).is_none());
        let got = collect(&[first, second]).unwrap();
        assert_eq!((got.sizes, &got.bytes[..]), (vec![4, 4], &[0, 0, 0, 0, 1, 1, 1, 1][..]));
        assert!(collect(&[second]).is_none());
        collect(&[series[0].id(1), series[1].id(0)]).unwrap();
        assert_eq!((buffer.held, buffer.batches.len()), (0, 0));
    }

    #[test]
    fn the_oldest_are_dropped_for_room() {
        let (mut buffer, series, now) = filled(24, 5);
        assert!(buffer.held <= 24);
        assert!(buffer.collect(&[series[1].id(0)], now, Duration::ZERO).is_none());
        assert!(buffer.collect(&[series[2].id(0)], now, Duration::ZERO).is_some());
    }

    #[test]
    fn a_late_end_finds_a_key_after_its_delay() {
        let (mut buffer, series, now) = filled(24, 1);
        let delay = Duration::from_secs(5);
        assert!(buffer.collect(&[series[0].id(0)], now + delay / 2, delay).is_none());
        assert!(buffer.collect(&[series[0].id(0)], now + delay, delay).is_some());
    }

    #[test]
    fn names_of_used_up_batches_do_not_pile_up() {
        let mut buffer = Buffer::new(1 << 20);
        for n in 0..10_000u32 {
            let mut random = [0; 16];
            random[..4].copy_from_slice(&n.to_be_bytes());
            let series = Series::new(random);
            buffer.put(series, 4, Wiped::zeros(4), Instant::now());
            buffer.collect(&[series.id(0)], Instant::now(), Duration::ZERO).unwrap();
        }
        assert!(buffer.order.len() < 100 && buffer.batches.is_empty());
    }
}
