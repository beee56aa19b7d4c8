//! The HSM library of a running KM crashes, hangs and refuses; the KM answers in time, says what is
//! wrong, and serves again by itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../testkit/p11_shim.rs"]
#[allow(dead_code, unreachable_pub)]
mod p11_shim;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use kmip::{
    Answer, SecretBytes,
    attribute::Attribute,
    client,
    enums::{CryptographicAlgorithm, ValidityIndicator},
    op,
};
use p11_shim::Shim;
use qkm_tests::{
    clients::material,
    network::{End, Network, Options, monitor_get},
};

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const ENCRYPT_DECRYPT: i32 = 12;
/// `deadline_ms` of the token, its eighth, and time for a busy machine.
const LATEST: Duration = Duration::from_millis(1000 + 125 + 3000);
/// Service is back this soon after.
const BACK: Duration = Duration::from_secs(12);

/// Two KMs; the library of the northern one obeys.
async fn network(dir: &Path) -> (Network, Shim) {
    let shim = Shim::new(dir.join("orders"));
    let library = p11_shim::library();
    let env: Vec<_> =
        shim.env(SOFTHSM.as_ref()).into_iter().map(|(k, v)| format!("{k} = {v:?}")).collect();
    let lines = format!(
        "library = {:?}\nenv = {{ {} }}\ndeadline_ms = 1000",
        library.display().to_string(),
        env.join(", ")
    );
    let options = Options { hsm: [("north", lines)].into(), ..Options::default() };
    let network = Network::start(options).await;
    network.stocked(End::North, 1000).await;
    (network, shim)
}

/// A new managed object, which the token seals: what the client got to know of it, if it got it.
async fn create(network: &Network) -> Option<(String, String)> {
    let client = network.kmip_client(End::North, "sae-n1");
    let asked = Instant::now();
    let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, vec![]);
    let answer = client.ask(create).await;
    assert!(asked.elapsed() < LATEST, "an answer after {:?}: {answer:?}", asked.elapsed());
    let Ok(Answer::Create(created)) = answer else { return None };
    let asked = Instant::now();
    let got = client.ask(client::get(&created.id)).await;
    assert!(asked.elapsed() < LATEST, "an answer after {:?}: {got:?}", asked.elapsed());
    got.ok().map(|got| (created.id.clone(), material(&got).unwrap()))
}

/// A pair whose private key is only in the token: its identifiers.
async fn pair(network: &Network) -> (String, String) {
    let active = Attribute::ActivationDate(kmip::DateTime(1));
    let create = op::create_key_pair::Request {
        common: [
            Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Ecdsa),
            Attribute::CryptographicLength(256),
            active,
        ]
        .into_iter()
        .collect(),
        private: [Attribute::CryptographicUsageMask(1), Attribute::Extractable(false)]
            .into_iter()
            .collect(),
        public: [Attribute::CryptographicUsageMask(2)].into_iter().collect(),
        ..Default::default()
    };
    let answer = network.kmip_client(End::North, "sae-n1").ask(create).await;
    let Answer::CreateKeyPair(pair) = answer.unwrap() else { panic!() };
    (pair.private_id, pair.public_id)
}

/// Signs in the token and verifies. `None` when it was not signed, as it may; never a wrong one.
async fn sign(network: &Network, (private, public): &(String, String)) -> Option<()> {
    let client = network.kmip_client(End::North, "sae-n1");
    let data = || Some(SecretBytes::copy_from(b"what is signed"));
    let sign =
        op::sign::Request { id: Some(private.as_str().into()), data: data(), ..Default::default() };
    let asked = Instant::now();
    let answer = client.ask(sign).await;
    assert!(asked.elapsed() < LATEST, "an answer after {:?}: {answer:?}", asked.elapsed());
    let Ok(Answer::Sign(answer)) = answer else { return None };
    let verify = op::signature_verify::Request {
        id: Some(public.as_str().into()),
        data: data(),
        signature: answer.signature,
        ..Default::default()
    };
    let Ok(Answer::SignatureVerify(verified)) = client.ask(verify).await else { return None };
    assert_eq!(verified.validity, ValidityIndicator::Valid);
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_km_outlives_every_failure_of_its_hsm_library() {
    let dir = tempfile::tempdir().unwrap();
    let (network, shim) = network(dir.path()).await;
    let (km, monitor) = (network.pid(End::North), network.site(End::North).monitor);
    let mut created = vec![create(&network).await.expect("a well token")];
    let pair = pair(&network).await;
    sign(&network, &pair).await.expect("a well token");
    for order in [
        "C_Encrypt 1 hang",
        "C_EncryptInit 1 abort",
        "C_Encrypt 1 answer 0x30",
        "C_Sign 1 abort",
        "C_Sign 1 answer 0x30",
    ] {
        shim.order(&[order.to_owned()]);
        let ordered = Instant::now();
        loop {
            created.extend(create(&network).await);
            sign(&network, &pair).await;
            let (status, said) = monitor_get(monitor, "/readyz").await.expect("it lives");
            if status == 503 {
                assert!(said.contains("HSM token"), "{order}: {said}");
                break;
            }
            assert!(ordered.elapsed() < BACK, "{order}: {said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        shim.lift();
        let lifted = Instant::now();
        let again = loop {
            if let Some(again) = create(&network).await {
                break again;
            }
            assert!(lifted.elapsed() < BACK, "{order}: no service after {BACK:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        created.push(again);
        while sign(&network, &pair).await.is_none() {
            assert!(lifted.elapsed() < BACK, "{order}: no signature after {BACK:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        network.ready(End::North).await;
        assert!(lifted.elapsed() < BACK, "{order}: not ready after {BACK:?}");
    }
    assert_eq!(network.pid(End::North), km, "the same process all the time");
    assert!(network.metric(End::North, "qkm_hsm_worker_restarts_total").await >= 2.0);
    let client = network.kmip_client(End::North, "sae-n1");
    for (id, bytes) in &created {
        let got = client.ask(client::get(id)).await.unwrap();
        assert_eq!(material(&got).as_deref(), Some(bytes.as_str()), "object {id}");
    }
    let said = network.etsi(End::North, "sae-n1").enc("sae-s1", 10).await.unwrap();
    let keys = said.keys();
    let ids: Vec<&str> = keys.iter().map(|(id, _)| id.as_str()).collect();
    let far = network.etsi(End::South, "sae-s1").dec("sae-n1", &ids).await.unwrap();
    assert_eq!((keys.len(), far.keys()), (10, keys), "equal keys at both ends");
}
