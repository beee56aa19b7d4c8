//! Values that a version has, had, or never had: none is acknowledged and gone, none is sent to a client
//! that has no word for it.

use kmip::{
    DateTime, Operation, SecretBytes, Version,
    attribute::*,
    client,
    enums::*,
    object::{KeyBlock, KeyMaterial, KeyValue, KeyWrappingData, Object, OpaqueObject},
    op,
    ttlv::Value,
};

use crate::{
    common::{Client, Network, attribute, refusal},
    pairs::pair,
};

/// Some vendor's, in any enumeration.
const VENDORS: u32 = 0x8ABC_0155;
/// In no table, and no vendor's.
const NOBODYS: u32 = 0x155;

/// Why a request is refused when what is a vendor's in it is nobody's. Clients of crate `kmip` do not send
/// such.
async fn refused(client: &mut Client, operation: impl Into<Operation>) -> ResultReason {
    let mut frame = client.kmip.request(operation).unwrap().to_vec();
    let (own, other) = (VENDORS.to_be_bytes(), NOBODYS.to_be_bytes());
    let places: Vec<usize> = (0..frame.len()).filter(|at| frame[*at..].starts_with(&own)).collect();
    assert_eq!(places.len(), 1);
    frame[places[0]..places[0] + 4].copy_from_slice(&other);
    let answer = client.exchange(&frame).await;
    refusal(client.kmip.answer(&answer))
}

fn block(format: KeyFormatType, material: KeyMaterial) -> KeyBlock {
    let value = KeyValue::Plain { material, attributes: Attributes::default() };
    let (algorithm, length) = (Some(CryptographicAlgorithm::Aes), Some(128));
    KeyBlock { format, compression: None, value: Some(value), algorithm, length, wrapping: None }
}

fn bytes() -> KeyMaterial {
    KeyMaterial::Bytes(SecretBytes::copy_from(&[7; 16]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_version_has_a_word_for_is_refused_and_not_forgotten() {
    let network = Network::start().await;
    for (version, reason) in [
        (Version::V1_4, ResultReason::InvalidField),
        (Version::V2_1, ResultReason::UnknownEnumeration),
    ] {
        let mut client = network.client("n1", version).await;
        let opaque = |kind| {
            Object::OpaqueObject(OpaqueObject { kind, value: SecretBytes::copy_from(&[1; 9]) })
        };
        let odd_algorithm = KeyBlock {
            algorithm: Some(CryptographicAlgorithm::Other(VENDORS)),
            ..block(KeyFormatType::Raw, bytes())
        };
        let wrapping = |method| KeyWrappingData {
            method,
            encryption: None,
            mac: None,
            mac_signature: None,
            iv: None,
            encoding: None,
        };
        let oddly_wrapped = KeyBlock {
            wrapping: Some(wrapping(WrappingMethod::Other(VENDORS))),
            ..block(KeyFormatType::Raw, bytes())
        };
        for object in [
            Object::SymmetricKey(block(KeyFormatType::Other(VENDORS), bytes())),
            Object::SymmetricKey(odd_algorithm),
            Object::SymmetricKey(oddly_wrapped),
            opaque(OpaqueDataType::Other(VENDORS)),
        ] {
            let request = op::register::Request::new(object, Attributes::default());
            assert_eq!(refused(&mut client, request).await, reason, "{version}");
        }
        let vendors = opaque(OpaqueDataType::Other(VENDORS));
        let kept = op::register::Request::new(vendors, Attributes::default());
        let kept = client.register(kept).await.unwrap().id;
        client.get(client::get(&kept)).await.unwrap();

        let key = client.aes([]).await.unwrap();
        let name = |kind| Attribute::Name(Name { value: format!("odd {version}"), kind });
        let parameters = |mode| {
            Attribute::CryptographicParameters(CryptographicParameters {
                block_cipher_mode: Some(mode),
                hashing_algorithm: Some(HashingAlgorithm::Sha256),
                ..Default::default()
            })
        };
        let link = |kind| Attribute::Link(Link { kind, target: key.as_str().into() });
        for odd in [
            name(NameType::Other(VENDORS)),
            parameters(BlockCipherMode::Other(VENDORS)),
            link(LinkType::Other(VENDORS)),
        ] {
            let attribute = Instance { index: None, attribute: odd.clone() };
            let add = op::add_attribute::Request { id: Some(key.as_str().into()), attribute };
            assert_eq!(refused(&mut client, add).await, reason, "{odd:?}");
            let create = client::create(CryptographicAlgorithm::Aes, 256, 12, [odd.clone()]);
            assert_eq!(refused(&mut client, create).await, reason, "{odd:?}");
        }
        let code = RevocationReasonCode::Other(VENDORS);
        assert_eq!(refused(&mut client, client::revoke(&key, code)).await, reason);
        let odd = parameters(BlockCipherMode::Other(VENDORS));
        let locate = client::locate([odd.clone()]);
        assert_eq!(refused(&mut client, locate).await, reason, "it would find too much");
        // The name is free: nobody has it.
        client.add(&key, name(NameType::Uri)).await.unwrap();
        client.add(&key, parameters(BlockCipherMode::Other(VENDORS))).await.unwrap();
        let found = client.attribute(&key, AttributeKind::CryptographicParameters).await;
        assert_eq!(found, Some(parameters(BlockCipherMode::Other(VENDORS))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_version_took_away_is_not_sent_to_its_clients() {
    let network = Network::start().await;
    let mut old = network.client("n1", Version::V1_4).await;
    let mut new = network.client("n1", Version::V2_1).await;
    let told = old.query(client::query([QueryFunction::QueryObjects])).await.unwrap();
    assert!(told.object_types.contains(&ObjectType::Template));
    let told = new.query(client::query([QueryFunction::QueryObjects])).await.unwrap();
    assert!(!told.object_types.contains(&ObjectType::Template));

    let wishes: Attributes = [Attribute::CryptographicLength(256)].into_iter().collect();
    let group = || Attribute::ObjectGroup("patterns".into());
    let template = op::register::Request::new(
        Object::Template(wishes),
        [Attribute::Name(Name::text("pattern")), group()].into_iter().collect(),
    );
    let template = old.register(template).await.unwrap().id;
    assert_eq!(old.locate(client::locate([group()])).await.unwrap().ids, [template]);
    assert!(new.locate(client::locate([group()])).await.unwrap().ids.is_empty());

    // A key in a form that 2.0 has no more is said in the one that took its place.
    let made = old.create_key_pair(pair(CryptographicAlgorithm::Ecdsa, 256, vec![])).await.unwrap();
    let wanted = op::get::Request {
        key_format_type: Some(KeyFormatType::TransparentEcdsaPrivateKey),
        ..client::get(&made.private_id)
    };
    let given = old.get(wanted).await.unwrap().object;
    let Object::PrivateKey(block) = given else { panic!("{given:?}") };
    let register = op::register::Request::new(Object::PrivateKey(block), Attributes::default());
    let id = old.register(register).await.unwrap().id;
    for (client, format) in [
        (&mut old, KeyFormatType::TransparentEcdsaPrivateKey),
        (&mut new, KeyFormatType::TransparentEcPrivateKey),
    ] {
        let given = client.get(client::get(&id)).await.unwrap().object;
        let Object::PrivateKey(block) = given else { panic!("{given:?}") };
        assert_eq!(block.format, format);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendors_value_of_a_type_that_is_newer_stays_away_from_older_clients() {
    let network = Network::start().await;
    let mut old = network.client("n1", Version::V1_4).await;
    let mut new = network.client("n1", Version::V2_1).await;
    let vendor = |name: &str, value| {
        Attribute::Vendor(VendorAttribute { vendor: "x".into(), name: name.into(), value })
    };
    let since = vendor("since", Value::DateTimeExtended(1_700_000_000_000_000));
    let shelf =
        vendor("shelf", Value::Structure(vec![(kmip::tag::Tag::Comment, Value::Integer(3))]));
    let id = new.aes([since.clone(), shelf.clone()]).await.unwrap();
    let all = |list: &Attributes, one: &Attribute| list.iter().any(|found| found == one);
    let found = new.get_attributes(client::get_attributes(&id, [])).await.unwrap().attributes;
    assert!(all(&found, &since) && all(&found, &shelf));
    let found = old.get_attributes(client::get_attributes(&id, [])).await.unwrap().attributes;
    assert!(!all(&found, &since) && all(&found, &shelf));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_done_is_refused_and_not_left_out() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = client.aes([]).await.unwrap();
    let mut item = kmip::message::RequestItem::new(client::get(&id).into());
    item.ephemeral = Some(true);
    let header = kmip::message::RequestHeader::new(Version::V2_1);
    let message = kmip::RequestMessage { version: Version::V2_1, header, items: vec![item] };
    let answer = client.exchange(&message.encode().unwrap()).await;
    assert_eq!(refusal(client.kmip.answer(&answer)), ResultReason::FeatureNotSupported);
    assert_eq!(
        refusal(client.aes([Attribute::RotateAutomatic(true)]).await),
        ResultReason::InvalidAttributeValue
    );
    let namespace = Attribute::ApplicationSpecificInformation(ApplicationSpecificInformation {
        namespace: "ssl".into(),
        data: None,
    });
    let reason = refusal(client.aes([namespace]).await);
    assert_eq!(reason, ResultReason::ApplicationNamespaceNotSupported);
    let masks = |masks: &[i32]| {
        let masks = op::create::ProtectionStorageMasks { masks: masks.to_vec() };
        let request = client::create(CryptographicAlgorithm::Aes, 256, 12, []);
        op::create::Request { protection_storage_masks: Some(masks), ..request }
    };
    // Here is no place inside an HSM, and Query says so.
    let query = client::query([QueryFunction::QueryStorageProtectionMasks]);
    let offered = client.query(query).await.unwrap().protection_storage_masks;
    assert_eq!(offered.map(|offered| offered.masks), Some(vec![1]));
    let mut older = network.client("n1", Version::V2_0).await;
    let query = client::query([QueryFunction::QueryStorageProtectionMasks]);
    let told = older.query(query).await.unwrap();
    assert_eq!((told.protection_storage_mask, told.protection_storage_masks), (vec![1], None));
    let reason = refusal(client.create(masks(&[2])).await);
    assert_eq!(reason, ResultReason::ProtectionStorageUnavailable);
    client.create(masks(&[2, 1])).await.unwrap();
    let claimed = Attribute::ProtectionStorageMask(2);
    assert_eq!(refusal(client.aes([claimed]).await), ResultReason::ReadOnlyAttribute);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_made_anew_are_counted() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let before = i64::try_from(km_core::clock::now_ms() / 1000).unwrap();
    let mut id = client.aes([]).await.unwrap();
    assert_eq!(
        refusal(client.aes([Attribute::RotateGeneration(7)]).await),
        ResultReason::ReadOnlyAttribute
    );
    for generation in 1..=2 {
        let request = op::rekey::Request { id: Some(id.as_str().into()), ..Default::default() };
        let next = client.rekey(request).await.unwrap().id;
        let all = client.get_attributes(client::get_attributes(&next, [])).await.unwrap();
        let found = attribute(&all, AttributeKind::RotateGeneration);
        assert_eq!(found, Some(Attribute::RotateGeneration(generation)));
        let found = attribute(&all, AttributeKind::RotateLatest);
        assert_eq!(found, Some(Attribute::RotateLatest(true)));
        let found = attribute(&all, AttributeKind::RotateDate);
        assert!(matches!(found, Some(Attribute::RotateDate(DateTime(at))) if at >= before));
        let all = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
        let found = attribute(&all, AttributeKind::RotateGeneration);
        assert_eq!(found, Some(Attribute::RotateGeneration(generation - 1)));
        let found = attribute(&all, AttributeKind::RotateLatest);
        assert_eq!(found, Some(Attribute::RotateLatest(false)));
        id = next;
    }
}
