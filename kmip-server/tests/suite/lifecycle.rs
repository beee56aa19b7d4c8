//! The state machine of managed objects, by requests and by dates.

use std::time::{SystemTime, UNIX_EPOCH};

use kmip::{
    DateTime, Version,
    attribute::{Attribute, AttributeKind},
    client,
    enums::{ResultReason, RevocationReasonCode, State},
};

use crate::common::{Client, Network, refusal};

#[derive(Clone, Copy, Debug)]
enum Step {
    Activate,
    Revoke,
    Compromise,
    Destroy,
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

async fn take(client: &mut Client, id: &str, step: Step) -> bool {
    let result = match step {
        Step::Activate => client.activate(client::activate(id)).await.map(|_| ()),
        Step::Revoke => {
            let request = client::revoke(id, RevocationReasonCode::CessationOfOperation);
            client.revoke(request).await.map(|_| ())
        }
        Step::Compromise => {
            let request = client::revoke(id, RevocationReasonCode::KeyCompromise);
            client.revoke(request).await.map(|_| ())
        }
        Step::Destroy => client.destroy(client::destroy(id)).await.map(|_| ()),
    };
    match result {
        Ok(()) => true,
        refused => {
            assert_eq!(refusal(refused), ResultReason::WrongKeyLifecycleState);
            false
        }
    }
}

async fn state(client: &mut Client, id: &str) -> State {
    match client.attribute(id, AttributeKind::State).await {
        Some(Attribute::State(state)) => state,
        other => panic!("a state, not {other:?}"),
    }
}

/// From, how to get there, and where each step leads (`None`: refused).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_table_of_states() {
    use State::*;
    use Step::*;
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    type Row = (State, &'static [Step], [Option<State>; 4]);
    let table: [Row; 6] = [
        (PreActive, &[], [Some(Active), None, Some(Compromised), Some(Destroyed)]),
        (Active, &[Activate], [None, Some(Deactivated), Some(Compromised), None]),
        (Deactivated, &[Activate, Revoke], [None, None, Some(Compromised), Some(Destroyed)]),
        (Compromised, &[Compromise], [None, None, None, Some(DestroyedCompromised)]),
        (Destroyed, &[Destroy], [None, None, Some(DestroyedCompromised), None]),
        (DestroyedCompromised, &[Compromise, Destroy], [None; 4]),
    ];
    for (from, path, outcomes) in table {
        for (step, expected) in [Activate, Revoke, Compromise, Destroy].into_iter().zip(outcomes) {
            let id = client.aes([]).await.unwrap();
            for step in path {
                assert!(take(&mut client, &id, *step).await);
            }
            assert_eq!(state(&mut client, &id).await, from);
            let taken = take(&mut client, &id, step).await;
            assert_eq!(taken, expected.is_some(), "{from:?} {step:?}");
            assert_eq!(state(&mut client, &id).await, expected.unwrap_or(from));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dates_move_an_object() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let activation = |at| Attribute::ActivationDate(DateTime(at));
    let deactivation = |at| Attribute::DeactivationDate(DateTime(at));
    let past = now() - 100;
    let active = client.aes([activation(past)]).await.unwrap();
    assert_eq!(state(&mut client, &active).await, State::Active);
    let later = client.aes([activation(now() + 1000)]).await.unwrap();
    assert_eq!(state(&mut client, &later).await, State::PreActive);
    let over = client.aes([activation(past), deactivation(past + 1)]).await.unwrap();
    assert_eq!(state(&mut client, &over).await, State::Deactivated);
    let disorder = client.aes([activation(past), deactivation(past - 1)]).await;
    assert_eq!(refusal(disorder), ResultReason::InvalidAttributeValue);

    let soon = client.aes([activation(now() + 1), deactivation(now() + 2)]).await.unwrap();
    while state(&mut client, &soon).await != State::Deactivated {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Nobody wrote the two steps down; Destroy does, and follows the table.
    assert!(!take(&mut client, &soon, Step::Activate).await);
    assert!(take(&mut client, &soon, Step::Destroy).await);
    assert_eq!(state(&mut client, &soon).await, State::Destroyed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dates_and_reasons_are_kept() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V1_4).await;
    let id = client.aes([]).await.unwrap();
    assert_eq!(client.attribute(&id, AttributeKind::ActivationDate).await, None);
    take(&mut client, &id, Step::Activate).await;
    assert!(client.attribute(&id, AttributeKind::ActivationDate).await.is_some());
    let mut revoke = client::revoke(&id, RevocationReasonCode::KeyCompromise);
    revoke.reason.message = Some("left on a train".into());
    revoke.compromise_occurrence_date = Some(DateTime(1000));
    client.revoke(revoke).await.unwrap();
    let occurred = client.attribute(&id, AttributeKind::CompromiseOccurrenceDate).await;
    assert_eq!(occurred, Some(Attribute::CompromiseOccurrenceDate(DateTime(1000))));
    assert!(client.attribute(&id, AttributeKind::CompromiseDate).await.is_some());
    let Some(Attribute::RevocationReason(reason)) =
        client.attribute(&id, AttributeKind::RevocationReason).await
    else {
        panic!("a reason")
    };
    assert_eq!(reason.message.as_deref(), Some("left on a train"));
    client.key(&id).await.expect("a compromised key still opens what it closed");
    take(&mut client, &id, Step::Destroy).await;
    assert!(client.attribute(&id, AttributeKind::DestroyDate).await.is_some());
    assert!(
        network
            .north
            .objects
            .get(&crate::common::sae_id("n1"), &id)
            .await
            .unwrap()
            .0
            .sealed
            .is_none()
    );
}
