//! What a run found, as a table and in `target/faults/results.json`. Enter through [`Report::add`].

use std::{collections::BTreeMap, path::Path, sync::atomic::Ordering::Relaxed, time::Duration};

use qkm_tests::promises::Load;
use serde_json::{Value, json};

use crate::{faults::Fault, load::Registers};

/// Bytes of a key of 256 bits.
const KEY: f64 = 32.0;

/// For each kind of fault how long no key was issued, each time.
#[derive(Default)]
pub(crate) struct Report(BTreeMap<Fault, Vec<Duration>>);

impl Report {
    pub(crate) fn add(&mut self, fault: Fault, pause: Duration) {
        self.0.entry(fault).or_default().push(pause);
    }

    fn faults(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// The pauses of the faults `of` these kinds.
    fn pauses(&self, of: impl Fn(Fault) -> bool) -> Value {
        let mut all: Vec<u128> = self
            .0
            .iter()
            .filter(|(fault, _)| of(**fault))
            .flat_map(|(_, pauses)| pauses.iter().map(Duration::as_millis))
            .collect();
        all.sort_unstable();
        match all.last() {
            Some(max) => {
                json!({ "faults": all.len(), "p50_ms": all[all.len() / 2], "max_ms": max })
            }
            None => Value::Null,
        }
    }

    /// `burned`: bytes at north and at south.
    pub(crate) fn write(&self, load: &Load, registers: &Registers, burned: [f64; 2]) {
        let told = load.told.lock().unwrap();
        let kinds: BTreeMap<String, Value> = self
            .0
            .keys()
            .map(|kind| (format!("{kind:?}"), self.pauses(|fault| fault == *kind)))
            .collect();
        let longest = self.0.values().flatten().max().map_or(0, Duration::as_millis);
        let results = json!({
            "profile": if cfg!(debug_assertions) { "dev" } else { "release" },
            "faults": self.faults(),
            "faults_by_kind": kinds,
            "keys_issued": told.issued.len(),
            "keys_collected": told.collected,
            "keys_in_doubt": told.doubtful.len(),
            "keys_burned": { "north": burned[0] / KEY, "south": burned[1] / KEY },
            "objects": told.objects.len(),
            "objects_destroyed": told.destroyed.len(),
            "histories_checked": registers.checked.load(Relaxed),
            "requests_in_histories": registers.asked.load(Relaxed),
            "lost": told.broken.lost,
            "doubled": told.broken.doubled,
            "differing": told.broken.differing,
            "disordered": told.broken.disordered,
            "longest_pause_ms": longest,
            "failover_of_the_km_that_leads": self.pauses(Fault::is_of_the_leader),
            "failover_of_the_engine_leader": self.pauses(Fault::is_of_the_engine_leader),
        });
        println!("{results:#}");
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/faults");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("results.json"), format!("{results:#}\n")).unwrap();
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
