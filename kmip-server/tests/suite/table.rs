//! Every operation of the standard is had and told by Query, or neither.

use kmip::{
    RequestMessage, ResponseMessage, SecretBytes, Version, client,
    enums::{OperationCode, QueryFunction, ResultReason},
    message::{Outcome, RequestHeader, RequestItem},
    op::{self, Raw},
    ttlv::Value,
};

use crate::common::{Client, Network};

/// Those this server does not have. Certify and Re-certify need an authority.
const MISSING: [OperationCode; 5] = [
    OperationCode::Certify,
    OperationCode::ReCertify,
    OperationCode::Notify,
    OperationCode::Put,
    OperationCode::ReProvision,
];

/// Whether the server knows `code`, as it says when it is asked for it with nothing in it.
async fn is_had(client: &mut Client, code: OperationCode) -> bool {
    let payload = SecretBytes::copy_from(&[]);
    let item = RequestItem::new(Raw { code, payload }.into());
    let version = Version::V2_1;
    let message =
        RequestMessage { version, header: RequestHeader::new(version), items: vec![item] };
    // Versions write what they do not know no more than they answer it, so the number is changed after.
    let mut message = message.encode().unwrap().to_vec();
    let number = client.version.number();
    for (at, part) in [(32, number.major), (48, number.minor)] {
        message[at..at + 4].copy_from_slice(&part.to_be_bytes());
    }
    let answer = client.exchange(&message).await;
    match &ResponseMessage::decode(&answer).unwrap().items[0].outcome {
        Outcome::Failed(failure) => failure.reason != ResultReason::OperationNotSupported,
        _ => true,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_operation_works_or_is_refused_and_not_told_of() {
    let network = Network::start().await;
    for version in Version::ALL {
        let mut client = network.client("n1", version).await;
        let told =
            client.query(client::query([QueryFunction::QueryOperations])).await.unwrap().operations;
        for code in OperationCode::ALL.iter().copied() {
            let known = code.since().is_some_and(|since| since <= version);
            let expected = known && !MISSING.contains(&code);
            // It tells clients of 1.0 that there are other versions.
            let had = expected || code == OperationCode::DiscoverVersions;
            assert_eq!(is_had(&mut client, code).await, had, "{code:?} in {version}");
            assert_eq!(told.contains(&code), expected, "{code:?} in {version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_profiles_told_are_those_of_the_version_and_not_those_that_do_not_hold() {
    let network = Network::start().await;
    let told = async |version| {
        let mut client = network.client("n1", version).await;
        let told =
            client.query(client::query([QueryFunction::QueryProfiles])).await.unwrap().profiles;
        let number = |profile: &op::query::ProfileInformation| match profile.name {
            Value::Enumeration(number) => number,
            ref other => panic!("{other:?}"),
        };
        told.iter().map(number).collect::<Vec<_>>()
    };
    let newest = told(Version::V2_1).await;
    // Baseline; not Complete, Quantum Safe, PKCS #11, and not HTTPS, which is not open.
    assert!(newest.contains(&0x12B));
    assert!([0x104, 0x105, 0x11F, 0x127, 0x129, 0x12C].iter().all(|not| !newest.contains(not)));
    let old = told(Version::V1_4).await;
    assert!(old.contains(&0x79) && old.iter().all(|number| (0x79..=0x9C).contains(number)));
    network.north.server.also_over_https();
    assert!(told(Version::V2_1).await.contains(&0x11F));
    assert!(told(Version::V1_3).await.contains(&0x74));
}
