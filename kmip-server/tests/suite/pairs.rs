//! Key pairs: what they sign and open, in the token and outside.

use kmip::{
    SecretBytes, Version,
    attribute::{Attribute, AttributeKind, Attributes, CryptographicParameters, UniqueIdentifier},
    client,
    enums::{
        CryptographicAlgorithm as Algorithm, HashingAlgorithm, PaddingMethod, ResultReason,
        ValidityIndicator,
    },
    op,
};

use crate::{
    common::{Client, Network, refusal},
    usage::{Case, active, bytes, data},
};
pub(crate) fn pair(
    algorithm: Algorithm,
    bits: i32,
    private: Vec<Attribute>,
) -> op::create_key_pair::Request {
    let common: Attributes = [
        Attribute::CryptographicAlgorithm(algorithm),
        Attribute::CryptographicLength(bits),
        active(),
    ]
    .into_iter()
    .collect();
    let mut own = vec![Attribute::CryptographicUsageMask(0x1 | 0x8)];
    own.extend(private);
    op::create_key_pair::Request {
        common,
        private: own.into_iter().collect(),
        public: [Attribute::CryptographicUsageMask(0x2 | 0x4)].into_iter().collect(),
        ..Default::default()
    }
}

async fn verify(
    client: &mut Client,
    id: &str,
    parameters: &CryptographicParameters,
    said: &[u8],
    signature: Vec<u8>,
) -> ValidityIndicator {
    let request = op::signature_verify::Request {
        id: Some(id.into()),
        parameters: Some(parameters.clone()),
        data: data(said),
        signature: Some(signature),
        ..Default::default()
    };
    client.signature_verify(request).await.unwrap().validity
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pairs_sign_and_verify_and_are_linked() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let hashed = |hash, padding| CryptographicParameters {
        hashing_algorithm: Some(hash),
        padding_method: padding,
        ..Default::default()
    };
    let sha256 = HashingAlgorithm::Sha256;
    for (algorithm, bits, parameters) in [
        (Algorithm::Rsa, 2048, hashed(sha256, Some(PaddingMethod::Pkcs1V1_5))),
        (Algorithm::Rsa, 2048, hashed(HashingAlgorithm::Sha384, Some(PaddingMethod::Pss))),
        (Algorithm::Ecdsa, 256, hashed(sha256, None)),
        (Algorithm::Ec, 384, hashed(HashingAlgorithm::Sha384, None)),
        (Algorithm::Ec, 521, hashed(HashingAlgorithm::Sha512, None)),
        (Algorithm::Ed25519, 256, CryptographicParameters::default()),
        (Algorithm::MlDsa44, 8 * 1312, CryptographicParameters::default()),
        (Algorithm::MlDsa65, 8 * 1952, CryptographicParameters::default()),
        (Algorithm::MlDsa87, 8 * 2592, CryptographicParameters::default()),
    ] {
        let made = client.create_key_pair(pair(algorithm, bits, vec![])).await.unwrap();
        let sign = op::sign::Request {
            id: Some(made.private_id.as_str().into()),
            parameters: Some(parameters.clone()),
            data: data(b"what is signed"),
            ..Default::default()
        };
        let signature = client.sign(sign).await.unwrap().signature.unwrap();
        let mut check = async |said: &[u8], signature: Vec<u8>| {
            verify(&mut client, &made.public_id, &parameters, said, signature).await
        };
        let found = check(b"what is signed", signature.clone()).await;
        assert_eq!(found, ValidityIndicator::Valid, "{algorithm:?} {bits}");
        assert_eq!(check(b"what is not", signature.clone()).await, ValidityIndicator::Invalid);
        assert_eq!(check(b"what is signed", vec![]).await, ValidityIndicator::Invalid);
        let link = client.attribute(&made.public_id, AttributeKind::Link).await.unwrap();
        let target = UniqueIdentifier::from(made.private_id.as_str());
        assert!(matches!(link, Attribute::Link(link) if link.target == target));
        let wrong = op::sign::Request {
            id: Some(made.public_id.as_str().into()),
            data: data(b"x"),
            ..Default::default()
        };
        let reason = refusal(client.sign(wrong).await);
        assert_eq!(reason, ResultReason::IncompatibleCryptographicUsageMask);
    }
}

/// The algorithm values of KMIP 3.0 are understood from 2.1 on; the keys are there for older clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ml_dsa_keys_do_not_confuse_older_clients() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let (algorithm, bits) = (Algorithm::MlDsa65, 8 * 1952);
    let made = client.create_key_pair(pair(algorithm, bits, vec![])).await.unwrap();
    let said = client.attribute(&made.private_id, AttributeKind::CryptographicAlgorithm).await;
    assert_eq!(said.unwrap(), Attribute::CryptographicAlgorithm(algorithm));
    let refused = client.create_key_pair(pair(algorithm, 256, vec![])).await;
    assert_eq!(refusal(refused), ResultReason::InvalidAttributeValue, "no length but its own");

    for version in [Version::V1_0, Version::V1_4, Version::V2_0] {
        let mut older = network.client("n1", version).await;
        let all = client::get_attributes(&made.private_id, []);
        let all = older.get_attributes(all).await.unwrap().attributes;
        assert!(all.iter().any(|a| a.kind() == Some(AttributeKind::State)), "{version:?}");
        let algorithm = AttributeKind::CryptographicAlgorithm;
        assert!(all.iter().all(|a| a.kind() != Some(algorithm)), "{version:?}");
        if version >= Version::V1_2 {
            let sign = op::sign::Request {
                id: Some(made.private_id.as_str().into()),
                data: data(b"what is signed"),
                ..Default::default()
            };
            let signature = older.sign(sign).await.unwrap().signature.unwrap();
            assert_eq!(signature.len(), 3309);
        }
        older.get(client::get(&made.public_id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rsa_pairs_have_usual_lengths_in_the_token_and_outside() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    for bits in [i32::MIN, 0, 1024, 2056, 8192, 16384, i32::MAX] {
        for sensitive in [true, false] {
            let request = pair(Algorithm::Rsa, bits, vec![Attribute::Sensitive(sensitive)]);
            let reason = refusal(client.create_key_pair(request).await);
            assert_eq!(reason, ResultReason::InvalidAttributeValue, "{bits} {sensitive}");
        }
    }
    let within = vec![Attribute::Sensitive(true)];
    client.create_key_pair(pair(Algorithm::Rsa, 2048, within)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_is_signed_as_its_data_and_rsa_encrypts_to_its_private_key() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let made = client.create_key_pair(pair(Algorithm::Rsa, 2048, vec![])).await.unwrap();
    let hash = op::hash::Request {
        parameters: CryptographicParameters {
            hashing_algorithm: Some(HashingAlgorithm::Sha256),
            ..Default::default()
        },
        data: data(b"abc"),
        correlation_value: None,
        init: None,
        last: None,
    };
    let digest = client.hash(hash).await.unwrap().data.unwrap();
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest, bytes(known));
    let sign = |data: Option<SecretBytes>, digested| op::sign::Request {
        id: Some(made.private_id.as_str().into()),
        data,
        digested,
        ..Default::default()
    };
    let one = client.sign(sign(data(b"abc"), None)).await.unwrap().signature;
    let other = client.sign(sign(None, Some(digest.clone()))).await.unwrap().signature;
    assert_eq!(one, other, "PKCS #1 v1.5 is deterministic");
    let short = client.sign(sign(None, Some(digest[1..].to_vec()))).await;
    assert_eq!(refusal(short), ResultReason::InvalidField);
    for padding in [PaddingMethod::Oaep, PaddingMethod::Pkcs1V1_5] {
        let parameters =
            CryptographicParameters { padding_method: Some(padding), ..Default::default() };
        let case = Case { parameters, iv: None, aad: None };
        let sealed = case.encrypt(&mut client, &made.public_id, b"a secret").await.unwrap();
        let sealed = sealed.data.unwrap();
        let opened = case.decrypt(&mut client, &made.private_id, &sealed, None).await.unwrap();
        assert_eq!(opened, b"a secret");
        let refused = case.decrypt(&mut client, &made.private_id, &sealed[1..], None).await;
        assert_eq!(refusal(refused), ResultReason::CryptographicFailure);
        let refused = case.encrypt(&mut client, &made.public_id, &[1; 300]).await;
        assert_eq!(refusal(refused), ResultReason::CryptographicFailure);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sha3_hashes_and_signs() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let shortest = "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf";
    let longer = "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c25\
                  96da7cf0e49be4b298d88cea927ac7f539f1edf228376d25";
    for (hash, expected) in
        [(HashingAlgorithm::Sha3_224, shortest), (HashingAlgorithm::Sha3_384, longer)]
    {
        let parameters = CryptographicParameters {
            hashing_algorithm: Some(hash),
            padding_method: Some(PaddingMethod::Pss),
            ..Default::default()
        };
        let hash = op::hash::Request {
            parameters: parameters.clone(),
            data: data(b"abc"),
            correlation_value: None,
            init: None,
            last: None,
        };
        assert_eq!(client.hash(hash).await.unwrap().data.unwrap(), bytes(expected));
        let made = client.create_key_pair(pair(Algorithm::Rsa, 2048, vec![])).await.unwrap();
        let request = op::sign::Request {
            id: Some(made.private_id.as_str().into()),
            parameters: Some(parameters.clone()),
            data: data(b"abc"),
            ..Default::default()
        };
        let signature = client.sign(request).await.unwrap().signature.unwrap();
        let valid =
            verify(&mut client, &made.public_id, &parameters, b"abc", signature.clone()).await;
        assert_eq!(valid, ValidityIndicator::Valid);
        let other = verify(&mut client, &made.public_id, &parameters, b"abd", signature).await;
        assert_eq!(other, ValidityIndicator::Invalid);
    }
}

/// A hash is signed on any curve and by any RSA key, whatever its length; SHA-1 is only verified.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hash_is_signed_on_every_curve() {
    use HashingAlgorithm::{Sha1, Sha3_224, Sha3_256, Sha3_512, Sha224, Sha256, Sha384, Sha512};
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    for (algorithm, bits) in [
        (Algorithm::Ecdsa, 256),
        (Algorithm::Ecdsa, 384),
        (Algorithm::Ecdsa, 521),
        (Algorithm::Rsa, 2048),
    ] {
        let made = client.create_key_pair(pair(algorithm, bits, vec![])).await.unwrap();
        for hash in [Sha1, Sha224, Sha256, Sha384, Sha512, Sha3_224, Sha3_256, Sha3_512] {
            let parameters =
                CryptographicParameters { hashing_algorithm: Some(hash), ..Default::default() };
            let request = op::sign::Request {
                id: Some(made.private_id.as_str().into()),
                parameters: Some(parameters.clone()),
                data: data(b"abc"),
                ..Default::default()
            };
            let signed = client.sign(request).await;
            if hash == Sha1 {
                let reason = ResultReason::UnsupportedCryptographicParameters;
                assert_eq!(refusal(signed), reason, "{algorithm:?}");
                continue;
            }
            let signature = signed.unwrap().signature.unwrap();
            let valid =
                verify(&mut client, &made.public_id, &parameters, b"abc", signature.clone()).await;
            assert_eq!(valid, ValidityIndicator::Valid, "{algorithm:?} {bits} {hash:?}");
            let other = verify(&mut client, &made.public_id, &parameters, b"abd", signature).await;
            assert_eq!(other, ValidityIndicator::Invalid, "{algorithm:?} {bits} {hash:?}");
        }
    }
}
