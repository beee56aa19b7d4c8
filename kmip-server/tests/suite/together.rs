//! Cryptographic items of one batch, which are done at the same time, do what they do one by one.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use kmip::{
    Answer, DateTime, Operation, SecretBytes, Version,
    attribute::{Attribute, AttributeKind, CryptographicParameters, UsageLimits},
    client,
    enums::{
        BatchErrorContinuationOption, BlockCipherMode, PaddingMethod, ResultReason, UsageLimitsUnit,
    },
    message::{Outcome, RequestMessage, ResponseItem},
    op,
};

use crate::{
    batch::{reason, run},
    common::{Client, Network},
};

fn cbc() -> Option<CryptographicParameters> {
    Some(CryptographicParameters {
        block_cipher_mode: Some(BlockCipherMode::Cbc),
        padding_method: Some(PaddingMethod::Pkcs5),
        ..Default::default()
    })
}

fn encrypt(id: &str, data: &[u8]) -> Operation {
    op::encrypt::Request {
        id: Some(id.into()),
        parameters: cbc(),
        data: Some(SecretBytes::copy_from(data)),
        iv: Some(vec![7; 16]),
        ..Default::default()
    }
    .into()
}

fn decrypt(id: &str, data: &[u8]) -> Operation {
    op::decrypt::Request {
        id: Some(id.into()),
        parameters: cbc(),
        data: Some(data.to_vec()),
        iv: Some(vec![7; 16]),
        ..Default::default()
    }
    .into()
}

fn ciphertext(item: &ResponseItem) -> Vec<u8> {
    match &item.outcome {
        Outcome::Success(Answer::Encrypt(response)) => response.data.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn keys(client: &mut Client, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(client.aes([Attribute::ActivationDate(DateTime(1))]).await.unwrap());
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_keep_the_order_of_their_items() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let ids = keys(&mut client, 4).await;
    // More than are under way at a time, of different keys and lengths.
    let data: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; usize::from(n) * 3 + 1]).collect();
    let of = |n: usize| ids[n % ids.len()].as_str();
    let items = data.iter().enumerate().map(|(n, data)| encrypt(of(n), data));
    let sealed = run(&mut client, items, |_| {}).await;
    assert_eq!(sealed.len(), data.len());
    let numbers = sealed.iter().map(|item| item.id.clone().unwrap()[0]);
    assert!(numbers.eq(1..=100));
    let sealed: Vec<_> = sealed.iter().map(ciphertext).collect();
    let items = sealed.iter().enumerate().map(|(n, sealed)| decrypt(of(n), sealed));
    let opened = run(&mut client, items, |_| {}).await;
    for (n, (item, data)) in opened.iter().zip(&data).enumerate() {
        match &item.outcome {
            Outcome::Success(Answer::Decrypt(response)) => {
                let clear = response.data.as_ref().unwrap();
                assert!(clear.expose(|clear| clear == data), "item {n}");
            }
            other => panic!("item {n}: {other:?}"),
        }
    }
}

/// Items alike are asked of the token as one; what does not fit is refused by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_fit_leaves_those_like_it_alone() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let id = keys(&mut client, 1).await.remove(0);
    let mut sealed = Vec::new();
    for item in run(&mut client, (0..6).map(|n| encrypt(&id, &[n; 40])), |_| {}).await {
        sealed.push(ciphertext(&item));
    }
    sealed[2].pop();
    sealed[4].truncate(0);
    let go_on = |m: &mut RequestMessage| {
        m.header.batch_error_continuation = Some(BatchErrorContinuationOption::Continue);
    };
    let items = || sealed.iter().map(|sealed| decrypt(&id, sealed));
    let opened = run(&mut client, items(), go_on).await;
    for (n, item) in (0..).zip(&opened) {
        match &item.outcome {
            Outcome::Success(Answer::Decrypt(response)) if n != 2 && n != 4 => {
                let clear = response.data.as_ref().unwrap();
                assert!(clear.expose(|clear| clear == [n; 40]), "item {n}");
            }
            Outcome::Failed(_) if n == 2 || n == 4 => {}
            other => panic!("item {n}: {other:?}"),
        }
    }
    let stopped = run(&mut client, items(), |_| {}).await;
    assert_eq!(stopped.len(), 3, "nothing is answered after the first that failed");
}

/// Items that change a key stand between those that use it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_a_key_comes_after_the_uses_before_it() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let ids = keys(&mut client, 1).await;
    let use_it = || encrypt(&ids[0], b"data");
    let revoke = kmip::client::revoke(&ids[0], kmip::enums::RevocationReasonCode::Superseded);
    let items = [use_it(), use_it(), revoke.into(), use_it(), use_it()];
    let go_on = |m: &mut RequestMessage| {
        m.header.batch_error_continuation = Some(BatchErrorContinuationOption::Continue);
    };
    let done = run(&mut client, items, go_on).await;
    let ended = Some(ResultReason::WrongKeyLifecycleState.in_version(Version::V1_4));
    let found: Vec<_> = done.iter().map(reason).collect();
    assert_eq!(found, [None, None, None, ended, ended]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_limits_count_what_was_answered() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let free = keys(&mut client, 1).await.remove(0);
    let limits = |count| {
        Attribute::UsageLimits(UsageLimits { total: 10, count, unit: UsageLimitsUnit::Object })
    };
    let start = [Attribute::ActivationDate(DateTime(1)), limits(None)];
    let limited = client.aes(start).await.unwrap();
    let missing = "no such key";
    let items = || {
        let ids = [&free, &limited, &limited, missing, &limited, &free, &limited];
        ids.map(|id: &str| encrypt(id, b"data"))
    };
    let none = Some(ResultReason::ItemNotFound);
    let stopped = run(&mut client, items(), |_| {}).await;
    let found: Vec<_> = stopped.iter().map(reason).collect();
    assert_eq!(found, [None, None, None, none]);
    let left = client.attribute(&limited, AttributeKind::UsageLimits).await;
    assert_eq!(left, Some(limits(Some(8))), "nothing for what is not answered");

    let go_on = |m: &mut RequestMessage| {
        m.header.batch_error_continuation = Some(BatchErrorContinuationOption::Continue);
    };
    let all = run(&mut client, items(), go_on).await;
    let found: Vec<_> = all.iter().map(reason).collect();
    assert_eq!(found, [None, None, None, none, None, None, None]);
    let left = client.attribute(&limited, AttributeKind::UsageLimits).await;
    assert_eq!(left, Some(limits(Some(4))));

    // The first that is too many is refused, and none after it takes anything.
    let many = (0..6).map(|_| encrypt(&limited, b"data"));
    let done = run(&mut client, many, go_on).await;
    let found: Vec<_> = done.iter().map(reason).collect();
    let denied = Some(ResultReason::PermissionDenied);
    assert_eq!(found, [None, None, None, None, denied, denied]);
}

/// Items before them that are done alone do not count among those done together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_limits_count_what_was_answered_after_items_done_alone() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let total = UsageLimits { total: 10, count: None, unit: UsageLimitsUnit::Object };
    let start = [Attribute::ActivationDate(DateTime(1)), Attribute::UsageLimits(total.clone())];
    let first = client.aes(start.clone()).await.unwrap();
    let other = client.aes(start).await.unwrap();
    let mut items = Vec::new();
    for _ in 0..6 {
        items.push(client::activate(&client.aes([]).await.unwrap()).into());
    }
    // One waits for the other, so that the last would have time to go ahead of the one that fails.
    items.extend((0..5).map(|_| encrypt(&first, b"data")));
    items.extend([encrypt("no such key", b"data"), encrypt(&other, b"data")]);
    let stopped = run(&mut client, items, |_| {}).await;
    let found = reason(stopped.last().unwrap());
    assert_eq!((stopped.len(), found), (12, Some(ResultReason::ItemNotFound)));
    for (id, left) in [(&first, 5), (&other, 10)] {
        let expected = UsageLimits { count: Some(left), ..total.clone() };
        let found = client.attribute(id, AttributeKind::UsageLimits).await;
        assert_eq!(found, Some(Attribute::UsageLimits(expected)));
    }
}

/// Nor is a pool key collected for an item that is not answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_key_is_collected_after_what_stands_before_it() {
    let network = Network::stocked().await;
    let mut master = network.client("n1", Version::V1_4).await;
    let group = Attribute::ObjectGroup("qkd/south".to_owned());
    let key = master.aes([group]).await.unwrap();
    let mut slave = network.client("s1", Version::V1_4).await;
    let total = UsageLimits { total: 10, count: None, unit: UsageLimitsUnit::Object };
    let start = [Attribute::ActivationDate(DateTime(1)), Attribute::UsageLimits(total)];
    let own = slave.aes(start).await.unwrap();
    // One waits for the other, so that the last would have time to go ahead of the one that fails.
    let mut items: Vec<_> = (0..5).map(|_| encrypt(&own, b"data")).collect();
    items.extend([encrypt("no such key", b"data"), encrypt(&key, b"data")]);
    let stopped = run(&mut slave, items, |_| {}).await;
    let found = reason(stopped.last().unwrap());
    assert_eq!((stopped.len(), found), (6, Some(ResultReason::ItemNotFound)));
    assert_eq!(network.south.server.counters().pool_keys.load(Relaxed), 0);
    assert_eq!(slave.key(&key).await.unwrap(), master.key(&key).await.unwrap());
    assert_eq!(network.south.server.counters().pool_keys.load(Relaxed), 1);
}

/// However many ask, the token is asked for so much at a time: what is more waits its turn, and one
/// application leaves places to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_batches_wait_for_the_token_and_are_not_refused() {
    const CLIENTS: usize = 40;
    let network = Network::start().await;
    network.north.hsm.pairs.store(true, Relaxed);
    let inside = || [Attribute::ActivationDate(DateTime(1)), Attribute::Extractable(false)];
    let mut other = network.client("n2", Version::V1_4).await;
    let others = other.aes(inside()).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(network.client("n1", Version::V1_4).await);
    }
    let id = clients[0].aes(inside()).await.unwrap();
    network.north.hsm.slow.store(true, Relaxed);
    let batches = clients.into_iter().map(|mut client| {
        let items: Vec<_> = (0..32).map(|_| encrypt(&id, b"data")).collect();
        tokio::spawn(async move { run(&mut client, items, |_| {}).await })
    });
    let batches: Vec<_> = batches.collect();
    while network.north.hsm.most_at_once.load(Relaxed) < 32 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let done = run(&mut other, [encrypt(&others, b"data")], |_| {}).await;
    assert_eq!(reason(&done[0]), None);
    assert!(batches.iter().any(|batch| !batch.is_finished()), "the other went first");
    for batch in batches {
        let done = batch.await.unwrap();
        assert!(done.len() == 32 && done.iter().all(|item| reason(item).is_none()));
    }
    let most = network.north.hsm.most_at_once.load(Relaxed);
    assert!((200..=300).contains(&most), "{most} at a time");
}
