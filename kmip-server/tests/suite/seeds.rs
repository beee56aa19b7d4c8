//! Seeds of the fuzz target for whole requests that reach the newer operations. They are made here; to
//! write them anew: `QKM_WRITE_CORPUS=1 cargo nextest run -p kmip-server seeds`.

use std::{path::PathBuf, sync::atomic::Ordering::Relaxed};

use kmip::{
    Operation, RequestMessage, ResponseMessage, SecretBytes, Version,
    attribute::{Attribute, Attributes, CryptographicParameters, UniqueIdentifier},
    client,
    enums::{CryptographicAlgorithm as Algorithm, *},
    message::{
        Asynchronous, Authentication, Credential, Outcome, RequestHeader, RequestItem, ResponseItem,
    },
    object::{KeyBlock, Object},
    op::{
        self,
        delegated_login::{Right, Rights},
        query_asynchronous_requests::Operations,
        set_constraints::{Constraint, Constraints},
        set_defaults::{DefaultsInformation, ObjectDefaults, ObjectTypes},
    },
    tag::Tag,
    ttlv::Writer,
};
use kmip_server::{Limits, policy::Policy};

use crate::common::{Client, Network, sae_id};

/// As in `fuzz/src/front.rs`.
const KEYS: [&str; 2] = ["k1", "k2"];

/// A request, and how many of its items are done.
struct Seed {
    name: &'static str,
    frame: Vec<u8>,
    done: usize,
}

fn seed(name: &'static str, done: usize, items: Vec<Operation>) -> Seed {
    with(name, done, items, |_| {})
}

fn with(
    name: &'static str,
    done: usize,
    items: Vec<Operation>,
    change: impl FnOnce(&mut RequestHeader),
) -> Seed {
    let version = Version::V2_1;
    let mut header = RequestHeader::new(version);
    header.batch_error_continuation = Some(BatchErrorContinuationOption::Continue);
    change(&mut header);
    let items = items.into_iter().map(RequestItem::new).collect();
    let frame = RequestMessage { version, header, items }.encode().unwrap().to_vec();
    Seed { name, frame, done }
}

fn reference(code: UniqueIdentifierCode) -> Option<UniqueIdentifier> {
    Some(UniqueIdentifier::Reference(code))
}

fn aes() -> Vec<Attribute> {
    vec![
        Attribute::CryptographicAlgorithm(Algorithm::Aes),
        Attribute::CryptographicLength(256),
        Attribute::CryptographicUsageMask(0xFFF),
    ]
}

fn pair() -> Operation {
    let common = [
        Attribute::CryptographicAlgorithm(Algorithm::Ecdsa),
        Attribute::CryptographicLength(256),
        Attribute::CryptographicUsageMask(3),
    ];
    let common = common.into_iter().collect();
    op::create_key_pair::Request { common, ..Default::default() }.into()
}

fn encrypt(id: &str, init: Option<bool>) -> Operation {
    op::encrypt::Request {
        id: Some(id.into()),
        parameters: Some(CryptographicParameters {
            block_cipher_mode: Some(BlockCipherMode::Ctr),
            ..Default::default()
        }),
        data: Some(SecretBytes::copy_from(&[1; 16])),
        iv: Some(vec![2; 16]),
        init,
        ..Default::default()
    }
    .into()
}

fn key(id: &str) -> Operation {
    let bytes = SecretBytes::copy_from(&[7; 32]);
    op::import::Request {
        id: id.to_owned(),
        object_type: ObjectType::SymmetricKey,
        replace_existing: Some(true),
        key_wrap_type: None,
        attributes: [Attribute::CryptographicUsageMask(0xFFF), Attribute::State(State::Active)]
            .into_iter()
            .collect(),
        object: Object::SymmetricKey(KeyBlock::raw(bytes, Some(Algorithm::Aes), Some(256))),
    }
    .into()
}

fn seeds() -> Vec<Seed> {
    let value = vec![1; 16];
    let certify = op::certify::Request {
        id: reference(UniqueIdentifierCode::CreateKeyPairPublicKey),
        attributes: [Attribute::CertificateSubjectCn("gate".to_owned())].into_iter().collect(),
        ..Default::default()
    };
    let again =
        op::certify::Request { id: reference(UniqueIdentifierCode::Certify), ..Default::default() };
    let split = op::create_split_key::Request {
        object_type: ObjectType::SymmetricKey,
        id: None,
        parts: 3,
        threshold: 2,
        method: SplitKeyMethod::PolynomialGf2_8,
        prime_field_size: None,
        attributes: aes().into_iter().collect(),
        protection_storage_masks: None,
    };
    let right = Right {
        operations: Some(Operations { list: vec![OperationCode::Get] }),
        ..Default::default()
    };
    let delegated = op::delegated_login::Request {
        lease_time: None,
        request_count: Some(2),
        usage_limits: None,
        rights: Rights { list: vec![right] },
    };
    let pkcs11 = |function, input: Option<&[u8]>| op::pkcs11::Request {
        interface: None,
        function,
        correlation_value: None,
        input: input.map(SecretBytes::copy_from),
    };
    let defaults = ObjectDefaults {
        object_type: Some(ObjectType::SecretData),
        object_types: None,
        attributes: [Attribute::Comment("c".to_owned())].into_iter().collect(),
        groups: None,
    };
    let constraint = Constraint {
        object_types: Some(ObjectTypes { list: vec![ObjectType::SplitKey] }),
        groups: None,
        attributes: Some(aes().into_iter().collect::<Attributes>()),
    };
    let ticket = |header: &mut RequestHeader| {
        let mut content = Writer::default();
        content.enumeration(Tag::TicketType, TicketType::Login.number());
        content.bytes(Tag::TicketValue, &[3; 32]);
        let content = SecretBytes::new(content.finish());
        let credentials = vec![Credential::Other { kind: CredentialType::Ticket, content }];
        header.authentication = Some(Authentication { credentials });
    };
    let later = |header: &mut RequestHeader| {
        header.asynchronous = Some(Asynchronous(AsynchronousIndicator::Mandatory));
    };
    let hash = op::hash::Request {
        parameters: CryptographicParameters {
            hashing_algorithm: Some(HashingAlgorithm::Sha3_256),
            ..Default::default()
        },
        data: Some(SecretBytes::copy_from(b"abc")),
        correlation_value: None,
        init: None,
        last: None,
    };
    vec![
        seed(
            "pairs_21",
            2,
            vec![
                pair(),
                op::rekey_key_pair::Request {
                    private_id: reference(UniqueIdentifierCode::CreateKeyPairPrivateKey),
                    ..Default::default()
                }
                .into(),
            ],
        ),
        seed(
            "certificates_21",
            4,
            vec![
                pair(),
                certify.into(),
                op::recertify::Request { certify: again, offset: None }.into(),
                op::validate::Request {
                    ids: reference(UniqueIdentifierCode::ReCertify).into_iter().collect(),
                    ..Default::default()
                }
                .into(),
            ],
        ),
        with("later_21", 2, vec![key("k3"), encrypt("k3", None)], later),
        // Nobody has these values.
        seed(
            "asynchronous_21",
            2,
            vec![
                op::poll::Request { correlation_value: value.clone() }.into(),
                op::process::Request { correlation_value: value.clone() }.into(),
                op::cancel::Request { correlation_value: value }.into(),
                op::query_asynchronous_requests::Request::default().into(),
            ],
        ),
        seed("logins_21", 2, vec![op::login::Request::default().into(), delegated.into()]),
        with("ticket_21", 0, vec![client::get("k1").into()], ticket),
        seed(
            "pkcs11_21",
            2,
            vec![
                pkcs11(Pkcs11Function::Initialize, Some(&[1])).into(),
                pkcs11(Pkcs11Function::GetInfo, None).into(),
            ],
        ),
        seed(
            "house_21",
            3,
            vec![
                op::get_constraints::Request {}.into(),
                op::set_defaults::Request {
                    defaults: Some(DefaultsInformation { list: vec![defaults] }),
                }
                .into(),
                op::set_constraints::Request {
                    constraints: Constraints { list: vec![constraint] },
                }
                .into(),
            ],
        ),
        seed(
            "together_21",
            5,
            vec![
                key("k1"),
                key("k2"),
                encrypt("k1", None),
                encrypt("k2", None),
                encrypt("k1", None),
            ],
        ),
        seed("stream_21", 2, vec![key("k1"), encrypt("k1", Some(true))]),
        seed(
            "transfer_21",
            3,
            vec![
                key("k1"),
                op::export::Request { id: Some("k1".into()), ..Default::default() }.into(),
                op::rekey::Request { id: Some("k1".into()), ..Default::default() }.into(),
            ],
        ),
        seed("split_21", 1, vec![split.into()]),
        seed("sha3_21", 1, vec![hash.into()]),
    ]
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/kmip_request")
}

fn is_done(item: &ResponseItem) -> bool {
    matches!(item.outcome, Outcome::Success(_) | Outcome::Pending(_))
}

#[test]
fn seeds_are_stored() {
    for Seed { name, frame, .. } in seeds() {
        let path = folder().join(name);
        if std::env::var_os("QKM_WRITE_CORPUS").is_some() {
            std::fs::write(&path, &frame).unwrap();
        }
        let stored = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(stored == frame, "{name} is not what is written now; see the head of this file");
    }
}

/// A seed that is refused at the door would reach nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeds_reach_the_operations_they_name() {
    let all = Some(OperationCode::ALL.iter().copied().collect());
    let policies = [(sae_id("n1"), Policy { operations: all, ..Policy::default() })];
    let network = Network::start_as(Limits::default(), policies.into(), Default::default()).await;
    network.north.hsm.pairs.store(true, Relaxed);
    network.north.certify_for(&["n1"]).await;
    let mut reached = std::collections::BTreeSet::new();
    for Seed { name, frame, done } in seeds() {
        let mut client: Client = network.client("n1", Version::V2_1).await;
        for id in KEYS {
            client.call(key(id)).await.unwrap();
        }
        let answer = ResponseMessage::decode(&client.exchange(&frame).await).unwrap();
        let found = answer.items.iter().filter(|item| is_done(item)).count();
        assert_eq!(found, done, "{name}: {:?}", answer.items);
        reached.extend(answer.items.iter().filter_map(|item| item.code));
    }
    for code in [
        OperationCode::ReKeyKeyPair,
        OperationCode::Certify,
        OperationCode::ReCertify,
        OperationCode::Validate,
        OperationCode::Poll,
        OperationCode::Process,
        OperationCode::Cancel,
        OperationCode::QueryAsynchronousRequests,
        OperationCode::Login,
        OperationCode::DelegatedLogin,
        OperationCode::Pkcs11,
        OperationCode::SetDefaults,
        OperationCode::SetConstraints,
        OperationCode::GetConstraints,
    ] {
        assert!(reached.contains(&code), "{code:?}");
    }
}
