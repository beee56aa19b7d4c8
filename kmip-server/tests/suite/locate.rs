//! Locate: filters, pages, storage status, group members.

use km_core::{
    material::ClearBytes,
    objects::{NewObject, Object},
};
use kmip::{
    DateTime, Version,
    attribute::{
        ApplicationSpecificInformation, Attribute, AttributeKind, CryptographicParameters, Link,
        Name, Part, UsageLimits, VendorAttribute,
    },
    client,
    enums::*,
    op::{self, locate::Request},
    tag::Tag,
    ttlv::Value,
};

use crate::common::{Client, Network, refusal, sae_id};

fn group(name: &str) -> Attribute {
    Attribute::ObjectGroup(name.into())
}

fn info(data: Option<&str>) -> Attribute {
    Attribute::ApplicationSpecificInformation(ApplicationSpecificInformation {
        namespace: "ssl".into(),
        data: data.map(Into::into),
    })
}

fn vendor(value: i32) -> Attribute {
    Attribute::Vendor(VendorAttribute {
        vendor: "x".into(),
        name: "shelf".into(),
        value: Value::Integer(value),
    })
}

async fn find(client: &mut Client, filters: impl IntoIterator<Item = Attribute>) -> Vec<String> {
    client.locate(client::locate(filters)).await.unwrap().ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_intersect() {
    let network = Network::start().await;
    for version in [Version::V1_0, Version::V1_4, Version::V2_1] {
        let owner = if version == Version::V1_0 { "n1" } else { "n2" };
        let mut client = network.client(owner, version).await;
        let mark = format!("{version}");
        let named = |n: i32| Attribute::Name(Name::text(format!("{mark}/{n}")));
        let mut ids = Vec::new();
        for n in 0..6 {
            let group = group(&format!("{mark}/{}", n % 2));
            ids.push(client.aes([named(n), group, vendor(n / 3), info(Some("d"))]).await.unwrap());
        }
        let secret = client.bring(&[7; 16], [group(&format!("{mark}/0"))]).await.unwrap();
        let g = |n: i32| group(&format!("{mark}/{n}"));
        assert_eq!(find(&mut client, [named(3)]).await, [ids[3].clone()]);
        assert_eq!(find(&mut client, [g(1)]).await, [&ids[5], &ids[3], &ids[1]].map(Clone::clone));
        assert_eq!(find(&mut client, [g(1), vendor(0)]).await, [ids[1].clone()]);
        assert!(find(&mut client, [g(1), named(0)]).await.is_empty());
        let bits = Attribute::CryptographicLength(128);
        assert_eq!(find(&mut client, [g(0), bits]).await, [secret.as_str()]);
        let mask = |mask| Attribute::CryptographicUsageMask(mask);
        assert_eq!(find(&mut client, [g(0), mask(4)]).await.len(), 4, "one bit of two");
        assert!(find(&mut client, [g(0), mask(4 | 1)]).await.is_empty());
        let key = Attribute::ObjectType(ObjectType::SymmetricKey);
        assert_eq!(find(&mut client, [key, g(0)]).await.len(), 4);
        assert_eq!(find(&mut client, [g(0), info(Some("d"))]).await.len(), 3);
        client.activate(client::activate(&ids[2])).await.unwrap();
        let active = Attribute::State(State::Active);
        assert_eq!(find(&mut client, [g(0), active]).await, [ids[2].clone()]);
        let date = |at| Attribute::InitialDate(DateTime(at));
        assert_eq!(find(&mut client, [g(1), date(0), date(i64::MAX)]).await.len(), 3);
        assert!(find(&mut client, [g(1), date(0), date(1000)]).await.is_empty());
        assert!(find(&mut client, [g(1), date(5)]).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_totals() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.insert(0, client.aes([group("g")]).await.unwrap());
    }
    let page = |maximum, offset| Request {
        maximum_items: maximum,
        offset_items: offset,
        ..client::locate([group("g")])
    };
    let first = client.locate(page(Some(3), None)).await.unwrap();
    assert_eq!(first.ids, ids[..3]);
    let second = client.locate(page(Some(3), Some(3))).await.unwrap();
    assert_eq!((second.ids.as_slice(), second.located_items), (&ids[3..6], Some(7)));
    let last = client.locate(page(Some(3), Some(6))).await.unwrap();
    assert_eq!((last.ids.as_slice(), last.located_items), (&ids[6..], Some(7)));
    assert!(client.locate(page(Some(0), None)).await.unwrap().ids.is_empty());
    assert_eq!(refusal(client.locate(page(Some(-1), None)).await), ResultReason::InvalidField);
    assert_eq!(client.locate(page(None, None)).await.unwrap().located_items, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destroyed_objects_are_found_only_when_asked_for() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let name = || Attribute::Name(Name::text("phoenix"));
    let old = client.aes([name()]).await.unwrap();
    client.destroy(client::destroy(&old)).await.unwrap();
    let new = client.aes([name()]).await.expect("the name is free again");
    let stored = |mask| Request { storage_status_mask: Some(mask), ..client::locate([name()]) };
    assert_eq!(client.locate(stored(1)).await.unwrap().ids, [new.as_str()]);
    assert_eq!(client.locate(stored(4)).await.unwrap().ids, [old.as_str()]);
    assert_eq!(client.locate(stored(5)).await.unwrap().ids, [new, old.clone()]);
    let all = Request { storage_status_mask: Some(4), ..client::locate([]) };
    assert_eq!(client.locate(all).await.unwrap().ids, [old]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_members_are_those_never_given() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let one = client.aes([group("own")]).await.unwrap();
    let two = client.aes([group("own")]).await.unwrap();
    let fresh = || client::locate_fresh("own");
    assert_eq!(client.locate(fresh()).await.unwrap().ids, [two.as_str()]);
    client.key(&two).await.unwrap();
    assert_eq!(client.locate(fresh()).await.unwrap().ids, [one.as_str()]);
    let is_fresh = client.attribute(&two, kmip::attribute::AttributeKind::Fresh).await;
    assert_eq!(is_fresh, Some(Attribute::Fresh(false)));
    client.key(&one).await.unwrap();
    assert!(client.locate(fresh()).await.unwrap().ids.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_comes_first_whatever_it_is() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let mut made = Vec::new();
    for round in 0..3 {
        let secret = client::register_secret(
            SecretDataType::Password,
            kmip::SecretBytes::copy_from(&[round; 8]),
            [],
        );
        made.insert(0, client.aes([]).await.unwrap());
        made.insert(0, client.register(secret).await.unwrap().id);
    }
    assert_eq!(find(&mut client, []).await, made);
    client.destroy(client::destroy(&made[2])).await.unwrap();
    let all = Request { storage_status_mask: Some(5), ..client::locate([]) };
    assert_eq!(client.locate(all).await.unwrap().ids, made);
    let first = Request { maximum_items: Some(1), ..client::locate([]) };
    assert_eq!(client.locate(first).await.unwrap().ids, made[..1]);
}

/// Not all fields of a structure need be given; of Usage Limits, so much or more does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_are_left_out_may_be_anything() {
    let network = Network::start().await;
    for version in [Version::V1_2, Version::V2_1] {
        let mut client = network.client("n2", version).await;
        let name = format!("part {version}");
        let parameters = |mode, hash| {
            Attribute::CryptographicParameters(CryptographicParameters {
                block_cipher_mode: mode,
                hashing_algorithm: hash,
                ..Default::default()
            })
        };
        let (gcm, sha) = (Some(BlockCipherMode::Gcm), Some(HashingAlgorithm::Sha256));
        let limits = |total, count| {
            let unit = UsageLimitsUnit::Object;
            Attribute::UsageLimits(UsageLimits { total, count, unit })
        };
        let target = client.aes([]).await.unwrap();
        let link = Link { kind: LinkType::ParentLink, target: target.as_str().into() };
        let more = [
            Attribute::Name(Name::text(&name)),
            parameters(gcm, sha),
            limits(9, None),
            Attribute::Link(link),
        ];
        let id = client.aes(more).await.unwrap();
        let ids = [id.clone()];
        assert_eq!(find(&mut client, [parameters(gcm, None)]).await, ids);
        assert_eq!(find(&mut client, [parameters(None, sha)]).await, ids);
        assert!(
            find(&mut client, [parameters(gcm, Some(HashingAlgorithm::Sha512))]).await.is_empty()
        );
        assert_eq!(find(&mut client, [limits(5, None)]).await, ids);
        assert_eq!(find(&mut client, [limits(9, Some(9))]).await, ids);
        assert!(find(&mut client, [limits(10, None)]).await.is_empty());
        let part = |kind, tag, value| Request {
            parts: vec![Part { kind, fields: vec![(tag, value)] }],
            ..client::locate([])
        };
        for (one, found) in [
            (part(AttributeKind::Name, Tag::NameValue, Value::TextString(name.clone())), true),
            (part(AttributeKind::Name, Tag::NameValue, Value::TextString("none".into())), false),
            (part(AttributeKind::Link, Tag::LinkType, Value::Enumeration(0x108)), true),
            (part(AttributeKind::Link, Tag::LinkType, Value::Enumeration(0x109)), false),
        ] {
            let located = client.locate(one).await.unwrap().ids;
            assert_eq!(located, ids[..usize::from(found)]);
        }
        client.destroy(client::destroy(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_is_compared_also_where_it_is_not_kept() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let secret = kmip::SecretBytes::copy_from(b"hunter2");
    let secret = client::register_secret(SecretDataType::Password, secret, []);
    let id = client.register(secret).await.unwrap().id;
    // Of these it is kept: however many there are, none is opened.
    for _ in 0..101 {
        client.aes([]).await.unwrap();
    }
    let found = client.attribute(&id, AttributeKind::Digest).await.unwrap();
    assert_eq!(find(&mut client, [found.clone()]).await, [id.as_str()]);
    let Attribute::Digest(mut digest) = found else { panic!("{found:?}") };
    digest.value.as_mut().unwrap()[0] ^= 1;
    assert!(find(&mut client, [Attribute::Digest(digest)]).await.is_empty());
    for round in 0..100 {
        let secret = kmip::SecretBytes::copy_from(&[round; 9]);
        let secret = client::register_secret(SecretDataType::Password, secret, []);
        client.register(secret).await.unwrap();
    }
    let digest = client.attribute(&id, AttributeKind::Digest).await.unwrap();
    let too_many = client.locate(client::locate([digest])).await;
    assert_eq!(refusal(too_many), ResultReason::InvalidField, "101 secrets to open");
}

fn password(bytes: &[u8]) -> op::register::Request {
    let bytes = kmip::SecretBytes::copy_from(bytes);
    client::register_secret(SecretDataType::Password, bytes, [])
}

/// What is read next, and the mask of the search. Keys (type 2) are read before secrets (type 7), and of each
/// what lives before what is destroyed.
const MOMENTS: [(&str, i32); 6] = [
    ("\0type:2\0", 1),
    ("\0type:7\0", 1),
    ("\0type:2\0", 5),
    ("\0gone:type:2\0", 5),
    ("\0type:7\0", 5),
    ("\0gone:type:7\0", 5),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_all_types_are_found_once_while_others_change_them() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    for (moment, mask) in MOMENTS {
        let mut made = Vec::new();
        for round in 0..3 {
            made.insert(0, client.aes([]).await.unwrap());
            made.insert(0, client.register(password(&[round; 8])).await.unwrap().id);
        }
        let (gone, replaced) = ([made[2].clone(), made[3].clone()], made[1].clone());
        let mut other = network.client("n1", Version::V2_1).await;
        let destroyed = gone.clone();
        network.north.store.before_page(moment, async move {
            for id in &destroyed {
                other.destroy(client::destroy(id)).await.unwrap();
            }
            other.aes([]).await.unwrap();
            other.register(password(b"new")).await.unwrap();
            let bag = op::export::Request { id: Some(replaced.as_str().into()), ..<_>::default() };
            let bag = other.export(bag).await.unwrap();
            let again = op::import::Request {
                id: replaced,
                object_type: ObjectType::SymmetricKey,
                replace_existing: Some(true),
                key_wrap_type: None,
                attributes: bag.attributes,
                object: bag.object,
            };
            other.import(again).await.unwrap();
        });
        let all = Request { storage_status_mask: Some(mask), ..client::locate([]) };
        let mut found = client.locate(all).await.unwrap().ids;
        assert!(!network.north.store.is_waited_for(), "{moment:?} came");
        // Of what fits not all the while nothing is asked.
        let stays = |id: &String| mask == 5 || !gone.contains(id);
        found.retain(|id| made.contains(id) && stays(id));
        made.retain(stays);
        assert_eq!(found, made, "{moment:?}, {mask}");
    }
}

/// As a key manager of an older version may do in the same store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_another_type_meanwhile_is_told_once() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let secret = client.register(password(b"hunter2")).await.unwrap().id;
    let key = client.aes([]).await.unwrap();
    let (objects, owner) = (network.north.objects.clone(), sae_id("n1"));
    let (uid, like) = (key.clone(), secret.clone());
    network.north.store.before_page("\0type:7\0", async move {
        let (like, _) = objects.get(&owner, &like).await.unwrap();
        let old = objects.get(&owner, &uid).await.unwrap();
        let Object { state, provenance, attributes, terms, .. } = like;
        let new = NewObject { uid, owner, state, provenance, attributes, terms };
        let clear = ClearBytes::copy_from(b"hunter2");
        objects.replace(new, &clear, (&old.0, old.1)).await.unwrap();
    });
    assert_eq!(find(&mut client, []).await, [key, secret]);
    assert!(!network.north.store.is_waited_for());
}
