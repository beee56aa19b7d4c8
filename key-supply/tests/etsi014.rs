//! What ETSI GS QKD 014 V1.1.1 grants, over real TLS and two real supplies.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{Network, Sae, ids, keys_of};
use km_core::supply::SupplyLimits;
use serde_json::{Value, json};

const BLOCK: usize = 16_384;

/// `slave` collects what `master` was issued, and sees the same bytes in the same order.
async fn collect_equal(slave: &Sae, master: &str, keys: &[(String, Vec<u8>)]) {
    let (status, body) = slave.dec(master, &ids(keys)).await;
    assert_eq!(status, 200, "{body}");
    assert!(keys_of(&body) == keys, "the ends differ");
}

#[tokio::test]
async fn etsi014_get_and_post_are_equal() {
    let network = Network::stocked(1, BLOCK).await;
    let (master, slave) = (network.sae("n1"), network.sae("s1"));
    for (by_get, by_post, number, size) in [
        ("s1/enc_keys", "", 1, 256),
        ("s1/enc_keys?number=3", r#"{"number":3}"#, 3, 256),
        ("s1/enc_keys?number=2&size=512", r#"{"size":512,"number":2}"#, 2, 512),
    ] {
        for (status, body) in [master.get(by_get).await, master.post("s1/enc_keys", by_post).await]
        {
            assert_eq!(status, 200, "{body}");
            let keys = keys_of(&body);
            assert_eq!(keys.len(), number);
            assert!(keys.iter().all(|(_, key)| key.len() * 8 == size));
            let (status, first) = slave.get(&format!("n1/dec_keys?key_ID={}", keys[0].0)).await;
            assert_eq!(status, 200);
            assert!(keys_of(&first)[..] == keys[..1]);
            if let [_, rest @ ..] = &keys[..]
                && !rest.is_empty()
            {
                collect_equal(&slave, "n1", rest).await;
            }
        }
    }
    let counters = network.north.front.counters();
    assert_eq!(counters.issued.load(std::sync::atomic::Ordering::Relaxed), 12);
}

#[tokio::test]
async fn etsi014_either_end_may_be_the_master() {
    let network = Network::stocked(1, BLOCK).await;
    let (north, south) = (network.sae("n1"), network.sae("s1"));
    let of_north = north.enc("s1", json!({"number": 5})).await;
    let of_south = south.enc("n1", json!({"number": 5})).await;
    collect_equal(&south, "n1", &of_north).await;
    collect_equal(&north, "s1", &of_south).await;
    network.assert_balanced().await;
}

#[tokio::test]
async fn etsi014_multicast_each_slave_collects_once() {
    let network = Network::stocked(1, BLOCK).await;
    let master = network.sae("n1");
    let wanted = json!({"number": 2, "additional_slave_SAE_IDs": ["s2", "s1"]});
    let keys = master.enc("s1", wanted).await;
    for slave in ["s1", "s2"] {
        let slave = network.sae(slave);
        collect_equal(&slave, "n1", &keys).await;
        assert_eq!(slave.dec("n1", &ids(&keys)).await.0, 400, "collected twice");
    }
    network.assert_balanced().await;
}

#[tokio::test]
async fn etsi014_self_paired_sae_collects_at_its_other_home() {
    let network = Network::stocked(1, BLOCK).await;
    let (here, there) = (network.sae_at("both", "north"), network.sae_at("both", "south"));
    let keys = here.enc("both", json!({"number": 3})).await;
    assert_eq!(here.dec("both", &ids(&keys)).await.0, 400, "they are for the other home");
    collect_equal(&there, "both", &keys).await;
}

#[tokio::test]
async fn etsi014_sae_ids_in_urls_are_percent_decoded() {
    let network = Network::stocked(1, BLOCK).await;
    let (master, slave) = (network.sae("n1"), network.sae("hq:south@1"));
    for spelled in ["hq:south@1", "hq%3Asouth%401", "%68q%3asouth%401"] {
        let keys = master.enc(spelled, json!({})).await;
        collect_equal(&slave, "%6E1", &keys).await;
    }
}

#[tokio::test]
async fn etsi014_sizes_from_the_smallest_to_the_largest() {
    let network = Network::stocked(4, 65_472).await;
    let (master, slave) = (network.sae("n1"), network.sae("s1"));
    for size in [64, 72, 128, 192, 256, 264, 1000, 4096, 32_760, 32_768, 64] {
        let keys = master.enc("s1", json!({"number": 3, "size": size})).await;
        assert!(keys.iter().all(|(_, key)| key.len() * 8 == size), "{size}");
        collect_equal(&slave, "n1", &keys).await;
    }
    network.assert_balanced().await;
}

#[tokio::test]
async fn etsi014_one_request_spans_several_blocks() {
    let network = Network::stocked(6, BLOCK).await;
    let (master, slave) = (network.sae("n1"), network.sae("s1"));
    // 15 keys fit no single block: four of them fill one.
    let keys = master.enc("s1", json!({"number": 15, "size": 32_768})).await;
    let all: BTreeMap<_, _> = keys.iter().cloned().collect();
    assert_eq!(all.len(), 15);
    // Asked in another order than issued, they come in the order asked.
    let (front, back) = keys.split_at(7);
    let mixed: Vec<_> = back.iter().chain(front).rev().cloned().collect();
    collect_equal(&slave, "n1", &mixed).await;
    network.assert_balanced().await;
}

#[tokio::test]
async fn etsi014_extension_optional_is_ignored() {
    let network = Network::stocked(1, BLOCK).await;
    let wanted = json!({"extension_optional": [{"x_colour": "blue"}, {"y": 1}],
        "extension_mandatory": [], "additional_slave_SAE_IDs": null});
    assert_eq!(network.sae("n1").enc("s1", wanted).await.len(), 1);
}

/// As KMIP tells it; and nobody who does not ask sees more than the standard has.
#[tokio::test]
async fn etsi014_extension_tells_the_way_of_each_key_to_whoever_asks() {
    let network = Network::stocked(1, BLOCK).await;
    let (master, slave) = (network.sae("n1"), network.sae("s1"));
    let way = json!({ "qkm-grade": "its-relay", "qkm-link": "link-1" });
    let option = |on: Value| json!([{ "qkm-provenance": on }]);
    for (asked, told) in [
        (json!({ "extension_mandatory": option(json!(true)) }), Some(&way)),
        (json!({ "extension_optional": option(json!(true)), "number": 2 }), Some(&way)),
        (json!({ "extension_mandatory": option(json!(false)) }), None),
        (json!({}), None),
    ] {
        let (status, body) = master.post("s1/enc_keys", &asked.to_string()).await;
        assert_eq!(status, 200, "{body}");
        let keys = keys_of(&body);
        let named: Vec<Value> = ids(&keys).iter().map(|id| json!({ "key_ID": id })).collect();
        let mut wanted = json!({ "key_IDs": named });
        if told.is_some() {
            wanted["key_IDs_extension"] = json!({ "qkm-provenance": true });
        }
        let (status, same) = slave.post("n1/dec_keys", &wanted.to_string()).await;
        assert_eq!(status, 200, "{same}");
        assert!(keys_of(&same) == keys);
        for answer in [body, same] {
            for key in answer["keys"].as_array().unwrap() {
                assert_eq!(key.get("key_extension"), told);
                assert_eq!(key.as_object().unwrap().len(), 2 + usize::from(told.is_some()));
            }
        }
    }
    let wrong = json!({ "extension_mandatory": option(json!("yes")) }).to_string();
    let (status, body) = master.post("s1/enc_keys", &wrong).await;
    assert_eq!((status, &body["message"]), (400, &json!(etsi014::text::MANDATORY_NOT_MET)));
}

#[tokio::test]
async fn etsi014_key_ids_are_read_in_any_spelling() {
    let network = Network::stocked(1, BLOCK).await;
    let keys = network.sae("n1").enc("s1", json!({})).await;
    let (status, body) = network.sae("s1").dec("n1", &[keys[0].0.to_uppercase()]).await;
    assert_eq!(status, 200);
    assert!(keys_of(&body) == keys);
}

#[tokio::test]
async fn etsi014_status_has_every_field() {
    let limits = SupplyLimits { key_size: 512, max_keys: 7, ..SupplyLimits::default() };
    let network = Network::start_with(limits, 4 * BLOCK as u64).await;
    network.admit("north", BLOCK).await;
    network.admit("south", BLOCK).await;
    let (status, body) = network.sae("n1").get("s1/status").await;
    assert_eq!(status, 200);
    let expected = json!({
        "source_KME_ID": "north", "target_KME_ID": "south",
        "master_SAE_ID": "n1", "slave_SAE_ID": "s1",
        "key_size": 512, "stored_key_count": 256, "max_key_count": 1024,
        "max_key_per_request": 7, "max_key_size": 32_768, "min_key_size": 64,
        "max_SAE_ID_count": 15,
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn etsi014_stored_key_count_never_passes_max_key_count() {
    let network = Network::start_with(SupplyLimits::default(), BLOCK as u64 + 1).await;
    let count = |body: &Value, name: &str| body[name].as_u64().unwrap();
    for stored in [0, 512, 512] {
        let (_, body) = network.sae("n1").get("s1/status").await;
        assert_eq!(count(&body, "stored_key_count"), stored);
        assert_eq!(count(&body, "max_key_count"), 512);
        network.admit("north", BLOCK).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etsi014_concurrent_callers_get_equal_bytes_and_no_key_twice() {
    const ROUNDS: usize = 8;
    let network = Arc::new(Network::stocked(12, 65_472).await);
    let pairs =
        [("n1", "s1"), ("s1", "n1"), ("n1", "s2"), ("n2", "s3"), ("n2", "s1"), ("s2", "n1")];
    let callers = pairs.iter().enumerate().map(|(place, (master, slave))| {
        let (m, s) = (network.sae(master), network.sae(slave));
        tokio::spawn(async move {
            let mut seen = Vec::new();
            for round in 0..ROUNDS {
                let number = 1 + (round * 37 + place * 11) % 128;
                let size = [256, 128, 512][(round + place) % 3];
                let keys = m.enc(&s.name, json!({"number": number, "size": size})).await;
                assert_eq!(keys.len(), number);
                collect_equal(&s, &m.name, &keys).await;
                seen.extend(keys);
            }
            seen
        })
    });
    let mut all = BTreeMap::new();
    let mut issued = 0;
    for caller in callers.collect::<Vec<_>>() {
        let seen = caller.await.unwrap();
        issued += seen.len();
        all.extend(seen);
    }
    assert!(issued > 2500, "{issued}");
    assert_eq!(all.len(), issued, "an identifier was issued twice");
    let distinct: std::collections::BTreeSet<_> = all.values().collect();
    assert_eq!(distinct.len(), issued, "the same bytes were issued twice");
    network.assert_balanced().await;
}
