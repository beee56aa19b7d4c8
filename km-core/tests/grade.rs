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
    let (number, bits) = (pair.fresh_number(), random(4096));
    let hop = Hop { to: cluster("south"), cipher: HopCipher::Aes256Gcm };
    for end in &pair.ends {
        let provenance = Provenance::relayed(Origin::HsmRng, vec![hop.clone()]);
        let block = NewBlock { provenance, ..block(number, NORTH, &bits, true) };
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

/// After a restart the grade of a block is still known.
#[tokio::test]
async fn the_grade_outlives_a_crash() {
    let mut pair = strict_at(&[NORTH, SOUTH]).await;
    admit_computational(&mut pair).await;
    let number = pair.north().pool.highest_block();
    pair.north().pool.settled().await;
    pair.crash(NORTH).await;
    assert_eq!(pair.north().pool.grade_of(number), Some(Grade::Computational));
}
