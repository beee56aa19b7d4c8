//! Get with key formats and key wrapping, Register of wrapped keys.

use kmip::{
    Field, SecretBytes, Version,
    attribute::{Attribute, AttributeKind, Attributes, CryptographicParameters, Link, Name},
    client,
    enums::*,
    object::{KeyBlock, KeyInformation, KeyMaterial, KeyValue, KeyWrappingSpecification, Object},
    op,
    tag::Tag,
    ttlv,
};

use crate::common::{Client, Network, refusal};

const WRAP: i32 = 0x10;
const UNWRAP: i32 = 0x20;
/// RFC 3394, 4.6 and 4.5: key, data, wrapped.
const KEK: &str = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F";
const DATA: &str = "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F";
const WRAPPED: &str =
    "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn with(key: &str, mode: Option<BlockCipherMode>) -> KeyInformation {
    let parameters = mode.map(|mode| CryptographicParameters {
        block_cipher_mode: Some(mode),
        ..CryptographicParameters::default()
    });
    KeyInformation { id: key.into(), parameters }
}

fn wrapped_by(id: &str, key: &str, encoding: Option<EncodingOption>) -> op::get::Request {
    op::get::Request {
        key_wrapping_specification: Some(KeyWrappingSpecification {
            method: WrappingMethod::Encrypt,
            encryption: Some(with(key, Some(BlockCipherMode::NistKeyWrap))),
            mac: None,
            attribute_names: Vec::new(),
            encoding,
        }),
        ..client::get(id)
    }
}

/// The wrapping key of the RFC, active.
async fn kek(client: &mut Client, usage: i32) -> String {
    let key = SecretBytes::copy_from(&bytes(KEK));
    let request = client::register_key(key, CryptographicAlgorithm::Aes, usage, []);
    let id = client.register(request).await.unwrap().id;
    client.activate(client::activate(&id)).await.unwrap();
    id
}

async fn block(client: &mut Client, request: op::get::Request) -> KeyBlock {
    match client.get(request).await.unwrap().object {
        Object::SymmetricKey(block) | Object::PrivateKey(block) | Object::PublicKey(block) => block,
        other => panic!("{other:?}"),
    }
}

fn carried(block: &KeyBlock) -> Vec<u8> {
    match block.value.as_ref().unwrap() {
        KeyValue::Plain { material: KeyMaterial::Bytes(bytes), .. } | KeyValue::Bytes(bytes) => {
            bytes.expose(<[u8]>::to_vec)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc_3394_over_the_wire_both_ways() {
    let network = Network::start().await;
    for version in Version::ALL.into_iter().filter(|version| *version >= Version::V1_1) {
        let mut client = network.client("n1", version).await;
        let kek = kek(&mut client, WRAP | UNWRAP).await;
        let id = client.bring(&bytes(DATA), []).await.unwrap();
        let bare = Some(EncodingOption::NoEncoding);
        let wrapped = block(&mut client, wrapped_by(&id, &kek, bare)).await;
        assert_eq!(carried(&wrapped), bytes(WRAPPED));
        let data = wrapped.wrapping.as_ref().unwrap();
        assert_eq!(data.encryption.as_ref().unwrap().id.as_text(), Some(kek.as_str()));
        assert_eq!(data.encoding, bare);

        let object = Object::SymmetricKey(wrapped);
        let request = op::register::Request::new(object, Attributes::default());
        let brought = client.register(request).await.unwrap().id;
        let back = block(&mut client, client::get(&brought)).await;
        assert_eq!(carried(&back), bytes(WRAPPED), "kept as it came");
        assert!(back.wrapping.is_some());
        if version.is_v2() {
            let link = Link { kind: LinkType::WrappingKeyLink, target: kek.as_str().into() };
            let found = client.attribute(&brought, AttributeKind::Link).await;
            assert_eq!(found, Some(Attribute::Link(link)));
        }
        if version >= Version::V1_4 {
            let clear = op::get::Request {
                key_wrap_type: Some(KeyWrapType::NotWrapped),
                ..client::get(&brought)
            };
            let clear = block(&mut client, clear).await;
            assert!(clear.wrapping.is_none());
            assert_eq!(carried(&clear), bytes(DATA));
        }
        let twice = wrapped_by(&brought, &kek, bare);
        assert_eq!(refusal(client.get(twice).await), ResultReason::IllegalOperation);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_value_is_wrapped_with_its_attributes() {
    let network = Network::start().await;
    for version in [Version::V1_0, Version::V1_4, Version::V2_1] {
        let mut client = network.client("n1", version).await;
        let kek = kek(&mut client, WRAP | UNWRAP).await;
        let name = Attribute::Name(Name::text(format!("inside {version}")));
        let id = client.bring(&bytes(DATA), [name.clone()]).await.unwrap();
        let mut request = wrapped_by(&id, &kek, None);
        let specification = request.key_wrapping_specification.as_mut().unwrap();
        specification.attribute_names.push("Name".to_owned());
        let wrapped = block(&mut client, request).await;
        assert!(matches!(wrapped.value, Some(KeyValue::Bytes(_))), "a byte string");

        // Another implementation's unwrapping, then the Key Value in TTLV.
        let cipher = aws_lc_rs::key_wrap::AesKek::new(&aws_lc_rs::key_wrap::AES_256, &bytes(KEK));
        let mut out = vec![0; 4096];
        use aws_lc_rs::key_wrap::KeyWrap;
        let clear = cipher.unwrap().unwrap(&carried(&wrapped), &mut out).unwrap().to_vec();
        let item = ttlv::parse(&clear, &ttlv::Limits::default()).unwrap();
        assert_eq!(item.tag(), Tag::KeyValue);
        let KeyValue::Plain { material: KeyMaterial::Bytes(inner), attributes } =
            KeyValue::read(&item).unwrap()
        else {
            panic!("a structure")
        };
        assert!(inner.expose(|inner| inner == bytes(DATA)));
        assert_eq!(attributes.iter().collect::<Vec<_>>(), [&name]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrapping_keys_are_fit_for_it_or_refused() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let good = kek(&mut client, WRAP).await;
    let id = client.bring(&bytes(DATA), []).await.unwrap();
    let get = |key: &str| wrapped_by(&id, key, None);

    let missing = refusal(client.get(get("nobody")).await);
    assert_eq!(missing, ResultReason::WrappingObjectNotFound);
    let other = kek(&mut client, UNWRAP).await;
    let mask = refusal(client.get(get(&other)).await);
    assert_eq!(mask, ResultReason::IncompatibleCryptographicUsageMask);
    let idle = client::register_key(
        SecretBytes::copy_from(&bytes(KEK)),
        CryptographicAlgorithm::Aes,
        WRAP,
        [],
    );
    let idle = client.register(idle).await.unwrap().id;
    assert_eq!(refusal(client.get(get(&idle)).await), ResultReason::WrongKeyLifecycleState);
    client.archive(op::archive::Request { id: Some(idle.as_str().into()) }).await.unwrap();
    assert_eq!(refusal(client.get(get(&idle)).await), ResultReason::WrappingObjectArchived);
    let gone = client.aes([]).await.unwrap();
    client.destroy(client::destroy(&gone)).await.unwrap();
    assert_eq!(refusal(client.get(get(&gone)).await), ResultReason::WrappingObjectDestroyed);
    let secret =
        client::register_secret(SecretDataType::Password, SecretBytes::copy_from(&[1; 32]), []);
    let secret = client.register(secret).await.unwrap().id;
    assert_eq!(refusal(client.get(get(&secret)).await), ResultReason::InvalidObjectType);

    let mut odd = get(&good);
    odd.key_wrapping_specification.as_mut().unwrap().encryption =
        Some(with(&good, Some(BlockCipherMode::Cbc)));
    assert_eq!(refusal(client.get(odd).await), ResultReason::KeyWrapTypeNotSupported);
    let mut signed = get(&good);
    signed.key_wrapping_specification.as_mut().unwrap().method = WrappingMethod::MacSign;
    assert_eq!(refusal(client.get(signed).await), ResultReason::KeyWrapTypeNotSupported);
    let mut none = get(&good);
    none.key_wrapping_specification.as_mut().unwrap().encryption = None;
    assert_eq!(refusal(client.get(none).await), ResultReason::MissingData);
    let mut both = wrapped_by(&id, &good, Some(EncodingOption::NoEncoding));
    both.key_wrapping_specification.as_mut().unwrap().attribute_names.push("Name".to_owned());
    assert_eq!(refusal(client.get(both).await), ResultReason::EncodingOptionError);

    let sensitive = client.bring(&bytes(DATA), [Attribute::Sensitive(true)]).await.unwrap();
    assert_eq!(refusal(client.key(&sensitive).await), ResultReason::Sensitive);
    let bare = Some(EncodingOption::NoEncoding);
    let wrapped = block(&mut client, wrapped_by(&sensitive, &good, bare)).await;
    assert_eq!(carried(&wrapped), bytes(WRAPPED));
    let kept = client.bring(&bytes(DATA), [Attribute::Extractable(false)]).await.unwrap();
    let kept = refusal(client.get(wrapped_by(&kept, &good, bare)).await);
    assert_eq!(kept, ResultReason::NotExtractable);
    let mut stranger = network.client("n2", Version::V2_1).await;
    let own = stranger.bring(&bytes(DATA), []).await.unwrap();
    let foreign = refusal(stranger.get(wrapped_by(&own, &good, bare)).await);
    assert_eq!(foreign, ResultReason::WrappingObjectNotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_symmetric_key_has_a_transparent_form() {
    let network = Network::start().await;
    for version in Version::ALL {
        let mut client = network.client("n1", version).await;
        let id = client.bring(&bytes(DATA), []).await.unwrap();
        let asked = |format| op::get::Request { key_format_type: Some(format), ..client::get(&id) };
        let transparent = block(&mut client, asked(KeyFormatType::TransparentSymmetricKey)).await;
        assert_eq!(transparent.format, KeyFormatType::TransparentSymmetricKey);
        let object = Object::SymmetricKey(transparent);
        let request = op::register::Request::new(object, Attributes::default());
        let again = client.register(request).await.unwrap().id;
        let raw =
            op::get::Request { key_format_type: Some(KeyFormatType::Raw), ..client::get(&again) };
        assert_eq!(carried(&block(&mut client, raw).await), bytes(DATA));
        if version.is_v2() {
            let format = client.attribute(&again, AttributeKind::KeyFormatType).await;
            let expected = Attribute::KeyFormatType(KeyFormatType::TransparentSymmetricKey);
            assert_eq!(format, Some(expected));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_wrapped_in_this_process_where_the_operator_forbids_it() {
    let network = Network::start().await;
    let mut client = network.token_only_client("n1", Version::V2_1).await;
    let kek = kek(&mut client, WRAP | UNWRAP).await;
    let id = client.bring(&bytes(DATA), []).await.unwrap();
    match client.get(wrapped_by(&id, &kek, None)).await {
        Err(client::ClientError::Refused { message, .. }) => {
            assert!(message.contains("crypto_in_process"), "{message}");
        }
        other => panic!("a refusal, not {other:?}"),
    }
    assert_eq!(client.key(&id).await.unwrap(), bytes(DATA), "delivery is no cryptography");
}
