//! Random histories of two ends against a model: what was issued can be collected once by each
//! application it is for, with the same bytes, whatever is lost, repeated or crashes in between.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{Chaos, NORTH, Pair, SOUTH, block, bytes_of, random, sae};
use km_core::{
    ids::SaeId,
    key_id::KeyId,
    pool::{CollectError, SuppliedKey},
    provenance::Grade,
    supply::SupplyError,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Admit {
        owner: usize,
        len: usize,
    },
    /// The last messages of an agreement are lost: north stored the block, or did not.
    AdmitHalf {
        owner: usize,
        north_too: bool,
    },
    Issue {
        from: usize,
        whom: usize,
        count: u32,
        bytes: u32,
    },
    Collect {
        key: usize,
        slave: usize,
    },
    CollectByThird {
        key: usize,
    },
    EndRuns {
        at: usize,
    },
    Give {
        at: usize,
        count: u16,
    },
    Sweep {
        at: usize,
    },
    Link {
        up: bool,
    },
    Chaos {
        percent: u32,
        seed: u64,
    },
    DeliverLate {
        at: usize,
    },
    Greet,
    Crash {
        at: usize,
    },
    CrashDuring {
        at: usize,
        commits: i64,
        key: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let end = || 0usize..2;
    prop_oneof![
        3 => (end(), 64usize..3000).prop_map(|(owner, len)| Op::Admit { owner, len }),
        1 => (end(), any::<bool>())
            .prop_map(|(owner, north_too)| Op::AdmitHalf { owner, north_too }),
        6 => (end(), 0usize..4, 1u32..9, prop_oneof![Just(32u32), 8u32..70])
            .prop_map(|(from, whom, count, bytes)| Op::Issue { from, whom, count, bytes }),
        6 => (any::<usize>(), 0usize..2).prop_map(|(key, slave)| Op::Collect { key, slave }),
        1 => any::<usize>().prop_map(|key| Op::CollectByThird { key }),
        1 => end().prop_map(|at| Op::EndRuns { at }),
        2 => (end(), 1u16..4).prop_map(|(at, count)| Op::Give { at, count }),
        1 => end().prop_map(|at| Op::Sweep { at }),
        1 => any::<bool>().prop_map(|up| Op::Link { up }),
        1 => (0u32..40, any::<u64>()).prop_map(|(percent, seed)| Op::Chaos { percent, seed }),
        1 => end().prop_map(|at| Op::DeliverLate { at }),
        1 => Just(Op::Greet),
        1 => end().prop_map(|at| Op::Crash { at }),
        1 => (end(), 0i64..6, any::<usize>())
            .prop_map(|(at, commits, key)| Op::CrashDuring { at, commits, key }),
    ]
}

struct Issued {
    id: KeyId,
    bytes: Vec<u8>,
    from: usize,
    slaves: Vec<SaeId>,
    got: BTreeSet<SaeId>,
    /// A crash left open whether these got it.
    perhaps: BTreeSet<SaeId>,
}

struct World {
    pair: Pair,
    bits: BTreeMap<u64, Vec<u8>>,
    issued: Vec<Issued>,
    taken: BTreeSet<(u64, u16)>,
    faulty: bool,
}

fn names(from: usize, whom: usize) -> (SaeId, Vec<SaeId>) {
    let (master, slaves): (_, &[_]) = match (from, whom) {
        (_, 3) => ("both", &["both"]),
        (NORTH, 0) => ("n1", &["s1"]),
        (NORTH, 1) => ("n1", &["s1", "s2"]),
        (NORTH, _) => ("n2", &["s2"]),
        (_, 0) => ("s1", &["n1"]),
        (_, _) => ("s2", &["n1", "n2"]),
    };
    (sae(master), slaves.iter().map(|name| sae(name)).collect())
}

impl World {
    async fn new() -> Self {
        let (bits, issued, taken) = Default::default();
        Self { pair: Pair::new().await, bits, issued, taken, faulty: false }
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Admit { owner, len } => {
                let bits = random(len);
                let number = self.pair.admit(owner, &bits).await;
                assert!(self.bits.insert(number, bits).is_none(), "a number used twice");
            }
            Op::AdmitHalf { owner, north_too } => self.admit_half(owner, north_too).await,
            Op::Issue { from, whom, count, bytes } => self.issue(from, whom, count, bytes).await,
            Op::Collect { key, slave } if !self.issued.is_empty() => {
                let at = key % self.issued.len();
                let slaves = &self.issued[at].slaves;
                let slave = slaves[slave % slaves.len()].clone();
                self.collect(at, &slave).await;
            }
            Op::CollectByThird { key } if !self.issued.is_empty() => {
                let key = &self.issued[key % self.issued.len()];
                let supply = &self.pair.ends[1 - key.from].supply;
                let third = if key.from == NORTH { sae("s3") } else { sae("n3") };
                let refused = supply.collect(&third, None, &[key.id]).await;
                assert!(matches!(refused, Err(SupplyError::Collect(_))));
            }
            Op::Collect { .. } | Op::CollectByThird { .. } => {}
            Op::EndRuns { at } => self.pair.ends[at].supply.stop().await,
            Op::Give { at, count } => {
                self.pair.ends[at].pool.give(count, Grade::Computational).await.unwrap()
            }
            Op::Sweep { at } => self.pair.ends[at].pool.sweep(),
            Op::Link { up } => {
                self.faulty |= !up;
                for end in &self.pair.ends {
                    end.wire.up.store(up, std::sync::atomic::Ordering::Relaxed);
                }
            }
            Op::Chaos { percent, seed } => {
                self.faulty = true;
                for end in &self.pair.ends {
                    let (lose, repeat, delay) = (percent / 2, percent, percent);
                    end.wire.set_chaos(Chaos { lose, repeat, delay, seed });
                }
            }
            Op::DeliverLate { at } => self.pair.ends[at].wire.deliver_late(),
            Op::Greet => self.greet().await,
            Op::Crash { at } => {
                self.faulty = true;
                self.pair.crash(at).await;
            }
            Op::CrashDuring { at, commits, key } => self.crash_during(at, commits, key).await,
        }
    }

    async fn greet(&self) {
        for end in &self.pair.ends {
            end.pool.settled().await.unwrap();
        }
        self.pair.greet();
    }

    async fn admit_half(&mut self, owner: usize, north_too: bool) {
        self.faulty = true;
        let (number, bits) = (self.pair.fresh_number(), random(640));
        self.pair.south().pool.admit(block(number, owner, &bits, false)).await.unwrap();
        if north_too {
            self.pair.north().pool.admit(block(number, owner, &bits, true)).await.unwrap();
        }
        assert!(self.bits.insert(number, bits).is_none(), "a number used twice");
    }

    async fn issue(&mut self, from: usize, whom: usize, count: u32, bytes: u32) {
        let (master, slaves) = names(from, whom);
        let supply = self.pair.ends[from].supply.clone();
        match supply.issue(&master, &slaves, bytes * 8, count).await {
            Ok(keys) => {
                assert_eq!(keys.len(), count as usize);
                self.note(from, &slaves, keys);
            }
            Err(SupplyError::NoKeys(_)) => {}
            Err(error) => assert!(self.faulty, "{error}"),
        }
    }

    fn note(&mut self, from: usize, slaves: &[SaeId], keys: Vec<SuppliedKey>) {
        for key in keys {
            let slice = key.id.slice();
            let number = slice.block.number;
            for at in slice.offset..slice.offset + slice.len {
                assert!(self.taken.insert((number, at)), "byte {at} of {number} issued twice");
            }
            let range = usize::from(slice.offset)..usize::from(slice.offset + slice.len);
            let bytes = bytes_of(&key);
            assert_eq!(bytes, self.bits[&number][range]);
            let (got, perhaps) = Default::default();
            let slaves = slaves.to_vec();
            self.issued.push(Issued { id: key.id, bytes, from, slaves, got, perhaps });
        }
    }

    async fn collect(&mut self, at: usize, slave: &SaeId) {
        let key = &mut self.issued[at];
        let supply = &self.pair.ends[1 - key.from].supply;
        let perhaps = key.perhaps.remove(slave);
        match supply.collect(slave, None, &[key.id]).await {
            Ok(keys) => {
                assert!(key.got.insert(slave.clone()), "{} delivered twice to {slave}", key.id);
                assert_eq!(bytes_of(&keys[0]), key.bytes, "different bytes at both ends");
            }
            Err(SupplyError::Collect(CollectError::NotFound(_))) => {
                assert!(perhaps || key.got.contains(slave), "{} is lost for {slave}", key.id);
                key.got.insert(slave.clone());
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Issues at one end and collects there at once, while its store dies after some commits.
    async fn crash_during(&mut self, at: usize, commits: i64, key: usize) {
        self.faulty = true;
        let end = &self.pair.ends[at];
        let theirs: Vec<usize> =
            (0..self.issued.len()).filter(|k| self.issued[*k].from != at).collect();
        let wanted = theirs.get(key % theirs.len().max(1)).copied();
        end.life.die_after(commits);
        let (master, slaves) = names(at, 0);
        let (supply, to) = (end.supply.clone(), slaves.clone());
        let issuing = tokio::spawn(async move { supply.issue(&master, &to, 256, 2).await });
        let collecting = wanted.map(|wanted| {
            let key = &mut self.issued[wanted];
            let (slave, id, supply) = (key.slaves[0].clone(), key.id, end.supply.clone());
            let asked = slave.clone();
            let task = tokio::spawn(async move { supply.collect(&asked, None, &[id]).await });
            (wanted, slave, task)
        });
        let patience = Duration::from_millis(30);
        if let Ok(Ok(Ok(keys))) = tokio::time::timeout(patience, issuing).await {
            self.note(at, &slaves, keys);
        }
        if let Some((wanted, slave, task)) = collecting {
            let key = &mut self.issued[wanted];
            match tokio::time::timeout(patience, task).await {
                Ok(Ok(Ok(keys))) => {
                    assert!(key.got.insert(slave), "delivered twice");
                    assert_eq!(bytes_of(&keys[0]), key.bytes);
                }
                _ if key.got.contains(&slave) => {}
                _ => drop(key.perhaps.insert(slave)),
            }
        }
        self.pair.crash(at).await;
    }

    /// All that was issued can still be collected, then nothing of it any more.
    async fn finish(&mut self) {
        for end in &self.pair.ends {
            end.wire.up.store(true, std::sync::atomic::Ordering::Relaxed);
            end.wire.set_chaos(Chaos::default());
            end.wire.deliver_late();
        }
        for _twice in 0..2 {
            for at in 0..self.issued.len() {
                for slave in self.issued[at].slaves.clone() {
                    self.collect(at, &slave).await;
                }
            }
        }
        for at in [NORTH, SOUTH] {
            self.pair.ends[at].supply.stop().await;
        }
        self.greet().await;
        self.pair.assert_settled_and_balanced().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn issued_once_collected_once_with_equal_bytes(ops in prop::collection::vec(op(), 10..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for op in ops {
                world.apply(op).await;
                world.pair.assert_balanced();
            }
            world.finish().await;
        });
        runtime.shutdown_background();
    }
}
