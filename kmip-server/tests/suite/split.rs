//! Create Split Key, Join Split Key, and Split Keys that clients bring.

use kmip::{
    BigInteger, SecretBytes, Version,
    attribute::{Attribute, Attributes},
    client,
    enums::*,
    object::{KeyBlock, Object, SplitKey},
    op,
};

use crate::common::{Client, Network, refusal};

fn ask(
    id: Option<&str>,
    parts: i32,
    threshold: i32,
    method: SplitKeyMethod,
) -> op::create_split_key::Request {
    let attributes = match id {
        Some(_) => Attributes::default(),
        None => Attributes::from_iter([
            Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Aes),
            Attribute::CryptographicLength(256),
            Attribute::CryptographicUsageMask(12),
        ]),
    };
    op::create_split_key::Request {
        object_type: ObjectType::SymmetricKey,
        id: id.map(Into::into),
        parts,
        threshold,
        method,
        prime_field_size: None,
        attributes,
        protection_storage_masks: None,
    }
}

async fn join(client: &mut Client, ids: &[&str]) -> Result<String, client::ClientError> {
    let request = op::join_split_key::Request {
        object_type: ObjectType::SymmetricKey,
        ids: ids.iter().map(|id| (*id).into()).collect(),
        secret_data_type: None,
        attributes: Attributes::default(),
        protection_storage_masks: None,
    };
    client.join_split_key(request).await.map(|response| response.id)
}

async fn part(client: &mut Client, id: &str) -> SplitKey {
    match client.get(client::get(id)).await.unwrap().object {
        Object::SplitKey(part) => part,
        other => panic!("a part, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_threshold_of_parts_gives_the_key_back() {
    let network = Network::start().await;
    for version in [Version::V1_2, Version::V1_4, Version::V2_1] {
        let mut client = network.client("n1", version).await;
        let key = [version as u8 + 1; 32];
        let whole = client.bring(&key, []).await.unwrap();
        let xor = ask(Some(&whole), 3, 3, SplitKeyMethod::Xor);
        let parts = client.create_split_key(xor).await.unwrap().ids;
        let ids: Vec<&str> = parts.iter().map(String::as_str).collect();
        let joined = join(&mut client, &ids).await.unwrap();
        assert_eq!(client.key(&joined).await.unwrap(), key);
        assert_eq!(refusal(join(&mut client, &ids[..2]).await), ResultReason::IllegalOperation);

        let shamir = ask(Some(&whole), 5, 3, SplitKeyMethod::PolynomialGf2_8);
        let parts = client.create_split_key(shamir).await.unwrap().ids;
        let ids: Vec<&str> = [4, 0, 2].iter().map(|at| parts[*at].as_str()).collect();
        let joined = join(&mut client, &ids).await.unwrap();
        assert_eq!(client.key(&joined).await.unwrap(), key);
        let twice = [ids[0], ids[0], ids[1]];
        assert_eq!(refusal(join(&mut client, &twice).await), ResultReason::IllegalOperation);

        let shown = part(&mut client, &parts[1]).await;
        assert_eq!((shown.parts, shown.part, shown.threshold), (5, 2, 3));
        assert_eq!(shown.method, SplitKeyMethod::PolynomialGf2_8);
        assert_eq!(shown.block.length, Some(256));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_known_by_its_parts_only() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let request = ask(None, 3, 2, SplitKeyMethod::PolynomialGf2_8);
    let parts = client.create_split_key(request).await.unwrap().ids;
    assert_eq!(client.locate(client::locate([])).await.unwrap().ids.len(), 3);
    let one = join(&mut client, &[&parts[0], &parts[1]]).await.unwrap();
    let other = join(&mut client, &[&parts[2], &parts[1]]).await.unwrap();
    let key = client.key(&one).await.unwrap();
    assert_eq!(client.key(&other).await.unwrap(), key);
    assert_eq!(key.len(), 32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_split_or_joined() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let key = client.bring(&[7; 32], []).await.unwrap();
    for (parts, threshold) in [(1, 1), (0, 0), (33, 2), (3, 4), (3, 1), (-1, 2)] {
        let request = ask(Some(&key), parts, threshold, SplitKeyMethod::PolynomialGf2_8);
        let reason = refusal(client.create_split_key(request).await);
        assert_eq!(reason, ResultReason::InvalidAttributeValue, "{parts} {threshold}");
    }
    let request = ask(Some(&key), 3, 2, SplitKeyMethod::Xor);
    assert_eq!(
        refusal(client.create_split_key(request).await),
        ResultReason::InvalidAttributeValue
    );
    let request = ask(Some(&key), 3, 2, SplitKeyMethod::PolynomialPrimeField);
    assert_eq!(refusal(client.create_split_key(request).await), ResultReason::FeatureNotSupported);
    for (kept, reason) in [
        (Attribute::Sensitive(true), ResultReason::Sensitive),
        (Attribute::Extractable(false), ResultReason::NotExtractable),
    ] {
        let kept = client.bring(&[8; 32], [kept]).await.unwrap();
        let request = ask(Some(&kept), 3, 2, SplitKeyMethod::PolynomialGf2_8);
        assert_eq!(refusal(client.create_split_key(request).await), reason);
    }
    let request = ask(Some(&key), 2, 2, SplitKeyMethod::Xor);
    let some = client.create_split_key(request).await.unwrap().ids;
    let request = ask(Some(&key), 2, 2, SplitKeyMethod::PolynomialGf2_8);
    let others = client.create_split_key(request).await.unwrap().ids;
    let mixed = join(&mut client, &[&some[0], &others[1]]).await;
    assert_eq!(refusal(mixed), ResultReason::IllegalOperation);
    assert_eq!(
        refusal(join(&mut client, &[&some[0], &key]).await),
        ResultReason::InvalidObjectType
    );
    assert_eq!(refusal(join(&mut client, &[]).await), ResultReason::MissingData);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_one_commit_holds_is_refused_with_its_bounds() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let key = client.bring(&[7; 32], []).await.unwrap();
    let grouped = |parts| op::create_split_key::Request {
        attributes: Attributes::from_iter([Attribute::ObjectGroup("g".to_owned())]),
        ..ask(Some(&key), parts, 2, SplitKeyMethod::PolynomialGf2_8)
    };
    let text = match client.create_split_key(grouped(32)).await {
        Err(client::ClientError::Refused { reason, message }) => {
            assert_eq!(reason, ResultReason::ServerLimitExceeded);
            message
        }
        other => panic!("{other:?}"),
    };
    assert!(text.contains("128 operations") && text.contains("at most 100"), "{text}");
    assert_eq!(client.create_split_key(grouped(25)).await.unwrap().ids.len(), 25);
    let most = ask(Some(&key), 32, 2, SplitKeyMethod::PolynomialGf2_8);
    assert_eq!(client.create_split_key(most).await.unwrap().ids.len(), 32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_made_elsewhere_comes_back_as_it_was() {
    let network = Network::start().await;
    for version in Version::ALL {
        let mut client = network.client("n1", version).await;
        let aes = CryptographicAlgorithm::Aes;
        let block = KeyBlock::raw(SecretBytes::copy_from(&[9; 16]), Some(aes), Some(128));
        let part_of = |part| SplitKey {
            parts: 4,
            part,
            threshold: 2,
            method: SplitKeyMethod::PolynomialPrimeField,
            prime_field_size: Some(BigInteger(vec![0, 0, 0, 0, 0, 0, 0x01, 0x01])),
            block: KeyBlock {
                value: None,
                ..KeyBlock::raw(SecretBytes::copy_from(&[1]), None, None)
            },
        };
        let object = Object::SplitKey(SplitKey { block, ..part_of(3) });
        let request = op::register::Request::new(object, Attributes::default());
        let id = client.register(request).await.unwrap().id;
        let back = part(&mut client, &id).await;
        assert_eq!((back.parts, back.part, back.threshold), (4, 3, 2));
        assert_eq!(back.prime_field_size, part_of(3).prime_field_size);
        assert!(back.block.plain_bytes().unwrap().expose(|bytes| bytes == [9; 16]));
        for number in [0, 5, -1] {
            let object = Object::SplitKey(part_of(number));
            let request = op::register::Request::new(object, Attributes::default());
            let reason = refusal(client.register(request).await);
            let expected = [ResultReason::InvalidField, ResultReason::InvalidAttributeValue];
            assert!(expected.contains(&reason), "{reason:?}");
        }
    }
}
