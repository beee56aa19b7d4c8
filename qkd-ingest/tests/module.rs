//! Both ends of a simulated link through [`Module`], with its faults.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{collections::HashSet, sync::Arc, time::Duration};

use common::{PATIENCE, Pki, assert_same, came, eventually, ids, is_unavailable};
use km_core::module::{ModuleError, ModuleSource};
use qkd_ingest::{
    LinkCondition, Module, ModuleConfig,
    sim::{End, Fault, Sim, SimConfig, SimHandle},
};
use tokio::time::timeout;
use transport::{Shutdown, ShutdownHandle};

/// A running link, and a KM's client at each end.
struct Lab {
    pki: Pki,
    addresses: [String; 2],
    a: Arc<Module>,
    b: Arc<Module>,
    handle: SimHandle,
    _stop: ShutdownHandle,
}

fn sim_config(pki: &Pki, extra: &str) -> SimConfig {
    let module = |end: &str| {
        let files = pki.server(&format!("module-{end}"));
        format!(
            "[{end}]\nkme_id = \"MOD-{end}\"\nlisten = \"127.0.0.1:0\"\nsae_id = \"km {end}\"\n\
             clients = [\"cn:km-{end}\"]\n\
             tls = {{ certificate = {:?}, key = {:?}, ca = {:?} }}\n",
            files.certificate, files.key, files.ca
        )
    };
    toml::from_str(&format!("{extra}\n{}{}", module("a"), module("b"))).unwrap()
}

fn module_config(address: &str, sae: &str, peer_sae: &str) -> ModuleConfig {
    ModuleConfig {
        status_path: Some("/api/v1/link".into()),
        status_interval_ms: 1000,
        identity: Some(format!("cn:module-{}", &sae[3..]).parse().unwrap()),
        ..ModuleConfig::new(address, sae, peer_sae)
    }
}

impl Lab {
    async fn start(extra: &str, key_size_bits: Option<u32>) -> Self {
        let pki = Pki::new();
        let sim = Sim::start(sim_config(&pki, extra)).await.unwrap();
        let addresses = [End::A, End::B].map(|end| sim.address(end).to_string());
        let client = |name: &str, address: &str, sae: &str, peer: &str| {
            let config = ModuleConfig { key_size_bits, ..module_config(address, sae, peer) };
            pki.module(name, config)
        };
        let a = client("km-a", &addresses[0], "km a", "km b");
        let b = client("km-b", &addresses[1], "km b", "km a");
        let (handle, (stop, shutdown)) = (sim.handle(), Shutdown::pair());
        tokio::spawn(sim.run(shutdown));
        Self { pki, addresses, a, b, handle, _stop: stop }
    }

    async fn max() -> Self {
        Self::start("rate_override = \"max\"", Some(256)).await
    }
}

#[tokio::test]
async fn keys_of_one_end_are_collected_at_the_other_in_the_order_asked_for() {
    let lab = Lab::max().await;
    let mut taken = lab.a.take(100_000).await.unwrap();
    assert_eq!(taken.len(), 3125);
    taken.reverse();
    assert_same(&lab.b.collect(&ids(&taken), &came()).await.unwrap(), &taken);
    assert_eq!(lab.b.collect(&ids(&taken), &came()).await.unwrap_err(), ModuleError::UnknownId);
    assert!(lab.b.collect(&[], &came()).await.unwrap().is_empty());
    let (a, b) = (lab.a.counters().totals(), lab.b.counters().totals());
    assert_eq!((a.keys_taken, a.bytes_taken, a.errors), (3125, 100_000, 0));
    assert_eq!((b.keys_collected, b.bytes_collected, b.errors), (3125, 100_000, 0));
}

#[tokio::test]
async fn without_a_size_keys_are_as_large_as_useful() {
    let lab = Lab::start("rate_override = \"max\"", None).await;
    let taken = lab.a.take(65_536).await.unwrap();
    assert!(taken.len() == 8 && taken.iter().all(|key| key.bytes.len() == 8192));
    assert_same(&lab.b.collect(&ids(&taken), &came()).await.unwrap(), &taken);
    let small = lab.a.take(100).await.unwrap();
    assert!(small.len() == 1 && small[0].bytes.len() == 100);
}

#[tokio::test]
async fn repeated_identifiers_are_dropped_and_counted() {
    let lab = Lab::max().await;
    let before = lab.a.take(64).await.unwrap();
    lab.handle.switch(Fault::DuplicateId { end: End::A, on: true });
    // The third key of this answer repeats the identifier of the second key before.
    let taken = lab.a.take(96).await.unwrap();
    let unique: HashSet<_> = ids(&taken).into_iter().collect();
    assert!(unique.len() == taken.len() && taken.len() >= 2);
    assert!(ids(&before).iter().all(|id| !unique.contains(id)));
    assert!(lab.a.counters().totals().duplicates >= 1);
    assert_same(&lab.b.collect(&ids(&taken[..2]), &came()).await.unwrap(), &taken[..2]);
}

#[tokio::test]
async fn keys_that_come_late_are_collected_by_asking_again() {
    let lab = Lab::max().await;
    let taken = lab.a.take(64).await.unwrap();
    lab.handle.switch(Fault::Late { end: End::B, delay: Duration::from_secs(3600) });
    assert_eq!(lab.b.collect(&ids(&taken), &came()).await.unwrap_err(), ModuleError::UnknownId);
    lab.handle.switch(Fault::Late { end: End::B, delay: Duration::ZERO });
    assert_same(&lab.b.collect(&ids(&taken), &came()).await.unwrap(), &taken);
    assert_eq!(lab.b.counters().totals().errors, 0);
}

#[tokio::test]
async fn batches_that_arrived_before_an_error_are_there_for_the_retry() {
    let few = "rate_override = \"max\"\n[keys]\nmax_per_request = 2";
    let lab = Lab::start(few, Some(256)).await;
    let taken = lab.a.take(128).await.unwrap();
    assert_eq!(taken.len(), 4);
    let mut wanted = ids(&taken);
    wanted[3] = "0190163d-8694-839b-aea5-966c26f8ad91".into();
    assert_eq!(lab.b.collect(&wanted, &came()).await.unwrap_err(), ModuleError::UnknownId);
    // The module has forgotten the first two, we have not.
    assert_same(&lab.b.collect(&ids(&taken), &came()).await.unwrap(), &taken);
}

#[tokio::test]
async fn identifiers_that_cannot_be_are_refused_before_asking() {
    let lab = Lab::max().await;
    for ids in [vec!["a".into(), "a".into()], vec!["x".repeat(65)], vec![String::new()]] {
        let refused = lab.b.collect(&ids, &came()).await;
        assert!(matches!(refused, Err(ModuleError::Protocol(_))), "{refused:?}");
    }
    assert_eq!(lab.b.counters().totals().errors, 0);
}

#[tokio::test]
async fn a_cut_link_is_empty_and_comes_back_by_itself() {
    let keys = "rate_override = 1e9\n[keys]\nbuffer_bits = 524288\nmax_request_bits = 524288";
    let lab = Lab::start(keys, Some(256)).await;
    let watching = lab.a.clone();
    let (_stop, shutdown) = Shutdown::pair();
    tokio::spawn(async move { watching.watch(shutdown).await });
    eventually(async || (lab.a.take(32_768).await.is_ok()).then_some(())).await;
    lab.handle.switch(Fault::Cut { on: true });
    let end = eventually(async || lab.a.take(1 << 20).await.err()).await;
    assert_eq!(end, ModuleError::Empty);
    let link = |wanted| {
        let a = lab.a.clone();
        async move || a.status().link.filter(|link| link.condition == wanted)
    };
    assert_eq!(eventually(link(LinkCondition::Down)).await.qber, None);
    lab.handle.switch(Fault::Cut { on: false });
    let taken = eventually(async || lab.a.take(64).await.ok()).await;
    assert_same(&lab.b.collect(&ids(&taken), &came()).await.unwrap(), &taken);
    let up = eventually(link(LinkCondition::Up)).await;
    assert!(up.qber.unwrap() < 0.05 && up.key_rate_bps == Some(1e9));
    assert!(lab.a.status().reachable && lab.a.counters().totals().errors == 0);
}

#[tokio::test]
async fn a_restarted_module_is_used_again() {
    let lab = Lab::max().await;
    let lost = lab.a.take(64).await.unwrap();
    lab.b.take(64).await.unwrap();
    lab.handle.switch(Fault::Restart { end: End::B });
    let gone = eventually(async || {
        // The connection may break under the request.
        lab.b.collect(&ids(&lost), &came()).await.err().filter(|e| *e == ModuleError::UnknownId)
    });
    gone.await;
    let taken = eventually(async || lab.b.take(64).await.ok()).await;
    assert_same(&lab.a.collect(&ids(&taken), &came()).await.unwrap(), &taken);
}

#[tokio::test]
async fn rest_closes_connections_and_the_next_request_opens_them() {
    let lab = Lab::max().await;
    lab.a.take(64).await.unwrap();
    timeout(PATIENCE, lab.a.rest()).await.expect("in time");
    let taken = lab.a.take(64).await.unwrap();
    lab.b.rest().await;
    assert_same(&lab.b.collect(&ids(&taken), &came()).await.unwrap(), &taken);
}

#[tokio::test]
async fn only_the_configured_module_and_a_known_certificate_will_do() {
    let lab = Lab::max().await;
    let config = module_config(&lab.addresses[0], "km a", "km b");
    let other = ModuleConfig { identity: Some("cn:module-b".parse().unwrap()), ..config.clone() };
    let other = lab.pki.module("km-a-again", other).take(32).await;
    assert!(is_unavailable(&other) && format!("{other:?}").contains("module-a"), "{other:?}");
    let stranger = lab.pki.module("stranger", config).take(32).await;
    let Err(ModuleError::Protocol(text)) = stranger else { panic!("{stranger:?}") };
    assert!(text.contains("401") && text.contains("registered"), "{text}");
}

#[tokio::test]
async fn an_absent_module_is_tried_again_after_a_pause() {
    let pki = Pki::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = pki.module("km-a", module_config(&port.to_string(), "km a", "km b"));
    assert!(is_unavailable(&client.take(32).await));
    // Held back without a try.
    let held = client.take(32).await;
    assert!(format!("{held:?}").contains("next try in"), "{held:?}");
    assert_eq!(client.counters().totals().errors, 1);
    assert!(!client.status().reachable);
    let mut config = sim_config(&pki, "rate_override = \"max\"");
    config.a.listen = port;
    let (_stop, shutdown) = Shutdown::pair();
    tokio::spawn(Sim::start(config).await.unwrap().run(shutdown));
    eventually(async || client.take(32).await.ok()).await;
    assert!(client.status().reachable);
    assert_eq!(client.counters().totals().reconnects, 1);
}

#[test]
fn a_wrong_configuration_is_named() {
    let right = "address = \"m:443\"\nsae = \"a\"\npeer_sae = \"b\"\n";
    let parse = |extra: &str| toml::from_str::<ModuleConfig>(&format!("{right}{extra}"));
    assert_eq!(parse("").unwrap(), ModuleConfig::new("m:443", "a", "b"));
    assert!(parse("colour = 1").is_err() && parse("identity = \"ou:x\"").is_err());
    for (extra, named) in [
        ("key_size_bits = 7", "key_size_bits"),
        ("key_size_bits = 524281", "key_size_bits"),
        ("request_timeout_ms = 1", "request_timeout_ms"),
        ("status_interval_ms = 0", "status_interval_ms"),
        ("status_path = \"link\"", "status_path"),
    ] {
        let error = parse(extra).unwrap().check().unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    assert!(ModuleConfig::new("m:443", "a", "a").check().is_err());
    assert!(ModuleConfig::new("m:443", "", "b").check().is_err());
}
