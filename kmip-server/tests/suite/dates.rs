//! What a date brings, told over Notify.

use km_core::store::{Commit, Store};
use kmip::{DateTime, Version, attribute::Attribute, enums::State};
use kmip_server::policy::Sent;

use crate::notices::{bind, listen, network, policies, state};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_date_brings_is_told_to_everybody() {
    let (listener, address) = bind().await;
    let network = network(address, Version::V1_4, Sent::Nothing).await;
    let mut inbox = listen(listener, &network.certificate_of_endpoint("n2"), 0);
    let mut own = network.client("n2", Version::V2_1).await;
    let now = i64::try_from(km_core::clock::now_ms() / 1000).unwrap();
    let dates = |from: i64, until: i64| {
        [
            Attribute::ActivationDate(DateTime(now + from)),
            Attribute::DeactivationDate(DateTime(now + until)),
        ]
    };
    let before = own.aes(dates(4, 1000)).await.unwrap();
    network.tell();
    let after = own.aes(dates(6, 8)).await.unwrap();
    assert_eq!(state(&mut inbox).await, (before, State::Active));
    assert_eq!(state(&mut inbox).await, (after.clone(), State::Active));
    assert_eq!(state(&mut inbox).await, (after, State::Deactivated));
    let told = network.north.server.counters().told.load(std::sync::atomic::Ordering::Relaxed);
    assert!(told >= 2, "{told}");
}

/// The server looks for dates when it starts, from the newest object to the oldest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_does_not_keep_dates_of_others_from_being_told() {
    let (listener, address) = bind().await;
    let network = network(address, Version::V1_4, Sent::Nothing).await;
    let mut inbox = listen(listener, &network.certificate_of_endpoint("n2"), 0);
    let mut own = network.client("n2", Version::V2_1).await;
    let soon = i64::try_from(km_core::clock::now_ms() / 1000).unwrap() + 4;
    let older = own.aes([Attribute::ActivationDate(DateTime(soon))]).await.unwrap();
    let damaged = own.aes([]).await.unwrap();
    let key = format!("object/{damaged}\0bank").into_bytes();
    let store = &network.north.store;
    assert!(store.get(&key).await.unwrap().is_some(), "that is where it stands");
    store.commit(Commit::new().put(key, b"rot".to_vec())).await.unwrap();
    let _telling = network.tell_after_restart(&policies(address, Version::V1_4, Sent::Nothing));
    assert_eq!(state(&mut inbox).await, (older, State::Active));
}
