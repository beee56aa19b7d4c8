//! The QKD links of one pool (7.2). Keys come over one at a time: the one that the controller put into
//! service, or the first that works while that one does not and nobody says otherwise. A link that gives
//! nothing for a while is passed over, whatever its module says of it. Each key says its link, and the
//! other end collects it there, whatever it thinks itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use km_core::{
    ids::{ClusterId, LinkId},
    module::{ModuleError, ModuleKey, ModuleSource},
    provenance::Provenance,
};

/// A link that gave nothing for so long is passed over; so long may a slow one collect its next keys.
const DRY: Duration = Duration::from_secs(10);
/// For how long, while another works.
const PASSED_OVER: Duration = Duration::from_secs(60);

/// One QKD link.
pub(crate) struct Way {
    pub(crate) link: LinkId,
    pub(crate) module: Arc<dyn ModuleSource>,
    /// Whether it seems to make keys.
    pub(crate) works: Box<dyn Fn() -> bool + Send + Sync>,
}

/// How a link did lately.
#[derive(Clone, Copy, Default)]
struct Lately {
    /// Since when it gave nothing, though it was asked.
    dry: Option<Instant>,
    /// Until when it is passed over.
    passed_over: Option<Instant>,
}

/// All QKD links to one peer, first choice first.
pub(crate) struct Switch {
    peer: ClusterId,
    ways: Vec<Way>,
    /// Which link is in service towards each peer, as the controller says.
    serving: Arc<Mutex<BTreeMap<ClusterId, LinkId>>>,
    lately: Mutex<Vec<Lately>>,
}

impl Switch {
    pub(crate) fn new(
        peer: ClusterId,
        ways: Vec<Way>,
        serving: Arc<Mutex<BTreeMap<ClusterId, LinkId>>>,
    ) -> Self {
        let lately = Mutex::new(vec![Lately::default(); ways.len()]);
        Self { peer, ways, serving, lately }
    }

    /// The link whose turn it is.
    fn turn(&self, now: Instant) -> Option<usize> {
        let told = super::lock(&self.serving).get(&self.peer).cloned();
        let told = self.ways.iter().position(|way| told.as_ref() == Some(&way.link));
        let lately = super::lock(&self.lately);
        let passed_over = |at: usize| lately[at].passed_over.filter(|until| now < *until);
        let choices = || told.into_iter().chain(0..self.ways.len());
        let working = choices().filter(|at| (self.ways[*at].works)());
        // The first of them not passed over, else the one that was longest ago.
        working.min_by_key(|at| passed_over(*at)).or_else(|| choices().next())
    }

    /// It was asked for keys.
    fn asked(&self, at: usize, gave: bool, now: Instant) {
        let mut all = super::lock(&self.lately);
        let lately = &mut all[at];
        let dry = *lately.dry.get_or_insert(now);
        if gave {
            *lately = Lately::default();
        } else if now.duration_since(dry) >= DRY && self.ways.len() > 1 {
            *lately = Lately { dry: None, passed_over: Some(now + PASSED_OVER) };
            let (peer, link) = (&self.peer, &self.ways[at].link);
            tracing::warn!(%peer, %link, alarm = "qkd-link-dry",
                "a QKD link gave no keys for a while; another is tried");
        }
    }
}

#[async_trait]
impl ModuleSource for Switch {
    async fn take(&self, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
        let at = self.turn(Instant::now()).ok_or(ModuleError::Empty)?;
        let way = &self.ways[at];
        let taken = way.module.take(bytes).await;
        self.asked(at, taken.is_ok(), Instant::now());
        Ok(of_link(&way.link, taken?))
    }

    async fn collect(
        &self,
        ids: &[String],
        came: &Provenance,
    ) -> Result<Vec<ModuleKey>, ModuleError> {
        let direct = |way: &&Way| *came == Provenance::direct(way.link.clone());
        let way = self.ways.iter().find(direct).ok_or(ModuleError::UnknownId)?;
        Ok(of_link(&way.link, way.module.collect(ids, came).await?))
    }

    async fn rest(&self) {
        for way in &self.ways {
            way.module.rest().await;
        }
    }
}

fn of_link(link: &LinkId, keys: Vec<ModuleKey>) -> Vec<ModuleKey> {
    let came = Provenance::direct(link.clone());
    keys.into_iter().map(|key| ModuleKey { came: Some(came.clone()), ..key }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use km_core::{material::ClearBytes, provenance::Origin};

    use super::*;

    /// Gives a key of its own byte, and any key it is asked for.
    struct Module(u8);

    #[async_trait]
    impl ModuleSource for Module {
        async fn take(&self, _: usize) -> Result<Vec<ModuleKey>, ModuleError> {
            let came = Provenance::direct(LinkId::parse("any").unwrap());
            self.collect(&["k".to_owned()], &came).await
        }
        async fn collect(
            &self,
            ids: &[String],
            _: &Provenance,
        ) -> Result<Vec<ModuleKey>, ModuleError> {
            let key = |id: &String| ModuleKey {
                id: id.clone(),
                bytes: ClearBytes::copy_from(&[self.0]),
                came: None,
            };
            Ok(ids.iter().map(key).collect())
        }
        async fn rest(&self) {}
    }

    #[test]
    fn a_link_that_gives_nothing_is_passed_over_though_its_module_says_it_works() {
        let way = |name: &str| {
            let link = LinkId::parse(name).unwrap();
            Way { link, module: Arc::new(Module(0)), works: Box::new(|| true) }
        };
        let peer = ClusterId::parse("b").unwrap();
        let serving = BTreeMap::from([(peer.clone(), LinkId::parse("one").unwrap())]);
        let ways = vec![way("one"), way("two")];
        let switch = Switch::new(peer, ways, Arc::new(Mutex::new(serving)));
        let mut now = Instant::now();
        switch.asked(0, false, now);
        now += DRY / 2;
        switch.asked(0, true, now);
        switch.asked(0, false, now);
        now += DRY / 2;
        switch.asked(0, false, now);
        assert_eq!(switch.turn(now), Some(0), "it gave something meanwhile");
        now += DRY / 2;
        switch.asked(0, false, now);
        assert_eq!(switch.turn(now), Some(1), "though the controller says the first");
        switch.asked(1, false, now);
        now += DRY;
        switch.asked(1, false, now);
        assert_eq!(switch.turn(now), Some(0), "neither gives: in turn");
        switch.asked(0, true, now);
        now += PASSED_OVER;
        assert_eq!(switch.turn(now), Some(0));
    }

    #[tokio::test]
    async fn a_link_takes_over_when_told_and_when_the_first_fails_and_keys_tell_theirs() {
        let link = |name: &str| LinkId::parse(name).unwrap();
        let well = [Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true))];
        let way = |at: usize, name: &str| {
            let works = well[at].clone();
            let module = Arc::new(Module(at as u8));
            Way { link: link(name), module, works: Box::new(move || works.load(Relaxed)) }
        };
        let (peer, serving) = (ClusterId::parse("b").unwrap(), Arc::new(Mutex::default()));
        let ways = vec![way(0, "one"), way(1, "two")];
        let switch = Switch::new(peer.clone(), ways, serving.clone());
        let direct = |name| Some(Provenance::direct(link(name)));
        let taken = async || switch.take(1).await.unwrap().remove(0).came;
        assert_eq!(taken().await, direct("one"));
        serving.lock().unwrap().insert(peer.clone(), link("two"));
        assert_eq!(taken().await, direct("two"));
        well[1].store(false, Relaxed);
        assert_eq!(taken().await, direct("one"), "the controller does not know yet, or is away");
        well[0].store(false, Relaxed);
        assert_eq!(taken().await, direct("two"), "as told, when none seems to work");
        let ids = ["k".to_owned()];
        let got = switch.collect(&ids, &Provenance::direct(link("one"))).await.unwrap().remove(0);
        assert_eq!(got.bytes, ClearBytes::copy_from(&[0]));
        assert_eq!((got.id.as_str(), got.came), ("k", direct("one")));
        for came in [Provenance::direct(link("three")), Provenance::local(Origin::HsmRng)] {
            assert_eq!(switch.collect(&ids, &came).await.unwrap_err(), ModuleError::UnknownId);
        }
    }
}
