//! The least grade that policy lets two applications use.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{
    End, NORTH, Pair, SOUTH, block, bytes_of, cluster, config, ids_of, random, registry, sae,
};
use km_core::{
    pool::NewBlock,
    provenance::{Grade, Hop, HopCipher, Origin, Provenance},
    supply::SupplyError,
};

/// Keys of n1 and s1 must be `its-relay`, by the policy of the ends named.
async fn strict_at(ends: &[usize]) -> Pair {
    let mut pair = Pair::new().await;
    for at in ends.iter().copied() {
        let mut registry = registry();
        registry.require(&sae("s1"), &sae("n1"), Grade::ItsRelay);
        let config = config(at, pair.key_ttl);
        pair.ends[at] = End::open(&pair.machines[at], config, registry).await.unwrap();
    }
    pair.join();
    pair.greet();
    pair
}

/// A block of north that came over a hop with AES.
async fn admit_computational(pair: &mut Pair) {
    admit_computational_of(pair, NORTH).await;
}

async fn admit_computational_of(pair: &mut Pair, owner: usize) {
    let (number, bits) = (pair.fresh_number(), random(4096));
    let hop = Hop { to: cluster("south"), cipher: HopCipher::Aes256Gcm };
    for end in &pair.ends {
        let provenance = Provenance::relayed(Origin::HsmRng, vec![hop.clone()]);
        let block = NewBlock { provenance, ..block(number, owner, &bits, true) };
        end.pool.admit(block).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_below_the_grade_policy_asks_for_is_refused() {
    let mut pair = strict_at(&[NORTH, SOUTH]).await;
    admit_computational(&mut pair).await;
    let [n1, s1, s2] = ["n1", "s1", "s2"].map(sae);
    let issue = async |pair: &Pair, slave| {
        pair.north().supply.issue(&n1, std::slice::from_ref(slave), 256, 2).await
    };
    let refused = issue(&pair, &s1).await.unwrap_err();
    let expected = SupplyError::BelowGrade { peer: cluster("south"), grade: Grade::ItsRelay };
    assert_eq!(refused, expected);
    // Others may use them.
    let keys = issue(&pair, &s2).await.unwrap();
    assert_eq!(keys[0].provenance.grade(), Grade::Computational);
    pair.admit_random(NORTH, 4096).await;
    let keys = issue(&pair, &s1).await.unwrap();
    assert_eq!(keys[0].provenance.grade(), Grade::ItsRelay);
    let got = pair.south().supply.collect(&s1, Some(&n1), &ids_of(&keys)).await.unwrap();
    assert_eq!(bytes_of(&got[1]), bytes_of(&keys[1]));
    pair.assert_settled_and_balanced().await;
}

/// The other end does not take the master's word for what its own applications may use.
#[tokio::test]
async fn the_policy_of_the_end_that_collects_counts_too() {
    let mut pair = strict_at(&[SOUTH]).await;
    admit_computational(&mut pair).await;
    let issued = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 2).await;
    assert!(issued.is_err(), "{issued:?}");
    pair.admit_random(NORTH, 4096).await;
    let keys = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 2).await.unwrap();
    assert_eq!(keys[0].provenance.grade(), Grade::ItsRelay);
    pair.assert_settled_and_balanced().await;
}

/// What the other end refuses to one pair is good for the next.
#[tokio::test]
async fn a_grade_that_only_the_other_end_asks_for_costs_others_nothing() {
    let mut pair = strict_at(&[SOUTH]).await;
    for _ in 0..3 {
        admit_computational(&mut pair).await;
    }
    let expected = SupplyError::BelowGrade { peer: cluster("south"), grade: Grade::ItsRelay };
    for _ in 0..20 {
        let refused = pair.north().supply.issue(&sae("n1"), &[sae("s1")], 256, 1).await;
        assert_eq!(refused.unwrap_err(), expected);
    }
    let burned = pair.north().pool.account().burned;
    assert_eq!(burned, 256, "the run by which it was found out");
    assert_eq!(pair.north().supply.level(&sae("n1"), &sae("s1")).await.unwrap().stored_bytes, 0);
    // All three blocks serve others, at once.
    for _ in 0..3 {
        let keys = pair.north().supply.issue(&sae("n1"), &[sae("s2")], 256, 100).await.unwrap();
        let got = pair.south().supply.collect(&sae("s2"), None, &ids_of(&keys)).await.unwrap();
        assert_eq!(got.len(), 100);
    }
    assert_eq!(pair.north().pool.account().burned, burned);
    pair.north().supply.stop().await;
    pair.assert_settled_and_balanced().await;
}

/// What claims too little is no level, and no loan helps with more of it.
#[tokio::test]
async fn levels_and_loans_are_of_the_grade_that_is_asked_for() {
    let mut pair = strict_at(&[NORTH, SOUTH]).await;
    let [n1, s1, s2] = ["n1", "s1", "s2"].map(sae);
    let level = async |pair: &Pair, slave| {
        pair.north().supply.level(&n1, slave).await.unwrap().stored_bytes
    };
    admit_computational(&mut pair).await;
    assert_eq!((level(&pair, &s1).await, level(&pair, &s2).await), (0, 4096));
    for _ in 0..4 {
        pair.admit_random(SOUTH, 4096).await;
    }
    // The newest go first, and these are of no use.
    for _ in 0..4 {
        admit_computational_of(&mut pair, SOUTH).await;
    }
    let keys = pair.north().supply.issue(&n1, std::slice::from_ref(&s1), 256, 2).await.unwrap();
    assert_eq!(keys[0].provenance.grade(), Grade::ItsRelay);
    assert!(level(&pair, &s1).await > 4000, "{}", level(&pair, &s1).await);
    assert_eq!(level(&pair, &s2).await, level(&pair, &s1).await + 4096);
    pair.north().supply.stop().await;
    pair.assert_settled_and_balanced().await;
}

/// After a restart the grade of a block is still known.
#[tokio::test]
async fn the_grade_outlives_a_crash() {
    let mut pair = strict_at(&[NORTH, SOUTH]).await;
    admit_computational(&mut pair).await;
    let number = pair.north().pool.highest_block();
    pair.north().pool.settled().await.unwrap();
    pair.crash(NORTH).await;
    assert_eq!(pair.north().pool.grade_of(number), Some(Grade::Computational));
}
