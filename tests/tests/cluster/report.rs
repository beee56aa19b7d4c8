//! What a run found, as a table and in `target/faults/results.json`. Enter through [`Report::add`].

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Duration};

use qkm_tests::{
    cluster::{Cluster, SOUTH},
    network::target_dir,
    promises::Load,
};
use serde_json::{Value, json};

use crate::{
    faults::{Cost, Fault, Moves},
    load::Registers,
};

/// Bytes of a key of 256 bits.
const KEY: f64 = 32.0;

/// What was done so far, and what it cost.
pub(crate) struct Report {
    planned: usize,
    seed: u64,
    costs: BTreeMap<Fault, Vec<Cost>>,
    under_way: Option<Fault>,
    /// Bytes at north and at south.
    burned: [f64; 2],
}

impl Report {
    /// Of a run of so many faults.
    pub(crate) fn of(planned: usize, seed: u64) -> Self {
        Self { planned, seed, costs: BTreeMap::new(), under_way: None, burned: [0.0; 2] }
    }

    /// What is injected now: a run that ends in the midst of it says so.
    pub(crate) fn begins(&mut self, fault: Fault) {
        self.under_way = Some(fault);
    }

    pub(crate) fn add(&mut self, fault: Fault, cost: Cost) {
        self.costs.entry(fault).or_default().push(cost);
        self.under_way = None;
    }

    /// What was burned by now at both ends of the link.
    pub(crate) async fn burned(&mut self, cluster: &Cluster) {
        if let Some(leader) = cluster.leader().await {
            self.burned = [cluster.burned(leader).await, cluster.burned(SOUTH).await];
        }
    }

    fn faults(&self) -> usize {
        self.costs.values().map(Vec::len).sum()
    }

    /// The pauses of the faults `of` that kind.
    fn pauses(&self, of: impl Fn(Fault, &Cost) -> bool) -> Value {
        let costs =
            self.costs.iter().flat_map(|(fault, all)| all.iter().map(|cost| (*fault, cost)));
        summary(costs.filter(|(fault, cost)| of(*fault, cost)).map(|(_, cost)| cost.pause))
    }

    fn moves(&self, of: impl Fn(Moves) -> Duration) -> Value {
        let moves = self.costs.values().flatten().filter_map(|cost| cost.moves);
        summary(moves.map(of))
    }

    /// All of it.
    pub(crate) fn told(&self, load: &Load, registers: &Registers) -> Value {
        let told = load.told.lock().unwrap();
        let kinds: BTreeMap<String, Value> = self
            .costs
            .keys()
            .map(|kind| (format!("{kind:?}"), self.pauses(|fault, _| fault == *kind)))
            .collect();
        let longest = self.costs.values().flatten().map(|cost| cost.pause).max();
        json!({
            "profile": if cfg!(debug_assertions) { "dev" } else { "release" },
            "seed": self.seed,
            "faults": self.faults(),
            "faults_planned": self.planned,
            "fault_under_way": self.under_way.map(|fault| format!("{fault:?}")),
            "faults_by_kind": kinds,
            "keys_issued": told.issued.len(),
            "keys_collected": told.collected,
            "keys_in_doubt": told.doubtful.len(),
            "keys_burned": { "north": self.burned[0] / KEY, "south": self.burned[1] / KEY },
            "objects": told.objects.len(),
            "objects_destroyed": told.destroyed.len(),
            "histories_checked": registers.checked.load(Relaxed),
            "requests_in_histories": registers.asked.load(Relaxed),
            "lost": told.broken.lost,
            "doubled": told.broken.doubled,
            "differing": told.broken.differing,
            "disordered": told.broken.disordered,
            "longest_pause_ms": longest.map_or(0, |pause| pause.as_millis()),
            "failover_of_the_km_that_leads": self.pauses(|fault, _| fault.is_of_the_leader()),
            "failover_of_the_engine_leader": self.pauses(|f, c| f.is_of_the_engine_leader() && c.whole),
            "the_same_with_a_member_still_away": self.pauses(|f, c| f.is_of_the_engine_leader() && !c.whole),
            "next_block_over_the_km_link": self.moves(|moves| moves.link),
            "next_key_from_the_module": self.moves(|moves| moves.ingest),
        })
    }

    /// To be repeated: whenever a run ends, its figures are there. What is there is whole at any time.
    pub(crate) fn write(&self, load: &Load, registers: &Registers) {
        let dir = target_dir().join("faults");
        std::fs::create_dir_all(&dir).unwrap();
        let next = dir.join("results.json.next");
        std::fs::write(&next, format!("{:#}\n", self.told(load, registers))).unwrap();
        std::fs::rename(next, dir.join("results.json")).unwrap();
    }

    /// Panics when hardly anything was asked, or too often nobody knew what became of it.
    pub(crate) fn was_under_load(&self, load: &Load, registers: &Registers) {
        let told = load.told.lock().unwrap();
        let worked = [told.collected, told.objects.len() as u64, registers.asked.load(Relaxed)];
        let doubts = told.doubtful.len() as f64 / told.collected as f64;
        assert!(doubts < 0.05, "{doubts} of the keys may have been delivered or not");
        assert!(worked.iter().all(|done| *done > self.faults() as u64), "the load was a load");
    }
}

fn summary(of: impl Iterator<Item = Duration>) -> Value {
    let mut all: Vec<u128> = of.map(|pause| pause.as_millis()).collect();
    all.sort_unstable();
    match all.last() {
        Some(max) => json!({ "faults": all.len(), "p50_ms": all[all.len() / 2], "max_ms": max }),
        None => Value::Null,
    }
}
