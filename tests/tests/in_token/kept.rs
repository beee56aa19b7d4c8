//! Where an application's objects are kept: inside the token, or sealed outside of it.

use super::*;

const SOFTWARE: i32 = 1;
const HARDWARE: i32 = 2;

/// An AES key that is to be kept there.
fn stored(mask: i32, more: impl IntoIterator<Item = Attribute>) -> op::create::Request {
    let masks = op::create::ProtectionStorageMasks { masks: vec![mask] };
    let request = client::create(Algorithm::Aes, 256, ENCRYPT_DECRYPT, more);
    op::create::Request { protection_storage_masks: Some(masks), ..request }
}

/// Why a request was refused.
async fn refusal(app: &Kmip, operation: impl Into<Operation>) -> String {
    app.ask(operation).await.expect_err("refused")
}

/// Starts north again with this `storage` of `sae-n1`.
async fn keep(network: &mut Network, storage: &str) {
    network.stop(North);
    let config = network.site(North).config.clone();
    let text = std::fs::read_to_string(&config).unwrap();
    let id = "id = \"sae-n1\"\n";
    let (before, after) = text.split_once(id).unwrap();
    let after = after.trim_start_matches("storage = \"either\"\n");
    std::fs::write(&config, format!("{before}{id}storage = \"{storage}\"\n{after}")).unwrap();
    network.start_km(North);
    network.ready(North).await;
}

/// Where KMIP 2.x says that an object is.
async fn place(app: &Kmip, id: &str) -> Vec<Attribute> {
    let kind = AttributeKind::ProtectionStorageMask;
    let answer = app.ask(client::get_attributes(id, [kind.into()])).await.unwrap();
    let Answer::GetAttributes(found) = answer else { panic!("{answer:?}") };
    found.attributes.iter().cloned().collect()
}

/// Where Query says that new objects may be kept, the usual place first.
async fn offered(app: &Kmip) -> Vec<i32> {
    let query = client::query([QueryFunction::QueryStorageProtectionMasks]);
    let answer = app.ask(query).await.unwrap();
    let Answer::Query(told) = answer else { panic!("{answer:?}") };
    told.protection_storage_masks.unwrap().masks
}

async fn destroyed(app: &Kmip, id: &str) {
    // What was not active yet may be destroyed as it is.
    let _ = app.ask(client::revoke(id, RevocationReasonCode::CessationOfOperation)).await;
    app.ask(client::destroy(id)).await.unwrap();
}

/// Protection Storage Masks of KMIP 2.x, where the operator lets clients choose.
#[tokio::test(flavor = "multi_thread")]
async fn single_objects_are_kept_where_clients_ask() {
    let mut network = Network::north_alone(Options::default()).await;
    let app = network.kmip_client(North, "sae-n1").of(Version::V2_1);
    let why = refusal(&app, stored(HARDWARE, [])).await;
    assert!(why.contains("ProtectionStorageUnavailable"), "the operator did not say so: {why}");
    assert_eq!(offered(&app).await, [SOFTWARE]);
    keep(&mut network, "either").await;
    let app = network.kmip_client(North, "sae-n1").of(Version::V2_1);
    assert_eq!(offered(&app).await, [SOFTWARE, HARDWARE]);
    for (mask, objects) in [(SOFTWARE, 0.0), (HARDWARE, 1.0)] {
        let answer = app.ask(stored(mask, [active()])).await.unwrap();
        let Answer::Create(made) = answer else { panic!("{answer:?}") };
        assert_eq!(network.metric(North, "qkm_token_objects").await, objects);
        assert_eq!(place(&app, &made.id).await, [Attribute::ProtectionStorageMask(mask)]);
        encrypted(&app, &made.id).await;
        let again = op::rekey::Request { id: Some(made.id.as_str().into()), ..Default::default() };
        let answer = app.ask(again).await.unwrap();
        let Answer::ReKey(next) = answer else { panic!("{answer:?}") };
        assert_eq!(place(&app, &next.id).await, [Attribute::ProtectionStorageMask(mask)]);
        destroyed(&app, &made.id).await;
        destroyed(&app, &next.id).await;
        assert_eq!(network.metric(North, "qkm_token_objects").await, 0.0);
    }
    // It would be wrapped, and kept outside.
    let why = refusal(&app, stored(HARDWARE, [Attribute::Sensitive(true)])).await;
    assert!(why.contains("ProtectionStorageUnavailable"), "{why}");
    app.ask(stored(SOFTWARE, [Attribute::Sensitive(true)])).await.unwrap();
    keep(&mut network, "token").await;
    let app = network.kmip_client(North, "sae-n1").of(Version::V2_1);
    // Software for what the token wraps, and for nothing else.
    assert_eq!(offered(&app).await, [HARDWARE, SOFTWARE]);
    let why = refusal(&app, stored(SOFTWARE, [])).await;
    assert!(why.contains("ProtectionStorageUnavailable"), "{why}");
    app.ask(stored(SOFTWARE, [Attribute::Sensitive(true)])).await.unwrap();
}

/// `storage = "token"` of an application: its objects are private objects of SoftHSM.
#[tokio::test(flavor = "multi_thread")]
async fn objects_of_an_application_are_kept_inside_the_token() {
    let mut network = Network::north_alone(Options::default()).await;
    keep(&mut network, "token").await;
    let app = network.kmip_client(North, "sae-n1");
    let create = client::create(Algorithm::Aes, 256, ENCRYPT_DECRYPT, [active()]);
    let answer = app.ask(create).await.unwrap();
    let Answer::Create(made) = answer else { panic!("{answer:?}") };
    assert_eq!(custody(&app, &made.id).await.as_deref(), Some("host-transient"));
    let bytes = material(&app.ask(client::get(&made.id)).await.unwrap()).unwrap();
    let ciphertext = encrypted(&app, &made.id).await;
    assert_eq!(network.metric(North, "qkm_token_objects").await, 1.0);
    network.kill(North);
    network.start_km(North);
    network.ready(North).await;
    let app = network.kmip_client(North, "sae-n1");
    assert_eq!(material(&app.ask(client::get(&made.id)).await.unwrap()), Some(bytes));
    assert_eq!(encrypted(&app, &made.id).await, ciphertext);
    assert_eq!(network.metric(North, "qkm_token_objects").await, 1.0);
    let split = op::create_split_key::Request {
        object_type: ObjectType::SymmetricKey,
        id: Some(made.id.as_str().into()),
        parts: 3,
        threshold: 3,
        method: SplitKeyMethod::Xor,
        prime_field_size: None,
        attributes: Attributes::default(),
        protection_storage_masks: None,
    };
    let answer = app.ask(split).await.unwrap();
    let Answer::CreateSplitKey(parts) = answer else { panic!("{answer:?}") };
    assert_eq!(network.metric(North, "qkm_token_objects").await, 4.0);
    for id in parts.ids.iter().chain([&made.id]) {
        // A part without a state of its own may be destroyed as it is.
        let _ = app.ask(client::revoke(id, RevocationReasonCode::CessationOfOperation)).await;
        app.ask(client::destroy(id)).await.unwrap();
    }
    assert_eq!(network.metric(North, "qkm_token_objects").await, 0.0);
}
