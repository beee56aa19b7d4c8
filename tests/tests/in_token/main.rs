//! Keys that never leave the token, through KMIP on a running key manager.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod kept;

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree},
    encoding::{AsDer, PublicKeyX509Der},
};
use kmip::{
    Answer, DateTime, Operation, SecretBytes, Version,
    attribute::{Attribute, AttributeKind, Attributes, CryptographicParameters},
    client,
    enums::{
        BlockCipherMode, CryptographicAlgorithm as Algorithm, DerivationMethod, EncodingOption,
        HashingAlgorithm, KeyFormatType, KeyWrapType, ObjectType, QueryFunction,
        RevocationReasonCode, SplitKeyMethod, ValidityIndicator, WrappingMethod,
    },
    object::{KeyBlock, KeyInformation, KeyWrappingSpecification, Object},
    op,
    ttlv::Value,
};
use qkm_tests::{
    clients::{Kmip, material},
    epochs,
    network::{End::North, Network, Options, monitor_get},
};

const ENCRYPT_DECRYPT: i32 = 0xC;
const SIGN: i32 = 0x1;
const VERIFY: i32 = 0x2;
const MAC: i32 = 0x80;
const WRAP_UNWRAP: i32 = 0x30;
const CLEAR: [u8; 32] = *b"the same bytes for all the tests";

fn active() -> Attribute {
    Attribute::ActivationDate(DateTime(1_000_000))
}

/// A key that is never to leave in clear.
async fn made(app: &Kmip, algorithm: Algorithm, usage: i32) -> String {
    let more = [Attribute::Extractable(false), active()];
    let answer = app.ask(client::create(algorithm, 256, usage, more)).await.unwrap();
    let Answer::Create(made) = answer else { panic!("{answer:?}") };
    made.id
}

/// A P-256 pair whose private key is never to leave: that, and the public one.
async fn made_pair(app: &Kmip) -> (String, String) {
    let mut request = op::create_key_pair::Request::default();
    request.common.push(Attribute::CryptographicAlgorithm(Algorithm::Ecdsa));
    request.common.push(Attribute::CryptographicLength(256));
    request.common.push(active());
    request.private.push(Attribute::CryptographicUsageMask(SIGN));
    request.private.push(Attribute::Extractable(false));
    request.public.push(Attribute::CryptographicUsageMask(VERIFY));
    let answer = app.ask(request).await.unwrap();
    let Answer::CreateKeyPair(made) = answer else { panic!("{answer:?}") };
    (made.private_id, made.public_id)
}

/// Under ECB, so that equal keys give equal ciphertext.
async fn encrypted(app: &Kmip, id: &str) -> Vec<u8> {
    let parameters = CryptographicParameters {
        block_cipher_mode: Some(BlockCipherMode::Ecb),
        ..Default::default()
    };
    let data = Some(SecretBytes::copy_from(&CLEAR));
    let (id, parameters) = (Some(id.into()), Some(parameters));
    let request = op::encrypt::Request { id, parameters, data, ..Default::default() };
    let answer = app.ask(request).await.unwrap();
    let Answer::Encrypt(done) = answer else { panic!("{answer:?}") };
    done.data.unwrap()
}

async fn authenticated(app: &Kmip, id: &str) -> Vec<u8> {
    let data = Some(SecretBytes::copy_from(&CLEAR));
    let request = op::mac::Request { id: Some(id.into()), data, ..Default::default() };
    let answer = app.ask(request).await.unwrap();
    let Answer::Mac(done) = answer else { panic!("{answer:?}") };
    done.mac.unwrap()
}

fn ecdsa() -> Option<CryptographicParameters> {
    let hashing_algorithm = Some(HashingAlgorithm::Sha256);
    Some(CryptographicParameters { hashing_algorithm, ..Default::default() })
}

async fn signed_and_verified(app: &Kmip, (private, public): &(String, String)) -> bool {
    let data = Some(SecretBytes::copy_from(&CLEAR));
    let id = Some(private.as_str().into());
    let request = op::sign::Request { id, parameters: ecdsa(), data, ..Default::default() };
    let answer = app.ask(request).await.unwrap();
    let Answer::Sign(done) = answer else { panic!("{answer:?}") };
    let (id, data) = (Some(public.as_str().into()), Some(SecretBytes::copy_from(&CLEAR)));
    let (parameters, signature) = (ecdsa(), done.signature);
    let request =
        op::signature_verify::Request { id, parameters, data, signature, ..Default::default() };
    let answer = app.ask(request).await.unwrap();
    let Answer::SignatureVerify(done) = answer else { panic!("{answer:?}") };
    done.validity == kmip::enums::ValidityIndicator::Valid
}

async fn attributes(app: &Kmip, id: &str) -> Attributes {
    let answer = app.ask(client::get_attributes(id, [])).await.unwrap();
    let Answer::GetAttributes(said) = answer else { panic!("{answer:?}") };
    said.attributes
}

async fn custody(app: &Kmip, id: &str) -> Option<String> {
    attributes(app, id).await.iter().find_map(|attribute| match attribute {
        Attribute::Vendor(vendor) if vendor.name == "qkm-custody" => match &vendor.value {
            Value::TextString(text) => Some(text.to_string()),
            _ => None,
        },
        _ => None,
    })
}

async fn rekeyed(app: &Kmip, id: &str, changes: &[Attribute]) -> Result<String, String> {
    let mut attributes = Attributes::default();
    changes.iter().for_each(|change| attributes.push(change.clone()));
    let request = op::rekey::Request { id: Some(id.into()), attributes, ..Default::default() };
    match app.ask(request).await? {
        Answer::ReKey(made) => Ok(made.id),
        other => panic!("{other:?}"),
    }
}

/// A key that never leaves the token wraps the key `id`, and what it wrapped comes back with it.
async fn wraps(app: &Kmip, id: &str) {
    let kek = made(app, Algorithm::Aes, WRAP_UNWRAP).await;
    let clear = material(&app.ask(client::get(id)).await.unwrap()).unwrap();
    for mode in [BlockCipherMode::NistKeyWrap, BlockCipherMode::AesKeyWrapPadding] {
        let parameters =
            CryptographicParameters { block_cipher_mode: Some(mode), ..Default::default() };
        let wanted = KeyWrappingSpecification {
            method: WrappingMethod::Encrypt,
            encryption: Some(KeyInformation {
                id: kek.as_str().into(),
                parameters: Some(parameters),
            }),
            mac: None,
            attribute_names: Vec::new(),
            encoding: Some(EncodingOption::NoEncoding),
        };
        let request =
            op::get::Request { key_wrapping_specification: Some(wanted), ..client::get(id) };
        let answer = app.ask(request).await.unwrap();
        let Answer::Get(wrapped) = answer else { panic!("{answer:?}") };
        let request = op::register::Request::new(wrapped.object, Attributes::default());
        let answer = app.ask(request).await.unwrap();
        let Answer::Register(brought) = answer else { panic!("{answer:?}") };
        let key_wrap_type = Some(KeyWrapType::NotWrapped);
        let request = op::get::Request { key_wrap_type, ..client::get(&brought.id) };
        let back = material(&app.ask(request).await.unwrap());
        assert_eq!(back.as_ref(), Some(&clear), "{mode:?}");
    }
}

async fn sample(network: &Network, line: &str) -> bool {
    network.metrics_text(North).await.lines().any(|found| found.starts_with(line))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_never_leaves_the_token_is_made_again_there() {
    let network = Network::north_alone(Options::default()).await;
    let app = network.kmip_client(North, "sae-n1");
    let old = made(&app, Algorithm::Aes, ENCRYPT_DECRYPT).await;
    let before = encrypted(&app, &old).await;
    let new = rekeyed(&app, &old, &[]).await.unwrap();
    for id in [&old, &new] {
        assert_eq!(custody(&app, id).await.as_deref(), Some("in-token"), "{id}");
        let refused = app.ask(client::get(id)).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    let told = attributes(&app, &new).await;
    for attribute in [Attribute::Extractable(false), Attribute::NeverExtractable(true)] {
        assert!(told.iter().any(|found| *found == attribute), "{attribute:?}: {told:?}");
    }
    assert_ne!(encrypted(&app, &new).await, before, "it is another key");
    assert_eq!(encrypted(&app, &old).await, before, "the old key stays");

    let refused = rekeyed(&app, &new, &[Attribute::Extractable(true)]).await.unwrap_err();
    assert!(refused.contains("never leaves the token"), "{refused}");
    // A key of the host may have a successor that it never had itself.
    let answer = app.ask(client::create(Algorithm::Aes, 128, ENCRYPT_DECRYPT, [])).await.unwrap();
    let Answer::Create(open) = answer else { panic!("{answer:?}") };
    assert_eq!(custody(&app, &open.id).await.as_deref(), Some("host-transient"));
    let inside = rekeyed(&app, &open.id, &[Attribute::Extractable(false)]).await.unwrap();
    assert_eq!(custody(&app, &inside).await.as_deref(), Some("in-token"));

    assert!(sample(&network, "qkm_function_in_token{function=\"aes\"} 1").await);
    let uses = "qkm_function_uses_total{function=\"aes\",custody=\"in-token\"} 3";
    assert!(sample(&network, uses).await, "{}", network.metrics_text(North).await);
    let (_, said) = monitor_get(network.site(North).monitor, "/readyz").await.unwrap();
    let line = said.lines().find(|line| line.starts_with("keys in token: ")).unwrap();
    assert!(["aes", "ec", "hmac", "seal-objects"].iter().all(|name| line.contains(name)), "{said}");
    wraps(&app, &open.id).await;
}

/// ECDH with a pair that lives elsewhere: what is agreed on is the same there, and may stay inside.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_agreed_on_in_the_token() {
    const DERIVE: i32 = 0x200;
    let network = Network::north_alone(Options::default()).await;
    let app = network.kmip_client(North, "sae-n1");
    let mut request = op::create_key_pair::Request::default();
    request.common.push(Attribute::CryptographicAlgorithm(Algorithm::Ecdh));
    request.common.push(Attribute::CryptographicLength(256));
    request.common.push(Attribute::CryptographicUsageMask(DERIVE));
    request.common.push(active());
    request.private.push(Attribute::Extractable(false));
    let answer = app.ask(request).await.unwrap();
    let Answer::CreateKeyPair(pair) = answer else { panic!("{answer:?}") };
    assert_eq!(custody(&app, &pair.private_id).await.as_deref(), Some("in-token"));
    let public = material(&app.ask(client::get(&pair.public_id)).await.unwrap()).unwrap();
    let public = hex::decode(public).unwrap();
    let elsewhere = PrivateKey::generate(&ECDH_P256).unwrap();
    let known = agree(&elsewhere, UnparsedPublicKey::new(&ECDH_P256, public), (), |secret| {
        Ok(hex::encode(secret))
    });
    let theirs = elsewhere.compute_public_key().unwrap();
    let theirs: PublicKeyX509Der<'_> = theirs.as_der().unwrap();
    let data = SecretBytes::copy_from(theirs.as_ref());
    let block = KeyBlock {
        format: KeyFormatType::X509,
        ..KeyBlock::raw(data, Some(Algorithm::Ecdh), Some(256))
    };
    let attributes = [Attribute::CryptographicUsageMask(DERIVE), active()].into_iter().collect();
    let request = op::register::Request::new(Object::PublicKey(block), attributes);
    let answer = app.ask(request).await.unwrap();
    let Answer::Register(theirs) = answer else { panic!("{answer:?}") };
    let derive = |more: &[Attribute]| {
        let mut attributes = Attributes::default();
        for attribute in [
            Attribute::CryptographicAlgorithm(Algorithm::Aes),
            Attribute::CryptographicLength(256),
            Attribute::CryptographicUsageMask(ENCRYPT_DECRYPT),
            active(),
        ] {
            attributes.push(attribute);
        }
        more.iter().for_each(|attribute| attributes.push(attribute.clone()));
        op::derive_key::Request {
            object_type: ObjectType::SymmetricKey,
            ids: vec![pair.private_id.as_str().into(), theirs.id.as_str().into()],
            method: DerivationMethod::AsymmetricKey,
            parameters: Default::default(),
            attributes,
        }
    };
    let mut ids = Vec::new();
    for request in [derive(&[]), derive(&[Attribute::Extractable(false)])] {
        let answer = app.ask(request).await.unwrap();
        let Answer::DeriveKey(made) = answer else { panic!("{answer:?}") };
        ids.push(made.id);
    }
    let open = material(&app.ask(client::get(&ids[0])).await.unwrap());
    assert_eq!(open.unwrap(), known.unwrap());
    assert_eq!(custody(&app, &ids[0]).await.as_deref(), Some("host-transient"));
    assert_eq!(custody(&app, &ids[1]).await.as_deref(), Some("in-token"));
    assert!(app.ask(client::get(&ids[1])).await.is_err());
    assert_eq!(encrypted(&app, &ids[0]).await, encrypted(&app, &ids[1]).await);
    assert!(sample(&network, "qkm_function_in_token{function=\"agreement\"} 1").await);
    let uses = "qkm_function_uses_total{function=\"agreement\",custody=\"in-token\"} 2";
    assert!(sample(&network, uses).await, "{}", network.metrics_text(North).await);
}

/// Their wrapping moves to the next epoch inside the token.
#[tokio::test(flavor = "multi_thread")]
async fn keys_in_the_token_outlive_the_destruction_of_their_epoch() {
    let mut network = Network::north_alone(Options::default()).await;
    network.ready(North).await;
    let app = network.kmip_client(North, "sae-n1");
    let aes = made(&app, Algorithm::Aes, ENCRYPT_DECRYPT).await;
    let hmac = made(&app, Algorithm::HmacSha256, MAC).await;
    let pair = made_pair(&app).await;
    let before = (encrypted(&app, &aes).await, authenticated(&app, &hmac).await);
    assert!(signed_and_verified(&app, &pair).await);
    epochs::rotate_away(&network, 1).await;
    epochs::destroy(&network, 1);
    assert_eq!((encrypted(&app, &aes).await, authenticated(&app, &hmac).await), before);
    assert!(signed_and_verified(&app, &pair).await);
    // Nothing that a session still has at hand is needed.
    network.kill(North);
    network.start_km(North);
    network.ready(North).await;
    let app = network.kmip_client(North, "sae-n1");
    assert_eq!((encrypted(&app, &aes).await, authenticated(&app, &hmac).await), before);
    assert!(signed_and_verified(&app, &pair).await);
    for id in [&aes, &hmac, &pair.0] {
        assert_eq!(custody(&app, id).await.as_deref(), Some("in-token"), "{id}");
    }
}

/// The profile no longer says how a key was wrapped: it is told, and holds nothing else up.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_token_cannot_wrap_anew_stays_behind_alone() {
    let mut network = Network::north_alone(Options::default()).await;
    network.ready(North).await;
    let app = network.kmip_client(North, "sae-n1");
    let inside = made(&app, Algorithm::Aes, ENCRYPT_DECRYPT).await;
    let ciphertext = encrypted(&app, &inside).await;
    for _ in 0..3 {
        let create = client::create(Algorithm::Aes, 256, ENCRYPT_DECRYPT, [active()]);
        app.ask(create).await.unwrap();
    }
    assert_eq!(network.stop(North), Some(0));
    let config = network.site(North).config.clone();
    let text = std::fs::read_to_string(&config).unwrap();
    let built_in = include_str!("../../../hsm-profiles/profiles/softhsm2.toml");
    let [before, after] = ["[[wrap]]", "[keys]"].map(|table| built_in.find(table).unwrap());
    let profile = network.dir().join("wraps-nothing.toml");
    std::fs::write(&profile, [&built_in[..before], &built_in[after..]].concat()).unwrap();
    let other = text.replace("profile = \"softhsm2\"", &format!("profile = {profile:?}"));
    assert_ne!(other, text);
    std::fs::write(&config, other).unwrap();
    network.start_km(North);
    network.ready(North).await;
    let (code, said) = epochs::epoch(&network, Some(0), &["rotate"]);
    assert_eq!(code, 0, "{said}");
    let old = |network: &Network| epochs::listed(network).remove(0);
    network.until("all but one have moved", || async { old(&network)["records_left"] == 1 }).await;
    let log = network.log("north");
    let told: Vec<&str> = log.lines().filter(|line| line.contains("reseal-stuck")).collect();
    assert!(matches!(told[..], [line] if line.contains(&inside)), "{told:?}");
    assert_eq!(network.stop(North), Some(0));
    std::fs::write(&config, text).unwrap();
    network.start_km(North);
    network.ready(North).await;
    network.until("the old epoch is empty", || async { old(&network)["empty"] == true }).await;
    assert_eq!(encrypted(&network.kmip_client(North, "sae-n1"), &inside).await, ciphertext);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_in_the_token_issues_certificates_over_kmip() {
    let ca = "[kmip_ca]\nname = \"devices\"\napplications = [\"sae-n1\"]\ndays = 30\n";
    let options = Options { tables: ca.to_owned(), ..Options::default() };
    let network = Network::north_alone(options).await;
    let app = network.kmip_client(North, "sae-n1");
    let (private, public) = made_pair(&app).await;
    let subject = Attribute::CertificateSubjectCn("meter 7".to_owned());
    let wish = op::certify::Request {
        id: Some(public.as_str().into()),
        attributes: Attributes::from_iter([subject]),
        ..Default::default()
    };
    app.ask(wish.clone()).await.expect_err("there is no authority yet");
    let make = ["ca", "make", "devices", "--subject", "CN=Devices,O=Example"];
    let (code, said) = epochs::custodian(&network, None, &make);
    assert!(code == 4 && said.contains("QKM-A002"), "{code}: {said}");
    let (code, said) = epochs::custodian(&network, Some(0), &make);
    assert!(code == 0 && said.contains("BEGIN CERTIFICATE"), "{code}: {said}");
    let (code, said) = epochs::custodian(&network, Some(1), &make);
    assert!(code != 0 && said.contains("QKM-A005"), "{code}: {said}");
    let (code, shown) = epochs::custodian(&network, None, &["ca", "show", "devices"]);
    assert!(code == 0 && shown.contains("BEGIN CERTIFICATE"), "{code}: {shown}");

    let Answer::Certify(made) = app.ask(wish).await.unwrap() else { panic!("certified") };
    let validate =
        op::validate::Request { ids: vec![made.id.as_str().into()], ..Default::default() };
    let Answer::Validate(answer) = app.ask(validate).await.unwrap() else { panic!("validated") };
    assert_eq!(answer.validity, ValidityIndicator::Valid);
    let again = op::rekey_key_pair::Request {
        private_id: Some(private.as_str().into()),
        ..Default::default()
    };
    let Answer::ReKeyKeyPair(new) = app.ask(again).await.unwrap() else { panic!("made again") };
    assert_ne!(new.public_id, public);
}
