//! Requests that are sent before those in front of them are answered.

use std::{
    collections::BTreeMap, num::NonZeroU32, sync::atomic::Ordering::Relaxed, time::Duration,
};

use km_core::ids::SaeId;
use kmip::{
    Answer, DateTime, Operation, SecretBytes, Version,
    attribute::{Attribute, CryptographicParameters},
    client::{self, ClientError},
    enums::{BlockCipherMode, ResultReason, RevocationReasonCode},
    op,
};

use kmip_server::{
    Limits,
    policy::{Policies, Policy},
};

use crate::common::{Client, Network};

/// A network whose token takes its time, a client, and keys that are used inside the token.
async fn slow<const N: usize>() -> (Network, Client, [String; N]) {
    let network = Network::start().await;
    network.north.hsm.pairs.store(true, Relaxed);
    let mut client = network.client("n1", Version::V2_1).await;
    let mut ids = [const { String::new() }; N];
    for id in &mut ids {
        let inside = [Attribute::ActivationDate(DateTime(1)), Attribute::Extractable(false)];
        *id = client.aes(inside).await.unwrap();
    }
    network.north.hsm.slow.store(true, Relaxed);
    (network, client, ids)
}

/// So many bytes are encrypted.
fn encrypt(id: &str, bytes: usize) -> Operation {
    op::encrypt::Request {
        id: Some(id.into()),
        parameters: Some(CryptographicParameters {
            block_cipher_mode: Some(BlockCipherMode::Ctr),
            ..Default::default()
        }),
        data: Some(SecretBytes::copy_from(&vec![3; bytes])),
        iv: Some(vec![7; 16]),
        ..Default::default()
    }
    .into()
}

async fn send(client: &mut Client, operations: impl IntoIterator<Item = Operation>) {
    let all = operations.into_iter().map(|one| client.kmip.request(one).unwrap().to_vec());
    let all = all.collect::<Vec<_>>().concat();
    client.send(&all).await;
}

/// The next answer: how much was encrypted, 0 for another operation.
async fn answered(client: &mut Client) -> Result<usize, ResultReason> {
    let frame = client.receive().await.expect("an answer");
    match client.kmip.answer(&frame) {
        Ok(Answer::Encrypt(response)) => Ok(response.data.unwrap().len()),
        Ok(_) => Ok(0),
        Err(ClientError::Refused { reason, .. }) => Err(reason),
        Err(other) => panic!("{other}"),
    }
}

async fn until_in_use(network: &Network, keys: usize) {
    while network.north.hsm.most_at_once.load(Relaxed) < keys {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_only_use_keys_are_under_way_at_a_time() {
    let (network, mut client, [one, other]) = slow().await;
    send(&mut client, (1..=7).map(|n| encrypt(if n % 3 == 0 { &other } else { &one }, n))).await;
    for n in 1..=7 {
        assert_eq!(answered(&mut client).await, Ok(n));
    }
    assert_eq!(network.north.hsm.most_at_once.load(Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_a_key_is_overtaken_by_nothing() {
    let (_network, mut client, [id]) = slow().await;
    let revoke = || client::revoke(&id, RevocationReasonCode::Superseded).into();
    send(&mut client, [encrypt(&id, 1), encrypt(&id, 2), revoke(), encrypt(&id, 3), revoke()])
        .await;
    for expected in [Ok(1), Ok(2), Ok(0), Err(ResultReason::WrongKeyLifecycleState)] {
        assert_eq!(answered(&mut client).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_makes_no_sense_is_told_of_in_its_turn() {
    let (_network, mut client, [id]) = slow().await;
    let mut bad = client.kmip.request(encrypt(&id, 3)).unwrap().to_vec();
    // The length of its last value, which is less than a block of 8 bytes.
    *bad.last_chunk_mut::<32>().unwrap() = [0xFF; 32];
    send(&mut client, [encrypt(&id, 1), encrypt(&id, 2)]).await;
    client.send(&bad).await;
    send(&mut client, [encrypt(&id, 4)]).await;
    let sense = Err(ResultReason::InvalidMessage);
    for expected in [Ok(1), Ok(2), sense, Ok(4)] {
        assert_eq!(answered(&mut client).await, expected);
    }
    client.send(b"this is no frame").await;
    assert!(client.receive().await.is_none(), "nobody could read an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_no_more_still_hears_the_answers() {
    let (_network, mut client, [id]) = slow().await;
    send(&mut client, [encrypt(&id, 1), encrypt(&id, 2), encrypt(&id, 3)]).await;
    client.say_no_more().await;
    for n in 1..=3 {
        assert_eq!(answered(&mut client).await, Ok(n));
    }
    assert!(client.receive().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_answers_what_is_under_way() {
    let (network, mut client, [id]) = slow().await;
    send(&mut client, [encrypt(&id, 1), encrypt(&id, 2), encrypt(&id, 3)]).await;
    until_in_use(&network, 2).await;
    network.north.stop();
    for n in 1..=2 {
        assert_eq!(answered(&mut client).await, Ok(n));
    }
    assert!(client.receive().await.is_none(), "the third had not begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_begins_nothing_beside_what_is_under_way() {
    let (network, mut client, [id]) = slow().await;
    send(&mut client, [encrypt(&id, 1)]).await;
    until_in_use(&network, 1).await;
    network.north.stop();
    send(&mut client, [encrypt(&id, 2)]).await;
    assert_eq!(answered(&mut client).await, Ok(1));
    assert!(client.receive().await.is_none());
    assert_eq!(network.north.hsm.most_at_once.load(Relaxed), 1);
}

/// What is under way when its connection ends is finished, and gives back what it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_takes_nothing_along() {
    let (network, mut other, [id]) = slow().await;
    for _ in 0..3 {
        let mut client = network.client("n1", Version::V2_1).await;
        send(&mut client, [encrypt(&id, 1), encrypt(&id, 2), encrypt(&id, 3)]).await;
        until_in_use(&network, 2).await;
        drop(client);
        network.north.hsm.most_at_once.store(0, Relaxed);
    }
    // Until nothing of theirs is under way any more: then one use is one at a time.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        network.north.hsm.most_at_once.store(0, Relaxed);
        send(&mut other, [encrypt(&id, 4)]).await;
        assert_eq!(answered(&mut other).await, Ok(4));
        if network.north.hsm.most_at_once.load(Relaxed) == 1 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "something is under way for ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_refused_once() {
    let (network, _client, [id]) = slow().await;
    let mut ghost = network.client("ghost", Version::V2_1).await;
    send(&mut ghost, [encrypt(&id, 1), encrypt(&id, 2), encrypt(&id, 3)]).await;
    assert_eq!(answered(&mut ghost).await, Err(ResultReason::AuthenticationNotSuccessful));
    assert!(ghost.receive().await.is_none());
    assert_eq!(network.north.hsm.most_at_once.load(Relaxed), 0);
}

/// Were both to wait for their turn at once, the second would be refused for the time the first takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_a_pace_is_slowed_and_not_refused() {
    let slow = Policy { operations_per_s: NonZeroU32::new(10), ..Policy::default() };
    let policies = Policies::from([(SaeId::parse("n1").unwrap(), slow)]);
    let network = Network::start_as(Limits::default(), policies, BTreeMap::new()).await;
    let mut client = network.client("n1", Version::V2_1).await;
    let id = client.aes([Attribute::ActivationDate(DateTime(1))]).await.unwrap();
    let batch = client.kmip.batch((0..32).map(|_| encrypt(&id, 1))).unwrap().to_vec();
    client.send(&[&batch[..], &batch].concat()).await;
    for _ in 0..2 {
        let answer = client.receive().await.unwrap();
        assert_eq!(client.kmip.answers(&answer).unwrap().len(), 32);
    }
}
