//! Re-key Key Pair.

use std::sync::atomic::Ordering::Relaxed;

use kmip::{
    Version,
    attribute::{Attribute, AttributeKind, Name},
    enums::{KeyFormatType, LinkType, ResultReason},
    op,
};

use crate::{
    certificates::{VERIFY, links, network, pair},
    common::refusal,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_is_made_again_with_its_names_and_links() {
    let network = network().await;
    for version in Version::ALL.into_iter().filter(|version| *version >= Version::V1_1) {
        let mut client = network.client("n1", version).await;
        let name = Attribute::Name(Name::text(format!("pair of {version}")));
        let old = client.create_key_pair(pair(std::slice::from_ref(&name))).await.unwrap();
        let asked = op::rekey_key_pair::Request {
            private_id: Some(old.private_id.as_str().into()),
            ..Default::default()
        };
        let new = client.rekey_key_pair(asked.clone()).await.unwrap();
        let found = links(&mut client, &new.private_id).await;
        let expected = [
            (LinkType::ReplacedObjectLink, old.private_id.clone()),
            (LinkType::PublicKeyLink, new.public_id.clone()),
        ];
        assert_eq!(found, expected);
        let found = links(&mut client, &new.public_id).await;
        let expected = [
            (LinkType::ReplacedObjectLink, old.public_id.clone()),
            (LinkType::PrivateKeyLink, new.private_id.clone()),
        ];
        assert_eq!(found, expected);
        for (old, new) in [(&old.private_id, &new.private_id), (&old.public_id, &new.public_id)] {
            let replacement = (LinkType::ReplacementObjectLink, new.clone());
            assert!(links(&mut client, old).await.contains(&replacement));
        }
        assert_eq!(client.attribute(&new.private_id, AttributeKind::Name).await, Some(name));
        assert_eq!(client.attribute(&old.private_id, AttributeKind::Name).await, None);
        let digest = |answer: Option<Attribute>| answer.expect("a digest");
        assert_ne!(
            digest(client.attribute(&new.public_id, AttributeKind::Digest).await),
            digest(client.attribute(&old.public_id, AttributeKind::Digest).await)
        );
        let mask = client.attribute(&new.public_id, AttributeKind::CryptographicUsageMask).await;
        assert_eq!(mask, Some(Attribute::CryptographicUsageMask(VERIFY)));

        let of_public = op::rekey_key_pair::Request {
            private_id: Some(old.public_id.as_str().into()),
            ..Default::default()
        };
        let wrong = refusal(client.rekey_key_pair(of_public).await);
        assert!(matches!(wrong, ResultReason::InvalidObjectType | ResultReason::InvalidField));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_key_of_the_token_has_its_successor_there() {
    let network = network().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let old = client.create_key_pair(pair(&[Attribute::Extractable(false)])).await.unwrap();
    let asked = op::rekey_key_pair::Request {
        private_id: Some(old.private_id.as_str().into()),
        ..Default::default()
    };
    // Nothing that is asked for makes it elsewhere, from where it could leave.
    for way_out in [
        Attribute::KeyFormatType(KeyFormatType::Pkcs1),
        Attribute::KeyFormatType(KeyFormatType::EcPrivateKey),
        Attribute::Extractable(true),
    ] {
        let mut asked = asked.clone();
        asked.changes.private = [way_out].into_iter().collect();
        let refused = refusal(client.rekey_key_pair(asked).await);
        assert_eq!(refused, ResultReason::PermissionDenied);
    }
    let new = client.rekey_key_pair(asked.clone()).await.unwrap();
    let never = client.attribute(&new.private_id, AttributeKind::NeverExtractable).await;
    assert_eq!(never, Some(Attribute::NeverExtractable(true)));
    // A token that makes no pairs any more: nothing is made elsewhere, and nothing is changed.
    network.north.hsm.pairs.store(false, Relaxed);
    let asked = op::rekey_key_pair::Request {
        private_id: Some(new.private_id.as_str().into()),
        ..Default::default()
    };
    refusal(client.rekey_key_pair(asked).await);
    let unchanged = links(&mut client, &new.private_id).await;
    assert!(!unchanged.iter().any(|(kind, _)| *kind == LinkType::ReplacementObjectLink));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_two_keys_of_a_pair_made_again_have_names_of_their_own() {
    let network = network().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let old = client.create_key_pair(pair(&[])).await.unwrap();
    let named = |name: &str| [Attribute::Name(Name::text(name))].into_iter().collect();
    let asked = |private: &str, public: &str| op::rekey_key_pair::Request {
        private_id: Some(old.private_id.as_str().into()),
        changes: op::create_key_pair::Request {
            private: named(private),
            public: named(public),
            ..Default::default()
        },
        ..Default::default()
    };
    let refused = refusal(client.rekey_key_pair(asked("same", "same")).await);
    assert_eq!(refused, ResultReason::NonUniqueNameAttribute);
    client.rekey_key_pair(asked("one", "other")).await.unwrap();
}
