//! Keys that a KM which does not lead draws from the one that does, a moment before applications ask for
//! them. Enter through [`Drawn::issue`].
//!
//! A pair that asks often here has as many drawn as it took lately; one that asks now and then gets each
//! key from the one that leads. For that one they are handed out, so what nobody asks for within [`KEPT`]
//! is given up, and takes room at the other end until it expires. So that at most one key is given up for
//! [`SHARE`] that were taken, a pair's line has credit.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Desk, SupplyError};
use crate::{ids::SaeId, pool::SuppliedKey};

/// How long a key waits here to be asked for: little of the time in which it must be collected.
const KEPT: Duration = Duration::from_secs(1);
/// What was taken in so long is drawn at a time.
const LATELY: Duration = Duration::from_millis(250);
/// Fewer are not worth it.
const LEAST: u32 = 4;
/// Most keys drawn at a time.
const MOST: u32 = 128;
/// Keys taken for each that may be given up.
const SHARE: u32 = 16;
/// Most pairs and key sizes for which keys are drawn.
const MOST_LINES: usize = 1024;

/// Who asks for whom, and the size of the keys in bits.
type Name = (SaeId, Vec<SaeId>, u32);

/// All that is drawn.
#[derive(Default)]
pub(super) struct Drawn(Mutex<HashMap<Name, Arc<Line>>>);

struct Line {
    name: Name,
    stock: Mutex<Stock>,
}

/// The keys of one line, the oldest first.
struct Stock {
    keys: VecDeque<(Instant, SuppliedKey)>,
    drawing: bool,
    /// When it was begun to count `taken`.
    since: Instant,
    taken: u32,
    /// What was taken in the time before `since`.
    before: u32,
    /// [`SHARE`] times the keys that may be given up.
    credit: u32,
}

impl Drawn {
    /// As [`super::Supply::issue`], of what was drawn from `desk`, or from there. `most`: keys that may be
    /// asked of it at a time.
    pub(super) async fn issue(
        &self,
        desk: &Arc<dyn Desk>,
        name: Name,
        count: u32,
        most: u32,
    ) -> Result<Vec<SuppliedKey>, SupplyError> {
        let Some(line) = self.line(&name) else {
            return desk.issue(&name.0, &name.1, name.2, count).await;
        };
        let drawn = line.stock().take(count, Instant::now());
        let keys = match drawn {
            Some(keys) => keys,
            None => desk.issue(&name.0, &name.1, name.2, count).await?,
        };
        let wanted = line.stock().took(count, Instant::now());
        if let Some(wanted) = wanted {
            tokio::spawn(line.draw(desk.clone(), wanted.min(most)));
        }
        Ok(keys)
    }

    fn line(&self, name: &Name) -> Option<Arc<Line>> {
        let mut lines = self.lines();
        if let Some(line) = lines.get(name) {
            return Some(line.clone());
        }
        (lines.len() < MOST_LINES).then(|| {
            let stock = Mutex::new(Stock::new(Instant::now()));
            lines
                .entry(name.clone())
                .or_insert(Arc::new(Line { name: name.clone(), stock }))
                .clone()
        })
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Name, Arc<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what nobody asked for in time. Call it about once a second.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.lines().retain(|_, line| line.stock().lives(now));
    }

    /// Gives everything up.
    pub(super) fn clear(&self) {
        self.lines().clear();
    }
}

impl Line {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn draw(self: Arc<Self>, desk: Arc<dyn Desk>, wanted: u32) {
        let (master, slaves, size) = &self.name;
        let drawn = desk.issue(master, slaves, *size, wanted).await;
        let (mut stock, now) = (self.stock(), Instant::now());
        stock.drawing = false;
        match drawn {
            Ok(keys) => stock.keys.extend(keys.into_iter().map(|key| (now, key))),
            // Whoever asks hears it.
            Err(error) => tracing::debug!(%error, "no keys drawn from the key manager that leads"),
        }
    }
}

impl Stock {
    fn new(now: Instant) -> Self {
        let (keys, drawing) = Default::default();
        Self { keys, drawing, since: now, taken: 0, before: 0, credit: 0 }
    }

    /// All `count` keys or none.
    fn take(&mut self, count: u32, now: Instant) -> Option<Vec<SuppliedKey>> {
        self.pass(now);
        let count = usize::try_from(count).ok().filter(|count| *count <= self.keys.len())?;
        Some(self.keys.drain(..count).map(|(_, key)| key).collect())
    }

    /// An application got `count` keys, from here or not. How many to draw now, if any: whoever hears it
    /// draws them.
    fn took(&mut self, count: u32, now: Instant) -> Option<u32> {
        self.pass(now);
        self.taken = self.taken.saturating_add(count);
        self.credit = self.credit.saturating_add(count).min(MOST * SHARE);
        let (has, lately) = (self.keys.len() as u32, self.before.max(self.taken).min(MOST));
        let wanted = lately.min((self.credit / SHARE).saturating_sub(has));
        let draws = !self.drawing && wanted >= LEAST && has < lately / 2;
        self.drawing |= draws;
        draws.then_some(wanted)
    }

    /// Whether it was asked of lately.
    fn lives(&mut self, now: Instant) -> bool {
        self.pass(now);
        self.drawing || self.taken > 0 || self.before > 0 || !self.keys.is_empty()
    }

    fn pass(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed >= LATELY {
            self.before = if passed < 2 * LATELY { self.taken } else { 0 };
            (self.since, self.taken) = (now, 0);
        }
        let old = |(drawn, _): &(Instant, _)| now.saturating_duration_since(*drawn) > KEPT;
        while self.keys.pop_front_if(|key| old(key)).is_some() {
            self.credit = self.credit.saturating_sub(SHARE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::atomic::{AtomicU32, Ordering::Relaxed},
    };

    use async_trait::async_trait;

    use super::*;
    use crate::{
        ids::{BlockId, LinkId, PoolTag},
        key_id::{KeyId, Slice},
        material::ClearBytes,
        provenance::Provenance,
        supply::Level,
    };

    fn key(number: u32) -> SuppliedKey {
        let block = BlockId { pool: PoolTag::from_bits(1), number: u64::from(number) };
        let id = KeyId::of(Slice { block, offset: 0, len: 32 });
        let provenance = Arc::new(Provenance::direct(LinkId::parse("l1").unwrap()));
        SuppliedKey { id, bytes: ClearBytes::copy_from(&[7; 32]), provenance }
    }

    /// Never gives a key twice, and counts how often it is asked.
    #[derive(Default)]
    struct Leads {
        given: AtomicU32,
        asked: AtomicU32,
    }

    #[async_trait]
    impl Desk for Leads {
        async fn issue(
            &self,
            _: &SaeId,
            _: &[SaeId],
            _: u32,
            count: u32,
        ) -> Result<Vec<SuppliedKey>, SupplyError> {
            self.asked.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
            let first = self.given.fetch_add(count, Relaxed);
            Ok((first..first + count).map(key).collect())
        }
        async fn collect(
            &self,
            _: &SaeId,
            _: Option<&SaeId>,
            _: &[KeyId],
        ) -> Result<Vec<SuppliedKey>, SupplyError> {
            unreachable!()
        }
        async fn bring(&self, _: &SaeId, _: &SaeId, _: KeyId) -> Result<(), SupplyError> {
            unreachable!()
        }
        async fn level(&self, _: &SaeId, _: &SaeId) -> Result<Level, SupplyError> {
            unreachable!()
        }
    }

    #[tokio::test]
    async fn many_asks_cost_few_and_no_key_goes_to_two() {
        let (leads, drawn) = (Arc::new(Leads::default()), Arc::new(Drawn::default()));
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let (leads, drawn): (Arc<dyn Desk>, _) = (leads.clone(), drawn.clone());
            asking.spawn(async move {
                let mut got = Vec::new();
                for count in [1, 2, 3].repeat(50) {
                    let master = SaeId::parse("m").unwrap();
                    let name = (master.clone(), vec![master], 256);
                    let keys = drawn.issue(&leads, name, count, MOST).await.unwrap();
                    assert_eq!(keys.len(), count as usize);
                    got.extend(keys.into_iter().map(|key| key.id));
                    tokio::task::yield_now().await;
                }
                got
            });
        }
        let (mut all, mut count) = (BTreeSet::new(), 0);
        while let Some(got) = asking.join_next().await {
            let got = got.unwrap();
            count += got.len();
            all.extend(got.iter().map(KeyId::to_string));
        }
        assert_eq!((count, all.len()), (32 * 300, 32 * 300));
        let asked = leads.asked.load(Relaxed);
        assert!(asked < 32 * 150 / 2, "{asked} times");
    }

    #[test]
    fn what_is_drawn_is_what_was_taken_lately() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut stock = Stock::new(start);
        for second in 0..5 {
            assert_eq!(stock.took(2, at(second * 1000)), None, "two in a second are not worth it");
        }
        let mut wanted = Vec::new();
        for ms in 5000..6000 {
            wanted.extend(stock.took(3, at(ms)));
            stock.drawing = false;
        }
        assert_eq!((wanted[0], wanted.last()), (LEAST, Some(&MOST)));
        assert_eq!(stock.took(1, at(7000)), None, "few are taken any more");
    }

    #[test]
    fn what_nobody_asks_for_is_given_up() {
        let start = Instant::now();
        let mut stock = Stock { credit: 9 * SHARE, ..Stock::new(start) };
        stock.keys.extend((0..9).map(|number| (start, key(number))));
        assert!(stock.take(10, start).is_none(), "all or none");
        assert_eq!(stock.take(4, start + KEPT).unwrap().len(), 4);
        assert_eq!(stock.took(4, start + KEPT), None, "half of them are left");
        assert!(stock.take(1, start + 2 * KEPT).is_none());
        assert!(stock.keys.is_empty());
        assert_eq!(stock.credit, 4 * SHARE + 4, "it may give up four more");
        assert!(!stock.lives(start + 3 * KEPT));
    }
}
