//! The life of objects as a state machine: dates of creation, Activate, Revoke, Destroy, Archive and
//! Recover, and at every point what the key may be used for.

use std::time::{SystemTime, UNIX_EPOCH};

use kmip::{
    DateTime, SecretBytes, Version,
    attribute::{Attribute, AttributeKind, CryptographicParameters},
    client,
    enums::{BlockCipherMode, PaddingMethod, RevocationReasonCode, State},
    op,
};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tokio::runtime::Runtime;

use crate::common::{Client, Network};

/// When a new key is to become active, and to stop being so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dates {
    None,
    Past,
    Future,
    PastAndOver,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Create(Dates),
    Activate(usize),
    Deactivate(usize),
    Compromise(usize),
    Destroy(usize),
    Archive(usize),
    Recover(usize),
}

#[derive(Clone, Copy, Debug)]
struct Key {
    state: State,
    archived: bool,
}

impl Key {
    fn is_destroyed(self) -> bool {
        matches!(self.state, State::Destroyed | State::DestroyedCompromised)
    }

    fn may_protect(self) -> bool {
        self.state == State::Active && !self.archived
    }

    fn may_open(self) -> bool {
        let past = [State::Active, State::Deactivated, State::Compromised];
        past.contains(&self.state) && !self.archived
    }

    fn may_leave(self) -> bool {
        !self.is_destroyed() && !self.archived
    }

    /// What a step makes of it; `None` when it is to be refused.
    fn after(self, step: Step) -> Option<Self> {
        use State::*;
        let state = match (step, self.state) {
            (Step::Archive(_), _) if self.archived || self.is_destroyed() => return None,
            (Step::Archive(_), _) => return Some(Self { archived: true, ..self }),
            (Step::Recover(_), _) => return Some(Self { archived: false, ..self }),
            _ if self.archived => return None,
            (Step::Activate(_), PreActive) => Active,
            (Step::Deactivate(_), Active) => Deactivated,
            (Step::Compromise(_), PreActive | Active | Deactivated) => Compromised,
            (Step::Compromise(_), Destroyed) => DestroyedCompromised,
            (Step::Destroy(_), PreActive | Deactivated) => Destroyed,
            (Step::Destroy(_), Compromised) => DestroyedCompromised,
            _ => return None,
        };
        Some(Self { state, ..self })
    }
}

impl Step {
    /// Which key it is about, of so many.
    fn place(self, keys: usize) -> Option<usize> {
        match self {
            Self::Create(_) => None,
            Self::Activate(at)
            | Self::Deactivate(at)
            | Self::Compromise(at)
            | Self::Destroy(at)
            | Self::Archive(at)
            | Self::Recover(at) => at.checked_rem(keys),
        }
    }
}

struct Life;

impl ReferenceStateMachine for Life {
    type State = Vec<Key>;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self::State> {
        Just(Vec::new()).boxed()
    }

    fn transitions(keys: &Self::State) -> BoxedStrategy<Step> {
        let dates = prop_oneof![
            2 => Just(Dates::None),
            2 => Just(Dates::Past),
            1 => Just(Dates::Future),
            1 => Just(Dates::PastAndOver),
        ];
        let create = dates.prop_map(Step::Create);
        if keys.is_empty() {
            return create.boxed();
        }
        let at = 0..keys.len();
        prop_oneof![
            2 => create,
            3 => at.clone().prop_map(Step::Activate),
            3 => at.clone().prop_map(Step::Deactivate),
            2 => at.clone().prop_map(Step::Compromise),
            3 => at.clone().prop_map(Step::Destroy),
            2 => at.clone().prop_map(Step::Archive),
            2 => at.prop_map(Step::Recover),
        ]
        .boxed()
    }

    fn apply(mut keys: Self::State, step: &Step) -> Self::State {
        if let Step::Create(dates) = step {
            let state = match dates {
                Dates::None | Dates::Future => State::PreActive,
                Dates::Past => State::Active,
                Dates::PastAndOver => State::Deactivated,
            };
            keys.push(Key { state, archived: false });
        } else if let Some(at) = step.place(keys.len())
            && let Some(next) = keys[at].after(*step)
        {
            keys[at] = next;
        }
        keys
    }
}

/// The server, and what it was asked to make.
struct Real {
    runtime: Runtime,
    _network: Network,
    client: Client,
    ids: Vec<String>,
    /// The keys as the model had them before the step that is done now.
    before: Vec<Key>,
}

struct LifeOfKeys;

impl StateMachineTest for LifeOfKeys {
    type SystemUnderTest = Real;
    type Reference = Life;

    fn init_test(keys: &Vec<Key>) -> Real {
        let runtime = Runtime::new().unwrap();
        let (network, client) = runtime.block_on(async {
            let network = Network::start().await;
            let client = network.client("n1", Version::V2_1).await;
            (network, client)
        });
        Real { runtime, _network: network, client, ids: Vec::new(), before: keys.clone() }
    }

    fn apply(mut real: Real, keys: &Vec<Key>, step: Step) -> Real {
        let Real { runtime, client, ids, before, .. } = &mut real;
        runtime.block_on(async {
            let Some(at) = step.place(ids.len()) else {
                let Step::Create(dates) = step else { unreachable!("others have a key") };
                ids.push(client.aes(attributes(dates)).await.unwrap());
                return;
            };
            let done = take(client, &ids[at], step).await;
            let expected = before[at].after(step).is_some();
            assert_eq!(done, expected, "{step:?} of {:?}", before[at]);
        });
        before.clone_from(keys);
        real
    }

    fn check_invariants(_: &Real, _: &Vec<Key>) {}

    fn teardown(mut real: Real, keys: Vec<Key>) {
        let Real { runtime, client, ids, .. } = &mut real;
        runtime.block_on(async {
            for (id, key) in ids.iter().zip(&keys) {
                look_at(client, id, *key).await;
            }
            let live = keys.iter().zip(&*ids).filter(|(key, _)| key.may_leave());
            let mut live: Vec<_> = live.map(|(_, id)| id.clone()).collect();
            let mut found = client.locate(client::locate([])).await.unwrap().ids;
            live.sort();
            found.sort();
            assert_eq!(found, live, "on line and not destroyed");
        });
    }
}

fn attributes(dates: Dates) -> Vec<Attribute> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let active = |at: i64| Attribute::ActivationDate(DateTime(at));
    match dates {
        Dates::None => Vec::new(),
        Dates::Past => vec![active(now - 100)],
        Dates::Future => vec![active(now + 10_000)],
        Dates::PastAndOver => {
            vec![active(now - 100), Attribute::DeactivationDate(DateTime(now - 50))]
        }
    }
}

async fn take(client: &mut Client, id: &str, step: Step) -> bool {
    let revoke = |code| client::revoke(id, code);
    match step {
        Step::Create(_) => unreachable!("made elsewhere"),
        Step::Activate(_) => client.activate(client::activate(id)).await.is_ok(),
        Step::Deactivate(_) => {
            client.revoke(revoke(RevocationReasonCode::Superseded)).await.is_ok()
        }
        Step::Compromise(_) => {
            client.revoke(revoke(RevocationReasonCode::KeyCompromise)).await.is_ok()
        }
        Step::Destroy(_) => client.destroy(client::destroy(id)).await.is_ok(),
        Step::Archive(_) => {
            client.archive(op::archive::Request { id: Some(id.into()) }).await.is_ok()
        }
        Step::Recover(_) => {
            client.recover(op::recover::Request { id: Some(id.into()) }).await.is_ok()
        }
    }
}

/// The server knows its state, and lets it be used for what that allows and nothing else.
async fn look_at(client: &mut Client, id: &str, key: Key) {
    let state = client.attribute(id, AttributeKind::State).await;
    assert_eq!(state, Some(Attribute::State(key.state)), "{key:?}");
    let parameters = Some(CryptographicParameters {
        block_cipher_mode: Some(BlockCipherMode::Ecb),
        padding_method: Some(PaddingMethod::None),
        ..CryptographicParameters::default()
    });
    let data = || Some(SecretBytes::copy_from(&[7; 16]));
    let encrypt = op::encrypt::Request {
        id: Some(id.into()),
        parameters: parameters.clone(),
        data: data(),
        ..<_>::default()
    };
    assert_eq!(client.encrypt(encrypt).await.is_ok(), key.may_protect(), "{key:?}");
    let decrypt = op::decrypt::Request {
        id: Some(id.into()),
        parameters,
        data: Some(vec![7; 16]),
        ..<_>::default()
    };
    assert_eq!(client.decrypt(decrypt).await.is_ok(), key.may_open(), "{key:?}");
    assert_eq!(client.get(client::get(id)).await.is_ok(), key.may_leave(), "{key:?}");
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..<_>::default() })]
    #[test]
    fn keys_live_as_the_model_says(sequential 1..30 => LifeOfKeys);
}
