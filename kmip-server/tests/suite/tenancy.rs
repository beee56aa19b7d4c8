//! Who sees whose objects, who may do what, and how much: over the socket.

use std::{
    collections::BTreeMap,
    fmt::Write,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use km_core::{ids::SaeId, objects::Quota};
use kmip::{
    SecretBytes, SecretText, Version,
    attribute::{Attribute, AttributeKind, Name},
    client,
    enums::{
        BatchErrorContinuationOption, CryptographicAlgorithm, OperationCode, QueryFunction,
        ResultReason, WrappingMethod,
    },
    message::{Outcome, RequestHeader, RequestItem, RequestMessage, ResponseMessage},
    object::{KeyInformation, KeyWrappingSpecification},
    op,
};
use kmip_server::{
    Limits, Login, PasswordHash,
    policy::{Policies, Policy},
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::common::{Client, Network, SHARING, refusal, sae_id};

fn name(text: &str) -> Attribute {
    Attribute::Name(Name::text(text))
}

/// A network where some applications have policies, and tenants quotas.
async fn network<'a>(
    policies: impl IntoIterator<Item = (&'a str, Policy)>,
    quotas: impl IntoIterator<Item = (&'a str, Quota)>,
) -> Network {
    let policies: Policies = policies.into_iter().map(|(sae, p)| (sae_id(sae), p)).collect();
    let quotas: BTreeMap<SaeId, Quota> =
        quotas.into_iter().map(|(tenant, quota)| (sae_id(tenant), quota)).collect();
    Network::start_as(Limits::default(), policies, quotas).await
}

/// The word of `version` for what is not there.
fn not_found(version: Version) -> ResultReason {
    if version < Version::V2_0 { ResultReason::ItemNotFound } else { ResultReason::ObjectNotFound }
}

fn of_tenant(tenant: &str) -> Policy {
    Policy { tenant: Some(sae_id(tenant)), ..Policy::default() }
}

fn quota(objects: u64, bytes: u64) -> Quota {
    Quota { objects, bytes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_objects_are_its_applications_and_nobody_elses() {
    let network = network([("n1", of_tenant("bank")), ("n2", of_tenant("bank"))], []).await;
    for version in [Version::V1_0, Version::V1_4, Version::V2_1] {
        let mut one = network.client("n1", version).await;
        let mut two = network.client("n2", version).await;
        let mut other = network.client("n3", version).await;
        let alpha = format!("alpha {version}");
        let id = one.aes([name(&alpha)]).await.unwrap();
        assert_eq!(two.key(&id).await.unwrap(), one.key(&id).await.unwrap());
        assert_eq!(two.locate(client::locate_name(&alpha)).await.unwrap().ids, [id.as_str()]);
        let taken = [ResultReason::NonUniqueNameAttribute, ResultReason::InvalidField];
        assert!(taken.contains(&refusal(two.aes([name(&alpha)]).await)));

        assert!(other.locate(client::locate_name(&alpha)).await.unwrap().ids.is_empty());
        let gone = not_found(version);
        assert_eq!(refusal(other.get(client::get(&id)).await), gone);
        assert_eq!(refusal(other.get_attributes(client::get_attributes(&id, [])).await), gone);
        assert_eq!(refusal(other.activate(client::activate(&id)).await), gone);
        assert_eq!(refusal(other.destroy(client::destroy(&id)).await), gone);
        assert_eq!(refusal(other.modify(&id, name("mine")).await), gone);
        let own = other.aes([name(&alpha)]).await.unwrap();
        let all = other.locate(client::locate([])).await.unwrap().ids;
        assert!(all.contains(&own) && !all.contains(&id), "the name is free in another tenant");

        // Nor does it wrap with a key it does not have.
        if version > Version::V1_0 {
            let key = KeyInformation { id: id.as_str().into(), parameters: None };
            let mut wrapped = client::get(&own);
            wrapped.key_wrapping_specification = Some(KeyWrappingSpecification {
                method: WrappingMethod::Encrypt,
                encryption: Some(key),
                mac: None,
                attribute_names: Vec::new(),
                encoding: None,
            });
            let refused = refusal(other.get(wrapped).await);
            assert!(
                [ResultReason::WrappingObjectNotFound, gone].contains(&refused),
                "{version}: {refused:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_server_itself_is_located_or_read() {
    let network = Network::stocked().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = client.aes([]).await.unwrap();
    let everything = op::locate::Request { storage_status_mask: Some(7), ..client::locate([]) };
    assert_eq!(client.locate(everything).await.unwrap().ids, [id]);
    for inner in ["qkm-kek-1", "qkm-kek-1w", "qkm-kek-1w-1", "record-key", "meta/record-key"] {
        let gone = ResultReason::ObjectNotFound;
        assert_eq!(refusal(client.get(client::get(inner)).await), gone, "{inner}");
        assert!(client.locate(client::locate_name(inner)).await.unwrap().ids.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_does_what_it_may_and_nothing_else() {
    let reads = [OperationCode::Locate, OperationCode::Get, OperationCode::GetAttributes];
    let reader = Policy { operations: Some(reads.into()), ..of_tenant("n1") };
    let network = network([("n2", reader)], []).await;
    for version in [Version::V1_0, Version::V1_2, Version::V2_1] {
        let mut owner = network.client("n1", version).await;
        let mut reader = network.client("n2", version).await;
        let id = owner.aes([]).await.unwrap();
        assert_eq!(reader.key(&id).await.unwrap().len(), 32);
        assert!(reader.locate(client::locate([])).await.unwrap().ids.contains(&id));
        reader.query(client::query([QueryFunction::QueryOperations])).await.unwrap();
        let denied = ResultReason::PermissionDenied;
        assert_eq!(refusal(reader.aes([]).await), denied);
        assert_eq!(refusal(reader.destroy(client::destroy(&id)).await), denied);
        assert_eq!(refusal(reader.add(&id, name("mine")).await), denied);
        assert_eq!(refusal(reader.bring(&[1; 32], []).await), denied);
        // Uses of keys that are done at the same time, too; KMIP has them since 1.2.
        if version >= Version::V1_2 {
            let encrypt = || op::encrypt::Request {
                id: Some(id.as_str().into()),
                data: Some(kmip::SecretBytes::copy_from(&[1; 16])),
                ..Default::default()
            };
            let items = [encrypt().into(), encrypt().into()];
            let done = crate::batch::run(&mut reader, items, |_| {}).await;
            let found: Vec<_> = done.iter().map(crate::batch::reason).collect();
            assert_eq!(found, [Some(denied)], "{version:?}");
        }
        owner.destroy(client::destroy(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_no_more_objects_than_its_quota() {
    let network = network([("n2", of_tenant("n1"))], [("n1", quota(3, u64::MAX))]).await;
    let mut one = network.client("n1", Version::V2_1).await;
    let mut two = network.client("n2", Version::V1_4).await;
    let first = one.aes([]).await.unwrap();
    two.bring(&[1; 32], []).await.unwrap();
    let full = ResultReason::ServerLimitExceeded;
    let pair = op::create_key_pair::Request {
        common: [
            Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Ecdsa),
            Attribute::CryptographicLength(256),
        ]
        .into_iter()
        .collect(),
        private: [Attribute::CryptographicUsageMask(1)].into_iter().collect(),
        public: [Attribute::CryptographicUsageMask(2)].into_iter().collect(),
        ..Default::default()
    };
    assert_eq!(refusal(one.create_key_pair(pair).await), full, "two objects at once");
    one.aes([]).await.unwrap();
    assert_eq!(refusal(one.aes([]).await), full);
    assert_eq!(refusal(two.bring(&[2; 32], []).await), ResultReason::PermissionDenied);
    one.destroy(client::destroy(&first)).await.unwrap();
    // A batch that is undone takes no place.
    let version = Version::V2_1;
    let mut header = RequestHeader::new(version);
    header.batch_error_continuation = Some(BatchErrorContinuationOption::Undo);
    let make = || client::create(CryptographicAlgorithm::Aes, 256, 12, []);
    let items = vec![RequestItem::new(make().into()), RequestItem::new(make().into())];
    let frame = RequestMessage { version, header, items }.encode().unwrap();
    let items = ResponseMessage::decode(&one.exchange(&frame).await).unwrap().items;
    assert!(matches!(items[1].outcome, Outcome::Failed(_)), "{items:?}");
    one.aes([]).await.unwrap();
    assert_eq!(refusal(one.aes([]).await), full);
    network.client("n3", Version::V1_4).await.aes([]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_takes_no_more_bytes_than_its_quota() {
    let network = network([], [("n1", quota(u64::MAX, 8000))]).await;
    let mut client = network.client("n1", Version::V2_1).await;
    let full = ResultReason::ServerLimitExceeded;
    let id = client.aes([]).await.unwrap();
    let long = |number: u8| Attribute::ObjectGroup(format!("{number}{}", "x".repeat(3000)));
    client.add(&id, long(1)).await.unwrap();
    client.add(&id, long(2)).await.unwrap();
    assert_eq!(refusal(client.add(&id, long(3)).await), full, "attributes count");
    let big = SecretBytes::copy_from(&[7; 3000]);
    let big = client::register_key(big, CryptographicAlgorithm::HmacSha256, 12, []);
    assert_eq!(refusal(client.register(big).await), full);
    client.aes([]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_tenant_burns_no_pool_key() {
    let network = network([], [("n1", quota(u64::MAX, 700))]).await;
    network.stock().await;
    let mut client = network.client("n1", Version::V2_1).await;
    client.aes([]).await.unwrap();
    let stock = || (network.north.pool.view().own_bits, network.north.pool.view().issuing);
    let before = stock();
    for _ in 0..3 {
        let drawn = client.aes([Attribute::ObjectGroup("qkd/south".into())]).await;
        assert_eq!(refusal(drawn), ResultReason::ServerLimitExceeded);
    }
    assert_eq!(stock(), before);
}

fn login(username: &str, password: &str) -> Login {
    let password = PasswordHash::make(password.as_bytes()).unwrap();
    Login { username: username.to_owned(), password }
}

async fn as_user(network: &Network, certificate: &str, login: Option<(&str, &str)>) -> Client {
    let files = network.certificate(certificate);
    let mut client = Client::connect(&network.north.address, &files, Version::V1_4).await;
    if let Some((user, password)) = login {
        client.kmip =
            client::Client::new(Version::V1_4).with_login(user, SecretText::copy_from(password));
    }
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_narrows_a_certificate_and_a_wrong_one_ends_the_connection() {
    let users = [("ada", "first"), ("bob", "second")];
    let with_login = |(sae, (user, password)): (&'static str, (&str, &str))| {
        (sae, Policy { login: Some(login(user, password)), ..Policy::default() })
    };
    let alone = with_login(("n1", ("eve", "third")));
    let both = SHARING.into_iter().zip(users).map(with_login);
    let network = network(both.chain([alone]), []).await;

    let mut ada = as_user(&network, "shared", Some(users[0])).await;
    let mut bob = as_user(&network, "shared", Some(users[1])).await;
    let id = ada.aes([]).await.unwrap();
    assert_eq!(refusal(bob.get(client::get(&id)).await), not_found(Version::V1_4));
    assert_eq!(ada.key(&id).await.unwrap().len(), 32);
    let mut eve = as_user(&network, "n1", Some(("eve", "third"))).await;
    eve.aes([]).await.unwrap();

    let wrong = [
        ("shared", None),
        ("shared", Some(("ada", "second"))),
        ("shared", Some(("ada", ""))),
        ("shared", Some(("eve", "third"))),
        ("n1", None),
        ("n1", Some(("eve", "Third"))),
        ("n1", Some(("ada", "first"))),
    ];
    for (certificate, said) in wrong {
        let mut client = as_user(&network, certificate, said).await;
        let reason = refusal(client.aes([]).await);
        assert_eq!(reason, ResultReason::AuthenticationNotSuccessful, "{certificate} {said:?}");
        assert!(client.receive().await.is_none(), "the connection ends");
    }
}

/// Everything this process logs, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0.lock().unwrap(), " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        attributes.record(&mut self.clone());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
        self.0.lock().unwrap().push('\n');
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// At every level: whoever looks for a fault turns them all on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_login_is_logged_without_what_was_typed() {
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let policy = Policy { login: Some(login("eve", "third")), ..Policy::default() };
    let network = network([("n1", policy)], []).await;
    for (user, password) in [("eve", "Third-of-all"), ("typed-in-the-wrong-field", "x9-second")] {
        let mut client = as_user(&network, "n1", Some((user, password))).await;
        let reason = refusal(client.aes([]).await);
        assert_eq!(reason, ResultReason::AuthenticationNotSuccessful);
    }
    let mut eve = as_user(&network, "n1", Some(("eve", "third"))).await;
    eve.aes([]).await.unwrap();
    let log = log.0.lock().unwrap();
    let refused: Vec<_> = log.lines().filter(|line| line.contains("login refused")).collect();
    assert_eq!(refused.len(), 2, "{log}");
    assert!(refused[0].contains("Wrong") && refused[0].contains("n1"), "{refused:?}");
    for typed in ["Third-of-all", "typed-in-the-wrong-field", "x9-second", "\"third\"", "pbkdf2"] {
        assert!(!log.contains(typed), "{typed} in {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_the_wrong_issuer_is_nobodys() {
    let network = network([], []).await;
    let mut client = as_user(&network, "pinned", None).await;
    assert_eq!(refusal(client.aes([]).await), ResultReason::AuthenticationNotSuccessful);
    let mut client = as_user(&network, "pinned-here", None).await;
    let id = client.aes([]).await.unwrap();
    assert_eq!(network.client("n1", Version::V1_4).await.key(&id).await.unwrap().len(), 32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_logged_in_takes_no_ones_connection() {
    let one = Policy {
        login: Some(login("eve", "third")),
        connections: NonZeroU32::new(1),
        ..Policy::default()
    };
    let network = network([("n1", one)], []).await;
    let _silent = as_user(&network, "n1", None).await;
    let mut wrong = as_user(&network, "n1", Some(("eve", "first"))).await;
    assert_eq!(refusal(wrong.aes([]).await), ResultReason::AuthenticationNotSuccessful);
    let mut eve = as_user(&network, "n1", Some(("eve", "third"))).await;
    eve.aes([]).await.unwrap();
    let mut second = as_user(&network, "n1", Some(("eve", "third"))).await;
    let full = ResultReason::ServerLimitExceeded.in_version(Version::V1_4);
    assert_eq!(refusal(second.aes([]).await), full);
    eve.aes([]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_too_fast_waits_and_then_is_refused() {
    let slow = Policy { operations_per_s: NonZeroU32::new(10), ..Policy::default() };
    let network = network([("n1", slow)], []).await;
    let mut client = network.client("n1", Version::V2_1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let since = Instant::now();
    for _ in 0..20 {
        client.query(client::query([QueryFunction::QueryOperations])).await.unwrap();
    }
    assert!(since.elapsed() > Duration::from_millis(800), "{:?}", since.elapsed());
    // A batch that would wait longer than anybody does.
    let queries = (0..100).map(|_| client::query([QueryFunction::QueryOperations]).into());
    let frame = client.kmip.batch(queries).unwrap();
    client.exchange(&frame).await;
    let reason = refusal(client.query(client::query([QueryFunction::QueryOperations])).await);
    assert_eq!(reason, ResultReason::ServerLimitExceeded);
    network.client("n2", Version::V2_1).await.aes([]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_has_no_more_connections_than_it_may() {
    let few = Policy { connections: NonZeroU32::new(2), ..Policy::default() };
    let network = network([("n1", few)], []).await;
    let mut first = network.client("n1", Version::V1_4).await;
    let mut second = network.client("n1", Version::V1_4).await;
    first.aes([]).await.unwrap();
    let id = second.aes([]).await.unwrap();
    let mut third = network.client("n1", Version::V1_4).await;
    assert!(third.receive().await.is_none(), "closed without a question");
    drop(second);
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let mut next = network.client("n1", Version::V1_4).await;
        let frame = next.kmip.request(client::get(&id)).unwrap().to_vec();
        if next.try_send(&frame).await && next.receive().await.is_some() {
            break;
        }
        assert!(Instant::now() < until, "the place does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = client::get_attributes(&id, [AttributeKind::State.into()]);
    first.get_attributes(told).await.unwrap();
}
