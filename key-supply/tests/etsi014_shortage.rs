//! What happens when keys run out, or what supplies them is away; and that little is burned.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use common::{Network, ids};
use serde_json::json;

const BLOCK: usize = 16_384;

#[tokio::test]
async fn etsi014_503_when_the_pool_runs_dry_and_200_when_it_is_filled_again() {
    let network = Network::start().await;
    network.admit("north", 4096).await;
    let master = network.sae("n1");
    let mut issued = 0;
    let refused = loop {
        match master.get("s1/enc_keys?number=16").await {
            (200, _) => issued += 16,
            refused => break refused,
        }
        assert!(issued <= 128, "more than there is");
    };
    assert_eq!(refused.0, 503);
    let message = refused.1["message"].as_str().unwrap();
    assert!(message.contains("no key material is left in the pool with south"), "{message}");
    assert!(issued >= 64, "{issued} of 128");
    network.admit("north", 4096).await;
    assert_eq!(master.get("s1/enc_keys").await.0, 200);
    network.assert_balanced().await;
}

#[tokio::test]
async fn etsi014_takes_blocks_over_from_the_other_end_when_its_own_are_used_up() {
    let network = Network::start().await;
    for _ in 0..4 {
        network.admit("south", 4096).await;
    }
    let keys = network.sae("n1").enc("s1", json!({"number": 128, "size": 512})).await;
    assert_eq!(network.sae("s1").dec("n1", &ids(&keys)).await.0, 200);
    network.assert_balanced().await;
}

#[tokio::test]
async fn etsi014_503_while_link_or_hsm_is_away() {
    let network = Network::stocked(2, BLOCK).await;
    let (master, slave) = (network.sae("n1"), network.sae("s1"));
    let keys = ids(&master.enc("s1", json!({})).await);
    let switches = [
        ("link", &network.north.wire.up, &master, "s1/enc_keys?size=512".to_owned()),
        ("HSM", &network.north.hsm.up, &master, "s1/enc_keys?size=128".to_owned()),
        ("far HSM", &network.south.hsm.up, &slave, format!("n1/dec_keys?key_ID={}", keys[0])),
    ];
    for (what, up, caller, path) in switches {
        up.store(false, Relaxed);
        let (status, body) = caller.get(&path).await;
        assert_eq!(status, 503, "{what}");
        let message = body["message"].as_str().unwrap();
        assert!(message.ends_with("try again later"), "{message}");
        assert!(!message.contains("switched off"), "inner reasons stay inside: {message}");
        up.store(true, Relaxed);
        assert_eq!(caller.get(&path).await.0, 200, "{what} is back");
    }
}

/// More queues at once than one master may keep: none may be ended under a request that draws
/// from it, or the keys it leased are burned and it never gets any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etsi014_many_key_sizes_at_once_burn_next_to_nothing() {
    let network = Network::start().await;
    for _ in 0..4 {
        network.admit("north", 65_472).await;
    }
    let callers = (0..100u32).map(|place| {
        let master = network.sae("n1");
        tokio::spawn(async move {
            let size = 64 + 8 * place;
            master.enc("s1", json!({"size": size})).await.len() as u64 * u64::from(size)
        })
    });
    let mut bits = 0;
    for caller in callers.collect::<Vec<_>>() {
        bits += tokio::time::timeout(Duration::from_secs(60), caller).await.unwrap().unwrap();
    }
    network.assert_balanced().await;
    let ledger = network.north.pool.view().ledger;
    assert_eq!(ledger.delivered, bits);
    assert!(ledger.burned < bits / 10, "{ledger:?}");
}
