//! Every operation of the standard is had and told by Query, or neither.

use kmip::{
    RequestMessage, ResponseMessage, SecretBytes, Version,
    enums::{OperationCode, QueryFunction, ResultReason},
    message::{Outcome, RequestHeader, RequestItem},
    op::{self, Raw},
};

use crate::common::{Client, Network};

/// Those this server does not have. Certify and Re-certify need an authority.
const MISSING: [OperationCode; 8] = [
    OperationCode::Certify,
    OperationCode::ReCertify,
    OperationCode::Notify,
    OperationCode::Put,
    OperationCode::ReProvision,
    OperationCode::SetDefaults,
    OperationCode::SetConstraints,
    OperationCode::GetConstraints,
];

/// Whether the server knows `code`, as it says when it is asked for it with nothing in it.
async fn is_had(client: &mut Client, code: OperationCode) -> bool {
    let version = client.version;
    let payload = SecretBytes::copy_from(&[]);
    let item = RequestItem::new(Raw { code, payload }.into());
    let message =
        RequestMessage { version, header: RequestHeader::new(version), items: vec![item] };
    let answer = client.exchange(&message.encode().unwrap()).await;
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
        let functions = vec![QueryFunction::QueryOperations];
        let told = client.query(op::query::Request { functions }).await.unwrap().operations;
        for code in OperationCode::ALL.iter().copied() {
            let known = code.since().is_some_and(|since| since <= version);
            let expected = known && !MISSING.contains(&code);
            if known {
                assert_eq!(is_had(&mut client, code).await, expected, "{code:?} in {version}");
            }
            assert_eq!(told.contains(&code), expected, "{code:?} in {version}");
        }
    }
}
