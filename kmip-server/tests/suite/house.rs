//! Set Defaults, Set Constraints, Get Constraints.

use kmip::{
    Answer, SecretBytes, Version,
    attribute::{Attribute, AttributeKind, Attributes, Name},
    client::{self, ClientError},
    enums::{BatchErrorContinuationOption, CryptographicAlgorithm as Algorithm, *},
    message::Outcome,
    op::{
        self,
        delegated_login::ObjectGroups,
        set_constraints::{Constraint, Constraints},
        set_defaults::{DefaultsInformation, ObjectDefaults, ObjectTypes},
    },
};
use kmip_server::{
    Limits,
    policy::{Policies, Policy},
};

use crate::{
    batch::run,
    common::{Client, Network, refusal, sae_id},
};

/// Encrypt and Decrypt.
const BOTH: i32 = 12;

/// n1 and n2 are of one tenant, whose rules n1 may set.
fn policies() -> Policies {
    let bank = Policy { tenant: Some(sae_id("bank")), ..Policy::default() };
    let all = Some(OperationCode::ALL.iter().copied().collect());
    let policies = [("n1", Policy { operations: all, ..bank.clone() }), ("n2", bank)];
    policies.into_iter().map(|(sae, policy)| (sae_id(sae), policy)).collect()
}

async fn network() -> Network {
    Network::start_as(Limits::default(), policies(), Default::default()).await
}

fn of_type(kind: ObjectType, attributes: &[Attribute]) -> ObjectDefaults {
    ObjectDefaults {
        object_type: Some(kind),
        object_types: None,
        attributes: attributes.iter().cloned().collect(),
        groups: None,
    }
}

async fn set_defaults(
    client: &mut Client,
    list: Vec<ObjectDefaults>,
) -> Result<Answer, ClientError> {
    let defaults = Some(DefaultsInformation { list });
    client.call(op::set_defaults::Request { defaults }).await
}

async fn set_constraints(
    client: &mut Client,
    list: Vec<Constraint>,
) -> Result<Answer, ClientError> {
    client.call(op::set_constraints::Request { constraints: Constraints { list } }).await
}

fn constraint(kind: ObjectType, attributes: &[Attribute]) -> Constraint {
    Constraint {
        object_types: Some(ObjectTypes { list: vec![kind] }),
        groups: None,
        attributes: Some(attributes.iter().cloned().collect()),
    }
}

async fn create(client: &mut Client, attributes: &[Attribute]) -> Result<String, ClientError> {
    let attributes: Attributes = attributes.iter().cloned().collect();
    let object_type = ObjectType::SymmetricKey;
    let request = op::create::Request { object_type, attributes, protection_storage_masks: None };
    client.create(request).await.map(|made| made.id)
}

fn aes(bits: i32, mask: i32) -> [Attribute; 3] {
    [
        Attribute::CryptographicAlgorithm(Algorithm::Aes),
        Attribute::CryptographicLength(bits),
        Attribute::CryptographicUsageMask(mask),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_give_what_a_request_does_not_say() {
    let network = network().await;
    let mut custodian = network.client("n1", Version::V2_1).await;
    let group = |name: &str| Attribute::ObjectGroup(name.to_owned());
    let vaulted = ObjectDefaults {
        groups: Some(ObjectGroups { list: vec!["vault".to_owned()] }),
        ..of_type(ObjectType::SymmetricKey, &[Attribute::Sensitive(true)])
    };
    let list = vec![
        of_type(ObjectType::SymmetricKey, &aes(192, BOTH)),
        vaulted,
        of_type(ObjectType::SecretData, &[Attribute::Comment("ours".to_owned())]),
        of_type(ObjectType::PrivateKey, &[Attribute::CryptographicUsageMask(1)]),
        of_type(ObjectType::PublicKey, &[Attribute::CryptographicUsageMask(2)]),
    ];
    set_defaults(&mut custodian, list.clone()).await.unwrap();
    let query = client::query([QueryFunction::QueryDefaultsInformation]);
    let told = custodian.query(query).await.unwrap().defaults;
    assert_eq!(told.unwrap().list, list);
    // Of objects in some groups: those that hold for all, and those of these groups.
    for (groups, holds) in [
        (&["vault"][..], &list[..]),
        (&["desk", "vault"], &list),
        (&["desk"], &[&list[..1], &list[2..]].concat()),
    ] {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        let query = op::query::Request {
            groups: Some(ObjectGroups { list: groups }),
            ..client::query([QueryFunction::QueryDefaultsInformation])
        };
        let told = custodian.query(query).await.unwrap().defaults;
        assert_eq!(told.unwrap().list, holds);
    }

    // They hold for all of the tenant, in every version, and for nobody else.
    for version in [Version::V1_0, Version::V2_1] {
        let mut other = network.client("n2", version).await;
        let bare = create(&mut other, &[]).await.unwrap();
        let length = other.attribute(&bare, AttributeKind::CryptographicLength).await;
        assert_eq!(length, Some(Attribute::CryptographicLength(192)));
        let said = create(&mut other, &[Attribute::CryptographicLength(256)]).await.unwrap();
        let length = other.attribute(&said, AttributeKind::CryptographicLength).await;
        assert_eq!(length, Some(Attribute::CryptographicLength(256)), "the request goes first");
    }
    let mut other = network.client("n2", Version::V2_1).await;
    for (name, sensitive) in [("vault", true), ("desk", false)] {
        let made = create(&mut other, &[group(name)]).await.unwrap();
        let found = other.attribute(&made, AttributeKind::Sensitive).await;
        assert_eq!(found, Some(Attribute::Sensitive(sensitive)), "{name}");
    }
    // What a client brings says itself what it is.
    let brought = other.bring(&[7; 16], []).await.unwrap();
    let length = other.attribute(&brought, AttributeKind::CryptographicLength).await;
    assert_eq!(length, Some(Attribute::CryptographicLength(128)));
    let pair = op::create_key_pair::Request {
        common: [
            Attribute::CryptographicAlgorithm(Algorithm::Ecdsa),
            Attribute::CryptographicLength(256),
        ]
        .into_iter()
        .collect(),
        ..Default::default()
    };
    let pair = other.create_key_pair(pair).await.unwrap();
    let mask = other.attribute(&pair.public_id, AttributeKind::CryptographicUsageMask).await;
    assert_eq!(mask, Some(Attribute::CryptographicUsageMask(2)));
    let mut stranger = network.client("n3", Version::V2_1).await;
    assert_eq!(refusal(create(&mut stranger, &[]).await), ResultReason::MissingData);

    // They outlive the server; set to nothing they are gone.
    let mut later = network.client_after_restart("n2", Version::V2_1, &policies()).await;
    create(&mut later, &[]).await.unwrap();
    custodian.call(op::set_defaults::Request::default()).await.unwrap();
    assert_eq!(refusal(create(&mut other, &[]).await), ResultReason::MissingData);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_a_constraint_is_not_made() {
    let network = network().await;
    let mut custodian = network.client("n1", Version::V2_1).await;
    let strong = constraint(
        ObjectType::SymmetricKey,
        &[
            Attribute::CryptographicAlgorithm(Algorithm::Aes),
            Attribute::CryptographicLength(192),
            Attribute::CryptographicLength(256),
            Attribute::CryptographicUsageMask(BOTH),
        ],
    );
    let inside = Constraint {
        groups: Some(ObjectGroups { list: vec!["vault".to_owned()] }),
        ..constraint(ObjectType::SymmetricKey, &[Attribute::Extractable(false)])
    };
    let list = vec![strong, inside];
    set_constraints(&mut custodian, list.clone()).await.unwrap();
    let told = custodian.call(op::get_constraints::Request {}).await.unwrap();
    let Answer::GetConstraints(told) = told else { panic!("{told:?}") };
    assert_eq!(told.constraints.list, list);

    let mut other = network.client("n2", Version::V2_1).await;
    let broken = ResultReason::ConstraintViolation;
    for fits in [aes(192, BOTH), aes(256, 4)] {
        create(&mut other, &fits).await.unwrap();
    }
    let [algorithm, _, mask] = aes(256, BOTH);
    for breaks in [
        aes(128, BOTH).to_vec(),
        aes(256, BOTH | 1).to_vec(),
        vec![algorithm, mask],
        vec![
            Attribute::CryptographicAlgorithm(Algorithm::HmacSha256),
            Attribute::CryptographicLength(256),
            Attribute::CryptographicUsageMask(BOTH),
        ],
        [aes(256, BOTH).to_vec(), vec![Attribute::ObjectGroup("vault".to_owned())]].concat(),
    ] {
        assert_eq!(refusal(create(&mut other, &breaks).await), broken, "{breaks:?}");
    }
    // However an object comes into being.
    assert_eq!(refusal(other.bring(&[7; 16], []).await), broken);
    other.bring(&[7; 32], []).await.unwrap();
    let base = create(&mut other, &aes(256, BOTH)).await.unwrap();
    let rekey = op::rekey::Request {
        id: Some(base.as_str().into()),
        attributes: [Attribute::CryptographicUsageMask(BOTH | 1)].into_iter().collect(),
        ..Default::default()
    };
    assert_eq!(refusal(other.rekey(rekey).await), broken);
    let block = kmip::object::KeyBlock::raw(
        SecretBytes::copy_from(&[7; 16]),
        Some(Algorithm::Aes),
        Some(128),
    );
    let import = op::import::Request {
        id: "from-elsewhere".to_owned(),
        object_type: ObjectType::SymmetricKey,
        replace_existing: None,
        key_wrap_type: None,
        attributes: Attributes::default(),
        object: kmip::object::Object::SymmetricKey(block),
    };
    assert_eq!(refusal(other.import(import).await), broken);
    // Defaults help to keep them, and older versions have another word.
    let defaults = vec![of_type(ObjectType::SymmetricKey, &aes(256, BOTH))];
    set_defaults(&mut custodian, defaults).await.unwrap();
    create(&mut other, &[]).await.unwrap();
    let mut old = network.client("n2", Version::V1_4).await;
    let refused = refusal(create(&mut old, &aes(128, BOTH)).await);
    assert_eq!(refused, ResultReason::PermissionDenied);
    let mut stranger = network.client("n3", Version::V2_1).await;
    create(&mut stranger, &aes(128, BOTH)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_set_by_whom_the_operator_named_and_make_sense() {
    let network = network().await;
    let mut other = network.client("n2", Version::V2_1).await;
    let denied = ResultReason::PermissionDenied;
    assert_eq!(refusal(set_defaults(&mut other, vec![]).await), denied);
    assert_eq!(refusal(set_constraints(&mut other, vec![]).await), denied);
    other.call(op::get_constraints::Request {}).await.unwrap();

    let mut custodian = network.client("n1", Version::V2_1).await;
    let field = ResultReason::InvalidField;
    for bad in [
        Attribute::Name(Name::text("one")),
        Attribute::State(State::Active),
        Attribute::UniqueIdentifier("x".to_owned()),
    ] {
        let list = vec![of_type(ObjectType::SymmetricKey, &[bad])];
        assert_eq!(refusal(set_defaults(&mut custodian, list).await), field);
    }
    let typeless = ObjectDefaults { object_type: None, ..of_type(ObjectType::SymmetricKey, &[]) };
    assert_eq!(refusal(set_defaults(&mut custodian, vec![typeless]).await), field);
    let pool = [Attribute::ObjectGroup("qkd/south".to_owned())];
    let list = vec![of_type(ObjectType::SymmetricKey, &pool)];
    assert_eq!(refusal(set_defaults(&mut custodian, list).await), denied);
    let long = [Attribute::Comment("x".repeat(20_000))];
    let list = vec![of_type(ObjectType::SymmetricKey, &long)];
    let refused = refusal(set_defaults(&mut custodian, list).await);
    assert_eq!(refused, ResultReason::ServerLimitExceeded);
    let batch = [
        op::set_defaults::Request::default().into(),
        client::query([QueryFunction::QueryOperations]).into(),
    ];
    let undo = |m: &mut kmip::RequestMessage| {
        m.header.batch_error_continuation = Some(BatchErrorContinuationOption::Undo);
    };
    let done = run(&mut custodian, batch, undo).await;
    let Outcome::Failed(failure) = &done[0].outcome else { panic!("{done:?}") };
    assert_eq!(failure.reason, ResultReason::FeatureNotSupported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mask_that_breaks_a_constraint_is_not_added_later_either() {
    let network = network().await;
    let mut custodian = network.client("n1", Version::V2_1).await;
    let mut other = network.client("n2", Version::V2_1).await;
    let unmasked = || {
        let bytes = SecretBytes::copy_from(&[7; 32]);
        let mut request = client::register_key(bytes, Algorithm::Aes, BOTH, []);
        let is_mask = |a: &Attribute| matches!(a, Attribute::CryptographicUsageMask(_));
        request.attributes.list.retain(|instance| !is_mask(&instance.attribute));
        request
    };
    let old = other.register(unmasked()).await.unwrap().id;
    let wide = create(&mut other, &aes(256, BOTH | 1)).await.unwrap();
    let mask = [Attribute::CryptographicUsageMask(BOTH)];
    let list = [ObjectType::SymmetricKey, ObjectType::SplitKey].map(|kind| constraint(kind, &mask));
    set_constraints(&mut custodian, list.to_vec()).await.unwrap();

    let broken = ResultReason::ConstraintViolation;
    assert_eq!(refusal(other.register(unmasked()).await), broken, "it must say what it is for");
    let more = Attribute::CryptographicUsageMask(BOTH | 1);
    assert_eq!(refusal(other.add(&old, more.clone()).await), broken);
    let set = |new| op::set_attribute::Request { id: Some(old.as_str().into()), new };
    assert_eq!(refusal(other.set_attribute(set(more)).await), broken);
    other.set_attribute(set(Attribute::CryptographicUsageMask(4))).await.unwrap();

    // Parts are for what the whole is for, unless they say less.
    let split = |id: &str, attributes: &[Attribute]| op::create_split_key::Request {
        object_type: ObjectType::SymmetricKey,
        id: Some(id.into()),
        parts: 2,
        threshold: 2,
        method: SplitKeyMethod::Xor,
        prime_field_size: None,
        attributes: attributes.iter().cloned().collect(),
        protection_storage_masks: None,
    };
    assert_eq!(refusal(other.create_split_key(split(&wide, &[])).await), broken);
    other.create_split_key(split(&wide, &mask)).await.unwrap();
    other.create_split_key(split(&old, &[])).await.unwrap();
}
