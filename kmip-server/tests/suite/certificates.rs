//! Certify, Re-certify, Validate.

use std::sync::atomic::Ordering::Relaxed;

use kmip::{
    DateTime, Interval, Operation, RequestMessage, ResponseMessage, Version,
    attribute::{
        Attribute, AttributeKind, Attributes, CertificateSubject, Link, Name, UniqueIdentifier,
    },
    client,
    enums::{CryptographicAlgorithm as Algorithm, *},
    message::{Outcome, RequestHeader, RequestItem},
    object::{Certificate, CertificateRequest, Object},
    op,
};
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    batch::{reason, run},
    common::{Client, Network, refusal},
};

const SIGN: i32 = 1;
pub(crate) const VERIFY: i32 = 2;

/// North has an authority, for n1.
pub(crate) async fn network() -> Network {
    let network = Network::start().await;
    network.north.hsm.pairs.store(true, Relaxed);
    network.north.certify_for(&["n1"]).await;
    network
}

pub(crate) fn pair(more: &[Attribute]) -> op::create_key_pair::Request {
    let of = |mask, more: &[Attribute]| {
        let mask = Attribute::CryptographicUsageMask(mask);
        more.iter().cloned().chain([mask]).collect::<Attributes>()
    };
    op::create_key_pair::Request {
        common: Attributes::from_iter([
            Attribute::CryptographicAlgorithm(Algorithm::Ecdsa),
            Attribute::CryptographicLength(256),
            Attribute::ActivationDate(DateTime(1_000)),
        ]),
        private: of(SIGN, more),
        public: of(VERIFY, &[]),
        ..Default::default()
    }
}

pub(crate) async fn links(client: &mut Client, id: &str) -> Vec<(LinkType, String)> {
    let request = client::get_attributes(id, [AttributeKind::Link.into()]);
    let answer = client.get_attributes(request).await.unwrap();
    let target = |link: &Link| link.target.as_text().unwrap().to_owned();
    let links = answer.attributes.iter().filter_map(|attribute| match attribute {
        Attribute::Link(link) => Some((link.kind, target(link))),
        _ => None,
    });
    links.collect()
}

/// The bytes of a certificate.
async fn der(client: &mut Client, id: &str) -> Vec<u8> {
    match client.get(client::get(id)).await.unwrap().object {
        Object::Certificate(certificate) => certificate.value,
        other => panic!("a certificate, not {other:?}"),
    }
}

fn subject(version: Version) -> Vec<Attribute> {
    match version >= Version::V1_4 {
        true => vec![
            Attribute::CertificateSubjectCn("gate, the first".to_owned()),
            Attribute::CertificateSubjectO("Example".to_owned()),
        ],
        false => vec![Attribute::CertificateSubject(CertificateSubject {
            distinguished_name: "CN=gate\\, the first,O=Example".to_owned(),
            alternative_names: Vec::new(),
        })],
    }
}

fn request(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["gate.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "gate");
    params.serialize_request(key).unwrap().der().to_vec()
}

async fn validity(client: &mut Client, ids: &[&str], date: Option<i64>) -> ValidityIndicator {
    let ids = ids.iter().map(|id| UniqueIdentifier::from(*id)).collect();
    let request = op::validate::Request { ids, date: date.map(DateTime), ..Default::default() };
    client.validate(request).await.unwrap().validity
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managed_key_is_certified_and_renewed_in_every_version() {
    let network = network().await;
    for version in Version::ALL {
        let mut client = network.client("n1", version).await;
        let made = client.create_key_pair(pair(&[])).await.unwrap();
        let name = Attribute::Name(Name::text(format!("certificate of {version}")));
        let asked = op::certify::Request {
            id: Some(made.public_id.as_str().into()),
            attributes: subject(version).into_iter().chain([name.clone()]).collect(),
            ..Default::default()
        };
        let first = client.certify(asked).await.unwrap().id;
        let bytes = der(&mut client, &first).await;
        let (_, read) = X509Certificate::from_der(&bytes).unwrap();
        assert_eq!(read.issuer().to_string(), "O=Example, CN=KMIP");
        assert_eq!(
            read.subject().iter_common_name().next().unwrap().as_str(),
            Ok("gate, the first")
        );
        let days = read.validity().not_after.timestamp() - read.validity().not_before.timestamp();
        assert!((90 * 86_400..=90 * 86_400 + 600).contains(&days), "{days}");
        let to_key = (LinkType::PublicKeyLink, made.public_id.clone());
        assert_eq!(links(&mut client, &first).await, std::slice::from_ref(&to_key));
        let own = links(&mut client, &made.public_id).await;
        assert!(own.contains(&(LinkType::CertificateLink, first.clone())), "{own:?}");
        assert_eq!(client.state(&first).await, State::Active);
        assert_eq!(validity(&mut client, &[&first], None).await, ValidityIndicator::Valid);
        let late = Some(read.validity().not_after.timestamp() + 1);
        assert_eq!(validity(&mut client, &[&first], late).await, ValidityIndicator::Invalid);

        let certify =
            op::certify::Request { id: Some(first.as_str().into()), ..Default::default() };
        let again = op::recertify::Request { certify, offset: Some(Interval(3600)) };
        let second = client.recertify(again).await.unwrap().id;
        let renewed = der(&mut client, &second).await;
        let (_, new) = X509Certificate::from_der(&renewed).unwrap();
        assert_eq!(new.public_key().raw, read.public_key().raw);
        assert_eq!(new.subject().as_raw(), read.subject().as_raw());
        assert_ne!(new.raw_serial(), read.raw_serial());
        let replaced = (LinkType::ReplacedObjectLink, first.clone());
        let links_now = links(&mut client, &second).await;
        assert_eq!(links_now.len(), 2, "{links_now:?}");
        assert!(links_now.contains(&to_key) && links_now.contains(&replaced), "{links_now:?}");
        let replacement = (LinkType::ReplacementObjectLink, second.clone());
        assert!(links(&mut client, &first).await.contains(&replacement));
        let own = links(&mut client, &made.public_id).await;
        assert!(own.contains(&(LinkType::CertificateLink, second.clone())), "{own:?}");
        assert!(!own.contains(&(LinkType::CertificateLink, first.clone())), "{own:?}");
        assert_eq!(client.attribute(&second, AttributeKind::Name).await, Some(name));
        assert_eq!(client.attribute(&first, AttributeKind::Name).await, None);
        assert_eq!(client.state(&second).await, State::PreActive);

        client.revoke(client::revoke(&first, RevocationReasonCode::Superseded)).await.unwrap();
        assert_eq!(validity(&mut client, &[&first], None).await, ValidityIndicator::Invalid);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_requests_are_certified_as_they_stand() {
    let network = network().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let key = KeyPair::generate().unwrap();
    let asked = |request: Vec<u8>, kind| op::certify::Request {
        request_type: Some(kind),
        request: Some(request),
        ..Default::default()
    };
    let plain = asked(request(&key), CertificateRequestType::Pkcs10);
    let id = client.certify(plain.clone()).await.unwrap().id;
    let bytes = der(&mut client, &id).await;
    let (_, read) = X509Certificate::from_der(&bytes).unwrap();
    assert_eq!(read.public_key().raw, key.subject_public_key_info());
    assert_eq!(read.subject().to_string(), "CN=gate");
    assert!(read.subject_alternative_name().unwrap().is_some());

    let object = CertificateRequest { kind: CertificateRequestType::Pkcs10, value: request(&key) };
    let object = Object::CertificateRequest(object);
    let kept = op::register::Request::new(object, Attributes::default());
    let kept = client.register(kept).await.unwrap().id;
    let named =
        op::certify::Request { request_id: Some(kept.as_str().into()), ..Default::default() };
    client.certify(named).await.unwrap();
    let in_place_of_a_key =
        op::certify::Request { id: Some(kept.as_str().into()), ..Default::default() };
    let id = client.certify(in_place_of_a_key).await.unwrap().id;
    let bytes = der(&mut client, &id).await;
    let (_, read) = X509Certificate::from_der(&bytes).unwrap();
    assert_eq!(read.public_key().raw, key.subject_public_key_info());
    let object = CertificateRequest { kind: CertificateRequestType::Pkcs10, value: request(&key) };
    let register =
        op::register::Request::new(Object::CertificateRequest(object), Attributes::default());
    let items = [register.into(), op::certify::Request::default().into()];
    let done = run(&mut client, items, |_| {}).await;
    assert!(done.iter().all(|item| reason(item).is_none()), "{done:?}");

    let mut forged = request(&key);
    *forged.last_mut().unwrap() ^= 1;
    for bad in [
        asked(forged, CertificateRequestType::Pkcs10),
        asked(b"none".to_vec(), CertificateRequestType::Pem),
        asked(request(&key), CertificateRequestType::Crmf),
    ] {
        assert_eq!(refusal(client.certify(bad).await), ResultReason::InvalidCsr);
    }
    let made = client.create_key_pair(pair(&[])).await.unwrap();
    let other = op::certify::Request { id: Some(made.public_id.as_str().into()), ..plain.clone() };
    assert_eq!(refusal(client.certify(other).await), ResultReason::InvalidCsr);
    let long = Attribute::DeactivationDate(DateTime(4_000_000_000));
    let long = op::certify::Request { attributes: [long].into_iter().collect(), ..plain.clone() };
    assert_eq!(refusal(client.certify(long).await), ResultReason::InvalidAttributeValue);
    let nameless =
        op::certify::Request { id: Some(made.public_id.as_str().into()), ..Default::default() };
    assert_eq!(refusal(client.certify(nameless).await), ResultReason::MissingData);

    // Nobody else has certificates, and no other server.
    let mut stranger = network.client("n2", Version::V2_1).await;
    assert_eq!(refusal(stranger.certify(plain.clone()).await), ResultReason::PermissionDenied);
    let mut south = network.client("s1", Version::V2_1).await;
    assert_eq!(refusal(south.certify(plain).await), ResultReason::OperationNotSupported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_is_not_renewed_and_nor_is_a_certificate_of_a_bad_key() {
    let network = network().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let again = |id: &str, request: Option<Vec<u8>>| op::recertify::Request {
        certify: op::certify::Request {
            id: Some(id.into()),
            request_type: request.as_ref().map(|_| CertificateRequestType::Pkcs10),
            request,
            ..Default::default()
        },
        offset: None,
    };
    let wrong = ResultReason::WrongKeyLifecycleState;
    for reason in [RevocationReasonCode::KeyCompromise, RevocationReasonCode::Superseded] {
        for of_key in [false, true] {
            let made = client.create_key_pair(pair(&[])).await.unwrap();
            let asked = op::certify::Request {
                id: Some(made.public_id.as_str().into()),
                attributes: subject(Version::V2_1).into_iter().collect(),
                ..Default::default()
            };
            let id = client.certify(asked).await.unwrap().id;
            let revoked = if of_key { &made.public_id } else { &id };
            client.revoke(client::revoke(revoked, reason)).await.unwrap();
            assert_eq!(refusal(client.recertify(again(&id, None)).await), wrong, "{revoked}");
            if of_key {
                client.destroy(client::destroy(&made.public_id)).await.unwrap();
                let gone = refusal(client.recertify(again(&id, None)).await);
                assert_eq!(gone, ResultReason::ObjectDestroyed);
            }
        }
    }

    // Whoever has the key elsewhere shows it again.
    let key = KeyPair::generate().unwrap();
    let asked = op::certify::Request {
        request_type: Some(CertificateRequestType::Pkcs10),
        request: Some(request(&key)),
        ..Default::default()
    };
    let id = client.certify(asked).await.unwrap().id;
    let unshown = refusal(client.recertify(again(&id, None)).await);
    assert_eq!(unshown, ResultReason::MissingData);
    // A link that a client made up shows nothing.
    let other = client.create_key_pair(pair(&[])).await.unwrap();
    let link = Link {
        kind: LinkType::PublicKeyLink,
        target: UniqueIdentifier::from(other.public_id.as_str()),
    };
    let bytes = der(&mut client, &id).await;
    let object = Certificate { kind: CertificateType::X509, value: bytes };
    let linked = op::register::Request::new(
        Object::Certificate(object),
        Attributes::from_iter([Attribute::Link(link)]),
    );
    let linked = client.register(linked).await.unwrap().id;
    refusal(client.recertify(again(&linked, None)).await);
    client.recertify(again(&id, Some(request(&key)))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_are_validated_with_what_the_client_sends() {
    let network = network().await;
    let mut client = network.client("s1", Version::V1_0).await;
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "root");
    let root_der = root.self_signed(&root_key).unwrap().der().to_vec();
    let mut leaf = CertificateParams::new(vec!["leaf".to_owned()]).unwrap();
    leaf.distinguished_name.push(DnType::CommonName, "leaf");
    let issuer = rcgen::Issuer::new(root, root_key);
    let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().to_vec();
    let of = |certificates: &[&Vec<u8>]| op::validate::Request {
        certificates: certificates
            .iter()
            .map(|der| Certificate { kind: CertificateType::X509, value: der.to_vec() })
            .collect(),
        ..Default::default()
    };
    let both = client.validate(of(&[&leaf, &root_der])).await.unwrap().validity;
    assert_eq!(both, ValidityIndicator::Valid);
    let alone = client.validate(of(&[&leaf])).await.unwrap().validity;
    assert_eq!(alone, ValidityIndicator::Unknown);
    let mut changed = leaf.clone();
    *changed.last_mut().unwrap() ^= 1;
    let broken = client.validate(of(&[&changed, &root_der])).await.unwrap().validity;
    assert_eq!(broken, ValidityIndicator::Invalid);
    let junk = b"no certificate".to_vec();
    assert_eq!(refusal(client.validate(of(&[&junk])).await), ResultReason::InvalidField);
    assert_eq!(refusal(client.validate(of(&[])).await), ResultReason::MissingData);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_begins_about_now_or_while_one_of_now_would_be_valid() {
    let network = network().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let made = client.create_key_pair(pair(&[])).await.unwrap();
    let now = i64::try_from(km_core::clock::now_ms() / 1000).unwrap();
    let day = 86_400;
    let mut from = async |date: i64| {
        let dates = [Attribute::ActivationDate(DateTime(date))];
        let asked = op::certify::Request {
            id: Some(made.public_id.as_str().into()),
            attributes: subject(Version::V2_1).into_iter().chain(dates).collect(),
            ..Default::default()
        };
        client.certify(asked).await
    };
    for early_or_late in [1, now - day, now + 91 * day, now + 36_500 * day, i64::MAX, -1] {
        let refused = refusal(from(early_or_late).await);
        assert_eq!(refused, ResultReason::InvalidAttributeValue, "{early_or_late}");
    }
    for fit in [now, now + day, now + 89 * day] {
        from(fit).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_fails_leaves_no_certificate_and_no_new_pair() {
    let network = network().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let name = Attribute::Name(Name::text("kept"));
    let old = client.create_key_pair(pair(&[name])).await.unwrap();
    let certify = |id: &str| op::certify::Request {
        id: Some(id.into()),
        attributes: subject(Version::V2_1).into_iter().collect(),
        ..Default::default()
    };
    let certificate = client.certify(certify(&old.public_id)).await.unwrap().id;
    let before = [
        links(&mut client, &old.private_id).await,
        links(&mut client, &old.public_id).await,
        links(&mut client, &certificate).await,
    ];
    let rekey = || op::rekey_key_pair::Request {
        private_id: Some(old.private_id.as_str().into()),
        ..Default::default()
    };
    let again = || {
        let certify =
            op::certify::Request { id: Some(certificate.as_str().into()), ..Default::default() };
        op::recertify::Request { certify, offset: None }
    };
    let items: [Operation; 4] = [
        rekey().into(),
        certify(&old.public_id).into(),
        again().into(),
        client::activate("no such object").into(),
    ];
    let done = undone(&mut client, items.into()).await;
    assert!(
        matches!(
            done[..3],
            [Outcome::Undone { .. }, Outcome::Undone { .. }, Outcome::Undone { .. }]
        ),
        "{done:?}"
    );
    let after = [
        links(&mut client, &old.private_id).await,
        links(&mut client, &old.public_id).await,
        links(&mut client, &certificate).await,
    ];
    assert_eq!(before, after);
    let found = client.locate(client::locate_name("kept")).await.unwrap().ids;
    assert_eq!(found, [old.private_id.as_str()]);
    let kind = |kind| client::locate([Attribute::ObjectType(kind)]);
    assert_eq!(client.locate(kind(ObjectType::Certificate)).await.unwrap().ids.len(), 1);
    assert_eq!(client.locate(kind(ObjectType::PrivateKey)).await.unwrap().ids.len(), 1);

    // All of it, when nothing fails: what later items need is there.
    let done = undone(&mut client, vec![again().into(), rekey().into()]).await;
    assert!(done.iter().all(|outcome| matches!(outcome, Outcome::Success(_))), "{done:?}");
    assert_eq!(client.locate(kind(ObjectType::Certificate)).await.unwrap().ids.len(), 2);
    // What no stage keeps back is not begun.
    let done =
        undone(&mut client, vec![op::login::Request::default().into(), rekey().into()]).await;
    let Outcome::Failed(failure) = &done[0] else { panic!("{done:?}") };
    assert_eq!(failure.reason, ResultReason::FeatureNotSupported);
}

/// What becomes of a batch that is done as a whole or not at all.
async fn undone(client: &mut Client, operations: Vec<Operation>) -> Vec<Outcome> {
    let version = client.version;
    let mut header = RequestHeader::new(version);
    header.batch_error_continuation = Some(BatchErrorContinuationOption::Undo);
    let items = operations.into_iter().map(RequestItem::new).collect();
    let answer =
        client.exchange(&RequestMessage { version, header, items }.encode().unwrap()).await;
    let items = ResponseMessage::decode(&answer).unwrap().items;
    items.into_iter().map(|item| item.outcome).collect()
}
