//! The simulated link misbehaves; the KMs notice, say so, and go on by themselves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use qkm_tests::network::{End, Network, Options};

const BOTH: [End; 2] = [End::North, End::South];

/// A rate that keeps blocks coming without filling the pools at once.
fn slow() -> Options {
    Options { rate: Some("4000000".into()), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn differing_bits_are_rejected_at_both_ends_with_an_alarm_and_a_count() {
    let network = Network::start(slow()).await;
    network.stocked(End::North, 1000).await;
    network.fault(r#"{"fault":"wrong_bits","module":"b","on":true,"percent":5}"#).await;
    for end in BOTH {
        let rejected =
            || async { network.metric(end, "qkm_pool_blocks_rejected_total").await >= 2.0 };
        network.until("mismatches are counted", rejected).await;
        let name = network.site(end).cluster;
        assert!(network.log(name).contains("key-mismatch"), "no alarm in the log of {name}");
    }
    network.fault(r#"{"fault":"wrong_bits","module":"b","on":false}"#).await;
    let before = network.metric(End::North, "qkm_pool_blocks_admitted_total").await;
    network
        .until("agreement goes on", || async {
            network.metric(End::North, "qkm_pool_blocks_admitted_total").await > before + 1.0
        })
        .await;
    assert_served_and_balanced(&network).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_drains_the_pool_to_503_and_mending_it_is_enough() {
    let network = Network::start(slow()).await;
    network.stocked(End::North, 4000).await;
    network.set_sim_paused(true).await;
    let north = network.etsi(End::North, "sae-n1");
    let mut served = 0;
    let dry = loop {
        let said = north.enc("sae-s1", 128).await.unwrap();
        match said.status {
            200 => served += said.keys().len(),
            _ => break said,
        }
        assert!(served < 2_000_000, "the pool never runs dry");
    };
    assert_eq!(dry.status, 503, "{:?}", dry.body);
    assert!(dry.body["message"].is_string(), "503 says why");
    network.set_sim_paused(false).await;
    network
        .until("keys come again", || async { north.enc("sae-s1", 1).await.unwrap().status == 200 })
        .await;
    assert_served_and_balanced(&network).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eavesdropper_stops_the_rate_and_is_seen() {
    let network = Network::start(slow()).await;
    network.fault(r#"{"fault":"eavesdrop","on":true}"#).await;
    network
        .until("QBER is above the threshold in the metrics", || async {
            network.metric(End::North, "qkm_qkd_qber_ratio").await > 0.11
                && network.metric(End::North, "qkm_qkd_link_up").await == 0.0
        })
        .await;
    network.fault(r#"{"fault":"eavesdrop","on":false}"#).await;
    network
        .until("the link is up again", || async {
            network.metric(End::North, "qkm_qkd_link_up").await == 1.0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_restarting_and_repeating_modules_lose_nothing_that_was_agreed() {
    let mut network = Network::start(slow()).await;
    network.fault(r#"{"fault":"late","module":"b","on":true,"delay_ms":1500}"#).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    network.fault(r#"{"fault":"late","module":"b","on":false}"#).await;
    network.fault(r#"{"fault":"duplicate_id","module":"a","on":true}"#).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    network.fault(r#"{"fault":"duplicate_id","module":"a","on":false}"#).await;
    network.fault(r#"{"fault":"restart","module":"a"}"#).await;
    network.fault(r#"{"fault":"restart","module":"b"}"#).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    network.kill_sim();
    tokio::time::sleep(Duration::from_secs(1)).await;
    network.start_sim();
    let before = network.metric(End::North, "qkm_pool_absorbed_bytes_total").await;
    network
        .until("keys are taken in again", || async {
            network.metric(End::North, "qkm_pool_absorbed_bytes_total").await > before
        })
        .await;
    assert_served_and_balanced(&network).await;
}

/// Keys come out equal at both ends, and the accounts balance.
async fn assert_served_and_balanced(network: &Network) {
    network.stocked(End::North, 1000).await;
    let issued = network.etsi(End::North, "sae-n1").enc("sae-s1", 16).await.unwrap();
    assert_eq!(issued.status, 200, "{:?}", issued.body);
    let keys = issued.keys();
    let ids: Vec<&str> = keys.iter().map(|(id, _)| id.as_str()).collect();
    let collected = network.etsi(End::South, "sae-s1").dec("sae-n1", &ids).await.unwrap();
    assert_eq!(collected.keys(), keys);
    for end in BOTH {
        assert_eq!(network.metric(end, "qkm_pool_balanced").await, 1.0, "{end:?}");
    }
}
