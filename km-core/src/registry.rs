//! Who may talk to whom: registered applications (SAE) and their pairs (clause 7.4).
//! Enter through [`Registry::authorise`]. How a certificate maps to an SAE is the fronts' part.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ids::{ClusterId, SaeId},
    provenance::Grade,
};

/// A mistake in the registered applications or pairs.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    /// A pair names an application that is not registered.
    #[error("the pair {master} -> {slave} names {missing}, which is not a registered SAE")]
    UnknownSae {
        /// One of the pair.
        master: SaeId,
        /// The other.
        slave: SaeId,
        /// The one that is missing.
        missing: SaeId,
    },
    /// An application is registered twice.
    #[error("the SAE {0} is registered twice")]
    Twice(SaeId),
    /// The key manager itself owns objects under such names.
    #[error("no SAE may be called {0}: names that start with qkm. are the key manager's own")]
    Reserved(SaeId),
}

/// The applications of the network and the pairs they may talk in.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    clusters: BTreeMap<SaeId, BTreeSet<ClusterId>>,
    pairs: BTreeSet<(SaeId, SaeId)>,
    /// The least their keys must claim, where policy says so.
    grades: BTreeMap<(SaeId, SaeId), Grade>,
}

impl Registry {
    /// Registers an application at the clusters it may connect to (usually one).
    pub fn register(
        &mut self,
        sae: SaeId,
        clusters: impl IntoIterator<Item = ClusterId>,
    ) -> Result<(), RegistryError> {
        if self.clusters.contains_key(&sae) {
            return Err(RegistryError::Twice(sae));
        }
        if sae.is_reserved() {
            return Err(RegistryError::Reserved(sae));
        }
        self.clusters.insert(sae, clusters.into_iter().collect());
        Ok(())
    }

    /// Lets two applications share keys, either of them as master. An application may be paired
    /// with itself.
    pub fn pair(&mut self, one: &SaeId, other: &SaeId) -> Result<(), RegistryError> {
        for missing in [one, other] {
            if !self.clusters.contains_key(missing) {
                let (master, slave, missing) = (one.clone(), other.clone(), missing.clone());
                return Err(RegistryError::UnknownSae { master, slave, missing });
            }
        }
        self.pairs.insert((one.clone(), other.clone()));
        self.pairs.insert((other.clone(), one.clone()));
        Ok(())
    }

    /// Keys these two share must claim at least `grade`.
    pub fn require(&mut self, one: &SaeId, other: &SaeId, grade: Grade) {
        self.grades.insert((one.clone(), other.clone()), grade);
        self.grades.insert((other.clone(), one.clone()), grade);
    }

    /// The least that keys of `master` and all of `slaves` must claim.
    pub fn grade(&self, master: &SaeId, slaves: &[SaeId]) -> Grade {
        let of = |slave: &SaeId| self.grades.get(&(master.clone(), slave.clone())).copied();
        slaves.iter().filter_map(of).max().unwrap_or(Grade::Computational)
    }

    /// Whether `master` may share keys with `slave`.
    pub fn authorise(&self, master: &SaeId, slave: &SaeId) -> bool {
        self.pairs.contains(&(master.clone(), slave.clone()))
    }

    /// Whether `sae` may connect at `cluster`.
    pub fn is_at(&self, sae: &SaeId, cluster: &ClusterId) -> bool {
        self.clusters.get(sae).is_some_and(|at| at.contains(cluster))
    }

    /// The cluster at which `slave` collects what a master at `here` was issued: another one than
    /// `here`. `None` when it is registered only here, or nowhere.
    pub fn far_cluster(&self, slave: &SaeId, here: &ClusterId) -> Option<&ClusterId> {
        self.clusters.get(slave)?.iter().find(|cluster| *cluster != here)
    }

    /// Every application at `cluster` that `master` may share keys with, sorted.
    pub fn partners_at(&self, master: &SaeId, cluster: &ClusterId) -> Vec<SaeId> {
        let mine = self.pairs.range((master.clone(), first_name())..);
        mine.take_while(|(m, _)| m == master)
            .filter(|(_, slave)| self.is_at(slave, cluster))
            .map(|(_, slave)| slave.clone())
            .collect()
    }
}

/// Sorts before every other name in use: the shortest name out of the smallest character.
fn first_name() -> SaeId {
    #[expect(clippy::expect_used, reason = "a constant that parses; a test says so")]
    SaeId::parse("-").expect("a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sae(name: &str) -> SaeId {
        SaeId::parse(name).unwrap()
    }

    #[test]
    fn pairs_work_both_ways_and_partners_are_sorted() {
        let (north, south) =
            (ClusterId::parse("north").unwrap(), ClusterId::parse("south").unwrap());
        let mut registry = Registry::default();
        for (name, at) in [("n1", &north), ("s2", &south), ("s1", &south), ("s3", &south)] {
            registry.register(sae(name), [at.clone()]).unwrap();
        }
        registry.pair(&sae("n1"), &sae("s2")).unwrap();
        registry.pair(&sae("s1"), &sae("n1")).unwrap();
        assert!(registry.authorise(&sae("s2"), &sae("n1")));
        assert!(!registry.authorise(&sae("n1"), &sae("s3")));
        assert_eq!(registry.partners_at(&sae("n1"), &south), [sae("s1"), sae("s2")]);
        assert_eq!(registry.far_cluster(&sae("s1"), &north), Some(&south));
        assert_eq!(registry.far_cluster(&sae("n1"), &north), None);
        assert!(registry.pair(&sae("n1"), &sae("ghost")).is_err());
        let own = registry.register(sae("qkm.authority"), [north]);
        assert_eq!(own, Err(RegistryError::Reserved(sae("qkm.authority"))));
    }
}
