//! QKD keys through KMIP: drawn at one end, collected at the other, over two fronts.

use std::sync::Arc;

use km_core::{
    hsm::Custody,
    key_id::KeyId,
    provenance::{Combination, CombineMethod},
    usage::kem::KemSet,
};
use kmip::{
    DateTime, Version,
    attribute::{
        ApplicationSpecificInformation, Attribute, AttributeKind, Attributes, Name, VendorAttribute,
    },
    client,
    enums::*,
    op::{create, locate},
    ttlv::Value,
};

use crate::common::{Client, Network, refusal, sae_id};

fn pool(peer: &str, more: impl IntoIterator<Item = Attribute>) -> create::Request {
    let mut attributes = Attributes::from_iter([Attribute::ObjectGroup(format!("qkd/{peer}"))]);
    more.into_iter().for_each(|attribute| attributes.push(attribute));
    let object_type = ObjectType::SymmetricKey;
    create::Request { object_type, attributes, protection_storage_masks: None }
}

async fn draw(client: &mut Client) -> String {
    client.create(pool("south", [])).await.unwrap().id
}

fn vendor(name: &str, value: &str) -> Attribute {
    let value = Value::TextString(value.into());
    Attribute::Vendor(VendorAttribute { vendor: "x".into(), name: name.into(), value })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_drawn_at_one_end_is_the_same_at_the_other() {
    let network = Network::stocked().await;
    for version in Version::ALL {
        let mut master = network.client("n1", version).await;
        let mut slave = network.client("s1", version).await;
        let id = draw(&mut master).await;
        assert!(KeyId::parse(&id).is_some(), "the identifier is the key's own");
        let here = master.key(&id).await.unwrap();
        assert_eq!(slave.key(&id).await.unwrap(), here);
        assert_eq!(slave.key(&id).await.unwrap(), here, "Get may be repeated");
        for (client, peer) in [(&mut master, "south"), (&mut slave, "north")] {
            let all = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
            let info = ApplicationSpecificInformation {
                namespace: "qkd014".into(),
                data: Some(id.clone()),
            };
            for expected in [
                Attribute::UniqueIdentifier(id.clone()),
                Attribute::ObjectGroup(format!("qkd/{peer}")),
                Attribute::ApplicationSpecificInformation(info),
                Attribute::CryptographicLength(256),
                Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Aes),
                Attribute::State(State::PreActive),
                vendor("qkm-grade", "its-relay"),
                vendor("qkm-link", "link-1"),
            ] {
                assert!(all.attributes.iter().any(|a| *a == expected), "{version} {expected:?}");
            }
        }
        master.activate(client::activate(&id)).await.unwrap();
        let state = slave.attribute(&id, AttributeKind::State).await;
        assert_eq!(state, Some(Attribute::State(State::PreActive)), "each end has its own");
    }
    network.assert_balanced().await;
}

/// Beside what is told of every pool key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_combined_key_tells_where_the_ml_kem_exchange_was() {
    let network = Network::start().await;
    let (kem, method, custody) = (KemSet::MlKem768, CombineMethod::Xor, Some(Custody::InToken));
    network.admit("north", 4096, Some(Combination { kem, method, custody })).await;
    let mut master = network.client("n1", Version::V2_1).await;
    let id = draw(&mut master).await;
    for name in ["n1", "s1"] {
        let mut client = network.client(name, Version::V1_4).await;
        client.key(&id).await.unwrap();
        let all = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
        for expected in [
            vendor("qkm-combined", "ml-kem-768 by xor"),
            vendor("qkm-combined-custody", "in-token"),
        ] {
            assert!(all.attributes.iter().any(|a| *a == expected), "{name} {expected:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_slave_has_its_own_object_and_strangers_none() {
    let network = Network::stocked().await;
    let mut master = network.client("n1", Version::V2_1).await;
    let id = draw(&mut master).await;
    let key = master.key(&id).await.unwrap();
    let mut third = network.client("s3", Version::V2_1).await;
    assert_eq!(refusal(third.key(&id).await), ResultReason::ObjectNotFound);
    let mut one = network.client("s1", Version::V2_1).await;
    let mut two = network.client("s2", Version::V2_1).await;
    assert_eq!(one.key(&id).await.unwrap(), key);
    one.destroy(client::destroy(&id)).await.unwrap();
    assert_eq!(refusal(one.key(&id).await), ResultReason::ObjectDestroyed);
    assert_eq!(two.key(&id).await.unwrap(), key, "the other slave's is untouched");
    assert_eq!(refusal(third.key(&id).await), ResultReason::ObjectNotFound);
    let mut near = network.client("n2", Version::V2_1).await;
    assert_eq!(refusal(near.key(&id).await), ResultReason::ObjectNotFound);
    network.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_names_an_application_is_for_that_one_alone() {
    let network = Network::stocked().await;
    let mut master = network.client("n1", Version::V2_1).await;
    let mut named = network.client("s1", Version::V2_1).await;
    let mut other = network.client("s2", Version::V2_1).await;
    let created = master.create(pool("south/s1", [])).await.unwrap().id;
    let located = master.locate(client::locate_fresh("qkd/south/s1")).await.unwrap().ids.remove(0);
    for id in [&created, &located] {
        assert_eq!(refusal(other.key(id).await), ResultReason::ObjectNotFound);
        assert_eq!(named.key(id).await.unwrap(), master.key(id).await.unwrap());
    }
    for group in ["qkd/south", "qkd/south/s1"] {
        let group = [Attribute::ObjectGroup(group.into())];
        let found = master.locate(client::locate(group)).await.unwrap().ids;
        assert!(found.contains(&created) && found.contains(&located), "{found:?}");
    }
    for peer in ["south/s3", "south/nobody", "south/", "south/s1/s1", "south/n1", "north/s1"] {
        let refused = master.create(pool(peer, [])).await;
        assert_eq!(refusal(refused), ResultReason::PermissionDenied, "{peer:?}");
        let refused = master.locate(client::locate_fresh(&format!("qkd/{peer}"))).await;
        assert_eq!(refusal(refused), ResultReason::PermissionDenied, "{peer:?}");
    }
    let both = [Attribute::ObjectGroup("qkd/south/s2".into())];
    let refused = master.create(pool("south/s1", both)).await;
    assert_eq!(refusal(refused), ResultReason::PermissionDenied, "one group of QKD keys");
    network.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_many_partners_one_is_to_be_named() {
    let network = Network::stocked().await;
    let mut master = network.client("n3", Version::V2_1).await;
    let refused = master.create(pool("south", [])).await;
    let text = refused.as_ref().unwrap_err().to_string();
    assert!(text.contains("17 applications") && text.contains("qkd/south/<SAE ID>"), "{text}");
    assert_eq!(refusal(refused), ResultReason::InvalidAttributeValue);
    let id = master.create(pool("south/s1", [])).await.unwrap().id;
    let mut slave = network.client("s1", Version::V2_1).await;
    assert_eq!(slave.key(&id).await.unwrap(), master.key(&id).await.unwrap());
    network.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_delivered_over_one_front_only() {
    let network = Network::stocked().await;
    let mut master = network.client("n1", Version::V1_4).await;
    let mut slave = network.client("s1", Version::V1_4).await;
    let (n1, s1) = (sae_id("n1"), sae_id("s1"));
    let parse = |id: &str| KeyId::parse(id).unwrap();

    let id = draw(&mut master).await;
    let key = master.key(&id).await.unwrap();
    slave.key(&id).await.unwrap();
    let again = network.south.supply.collect(&s1, Some(&n1), &[parse(&id)]).await;
    again.expect_err("dec_keys after Get");

    let id = draw(&mut master).await;
    let collected = network.south.supply.collect(&s1, Some(&n1), &[parse(&id)]).await.unwrap();
    let bytes = collected[0].bytes.expose(<[u8]>::to_vec);
    assert_eq!(bytes, master.key(&id).await.unwrap());
    assert_ne!(bytes, key);
    assert_eq!(refusal(slave.key(&id).await), ResultReason::ItemNotFound);

    // Issued over ETSI 014, collected over KMIP, in another spelling of the UUID.
    let issued = network.north.supply.issue(&n1, &[s1], 256, 1).await.unwrap();
    let id = issued[0].id.to_string();
    let upper = slave.get(client::get(&id.to_uppercase())).await.unwrap();
    assert_eq!(upper.id, id);
    assert_eq!(slave.key(&id).await.unwrap(), issued[0].bytes.expose(<[u8]>::to_vec));
    assert_eq!(refusal(master.key(&id).await), ResultReason::ItemNotFound, "the master has it");
    network.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_that_names_a_key_takes_it_over() {
    let network = Network::stocked().await;
    let mut master = network.client("n1", Version::V2_1).await;
    let mut slave = network.client("s1", Version::V2_1).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(draw(&mut master).await);
    }
    slave.get_attributes(client::get_attributes(&ids[0], [])).await.unwrap();
    slave.get_attribute_list(client::get_attribute_list(&ids[1])).await.unwrap();
    slave.activate(client::activate(&ids[2])).await.unwrap();
    slave.revoke(client::revoke(&ids[3], RevocationReasonCode::KeyCompromise)).await.unwrap();
    slave.destroy(client::destroy(&ids[4])).await.unwrap();
    let group = || [Attribute::ObjectGroup("qkd/north".into())];
    let mut found = slave.locate(client::locate(group())).await.unwrap().ids;
    found.sort();
    let mut live = ids[..4].to_vec();
    live.sort();
    assert_eq!(found, live);
    for id in &ids[..4] {
        assert_eq!(slave.key(id).await.unwrap(), master.key(id).await.unwrap());
    }
    assert_eq!(refusal(slave.key(&ids[4]).await), ResultReason::ObjectDestroyed);
    network.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locate_fresh_draws_from_the_pool() {
    let network = Network::stocked().await;
    let mut master = network.client("n1", Version::V1_4).await;
    let mut slave = network.client("s1", Version::V1_4).await;
    let fresh =
        |count| locate::Request { maximum_items: count, ..client::locate_fresh("qkd/south") };
    let one = master.locate(fresh(None)).await.unwrap().ids;
    assert_eq!(one.len(), 1);
    let some = master.locate(fresh(Some(16))).await.unwrap().ids;
    assert_eq!(some.len(), 16);
    assert!(!some.contains(&one[0]), "never the same key twice");
    for id in one.iter().chain(&some) {
        assert_eq!(slave.key(id).await.unwrap(), master.key(id).await.unwrap());
    }
    for count in [0, 17, -1] {
        let reason = refusal(master.locate(fresh(Some(count))).await);
        assert_eq!(reason, ResultReason::InvalidField);
    }
    let mut sized = client::locate_fresh("qkd/south");
    sized.attributes.push(Attribute::CryptographicLength(512));
    let id = master.locate(sized).await.unwrap().ids.remove(0);
    assert_eq!(master.key(&id).await.unwrap().len(), 64);
    network.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wishes_and_bounds_of_a_drawn_key() {
    let network = Network::stocked().await;
    let mut master = network.client("n1", Version::V2_1).await;
    let wished = [
        Attribute::Name(Name::text("tunnel")),
        Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Aes),
        Attribute::CryptographicLength(128),
        Attribute::CryptographicUsageMask(4),
        Attribute::ActivationDate(DateTime(1)),
    ];
    let id = master.create(pool("south", wished)).await.unwrap().id;
    assert_eq!(master.key(&id).await.unwrap().len(), 16);
    let state = master.attribute(&id, AttributeKind::State).await;
    assert_eq!(state, Some(Attribute::State(State::Active)));
    let found = master.locate(client::locate_name("tunnel")).await.unwrap().ids;
    assert_eq!(found, [id]);
    let named = [Attribute::Name(Name::text("tunnel"))];
    let reason = refusal(master.create(pool("south", named)).await);
    assert_eq!(reason, ResultReason::NonUniqueNameAttribute);

    for (bits, expected) in [(255, "multiple"), (0, "from 64"), (1 << 20, "from 64")] {
        let wish = [Attribute::CryptographicLength(bits)];
        let refused = master.create(pool("south", wish)).await.unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
    }
    for peer in ["nowhere", "", "a b", "north"] {
        let reason = refusal(master.create(pool(peer, [])).await);
        assert_eq!(reason, ResultReason::PermissionDenied, "{peer:?}");
    }
    let mut alone = network.client("n2", Version::V2_1).await;
    let reason = refusal(alone.create(pool("south", [])).await);
    assert_eq!(reason, ResultReason::PermissionDenied);
    network.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_big_to_keep_costs_no_key() {
    let network = Network::stocked().await;
    let mut master = network.client("n1", Version::V2_1).await;
    let stock = || (network.north.pool.view().own_bits, network.north.pool.view().issuing);
    let before = stock();
    let names = |count: usize| (0..count).map(|n| Attribute::Name(Name::text(n.to_string())));
    // Of 48 search terms, type, group and key_ID take three.
    let text = |len: usize| [vendor("note", &"x".repeat(len))];
    for request in [pool("south", names(46)), pool("south", text(64 << 10))] {
        assert_eq!(refusal(master.create(request).await), ResultReason::ServerLimitExceeded);
    }
    let mut fresh = client::locate_fresh("qkd/south");
    fresh.attributes.push(vendor("note", &"x".repeat(64 << 10)));
    assert_eq!(refusal(master.locate(fresh).await), ResultReason::ServerLimitExceeded);
    assert_eq!(stock(), before, "nothing was drawn");
    for request in [pool("south", names(45)), pool("south", text(63 << 10))] {
        master.create(request).await.unwrap();
    }
    network.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_dresses_an_own_key_as_a_pool_key() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let info =
        ApplicationSpecificInformation { namespace: "qkd014".into(), data: Some("x".into()) };
    for (claim, reason) in [
        (Attribute::ObjectGroup("qkd/south".into()), ResultReason::PermissionDenied),
        (Attribute::ApplicationSpecificInformation(info), ResultReason::PermissionDenied),
        (vendor("qkm-grade", "its-relay"), ResultReason::ReadOnlyAttribute),
    ] {
        assert_eq!(refusal(client.bring(&[1; 16], [claim]).await), reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_pool_says_so_and_is_asked_again() {
    let network = Network::start().await;
    let mut master = network.client("n1", Version::V1_4).await;
    let refused = master.create(pool("south", [])).await.unwrap_err();
    assert!(refused.to_string().contains("no key material"), "{refused}");
    network.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_away_inside_is_not_told_to_applications() {
    let network = Network::stocked().await;
    let mut master = network.client("n1", Version::V1_4).await;
    network.north.wire.up.store(false, std::sync::atomic::Ordering::Relaxed);
    let refused = master.create(pool("south", [])).await.unwrap_err().to_string();
    assert!(refused.contains("try again"), "{refused}");
    assert!(!refused.contains("not connected"), "inner reasons stay inside: {refused}");
    network.north.wire.up.store(true, std::sync::atomic::Ordering::Relaxed);
    master.create(pool("south", [])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_gets_of_one_key_all_succeed() {
    let network = Arc::new(Network::stocked().await);
    let mut master = network.client("n1", Version::V2_1).await;
    for _ in 0..4 {
        let id = draw(&mut master).await;
        let key = master.key(&id).await.unwrap();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (network, id) = (network.clone(), id.clone());
                tokio::spawn(async move {
                    network.client("s1", Version::V2_1).await.key(&id).await.unwrap()
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), key);
        }
    }
    network.assert_balanced().await;
}

/// KMIP and ETSI 014 race for one key: exactly one front delivers it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fronts_race_and_one_wins() {
    let network = Arc::new(Network::stocked().await);
    let mut master = network.client("n1", Version::V2_1).await;
    let mut slave = network.client("s1", Version::V2_1).await;
    for _ in 0..20 {
        let id = draw(&mut master).await;
        let key = KeyId::parse(&id).unwrap();
        let (n1, s1) = (sae_id("n1"), sae_id("s1"));
        let other = network.clone();
        let collecting =
            tokio::spawn(async move { other.south.supply.collect(&s1, Some(&n1), &[key]).await });
        let got = slave.key(&id).await;
        let collected = collecting.await.unwrap();
        assert!(got.is_ok() != collected.is_ok(), "{got:?} {collected:?}");
    }
    network.assert_balanced().await;
}

/// A key reserved by a request that gave up is free again, not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_first_get_loses_nothing() {
    let network = Network::stocked().await;
    let mut master = network.client("n1", Version::V2_1).await;
    let mut slave = network.client("s1", Version::V2_1).await;
    let id = draw(&mut master).await;
    network.south.hsm.up.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(refusal(slave.key(&id).await), ResultReason::GeneralFailure);
    network.south.hsm.up.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(slave.key(&id).await.unwrap(), master.key(&id).await.unwrap());
    network.assert_balanced().await;
}
