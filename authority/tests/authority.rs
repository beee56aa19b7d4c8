//! Authorities over a software token: what they issue is read and verified by others.
#![allow(clippy::unwrap_used)]

#[path = "../../testkit/hsm.rs"]
mod hsm;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use authority::{Authority, AuthorityError, BadRequest, Chain, Leaf, Span, Uses, Verdict};
use hsm::SoftwareHsm;
use km_core::{
    clock::now_ms, objects::Objects, records::Records, store::SqliteStore, vault::Vault,
};
use rcgen::{CertificateParams, KeyPair, SanType};
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

async fn objects(dir: &TempDir) -> Objects {
    let hsm = Arc::new(SoftwareHsm::new());
    hsm.pairs.store(true, Relaxed);
    let store = Arc::new(SqliteStore::open(dir.path().join("store.db")).unwrap());
    let vault = Vault::new(hsm);
    let key = vault.record_key(store.as_ref()).await.unwrap();
    Objects::new(Records::new(store, &key), vault)
}

fn now() -> u64 {
    now_ms() / 1000
}

fn request(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["kme-a.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("urn:node:7".try_into().unwrap()));
    params.distinguished_name.push(rcgen::DnType::CommonName, "kme-a");
    params.serialize_request(key).unwrap().der().to_vec()
}

fn verdict(certificates: &[&[u8]], at: u64) -> Verdict {
    let mut chain = Chain::default();
    assert!(certificates.iter().all(|der| chain.add(der)));
    chain.verdict(at)
}

#[tokio::test]
async fn what_it_issues_is_what_was_asked_for_and_holds() {
    let dir = tempfile::tempdir().unwrap();
    let objects = objects(&dir).await;
    let made = Authority::make(&objects, "nodes", "CN=Nodes,O=Example", Span::days(now(), 3650));
    let made = made.await.unwrap();
    // Another process of the cluster finds it in the store.
    let authority = Authority::open(&objects, "nodes").await.unwrap().unwrap();
    assert_eq!(made.certificate(), authority.certificate());
    assert_eq!(made.valid(), authority.valid());

    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let leaf = Leaf::of_request(&request(&key), Uses::Tls).unwrap();
        assert_eq!(leaf.subject_text(), "CN=kme-a");
        assert_eq!(leaf.uris().collect::<Vec<_>>(), ["urn:node:7"]);
        let issued = authority.issue(&leaf, Span::days(now(), 9999)).await.unwrap();
        let (_, read) = X509Certificate::from_der(&issued).unwrap();
        assert_eq!(read.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
        let names = read.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        assert!(names.contains(&GeneralName::DNSName("kme-a.example")));
        assert!(!read.is_ca());
        let until = u64::try_from(read.validity().not_after.timestamp()).unwrap();
        assert_eq!(until, authority.valid().until, "no longer than its authority");
        let uses = read.extended_key_usage().unwrap().unwrap().value;
        assert!(uses.client_auth && uses.server_auth);
        assert_eq!(verdict(&[&issued, authority.certificate()], now()), Verdict::Valid);
    }
    let (_, root) = X509Certificate::from_der(authority.certificate()).unwrap();
    assert!(root.is_ca());
}

#[tokio::test]
async fn chains_that_do_not_hold_are_told_apart_from_those_that_end() {
    let dir = tempfile::tempdir().unwrap();
    let objects = objects(&dir).await;
    let span = Span::days(now(), 30);
    let one = Authority::make(&objects, "one", "CN=Same", span).await.unwrap();
    let other = Authority::make(&objects, "other", "CN=Same", span).await.unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = Leaf::of_request(&request(&key), Uses::Signing).unwrap();
    let issued = one.issue(&leaf, Span::days(now(), 1)).await.unwrap();
    assert_eq!(verdict(&[one.certificate(), &issued], now()), Verdict::Valid);
    assert_eq!(verdict(&[&issued], now()), Verdict::Unknown);
    assert_eq!(verdict(&[&issued, other.certificate()], now()), Verdict::Invalid);
    assert_eq!(verdict(&[&issued, one.certificate()], now() + 2 * 86_400), Verdict::Invalid);
    assert_eq!(verdict(&[&issued, one.certificate()], now() - 86_400), Verdict::Invalid);
    assert_eq!(verdict(&[], now()), Verdict::Unknown);
    // A leaf is no authority, whatever it signs.
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "below");
    let parent = X509Certificate::from_der(&issued).unwrap().1;
    assert!(!parent.is_ca());
    let mut above = CertificateParams::default();
    above.distinguished_name = rcgen::DistinguishedName::new();
    above.distinguished_name.push(rcgen::DnType::CommonName, "kme-a");
    let below = params.signed_by(&KeyPair::generate().unwrap(), &rcgen::Issuer::new(above, key));
    let below = below.unwrap();
    assert_eq!(verdict(&[below.der(), &issued, one.certificate()], now()), Verdict::Invalid);
    let mut changed = issued.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(verdict(&[&changed, one.certificate()], now()), Verdict::Invalid);
}

#[test]
fn what_is_critical_and_not_understood_is_not_valid() {
    let mut above = CertificateParams::default();
    above.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    above.distinguished_name.push(rcgen::DnType::CommonName, "above");
    let key = KeyPair::generate().unwrap();
    let root = above.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(above, key);
    for (critical, expected) in [(false, Verdict::Valid), (true, Verdict::Unknown)] {
        let mut below = CertificateParams::default();
        below.distinguished_name.push(rcgen::DnType::CommonName, "below");
        let oid = [1, 3, 6, 1, 4, 1, 55555, 1];
        let mut extension = rcgen::CustomExtension::from_oid_content(&oid, vec![5, 0]);
        extension.set_criticality(critical);
        below.custom_extensions.push(extension);
        let leaf = below.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        assert_eq!(verdict(&[leaf.der(), root.der()], now()), expected, "critical: {critical}");
    }
}

#[tokio::test]
async fn requests_are_checked_and_authorities_are_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let objects = objects(&dir).await;
    let span = Span::days(now(), 30);
    assert!(Authority::open(&objects, "nodes").await.unwrap().is_none());
    let authority = Authority::make(&objects, "nodes", "CN=Nodes", span).await.unwrap();
    let twice = Authority::make(&objects, "nodes", "CN=Others", span).await;
    assert_eq!(twice.unwrap_err(), AuthorityError::Exists("nodes".to_owned()));
    for bad in ["", "a/b", "x".repeat(33).as_str()] {
        let refused = Authority::make(&objects, bad, "CN=Nodes", span).await;
        assert!(matches!(refused, Err(AuthorityError::Name(_))), "{bad:?}");
    }
    let bad_name = Authority::make(&objects, "more", "no name", span).await;
    assert!(matches!(bad_name, Err(AuthorityError::Request(BadRequest::Name(_)))));

    let key = KeyPair::generate().unwrap();
    let mut forged = request(&key);
    let at = forged.windows(5).position(|part| part == b"kme-a").unwrap();
    forged[at] = b'K';
    assert_eq!(Leaf::of_request(&forged, Uses::Tls).unwrap_err(), BadRequest::Signature);
    assert!(matches!(Leaf::of_request(b"none", Uses::Tls), Err(BadRequest::Form(_))));
    assert!(matches!(Leaf::of_request(&vec![0x30; 70_000], Uses::Tls), Err(BadRequest::Form(_))));

    let leaf = Leaf::of_request(&request(&key), Uses::Tls).unwrap();
    let late = Span { from: now() + 40 * 86_400, until: now() + 50 * 86_400 };
    assert!(matches!(authority.issue(&leaf, late).await, Err(AuthorityError::Span(_))));
}
