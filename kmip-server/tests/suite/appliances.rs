//! What appliances of the field send, one flow each (see `clients` for others).

use std::time::Duration;

use kmip::{
    SecretBytes, Version,
    attribute::{Attribute, AttributeKind, Attributes, Name, VendorAttribute},
    client,
    enums::*,
    object::{KeyBlock, KeyMaterial, KeyValue, Object},
    op,
    tag::Tag,
    ttlv::{self, Value},
};
use transport::{Profile, TlsClient, client_config};

use crate::common::{Client, Network, refusal};

const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> Attribute {
    Attribute::Name(Name::text(text))
}

fn custom(name: &str, value: &str) -> Attribute {
    let (vendor, name) = ("x".to_owned(), name.to_owned());
    Attribute::Vendor(VendorAttribute { vendor, name, value: Value::TextString(value.to_owned()) })
}

/// The tags of what stands inside the Key Value of an answer.
fn inside_key_value(answer: &[u8]) -> Vec<Tag> {
    let root = ttlv::parse(answer, &ttlv::Limits::default()).unwrap();
    fn find(item: &ttlv::Item<'_>) -> Option<Vec<Tag>> {
        let children = item.children().ok()?;
        if item.tag() == Tag::KeyValue {
            return Some(children.into_iter().map(|child| child.tag()).collect());
        }
        children.into_iter().find_map(|child| find(&child))
    }
    find(&root).expect("a Key Value")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn veeam_resumes_its_session_makes_a_pair_and_takes_bare_key_values() {
    let network = Network::start().await;
    let config = client_config(&network.certificate("n1"), Profile::Front).unwrap();
    let tls = TlsClient::new(&network.north.address, None, config).unwrap();
    let (stream, _) = tls.connect(PATIENCE).await.unwrap();
    let mut first = Client::over(stream, Version::V1_4);
    assert!(first.locate(client::locate_name("veeam")).await.unwrap().ids.is_empty());
    let with = |mask: i32, label: &str| -> Attributes {
        [Attribute::CryptographicUsageMask(mask), name(label)].into_iter().collect()
    };
    let pair = op::create_key_pair::Request {
        common: [
            Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Rsa),
            Attribute::CryptographicLength(2048),
        ]
        .into_iter()
        .collect(),
        private: with(0x1 | 0x8, "veeam private"),
        public: with(0x2 | 0x4, "veeam"),
        ..Default::default()
    };
    let pair = first.create_key_pair(pair).await.unwrap();
    for id in [&pair.private_id, &pair.public_id] {
        first.activate(client::activate(id)).await.unwrap();
    }
    drop(first);

    let (stream, _) = tls.connect(PATIENCE).await.unwrap();
    let kind = format!("{:?}", stream.get_ref().1.handshake_kind());
    assert_eq!(kind, "Some(Resumed)");
    let mut second = Client::over(stream, Version::V1_4);
    let found = second.locate(client::locate_name("veeam")).await.unwrap().ids;
    assert_eq!(found, [pair.public_id.as_str()]);
    let frame = second.kmip.request(client::get(&pair.private_id)).unwrap().to_vec();
    let answer = second.exchange(&frame).await;
    assert_eq!(inside_key_value(&answer), [Tag::KeyMaterial], "no attributes inside");

    // A key whose value is the bytes themselves, and one whose attributes are inside its value.
    let bare = |value| KeyBlock {
        value: Some(value),
        ..KeyBlock::raw(SecretBytes::copy_from(&[]), None, None)
    };
    let aes = |block: KeyBlock| {
        Object::SymmetricKey(KeyBlock {
            algorithm: Some(CryptographicAlgorithm::Aes),
            length: Some(256),
            ..block
        })
    };
    let mask: Attributes = [Attribute::CryptographicUsageMask(12)].into_iter().collect();
    let object = aes(bare(KeyValue::Bytes(SecretBytes::copy_from(&[5; 32]))));
    let request = op::register::Request::new(object, mask.clone());
    let id = second.register(request).await.unwrap().id;
    assert_eq!(second.key(&id).await.unwrap(), [5; 32]);
    let material = KeyMaterial::Bytes(SecretBytes::copy_from(&[6; 32]));
    let inner = [Attribute::CryptographicUsageMask(12), name("inside")].into_iter().collect();
    let object = aes(bare(KeyValue::Plain { material, attributes: inner }));
    let request = op::register::Request::new(object, Attributes::default());
    let id = second.register(request).await.unwrap().id;
    let found = second.locate(client::locate_name("inside")).await.unwrap().ids;
    assert_eq!(found, [id.as_str()]);
    let frame = second.kmip.request(client::get(&id)).unwrap().to_vec();
    assert_eq!(inside_key_value(&second.exchange(&frame).await), [Tag::KeyMaterial]);

    for id in [&pair.private_id, &pair.public_id] {
        second.revoke(client::revoke(id, RevocationReasonCode::Superseded)).await.unwrap();
        second.destroy(client::destroy(id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vast_groups_its_keys_watches_them_and_takes_new_ones() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let group = Attribute::ObjectGroup("vast-cluster-7".into());
    let id = client.aes([]).await.unwrap();
    for attribute in [group.clone(), name("vast-key-1"), custom("vast-tenant", "7")] {
        client.add(&id, attribute).await.unwrap();
    }
    client.activate(client::activate(&id)).await.unwrap();
    let found = client.locate(client::locate([group.clone(), Attribute::State(State::Active)]));
    assert_eq!(found.await.unwrap().ids, [id.as_str()]);
    let key = client.key(&id).await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.state(&id).await, State::Active);
        // Longer than a connection that pauses keeps its buffers.
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    let rekey = op::rekey::Request { id: Some(id.as_str().into()), ..<_>::default() };
    let new = client.rekey(rekey).await.unwrap().id;
    assert_ne!(client.key(&new).await.unwrap(), key);
    let found = client.locate(client::locate_name("vast-key-1")).await.unwrap().ids;
    assert_eq!(found, [new.as_str()], "the name goes with the newer one");
    let link = client.attribute(&id, AttributeKind::Link).await;
    assert!(
        matches!(&link, Some(Attribute::Link(link))
            if link.kind == LinkType::ReplacementObjectLink
                && link.target.as_text() == Some(new.as_str())),
        "{link:?}"
    );
    client.revoke(client::revoke(&id, RevocationReasonCode::Superseded)).await.unwrap();
    client.destroy(client::destroy(&id)).await.unwrap();
    assert_eq!(client.locate(client::locate([group])).await.unwrap().ids, [new]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn netapp_may_keep_64_attributes_and_finds_its_key_by_any() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_0).await;
    let label = |number: usize| custom(&format!("NETAPP-{number:02}"), &format!("value {number}"));
    let id = client.bring(&[8; 32], (0..64).map(label)).await.unwrap();
    client.bring(&[9; 32], (0..63).map(label)).await.unwrap();
    assert_eq!(client.locate(client::locate([label(63)])).await.unwrap().ids, [id.as_str()]);
    assert_eq!(client.locate(client::locate([label(0)])).await.unwrap().ids.len(), 2);
    let all = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
    assert!((0..64).all(|number| all.attributes.iter().any(|found| *found == label(number))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_enterprise_rotates_its_master_key() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_1).await;
    let mut old = None;
    for number in 1..=3 {
        let id = client.aes([name(&format!("INNODBKey-{number}"))]).await.unwrap();
        client.activate(client::activate(&id)).await.unwrap();
        assert_eq!(client.key(&id).await.unwrap().len(), 32);
        if let Some(old) = old.replace(id) {
            let reason = RevocationReasonCode::CessationOfOperation;
            client.revoke(client::revoke(&old, reason)).await.unwrap();
            client.destroy(client::destroy(&old)).await.unwrap();
            let gone = [ResultReason::ObjectDestroyed, ResultReason::ItemNotFound];
            assert!(gone.contains(&refusal(client.get(client::get(&old)).await)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongodb_asks_in_the_old_version_when_the_newer_one_is_not_wanted() {
    let network = Network::start().await;
    for version in [Version::V1_2, Version::V1_0] {
        let mut client = network.client("n1", version).await;
        let id = client.aes([]).await.unwrap();
        for _ in 0..3 {
            assert_eq!(client.state(&id).await, State::PreActive);
        }
        client.activate(client::activate(&id)).await.unwrap();
        assert_eq!(client.state(&id).await, State::Active);
        let told = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
        let newer = told.attributes.iter().find(|attribute| !attribute.known(version));
        assert_eq!(newer, None, "nothing the version does not know");
        assert_eq!(client.key(&id).await.unwrap().len(), 32);
    }
}
