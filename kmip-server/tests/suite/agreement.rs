//! Derive Key by Asymmetric Key: ECDH and X25519.

use std::sync::atomic::Ordering::Relaxed;

use km_core::{
    material::ClearBytes,
    usage::{Action, Cipher, KeyKind, process},
};
use kmip::{
    Version,
    attribute::{
        Attribute, Attributes, CryptographicDomainParameters, CryptographicParameters, Curve,
        VendorAttribute,
    },
    client::{self, ClientError},
    enums::{
        BlockCipherMode, CryptographicAlgorithm as Algorithm, DerivationMethod, KeyFormatType,
        ObjectType, ResultReason,
    },
    object::{KeyBlock, Object},
    op,
    ttlv::Value,
};

use crate::{
    common::{Client, Network, refusal},
    usage::{active, bring, bytes, data},
};

const DERIVE: i32 = 0x200;
const P256: u32 = 0x07;
const P384: u32 = 0x0A;
const P521: u32 = 0x0D;
const CURVE25519: u32 = 0x45;
/// SubjectPublicKeyInfo up to the key itself.
const X25519_INFO: &str = "302a300506032b656e032100";
const P256_INFO: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";

fn pair(
    algorithm: Algorithm,
    curve: u32,
    mask: i32,
    private: Vec<Attribute>,
) -> op::create_key_pair::Request {
    let domain = CryptographicDomainParameters {
        recommended_curve: Some(Curve(curve)),
        ..Default::default()
    };
    let common = [
        Attribute::CryptographicAlgorithm(algorithm),
        Attribute::CryptographicDomainParameters(domain),
        Attribute::CryptographicUsageMask(mask),
        active(),
    ];
    op::create_key_pair::Request {
        common: common.into_iter().collect(),
        private: private.into_iter().collect(),
        public: Attributes::default(),
        ..Default::default()
    }
}

fn asked(ids: &[&str], bits: i32) -> op::derive_key::Request {
    op::derive_key::Request {
        object_type: ObjectType::SecretData,
        ids: ids.iter().map(|id| (*id).into()).collect(),
        method: DerivationMethod::AsymmetricKey,
        parameters: Default::default(),
        attributes: [Attribute::CryptographicLength(bits)].into_iter().collect(),
    }
}

async fn derived(client: &mut Client, ids: &[&str], bits: i32) -> Result<Vec<u8>, ClientError> {
    let id = client.derive_key(asked(ids, bits)).await?.id;
    let got = client.get(client::get(&id)).await?;
    Ok(got.object.key_block().unwrap().plain_bytes().unwrap().expose(<[u8]>::to_vec))
}

/// A key of 256 bits, registered: `format` says which half it is.
async fn registered(client: &mut Client, key: &[u8], format: KeyFormatType) -> String {
    let block =
        KeyBlock { format, ..KeyBlock::raw(data(key).unwrap(), Some(Algorithm::Ecdh), Some(256)) };
    let object = match format {
        KeyFormatType::X509 => Object::PublicKey(block),
        _ => Object::PrivateKey(block),
    };
    let attributes = [Attribute::CryptographicUsageMask(DERIVE), active()];
    let request = op::register::Request::new(object, attributes.into_iter().collect());
    client.register(request).await.unwrap().id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pairs_agree_on_each_curve() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    for (algorithm, curve, len) in [
        (Algorithm::Ec, P256, 32),
        (Algorithm::Ecdh, P256, 32),
        (Algorithm::Ecdh, P384, 48),
        (Algorithm::Ec, P521, 66),
        (Algorithm::Ecdh, CURVE25519, 32),
    ] {
        let make = || pair(algorithm, curve, DERIVE, vec![]);
        let one = client.create_key_pair(make()).await.unwrap();
        let other = client.create_key_pair(make()).await.unwrap();
        let (here, there) =
            ([&*one.private_id, &*other.public_id], [&*one.public_id, &*other.private_id]);
        let whole = derived(&mut client, &here, 8 * len).await.unwrap();
        assert_eq!(derived(&mut client, &there, 8 * len).await.unwrap(), whole, "{curve}");
        assert_ne!(whole, vec![0; whole.len()]);
        let start = derived(&mut client, &there, 128).await.unwrap();
        assert_eq!(start, whole[..16], "the leading bytes");
        let refused = derived(&mut client, &here, 8 * (len + 1)).await;
        assert_eq!(refusal(refused), ResultReason::InvalidAttributeValue);
        // Its successor is on the same curve.
        let request = op::rekey_key_pair::Request {
            private_id: Some(one.private_id.as_str().into()),
            ..Default::default()
        };
        let new = client.rekey_key_pair(request).await.unwrap();
        let with_new = derived(&mut client, &[&new.private_id, &other.public_id], 8 * len).await;
        assert_ne!(with_new.unwrap(), whole);
    }
}

/// RFC 7748, 6.1, and RFC 5903, 8.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agreed_secrets_are_the_known_ones() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let x25519 = [
        "302e020100300506032b656e04220420",
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
    ];
    let p256 = [
        "303102010104 20",
        "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
        "A00A06082A8648CE3D030107",
    ];
    let x25519_public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
    let p256_public = "04D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63\
                       56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB";
    let x25519_secret = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
    let p256_secret = "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE";
    let (pkcs8, sec1) = (KeyFormatType::Pkcs8, KeyFormatType::EcPrivateKey);
    let mut privates = Vec::new();
    for (private, format, info, public, secret) in [
        (x25519.concat(), pkcs8, X25519_INFO, x25519_public, x25519_secret),
        (p256.concat(), sec1, P256_INFO, p256_public, p256_secret),
    ] {
        let private = registered(&mut client, &bytes(&private), format).await;
        let public = bytes(&[info, public].concat());
        let public = registered(&mut client, &public, KeyFormatType::X509).await;
        assert_eq!(derived(&mut client, &[&private, &public], 256).await.unwrap(), bytes(secret));
        privates.push(private);
    }
    // The identity of X25519, whose result would be zero, and a point beside the curve.
    let zero = [X25519_INFO, &"00".repeat(32)].concat();
    let beside = [P256_INFO, &p256_public[..128], "AC"].concat();
    for (private, public) in privates.iter().zip([zero, beside]) {
        let public = registered(&mut client, &bytes(&public), KeyFormatType::X509).await;
        let refused = derived(&mut client, &[private, &public], 256).await;
        assert_eq!(refusal(refused), ResultReason::CryptographicFailure);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_agree_is_refused() {
    let network = Network::start().await;
    network.north.hsm.pairs.store(true, Relaxed);
    let mut client = network.client("n1", Version::V2_1).await;
    let mut made = Vec::new();
    for (algorithm, curve, mask, private) in [
        (Algorithm::Ecdh, CURVE25519, DERIVE | 1, vec![]),
        (Algorithm::Ec, P256, DERIVE, vec![]),
        (Algorithm::Ec, P256, 1, vec![]),
        (Algorithm::Ec, P256, DERIVE, vec![Attribute::Extractable(false)]),
    ] {
        let request = pair(algorithm, curve, mask, private);
        let pair = client.create_key_pair(request).await.unwrap();
        made.push((pair.private_id, pair.public_id));
    }
    let [x25519, p256, unmasked, inside] = &made[..] else { panic!() };
    let secret = bring(&mut client, &[7; 32], Algorithm::Aes, DERIVE, vec![active()]).await;
    for (ids, reason) in [
        ([&x25519.0, &p256.1], ResultReason::CryptographicFailure),
        ([&p256.0, &x25519.1], ResultReason::CryptographicFailure),
        ([&p256.0, &x25519.0], ResultReason::InvalidObjectType),
        ([&p256.1, &x25519.1], ResultReason::InvalidObjectType),
        ([&p256.0, &secret], ResultReason::InvalidObjectType),
        ([&p256.0, &unmasked.1], ResultReason::IncompatibleCryptographicUsageMask),
        ([&unmasked.0, &p256.1], ResultReason::IncompatibleCryptographicUsageMask),
        // A key of another curve that never leaves the token.
        ([&inside.0, &x25519.1], ResultReason::CryptographicFailure),
    ] {
        let refused = derived(&mut client, &ids.map(String::as_str), 256).await;
        assert_eq!(refusal(refused), reason, "{ids:?}");
    }
    refusal(derived(&mut client, &[&p256.0], 256).await);
    let mut more = asked(&[&p256.0, &p256.1], 256);
    more.parameters.data = data(b"more");
    let refused = client.derive_key(more).await;
    assert_eq!(refusal(refused), ResultReason::BadCryptographicParameters);
    // Such a key does not sign, and no pair for signing is on its curve.
    let sign = op::sign::Request {
        id: Some(x25519.0.as_str().into()),
        data: data(b"abc"),
        ..Default::default()
    };
    refusal(client.sign(sign).await);
    refusal(client.create_key_pair(pair(Algorithm::Ec, CURVE25519, 1, vec![])).await);
}

/// A pair whose private key never leaves the token agrees there, and a key of what is agreed on may
/// stay there, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_made_in_the_token_agree_there() {
    let network = Network::start().await;
    network.north.hsm.pairs.store(true, Relaxed);
    let mut client = network.token_only_client("n1", Version::V2_1).await;
    let secret = || vec![Attribute::Extractable(false)];
    let mut make = async || {
        let request = pair(Algorithm::Ecdh, P256, DERIVE, secret());
        client.create_key_pair(request).await.unwrap()
    };
    let (one, other) = (make().await, make().await);
    let (here, there) =
        ([&*one.private_id, &*other.public_id], [&*one.public_id, &*other.private_id]);
    let known = derived(&mut client, &here, 256).await.unwrap();
    assert_eq!(derived(&mut client, &there, 256).await.unwrap(), known);
    let stays = [
        Attribute::CryptographicAlgorithm(Algorithm::Aes),
        Attribute::CryptographicUsageMask(0x4),
        Attribute::Extractable(false),
        active(),
    ];
    let mut request = asked(&there, 256);
    request.object_type = ObjectType::SymmetricKey;
    stays.into_iter().for_each(|attribute| request.attributes.push(attribute));
    let id = client.derive_key(request).await.unwrap().id;
    refusal(client.get(client::get(&id)).await);
    let told = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
    let custody = Attribute::Vendor(VendorAttribute {
        vendor: "x".into(),
        name: "qkm-custody".into(),
        value: Value::TextString("in-token".into()),
    });
    assert!(told.attributes.iter().any(|attribute| *attribute == custody));
    let request = op::encrypt::Request {
        id: Some(id.as_str().into()),
        parameters: Some(CryptographicParameters {
            block_cipher_mode: Some(BlockCipherMode::Ecb),
            ..Default::default()
        }),
        data: data(&[7; 16]),
        ..Default::default()
    };
    let sealed = client.encrypt(request).await.unwrap();
    let ecb = Action::Encrypt(Cipher::Ecb { padded: false });
    let (known, clear) = (ClearBytes::from_vec(known), ClearBytes::copy_from(&[7; 16]));
    let known = process::act(KeyKind::Aes, &ecb, &known, &clear).unwrap();
    assert_eq!(sealed.data.unwrap(), known.expose(<[u8]>::to_vec));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agreement_in_this_process_can_be_forbidden() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let made = client.create_key_pair(pair(Algorithm::Ec, P256, DERIVE, vec![])).await.unwrap();
    let ids = [&*made.private_id, &*made.public_id];
    derived(&mut client, &ids, 256).await.unwrap();
    let mut client = network.token_only_client("n1", Version::V2_1).await;
    let refused = derived(&mut client, &ids, 256).await;
    assert_eq!(refusal(refused), ResultReason::UnsupportedCryptographicParameters);
}
