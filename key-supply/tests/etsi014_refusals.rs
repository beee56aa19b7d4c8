//! What ETSI GS QKD 014 V1.1.1 refuses, with which status and which words.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::{Network, ids, key_ids};
use km_core::supply::SupplyLimits;
use serde_json::{Value, json};

const BLOCK: usize = 16_384;
const NOT_FOUND: &str = "one or more keys specified are not found on KME";
/// Of the right form, never issued by anyone.
const FOREIGN: &str = "bc490419-7d60-487f-adc1-4ddcc177c139";

fn named(body: &Value) -> Vec<&str> {
    let details = body["details"].as_array().expect("details").iter();
    details.map(|detail| detail["key_ID"].as_str().expect("an ID")).collect()
}

#[tokio::test]
async fn etsi014_dec_keys_refuses_third_sae() {
    let network = Network::stocked(1, BLOCK).await;
    let keys = ids(&network.sae("n1").enc("s1", json!({"number": 2})).await);
    // s2 may share keys with n1, s3 may not; neither was named for these.
    for third in ["s2", "s3"] {
        let third = network.sae(third);
        assert_eq!(third.dec("n1", &keys).await, (401, Value::Null));
        assert_eq!(third.get(&format!("n1/dec_keys?key_ID={}", keys[0])).await.0, 401);
    }
    assert_eq!(network.south.front.counters().unauthorized.load(Relaxed), 4);
    assert_eq!(network.sae("s1").dec("n1", &keys).await.0, 200, "still there for whom they are");
}

#[tokio::test]
async fn etsi014_dec_keys_refuses_unless_named_for_every_key() {
    let network = Network::stocked(1, BLOCK).await;
    let (master, slave) = (network.sae("n1"), network.sae("s1"));
    let mine = ids(&master.enc("s1", json!({"number": 2})).await);
    let other = ids(&master.enc("s2", json!({})).await);
    let of_another_master = ids(&network.sae("n2").enc("s1", json!({})).await);
    assert_eq!(slave.dec("n1", &[mine[0].clone()]).await.0, 200);
    for foreign in [other, of_another_master] {
        // mine[0] is gone, which alone would be 400.
        let asked = [mine[0].clone(), mine[1].clone(), foreign[0].clone()];
        assert_eq!(slave.dec("n1", &asked).await, (401, Value::Null));
    }
    assert_eq!(slave.dec("n1", &mine[1..]).await.0, 200, "a refusal takes nothing");
}

#[tokio::test]
async fn etsi014_dec_keys_refuses_a_wrong_master_in_the_url() {
    let network = Network::stocked(1, BLOCK).await;
    let keys = ids(&network.sae("n1").enc("s1", json!({})).await);
    let slave = network.sae("s1");
    for wrong in ["n2", "n3", "s1", "ghost", "no%20name", "%00"] {
        let (status, body) = slave.dec(wrong, &keys).await;
        let refused = if wrong == "%00" { 404 } else { 401 };
        assert_eq!(status, refused, "{wrong}: {body}");
    }
    assert_eq!(slave.dec("n1", &keys).await.0, 200);
}

#[tokio::test]
async fn etsi014_dec_keys_gives_a_key_once() {
    let network = Network::stocked(1, BLOCK).await;
    let keys = ids(&network.sae("n1").enc("s1", json!({"number": 3})).await);
    let slave = network.sae("s1");
    assert_eq!(slave.dec("n1", &keys[..2]).await.0, 200);
    let (status, body) = slave.dec("n1", &keys).await;
    assert_eq!((status, &body["message"]), (400, &json!(NOT_FOUND)));
    assert_eq!(named(&body), keys[..2], "exactly those that are gone");
    assert_eq!(slave.dec("n1", &keys[2..]).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etsi014_dec_keys_gives_a_key_once_under_a_race() {
    let network = Network::stocked(1, BLOCK).await;
    let keys = ids(&network.sae("n1").enc("s1", json!({"number": 20})).await);
    let racers = (0..4).map(|_| {
        let (slave, keys) = (network.sae("s1"), keys.clone());
        tokio::spawn(async move {
            let mut won = 0;
            for key in keys {
                won += usize::from(slave.dec("n1", &[key]).await.0 == 200);
            }
            won
        })
    });
    let mut won = 0;
    for racer in racers.collect::<Vec<_>>() {
        won += racer.await.unwrap();
    }
    assert_eq!(won, keys.len());
}

#[tokio::test]
async fn etsi014_dec_keys_names_the_ids_it_does_not_know() {
    let network = Network::stocked(1, BLOCK).await;
    let slave = network.sae("s1");
    for unknown in [FOREIGN, "00000000-0000-0000-0000-000000000000", "vendor:7"] {
        let (status, body) = slave.dec("n1", &[unknown.into()]).await;
        assert_eq!((status, &body["message"]), (400, &json!(NOT_FOUND)));
        assert_eq!(named(&body), [unknown]);
        assert_eq!(slave.get(&format!("n1/dec_keys?key_ID={unknown}")).await.0, 400);
    }
}

#[tokio::test]
async fn etsi014_size_not_multiple_of_8() {
    let network = Network::stocked(1, BLOCK).await;
    let master = network.sae("n1");
    let expected = json!({"message": "size shall be a multiple of 8"});
    for size in [1u64, 63, 65, 257, 32_769, 1 << 33 | 1] {
        let (status, body) = master.post("s1/enc_keys", &json!({"size": size}).to_string()).await;
        assert_eq!((status, &body), (400, &expected), "{size}");
        let (status, body) = master.get(&format!("s1/enc_keys?size={size}")).await;
        assert_eq!((status, &body), (400, &expected), "{size}");
    }
}

#[tokio::test]
async fn etsi014_size_and_number_have_bounds() {
    let network = Network::stocked(1, BLOCK).await;
    let master = network.sae("n1");
    for (wanted, words) in [
        (json!({"size": 0}), "size shall be from 64 to 32768 bits"),
        (json!({"size": 56}), "size shall be from 64 to 32768 bits"),
        (json!({"size": 32_776}), "size shall be from 64 to 32768 bits"),
        (json!({"size": 1u64 << 32 | 256}), "size shall be from 64 to 32768 bits"),
        (json!({"number": 0}), "number shall be from 1 to 128"),
        (json!({"number": 129}), "number shall be from 1 to 128"),
        (json!({"number": 1u64 << 32 | 1}), "number shall be from 1 to 128"),
        (json!({"number": u64::MAX}), "number shall be from 1 to 128"),
    ] {
        let (status, body) = master.post("s1/enc_keys", &wanted.to_string()).await;
        assert_eq!((status, &body["message"]), (400, &json!(words)), "{wanted}");
    }
    assert_eq!(network.north.pool.own_bytes(), BLOCK as u64, "nothing was taken");
}

#[tokio::test]
async fn etsi014_extension_mandatory_is_not_supported() {
    let network = Network::stocked(1, BLOCK).await;
    let master = network.sae("n1");
    for options in [
        json!([{"abc_route_type": "direct"}]),
        json!([{"qkm_min_grade": "its-relay"}]),
        json!([{}, {"x": null}]),
    ] {
        let wanted = json!({"extension_mandatory": options}).to_string();
        let (status, body) = master.post("s1/enc_keys", &wanted).await;
        let words = "not all extension_mandatory parameters are supported";
        assert_eq!((status, &body["message"]), (400, &json!(words)));
    }
}

#[tokio::test]
async fn etsi014_multicast_refuses_whom_the_master_may_not_share_with() {
    let network = Network::stocked(1, BLOCK).await;
    let master = network.sae("n1");
    let many: Vec<String> = (0..16).map(|n| format!("x{n}")).collect();
    for (additional, status) in
        [(json!(["s3"]), 401), (json!(["ghost"]), 401), (json!(["n3"]), 401), (json!(many), 400)]
    {
        let wanted = json!({"additional_slave_SAE_IDs": additional}).to_string();
        assert_eq!(master.post("s1/enc_keys", &wanted).await.0, status, "{wanted}");
    }
}

#[tokio::test]
async fn etsi014_refuses_pairs_that_are_not_registered() {
    let network = Network::stocked(1, BLOCK).await;
    // n3 is paired with n1, but at the same KME.
    for (caller, other) in [("n1", "s3"), ("n2", "s2"), ("n1", "n1"), ("n1", "ghost"), ("n1", "n3")]
    {
        let caller = network.sae(caller);
        for path in ["status", "enc_keys"] {
            let refused = caller.get(&format!("{other}/{path}")).await;
            assert_eq!(refused, (401, Value::Null), "{} {other}/{path}", caller.name);
        }
    }
    // Who may not ask does not learn whether the question was right.
    assert_eq!(network.sae("n1").get("s3/enc_keys?size=7").await.0, 401);
    let slave = network.sae("s3");
    assert_eq!(slave.dec("n1", &[FOREIGN.into()]).await, (401, Value::Null));
    assert_eq!(slave.post("n1/dec_keys", "{").await, (401, Value::Null));
}

#[tokio::test]
async fn etsi014_refuses_a_certificate_of_no_sae_here() {
    let network = Network::stocked(1, BLOCK).await;
    // A stranger of the same CA; a registered SAE of the other KME.
    for caller in [network.sae_at("stranger", "north"), network.sae_at("s1", "north")] {
        for path in ["s1/status", "s1/enc_keys", "n1/dec_keys?key_ID=x", "elsewhere"] {
            assert_eq!(caller.get(path).await, (401, Value::Null), "{} {path}", caller.name);
        }
    }
}

#[tokio::test]
async fn etsi014_malformed_requests() {
    let network = Network::stocked(1, BLOCK).await;
    let (master, slave) = (network.sae("n1"), network.sae("s1"));
    let long = format!(r#"{{"additional_slave_SAE_IDs":["{}"]}}"#, "s".repeat(300));
    let deep = "[".repeat(1000);
    for body in [
        "{",
        "nonsense",
        "\"x\"",
        "17",
        r#"{"number":-1}"#,
        r#"{"number":1.5}"#,
        r#"{"number":"1"}"#,
        r#"{"number":1,"number":2}"#,
        r#"{"size":1e30}"#,
        "{} x",
        r#"{"additional_slave_SAE_IDs":"s2"}"#,
        r#"{"additional_slave_SAE_IDs":[7]}"#,
        r#"{"extension_mandatory":{}}"#,
        r#"{"extension_optional":[1]}"#,
        &long,
        &deep,
        "\u{0}",
    ] {
        let (status, answer) = master.post("s1/enc_keys", body).await;
        assert_eq!(status, 400, "{body}");
        assert!(!answer["message"].as_str().unwrap().is_empty());
    }
    let twice = key_ids(&[FOREIGN.into(), FOREIGN.into()]);
    let too_many = key_ids(&vec![FOREIGN.into(); 129]);
    for body in [
        "",
        "{}",
        "{",
        r#"{"key_IDs":[]}"#,
        r#"{"key_IDs":{}}"#,
        r#"{"key_IDs":["x"]}"#,
        r#"{"key_IDs":[{}]}"#,
        r#"{"key_IDs":[{"key_ID":""}]}"#,
        r#"{"key_IDs":[{"key_ID":7}]}"#,
        &twice,
        &too_many,
    ] {
        assert_eq!(slave.post("n1/dec_keys", body).await.0, 400, "{body}");
    }
    for query in [
        "number=x",
        "number=",
        "size=-8",
        "number=1&number=1",
        "size=1.0",
        "additional_slave_SAE_IDs=s2",
        "extension_mandatory=x",
        "number=99999999999999999999",
    ] {
        assert_eq!(master.get(&format!("s1/enc_keys?{query}")).await.0, 400, "{query}");
    }
    for query in ["", "?key_ID=", "?key_ID=%zz", "?key_ID=a&key_ID=b", "?other=1"] {
        assert_eq!(slave.get(&format!("n1/dec_keys{query}")).await.0, 400, "{query}");
    }
    assert_eq!(network.north.pool.own_bytes(), BLOCK as u64, "nothing was taken");
}

#[tokio::test]
async fn etsi014_a_key_asked_for_twice_is_refused_and_stays() {
    let network = Network::stocked(1, BLOCK).await;
    let keys = ids(&network.sae("n1").enc("s1", json!({})).await);
    let slave = network.sae("s1");
    let (status, body) = slave.dec("n1", &[keys[0].clone(), keys[0].to_uppercase()]).await;
    assert_eq!((status, &body["message"]), (400, &json!("a key ID is given twice")));
    assert_eq!(named(&body), keys);
    assert_eq!(slave.dec("n1", &keys).await.0, 200);
}

#[tokio::test]
async fn etsi014_other_paths_and_methods() {
    let network = Network::stocked(1, BLOCK).await;
    let master = network.sae("n1");
    let base = "/api/v1/keys";
    for (method, target, status) in [
        ("GET", "/".to_owned(), "404"),
        ("GET", base.to_owned(), "404"),
        ("GET", format!("{base}/s1/enc_key"), "404"),
        ("GET", format!("{base}/s1/enc_keys/"), "404"),
        ("GET", format!("{base}//status"), "404"),
        ("GET", format!("{base}/s1/x/status"), "404"),
        ("GET", format!("{base}/%zz/status"), "404"),
        ("GET", "/api/v2/keys/s1/status".to_owned(), "404"),
        ("POST", format!("{base}/s1/status"), "405"),
        ("PUT", format!("{base}/s1/enc_keys"), "405"),
        ("DELETE", format!("{base}/s1/dec_keys"), "405"),
    ] {
        let (head, body) = master.raw(method, &target, "").await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{method} {target}: {head}");
        assert!(serde_json::from_str::<Value>(&body).unwrap()["message"].is_string());
        assert_eq!(head.contains("\r\nallow: get"), status == "405", "{head}");
    }
}

#[tokio::test]
async fn etsi014_answers_are_json_that_nobody_may_store() {
    let network = Network::stocked(1, BLOCK).await;
    let master = network.sae("n1");
    for (path, status) in [("s1/enc_keys", 200), ("s1/status", 200), ("s1/enc_keys?size=7", 400)] {
        let (head, _) = master.raw("GET", &format!("/api/v1/keys/{path}"), "").await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(head.contains("\r\ncache-control: no-store"), "{head}");
        assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
    }
    let (head, body) = master.raw("GET", "/api/v1/keys/s3/enc_keys", "").await;
    assert!(head.starts_with("http/1.1 401") && head.contains("no-store"), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn etsi014_bodies_are_bounded() {
    let network = Network::stocked(1, BLOCK).await;
    let master = network.sae("n1");
    let padded = |len: usize| format!("{{}}{}", " ".repeat(len - 2));
    assert_eq!(master.post("s1/enc_keys", &padded(65_536)).await.0, 200);
    let (head, _) = master.raw("POST", "/api/v1/keys/s1/enc_keys", &padded(65_537)).await;
    assert!(head.starts_with("http/1.1 413"), "{head}");
}

/// As many key IDs as one enc_keys may give fit one dec_keys, whatever that number is.
#[tokio::test]
async fn etsi014_dec_keys_takes_as_many_key_ids_as_enc_keys_gives() {
    let limits = SupplyLimits { max_keys: 2048, ..SupplyLimits::default() };
    let network = Network::start_with(limits, 64 << 20).await;
    network.admit("north", 65_472).await;
    network.admit("north", 65_472).await;
    let keys = network.sae("n1").enc("s1", json!({"number": 2046, "size": 64})).await;
    let (status, answer) = network.sae("s1").dec("n1", &ids(&keys)).await;
    assert_eq!(status, 200, "{}", answer["message"]);
}
