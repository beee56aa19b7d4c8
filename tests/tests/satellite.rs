//! A satellite as a trusted node (9.4), with real processes: it passes one ground station, then the other,
//! never both. It supplies the exclusive or of its keys with both, which the controller rations, and says
//! when to bring.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use qkm_tests::chain::{Chain, Far, Plan, SAES};

/// Bits a second that may be relayed over the satellite's link with the first station.
const RATION: u64 = 80_000;

/// Two clusters on the ground, the satellite between.
fn plan() -> Plan {
    let lines = "cipher = \"otp-only\"\nscheme = \"supplied\"\nmode = \"manual\"";
    Plan {
        far: vec![Far { from: 0, to: 2, lines }],
        passes: vec!["every_s = 12\nfor_s = 5", "every_s = 12\nfor_s = 5\nafter_s = 6"],
        // The stations are set to wait for orders; the controller says otherwise.
        controller: Some(
            "[[policy]]\nration = { link = [\"a\", \"b\"], bits_per_s = 80000 }\n\
             [[policy]]\nfeed = { between = [\"a\", \"c\"], when = { low_kib = 1024, high_kib = 1024 } }\n",
        ),
        ..Plan::default()
    }
}

/// A fresh key at both stations.
async fn key(chain: &Chain) {
    let (near, far) = (chain.etsi(0), chain.etsi(2));
    let mut issued = Vec::new();
    chain
        .until("a key for both stations", async || {
            let said = near.enc(SAES[2], 1).await;
            issued = said.ok().filter(|said| said.status == 200).map_or(Vec::new(), |s| s.keys());
            !issued.is_empty()
        })
        .await;
    let (id, _) = &issued[0];
    let said = far.dec(SAES[0], &[id.as_str()]).await.unwrap();
    assert_eq!((said.status, said.keys()), (200, issued));
}

async fn is_lit(chain: &Chain, link: usize) -> Option<bool> {
    let name = format!("qkd-link/link-{link}");
    let found = chain.components().await.into_iter().find(|(part, _)| *part == name);
    found.map(|(_, state)| state == "in service")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stations_share_keys_by_a_satellite_that_never_passes_both_and_is_rationed() {
    let chain = Chain::start(plan()).await;
    chain
        .until("the ration, and when to feed, are told", async || {
            let routes = chain.admin(0, "/v1/routes").await;
            routes["routes"].as_array().into_iter().flatten().any(|ways| {
                ways["to"] == "c"
                    && ways["feed"]["mode"] == "watermark"
                    && ways["max_bits_per_s"].as_u64().is_some_and(|b| b <= RATION)
            })
        })
        .await;
    let absorbed = async || chain.pool(0, 2).await["ledger"]["absorbed"].as_u64().unwrap_or(0);
    key(&chain).await;

    // Each link has light at times, and keys go on without.
    let (began, first) = (Instant::now(), absorbed().await);
    let mut seen = BTreeSet::new();
    let all: BTreeSet<(usize, bool)> = [(0, true), (0, false), (1, true), (1, false)].into();
    chain
        .until("both links came and went", async || {
            for link in [0, 1] {
                seen.extend(is_lit(&chain, link).await.map(|lit| (link, lit)));
            }
            seen == all
        })
        .await;
    for link in [0, 1] {
        chain.until("it is dark", async || is_lit(&chain, link).await == Some(false)).await;
        key(&chain).await;
    }

    // It may make up for five seconds without keys, and for no more.
    let came = absorbed().await - first;
    let most = (began.elapsed() + Duration::from_secs(5)).as_secs_f64() * RATION as f64;
    assert!(came > 0 && came as f64 <= most, "{came} bits came, {most} were allowed");
    for (one, other) in [(0, 1), (1, 2)] {
        for (here, there) in [(one, other), (other, one)] {
            let pool = chain.pool(here, there).await;
            assert_eq!(pool["balanced"], true, "{pool}");
        }
    }
    let books = chain.qkm(0, &["pool", "ledger", "--network"]);
    let told = String::from_utf8_lossy(&books.stdout).into_owned();
    assert!(books.status.success(), "{told}{}", String::from_utf8_lossy(&books.stderr));
    assert_eq!(told.matches("~").count(), 6, "both ends of three pools: {told}");
    assert!(
        told.contains("0 DIFFER, 0 do NOT BALANCE") && !told.contains("not reported by both; 1")
    );
    let spent = chain.pool(1, 0).await["ledger"]["pad"].as_u64().unwrap();
    assert!(spent > 0, "the satellite spent keys of its own");
}
