//! The QKD links of one pool (7.2). Keys come over one at a time: the one that the controller put into
//! service, or the first that works while that one does not and nobody says otherwise. Each key's
//! name tells its link, so the other end finds it whatever it thinks itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use km_core::{
    ids::{ClusterId, LinkId},
    module::{ModuleError, ModuleKey, ModuleSource},
    provenance::Provenance,
};

/// Between the link and the module's own name of a key. No link has it in its name.
const AFTER_LINK: char = '/';

/// One QKD link.
pub(crate) struct Way {
    pub(crate) link: LinkId,
    pub(crate) module: Arc<dyn ModuleSource>,
    /// Whether it seems to make keys.
    pub(crate) works: Box<dyn Fn() -> bool + Send + Sync>,
}

/// All QKD links to one peer, first choice first.
pub(crate) struct Switch {
    pub(crate) peer: ClusterId,
    pub(crate) ways: Vec<Way>,
    /// Which link is in service towards each peer, as the controller says.
    pub(crate) serving: Arc<Mutex<BTreeMap<ClusterId, LinkId>>>,
}

impl Switch {
    fn way(&self) -> Option<&Way> {
        let told = super::lock(&self.serving).get(&self.peer).cloned();
        let told = self.ways.iter().find(|way| told.as_ref() == Some(&way.link));
        let first = told.into_iter().chain(&self.ways).find(|way| (way.works)());
        first.or(told).or(self.ways.first())
    }
}

#[async_trait]
impl ModuleSource for Switch {
    async fn take(&self, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
        let way = self.way().ok_or(ModuleError::Empty)?;
        let keys = way.module.take(bytes).await?;
        let named = keys.into_iter().map(|key| ModuleKey {
            id: format!("{}{AFTER_LINK}{}", way.link, key.id),
            relayed: Some(Provenance::direct(way.link.clone())),
            ..key
        });
        Ok(named.collect())
    }

    async fn collect(&self, ids: &[String]) -> Result<Vec<ModuleKey>, ModuleError> {
        let split: Option<Vec<_>> = ids.iter().map(|id| id.split_once(AFTER_LINK)).collect();
        let split = split.ok_or(ModuleError::UnknownId)?;
        let link = split.first().map(|(link, _)| *link).ok_or(ModuleError::UnknownId)?;
        let way = self.ways.iter().find(|way| way.link.as_str() == link);
        let way = way.filter(|_| split.iter().all(|(other, _)| *other == link));
        let way = way.ok_or(ModuleError::UnknownId)?;
        let own: Vec<String> = split.iter().map(|(_, id)| (*id).to_owned()).collect();
        let keys = way.module.collect(&own).await?;
        let named = keys.into_iter().zip(ids).map(|(key, id)| ModuleKey {
            id: id.clone(),
            relayed: Some(Provenance::direct(way.link.clone())),
            ..key
        });
        Ok(named.collect())
    }

    async fn rest(&self) {
        for way in &self.ways {
            way.module.rest().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use km_core::material::ClearBytes;

    use super::*;

    /// Gives a key of its own byte, and any key it is asked for.
    struct Module(u8);

    #[async_trait]
    impl ModuleSource for Module {
        async fn take(&self, _: usize) -> Result<Vec<ModuleKey>, ModuleError> {
            self.collect(&["k".to_owned()]).await
        }
        async fn collect(&self, ids: &[String]) -> Result<Vec<ModuleKey>, ModuleError> {
            let key = |id: &String| ModuleKey {
                id: id.clone(),
                bytes: ClearBytes::copy_from(&[self.0]),
                relayed: None,
            };
            Ok(ids.iter().map(key).collect())
        }
        async fn rest(&self) {}
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
        let switch = Switch { peer: peer.clone(), ways, serving: serving.clone() };
        let taken = async || switch.take(1).await.unwrap().remove(0).id;
        assert_eq!(taken().await, "one/k");
        serving.lock().unwrap().insert(peer.clone(), link("two"));
        assert_eq!(taken().await, "two/k");
        well[1].store(false, Relaxed);
        assert_eq!(taken().await, "one/k", "the controller does not know yet, or is away");
        well[0].store(false, Relaxed);
        assert_eq!(taken().await, "two/k", "as told, when none seems to work");
        let got = switch.collect(&["one/k".to_owned()]).await.unwrap().remove(0);
        assert_eq!(got.bytes, ClearBytes::copy_from(&[0]));
        assert_eq!(
            (got.id.as_str(), got.relayed),
            ("one/k", Some(Provenance::direct(link("one"))))
        );
        for ids in [vec!["k"], vec!["three/k"], vec!["one/k", "two/k"]] {
            let ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
            assert_eq!(switch.collect(&ids).await.unwrap_err(), ModuleError::UnknownId);
        }
    }
}
