//! Cryptographic operations where the token does not do them: known answers, and what is refused.

use std::time::{SystemTime, UNIX_EPOCH};

use kmip::{
    DateTime, SecretBytes, Version,
    attribute::{Attribute, CryptographicParameters, VendorAttribute},
    client::{self, ClientError},
    enums::{
        BlockCipherMode, CryptographicAlgorithm as Algorithm, DerivationMethod, HashingAlgorithm,
        ObjectType, PaddingMethod, ResultReason, RevocationReasonCode, ValidityIndicator,
    },
    op,
    ttlv::Value,
};

use crate::{
    common::{Client, Network, refusal},
    pairs::pair,
};

/// Every use there is.
const ANY: i32 = 0xFFF;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

pub(crate) fn active() -> Attribute {
    Attribute::ActivationDate(DateTime(now() - 60))
}

pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.bytes().filter_map(|c| char::from(c).to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

pub(crate) fn data(bytes: &[u8]) -> Option<SecretBytes> {
    Some(SecretBytes::copy_from(bytes))
}

fn mode(mode: BlockCipherMode, padding: Option<PaddingMethod>) -> CryptographicParameters {
    CryptographicParameters {
        block_cipher_mode: Some(mode),
        padding_method: padding,
        ..Default::default()
    }
}

/// A registered key with a usage mask.
pub(crate) async fn bring(
    client: &mut Client,
    key: &[u8],
    algorithm: Algorithm,
    mask: i32,
    more: Vec<Attribute>,
) -> String {
    let key = SecretBytes::copy_from(key);
    client.register(client::register_key(key, algorithm, mask, more)).await.unwrap().id
}

pub(crate) struct Case {
    pub(crate) parameters: CryptographicParameters,
    pub(crate) iv: Option<Vec<u8>>,
    pub(crate) aad: Option<Vec<u8>>,
}

impl Case {
    fn new(parameters: CryptographicParameters, iv: &str) -> Self {
        let iv = (!iv.is_empty()).then(|| bytes(iv));
        Self { parameters, iv, aad: None }
    }

    pub(crate) async fn encrypt(
        &self,
        client: &mut Client,
        id: &str,
        clear: &[u8],
    ) -> Result<op::encrypt::Response, ClientError> {
        let request = op::encrypt::Request {
            id: Some(id.into()),
            parameters: Some(self.parameters.clone()),
            data: data(clear),
            iv: self.iv.clone(),
            aad: self.aad.clone(),
            ..Default::default()
        };
        client.encrypt(request).await
    }

    pub(crate) async fn decrypt(
        &self,
        client: &mut Client,
        id: &str,
        sealed: &[u8],
        tag: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, ClientError> {
        let request = op::decrypt::Request {
            id: Some(id.into()),
            parameters: Some(self.parameters.clone()),
            data: Some(sealed.to_vec()),
            iv: self.iv.clone(),
            aad: self.aad.clone(),
            tag,
            ..Default::default()
        };
        let answer = client.decrypt(request).await?;
        Ok(answer.data.unwrap().expose(<[u8]>::to_vec))
    }
}

/// NIST SP 800-38A, F.1, F.2 and F.5: the first block under AES-128.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aes_gives_the_known_answers() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_2).await;
    let key = bytes("2b7e151628aed2a6abf7158809cf4f3c");
    let clear = bytes("6bc1bee22e409f96e93d7e117393172a");
    let id = bring(&mut client, &key, Algorithm::Aes, ANY, vec![active()]).await;
    let iv = "000102030405060708090a0b0c0d0e0f";
    let counter = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
    let padded = Some(PaddingMethod::Pkcs5);
    for (case, sealed) in [
        (Case::new(mode(BlockCipherMode::Ecb, None), ""), "3ad77bb40d7a3660a89ecaf32466ef97"),
        (Case::new(mode(BlockCipherMode::Cbc, None), iv), "7649abac8119b246cee98e9b12e9197d"),
        (Case::new(mode(BlockCipherMode::Ctr, None), counter), "874d6191b620e3261bef6864990db6ce"),
        // The padding is a block more.
        (Case::new(mode(BlockCipherMode::Cbc, padded), iv), "7649abac8119b246cee98e9b12e9197d"),
        (Case::new(mode(BlockCipherMode::Ecb, padded), ""), "3ad77bb40d7a3660a89ecaf32466ef97"),
    ] {
        let answer = case.encrypt(&mut client, &id, &clear).await.unwrap();
        let found = answer.data.unwrap();
        assert_eq!(&found[..16], bytes(sealed), "{:?}", case.parameters);
        let len = if case.parameters.padding_method.is_some() { 32 } else { 16 };
        assert_eq!((found.len(), answer.iv), (len, None));
        assert_eq!(case.decrypt(&mut client, &id, &found, None).await.unwrap(), clear);
    }
}

/// Test case 4 of the GCM specification (McGrew and Viega), in all versions that have Encrypt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gcm_gives_the_known_answer_and_refuses_every_change() {
    let network = Network::start().await;
    let key = bytes("feffe9928665731c6d6a8f9467308308");
    let clear = bytes(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e24\
         49a6b525b16aedf5aa0de657ba637b39",
    );
    let sealed = bytes(
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5a\
         ac84aa051ba30b396a0aac973d58e091",
    );
    let tag = bytes("5bc94fbc3221a5db94fae95ae7121a47");
    let mut case = Case::new(mode(BlockCipherMode::Gcm, None), "cafebabefacedbaddecaf888");
    case.aad = Some(bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2"));
    for version in [Version::V1_4, Version::V2_0, Version::V2_1] {
        let mut client = network.client("n1", version).await;
        let id = bring(&mut client, &key, Algorithm::Aes, ANY, vec![active()]).await;
        let answer = case.encrypt(&mut client, &id, &clear).await.unwrap();
        assert_eq!((answer.data.unwrap(), answer.tag.unwrap()), (sealed.clone(), tag.clone()));
        let opened = case.decrypt(&mut client, &id, &sealed, Some(tag.clone())).await.unwrap();
        assert_eq!(opened, clear);
        let mut changed = tag.clone();
        changed[0] ^= 1;
        let refused = case.decrypt(&mut client, &id, &sealed, Some(changed)).await;
        assert_eq!(refusal(refused), ResultReason::CryptographicFailure);
        let refused = case.decrypt(&mut client, &id, &sealed[1..], Some(tag.clone())).await;
        assert_eq!(refusal(refused), ResultReason::CryptographicFailure);
        let refused = case.decrypt(&mut client, &id, &sealed, Some(tag[..12].to_vec())).await;
        assert_eq!(refusal(refused), ResultReason::CryptographicFailure);
    }
    // Before 1.4 there is no field for tag and associated data; the tag is part of the data.
    let mut client = network.client("n1", Version::V1_3).await;
    let id = bring(&mut client, &key, Algorithm::Aes, ANY, vec![active()]).await;
    case.aad = None;
    case.parameters.random_iv = Some(true);
    case.iv = None;
    let answer = case.encrypt(&mut client, &id, &clear).await.unwrap();
    let whole = answer.data.unwrap();
    assert_eq!((whole.len(), answer.tag), (clear.len() + 16, None));
    case.iv = answer.iv;
    assert_eq!(case.decrypt(&mut client, &id, &whole, None).await.unwrap(), clear);
    let second = Case { iv: None, aad: None, parameters: case.parameters.clone() };
    assert_ne!(second.encrypt(&mut client, &id, &clear).await.unwrap().iv, case.iv);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_with_its_reason() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = bring(&mut client, &[7; 32], Algorithm::Aes, ANY, vec![active()]).await;
    let iv = "000102030405060708090a0b0c0d0e0f";
    let padded = Some(PaddingMethod::Pkcs5);
    let gcm =
        |tag| CryptographicParameters { tag_length: Some(tag), ..mode(BlockCipherMode::Gcm, None) };
    for (case, len, reason) in [
        (Case::new(mode(BlockCipherMode::Cbc, None), iv), 15, ResultReason::CryptographicFailure),
        (Case::new(mode(BlockCipherMode::Cbc, None), ""), 16, ResultReason::InvalidMessage),
        (
            Case::new(mode(BlockCipherMode::Cbc, None), "0011"),
            16,
            ResultReason::BadCryptographicParameters,
        ),
        (
            Case::new(mode(BlockCipherMode::Ctr, padded), iv),
            16,
            ResultReason::BadCryptographicParameters,
        ),
        (Case::new(gcm(1), "00"), 16, ResultReason::GeneralFailure),
        (Case::new(gcm(32), "00"), 16, ResultReason::GeneralFailure),
        (Case::new(gcm(-1), "00"), 16, ResultReason::GeneralFailure),
        (
            Case::new(mode(BlockCipherMode::Xts, None), iv),
            32,
            ResultReason::UnsupportedCryptographicParameters,
        ),
        (Case::new(CryptographicParameters::default(), iv), 16, ResultReason::MissingData),
    ] {
        let refused = case.encrypt(&mut client, &id, &vec![1; len]).await;
        assert_eq!(refusal(refused), reason, "{:?}", case.parameters);
    }
    let cbc = Case::new(mode(BlockCipherMode::Cbc, padded), iv);
    for len in [0, 15, 16, 33] {
        let refused = cbc.decrypt(&mut client, &id, &vec![1; len], None).await;
        assert_eq!(refusal(refused), ResultReason::CryptographicFailure, "{len} bytes");
    }
    let none = op::encrypt::Request { id: Some(id.as_str().into()), ..Default::default() };
    assert_eq!(refusal(client.encrypt(none).await), ResultReason::MissingData);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mask_state_dates_and_owner_are_asked_first() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let ecb = Case::new(mode(BlockCipherMode::Ecb, None), "");
    let block = [1; 16];
    let other = bring(&mut client, &[7; 16], Algorithm::Aes, 0x8, vec![active()]).await;
    let refused = ecb.encrypt(&mut client, &other, &block).await;
    assert_eq!(refusal(refused), ResultReason::IncompatibleCryptographicUsageMask);

    let id = bring(&mut client, &[7; 16], Algorithm::Aes, ANY, vec![]).await;
    let refused = ecb.encrypt(&mut client, &id, &block).await;
    assert_eq!(refusal(refused), ResultReason::WrongKeyLifecycleState, "not active yet");
    client.activate(client::activate(&id)).await.unwrap();
    let sealed = ecb.encrypt(&mut client, &id, &block).await.unwrap().data.unwrap();

    let mut stranger = network.client("n2", Version::V2_1).await;
    let refused = ecb.decrypt(&mut stranger, &id, &sealed, None).await;
    assert_eq!(refusal(refused), ResultReason::ObjectNotFound);

    let over = client::revoke(&id, RevocationReasonCode::CessationOfOperation);
    client.revoke(over).await.unwrap();
    let refused = ecb.encrypt(&mut client, &id, &block).await;
    assert_eq!(refusal(refused), ResultReason::WrongKeyLifecycleState, "revoked");
    assert_eq!(ecb.decrypt(&mut client, &id, &sealed, None).await.unwrap(), block);
    client.destroy(client::destroy(&id)).await.unwrap();
    let refused = ecb.decrypt(&mut client, &id, &sealed, None).await;
    assert_eq!(refusal(refused), ResultReason::ObjectDestroyed);

    let dates = vec![
        active(),
        Attribute::ProcessStartDate(DateTime(now() + 3600)),
        Attribute::ProtectStopDate(DateTime(now() - 10)),
    ];
    let id = bring(&mut client, &[7; 16], Algorithm::Aes, ANY, dates).await;
    let refused = ecb.encrypt(&mut client, &id, &block).await;
    assert_eq!(refusal(refused), ResultReason::WrongKeyLifecycleState, "protect stop");
    let refused = ecb.decrypt(&mut client, &id, &sealed, None).await;
    assert_eq!(refusal(refused), ResultReason::WrongKeyLifecycleState, "process start");
}

/// RFC 4231, test case 2, and RFC 2202, test case 2; for SHA-3 as Python's hashlib gives it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hmac_gives_the_known_answers() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    for (algorithm, expected) in [
        (Algorithm::HmacSha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        (Algorithm::HmacSha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            Algorithm::HmacSha512,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554\
             9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
        (Algorithm::HmacSha3_224, "7fdb8dd88bd2f60d1b798634ad386811c2cfc85bfaf5d52bbace5e66"),
        (
            Algorithm::HmacSha3_256,
            "c7d4072e788877ae3596bbb0da73b887c9171f93095b294ae857fbe2645e1ba5",
        ),
        (
            Algorithm::HmacSha3_384,
            "f1101f8cbf9766fd6764d2ed61903f21ca9b18f57cf3e1a23ca13508a93243ce\
             48c045dc007f26a21b3f5e0e9df4c20a",
        ),
        (
            Algorithm::HmacSha3_512,
            "5a4bfeab6166427c7a3647b747292b8384537cdb89afb3bf5665e4c5e709350b\
             287baec921fd7ca0ee7a0c31d022a95e1fc92ba9d77df883960275beb4e62024",
        ),
    ] {
        let id = bring(&mut client, b"Jefe", algorithm, ANY, vec![active()]).await;
        let said = b"what do ya want for nothing?";
        let request = op::mac::Request {
            id: Some(id.as_str().into()),
            data: data(said),
            ..Default::default()
        };
        let mac = client.mac(request).await.unwrap().mac.unwrap();
        assert_eq!(mac, bytes(expected));
        for (change, validity) in [(0, ValidityIndicator::Valid), (1, ValidityIndicator::Invalid)] {
            let mut mac = mac.clone();
            mac[3] ^= change;
            let request = op::mac_verify::Request {
                id: Some(id.as_str().into()),
                data: data(said),
                mac: Some(mac),
                ..Default::default()
            };
            assert_eq!(client.mac_verify(request).await.unwrap().validity, validity);
        }
    }
}

fn derivation(
    base: &str,
    method: DerivationMethod,
    parameters: op::derive_key::DerivationParameters,
    bits: i32,
) -> op::derive_key::Request {
    op::derive_key::Request {
        object_type: ObjectType::SecretData,
        ids: vec![base.into()],
        method,
        parameters,
        attributes: [Attribute::CryptographicLength(bits)].into_iter().collect(),
    }
}

/// RFC 5869 test case 1, RFC 6070 test case 1, and an HMAC of RFC 4231.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn derived_keys_are_the_known_ones() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let hash = |hash| {
        Some(CryptographicParameters { hashing_algorithm: Some(hash), ..Default::default() })
    };
    let hmac = Algorithm::HmacSha256;
    let ikm = bring(&mut client, &[0x0b; 22], hmac, ANY, vec![active()]).await;
    let password = bring(&mut client, b"password", hmac, ANY, vec![active()]).await;
    let jefe = bring(&mut client, b"Jefe", hmac, ANY, vec![active()]).await;
    let hkdf = op::derive_key::DerivationParameters {
        cryptographic: hash(HashingAlgorithm::Sha256),
        data: data(&bytes("f0f1f2f3f4f5f6f7f8f9")),
        salt: Some(bytes("000102030405060708090a0b0c")),
        ..Default::default()
    };
    let pbkdf2 = op::derive_key::DerivationParameters {
        cryptographic: hash(HashingAlgorithm::Sha1),
        salt: Some(b"salt".to_vec()),
        iterations: Some(1),
        ..Default::default()
    };
    let mac = op::derive_key::DerivationParameters {
        data: data(b"what do ya want for nothing?"),
        ..Default::default()
    };
    let okm =
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    for (request, expected) in [
        (derivation(&ikm, DerivationMethod::Hkdf, hkdf, 336), okm),
        (
            derivation(&password, DerivationMethod::Pbkdf2, pbkdf2, 160),
            "0c60c80f961f0e71f3a9b524af6012062fe037a6",
        ),
        (derivation(&jefe, DerivationMethod::Hmac, mac, 128), "5bdcc146bf60754e6a042426089575c7"),
    ] {
        let made = client.derive_key(request).await.unwrap();
        let got = client.get(client::get(&made.id)).await.unwrap();
        let found = got.object.key_block().unwrap().plain_bytes().unwrap().expose(<[u8]>::to_vec);
        assert_eq!(found, bytes(expected));
    }
    let too_much = op::derive_key::DerivationParameters { data: data(b"x"), ..Default::default() };
    let refused = client.derive_key(derivation(&jefe, DerivationMethod::Hmac, too_much, 512)).await;
    assert_eq!(refusal(refused), ResultReason::InvalidAttributeValue);
    let endless =
        op::derive_key::DerivationParameters { iterations: Some(i32::MAX), ..Default::default() };
    let refused =
        client.derive_key(derivation(&password, DerivationMethod::Pbkdf2, endless, 128)).await;
    assert_eq!(refusal(refused), ResultReason::BadCryptographicParameters);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cryptography_in_this_process_can_be_forbidden() {
    let network = Network::start().await;
    let mut client = network.token_only_client("n1", Version::V2_1).await;
    let id = bring(&mut client, &[7; 16], Algorithm::Aes, ANY, vec![active()]).await;
    let ecb = Case::new(mode(BlockCipherMode::Ecb, None), "");
    let hidden = Attribute::Extractable(false);
    let refused = [
        ecb.encrypt(&mut client, &id, &[1; 16]).await.map(|_| ()),
        client.create_key_pair(pair(Algorithm::Ec, 256, vec![])).await.map(|_| ()),
        client.aes([hidden]).await.map(|_| ()),
    ];
    for refused in refused {
        match refused {
            Err(ClientError::Refused { reason, message }) => {
                assert_eq!(reason, ResultReason::UnsupportedCryptographicParameters);
                assert!(message.contains("crypto_in_process"), "{message}");
            }
            other => panic!("a refusal, not {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custody_is_shown_and_random_bytes_are_given() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let id = client.aes([]).await.unwrap();
    let all = client.get_attributes(client::get_attributes(&id, [])).await.unwrap();
    let custody = Attribute::Vendor(VendorAttribute {
        vendor: "x".into(),
        name: "qkm-custody".into(),
        value: Value::TextString("host-transient".into()),
    });
    assert!(all.attributes.iter().any(|attribute| *attribute == custody));
    let random = op::rng_retrieve::Request { length: 100 };
    let random = client.rng_retrieve(random).await.unwrap().data;
    assert!(random.expose(|bytes| bytes.len() == 100 && bytes.iter().any(|byte| *byte != 0)));
    for length in [0, -1, i32::MAX] {
        let refused = client.rng_retrieve(op::rng_retrieve::Request { length }).await;
        assert_eq!(refusal(refused), ResultReason::InvalidField);
    }
    let seed = op::rng_seed::Request { data: SecretBytes::copy_from(b"chosen") };
    assert_eq!(client.rng_seed(seed).await.unwrap().length, 0, "nothing of it is used");
}
