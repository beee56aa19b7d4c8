//! A QKD module from which no keys are taken while an operator has its link out of service.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use km_core::{
    ids::LinkId,
    module::{ModuleError, ModuleKey, ModuleSource},
    provenance::Provenance,
};

/// The gate before one module.
pub(crate) struct Gate {
    pub(crate) module: Arc<dyn ModuleSource>,
    pub(crate) link: LinkId,
    /// What operators took out, as the controller says.
    pub(crate) withheld: Arc<Mutex<BTreeSet<LinkId>>>,
}

#[async_trait]
impl ModuleSource for Gate {
    async fn take(&self, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
        if super::lock(&self.withheld).contains(&self.link) {
            return Err(ModuleError::Empty);
        }
        self.module.take(bytes).await
    }

    /// Not withheld: the other end took these before it knew.
    async fn collect(
        &self,
        ids: &[String],
        came: &Provenance,
    ) -> Result<Vec<ModuleKey>, ModuleError> {
        self.module.collect(ids, came).await
    }

    async fn rest(&self) {
        self.module.rest().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// Counts how often it is asked.
    #[derive(Default)]
    struct Asked(AtomicUsize);

    #[async_trait]
    impl ModuleSource for Asked {
        async fn take(&self, _: usize) -> Result<Vec<ModuleKey>, ModuleError> {
            self.0.fetch_add(1, Relaxed);
            Ok(Vec::new())
        }
        async fn collect(
            &self,
            _: &[String],
            _: &Provenance,
        ) -> Result<Vec<ModuleKey>, ModuleError> {
            self.take(0).await
        }
        async fn rest(&self) {}
    }

    #[tokio::test]
    async fn a_module_taken_out_is_not_asked_until_it_is_given_back() {
        let link = LinkId::parse("l1").unwrap();
        let module = Arc::new(Asked::default());
        let withheld = Arc::new(Mutex::new(BTreeSet::from([link.clone()])));
        let came = Provenance::direct(link.clone());
        let gate = Gate { module: module.clone(), link, withheld: withheld.clone() };
        assert_eq!(gate.take(32).await.unwrap_err(), ModuleError::Empty);
        assert_eq!(module.0.load(Relaxed), 0);
        gate.collect(&["k".to_owned()], &came).await.unwrap();
        assert_eq!(module.0.load(Relaxed), 1, "what the other end took is still collected");
        withheld.lock().unwrap().clear();
        gate.take(32).await.unwrap();
        assert_eq!(module.0.load(Relaxed), 2);
    }
}
