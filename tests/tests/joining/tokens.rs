//! A key manager with several tokens among others: each of them takes the KEKs, or waits for them.

use qkm_tests::standby::{STANDBY, Standby};

use super::*;

/// Whether this many tokens of a KM are used.
async fn used(cluster: &Cluster, km: usize, tokens: f64) {
    let what = format!("{tokens} tokens of {} are used", cluster.site(km).name);
    cluster.until(&what, async || cluster.metric(km, "qkm_hsm_ready").await == tokens).await;
}

/// An object that the KM 1 opens with `tokens` of its tokens: it was made elsewhere, under a new epoch.
async fn opens_a_new_epoch(cluster: &Cluster, tokens: f64) {
    let (code, said) = by_custodian(cluster, 0, &["hsm", "epoch", "rotate"]);
    assert_eq!(code, 0, "{said}");
    let (object, bytes) = create(cluster, 0).await;
    assert_eq!(get(cluster, 1, &object).await, bytes);
    used(cluster, 1, tokens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_manager_with_two_tokens_joins_and_each_has_the_keks_by_itself() {
    let mut cluster = founder_of([1]).await;
    let (object, bytes) = create(&cluster, 0).await;
    let home = cluster.layout().dir.join(&cluster.site(1).name);
    let standby = Standby::provision(&home.join(STANDBY));
    let member: toml::Value = toml::from_str(&format!("member = [{}]", standby.member())).unwrap();
    cluster.edit(1, |config| {
        let hsm = config["hsm"].as_table_mut().unwrap();
        hsm.insert("member".into(), member["member"].clone());
    });

    let invited = token(&cluster, 0, 1);
    let (code, said) = join(&cluster, 1, &invited);
    assert!(code == 0 && said.contains("joined"), "{code} {said}");
    assert_eq!(epochs(&cluster, 0).len(), 2, "one epoch brings the KEK into both tokens");
    cluster.run(1);
    cluster.ready(1).await;
    used(&cluster, 1, 2.0).await;
    assert_eq!(get(&cluster, 1, &object).await, bytes);
    opens_a_new_epoch(&cluster, 2.0).await;

    // An epoch begins while the standby is away: its KEK waits, and comes when the standby does.
    cluster.stop(1);
    let (conf, away) = (&standby.token.conf, home.join("away"));
    std::fs::rename(conf, &away).unwrap();
    cluster.run(1);
    cluster.ready(1).await;
    opens_a_new_epoch(&cluster, 1.0).await;
    std::fs::rename(&away, conf).unwrap();
    used(&cluster, 1, 2.0).await;

    // It has all that the first one has, which dies now.
    let (object, bytes) = create(&cluster, 0).await;
    let first = cluster.site(1).softhsm_conf.with_file_name("softhsm");
    std::fs::rename(&first, &away).unwrap();
    used(&cluster, 1, 1.0).await;
    assert_eq!(get(&cluster, 1, &object).await, bytes);
    let (object, bytes) = create(&cluster, 1).await;
    assert_eq!(get(&cluster, 0, &object).await, bytes, "sealed by the standby");

    // Taken out, neither gets what comes then.
    let (code, said) = by_custodian(&cluster, 0, &["node", "revoke", &cluster.site(1).name]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(ended(&mut cluster, 1).await, Some(4));
    std::fs::rename(&away, &first).unwrap();
    assert!(!opens_the_store(&cluster, 1));
}
