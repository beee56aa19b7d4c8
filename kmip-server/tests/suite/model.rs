//! The life of objects and batches of every kind against a model that fits on a page.

use kmip::{
    Answer, Operation, Version,
    attribute::{Attribute, AttributeKind, Instance, Name, UniqueIdentifier},
    client,
    enums::{BatchErrorContinuationOption as After, *},
    message::{Outcome, RequestHeader, RequestItem, RequestMessage, ResponseMessage},
    op,
};
use proptest::prelude::*;

use crate::common::{Client, Network};

#[derive(Clone, Debug)]
enum Act {
    Create(u8),
    Activate(usize),
    Deactivate(usize),
    Compromise(usize),
    Destroy(usize),
    Name(usize, u8),
    Unname(usize, u8),
}

#[derive(Clone, Debug)]
struct Thing {
    /// Unknown until the answer came.
    id: Option<String>,
    state: State,
    names: Vec<u8>,
}

impl Thing {
    fn is_destroyed(&self) -> bool {
        matches!(self.state, State::Destroyed | State::DestroyedCompromised)
    }
}

/// What the server should think. Objects an act means are counted among those there were before
/// the batch.
#[derive(Clone, Debug, Default)]
struct Model(Vec<Thing>);

impl Model {
    fn is_taken(&self, name: u8) -> bool {
        self.0.iter().any(|thing| !thing.is_destroyed() && thing.names.contains(&name))
    }

    /// Does an act; `false` when it is to fail.
    fn act(&mut self, act: &Act, known: usize) -> bool {
        use State::*;
        let taken = |name: &u8| self.is_taken(*name);
        let (at, next): (usize, fn(State) -> Option<State>) = match act {
            Act::Create(name) if taken(name) => return false,
            Act::Create(name) => {
                self.0.push(Thing { id: None, state: PreActive, names: vec![*name] });
                return true;
            }
            Act::Name(at, name) => {
                let free = !taken(name);
                let Some(thing) = at.checked_rem(known).and_then(|at| self.0.get_mut(at)) else {
                    return false;
                };
                let may = free && !thing.is_destroyed();
                if may {
                    thing.names.push(*name);
                }
                return may;
            }
            Act::Unname(at, name) => {
                let Some(thing) = at.checked_rem(known).and_then(|at| self.0.get_mut(at)) else {
                    return false;
                };
                let may = !thing.is_destroyed() && thing.names.contains(name);
                thing.names.retain(|other| !may || other != name);
                return may;
            }
            Act::Activate(at) => (*at, |state| (state == PreActive).then_some(Active)),
            Act::Deactivate(at) => (*at, |state| (state == Active).then_some(Deactivated)),
            Act::Compromise(at) => (*at, |state| match state {
                PreActive | Active | Deactivated => Some(Compromised),
                Destroyed => Some(DestroyedCompromised),
                _ => None,
            }),
            Act::Destroy(at) => (*at, |state| match state {
                PreActive | Deactivated => Some(Destroyed),
                Compromised => Some(DestroyedCompromised),
                _ => None,
            }),
        };
        let thing = at.checked_rem(known).and_then(|at| self.0.get_mut(at));
        let Some((thing, next)) = thing.and_then(|t| next(t.state).map(|next| (t, next))) else {
            return false;
        };
        thing.state = next;
        true
    }

    /// The request of an act.
    fn operation(&self, act: &Act) -> Operation {
        let id = |at: &usize| {
            let thing = at.checked_rem(self.0.len()).and_then(|at| self.0.get(at));
            thing.and_then(|thing| thing.id.clone()).unwrap_or_else(|| "nothing".to_owned())
        };
        let name = |name: &u8| Attribute::Name(Name::text(format!("name {name}")));
        let named = |at| Some(UniqueIdentifier::from(id(at).as_str()));
        match act {
            Act::Create(n) => {
                client::create(CryptographicAlgorithm::Aes, 256, 12, [name(n)]).into()
            }
            Act::Activate(at) => client::activate(&id(at)).into(),
            Act::Deactivate(at) => client::revoke(&id(at), RevocationReasonCode::Superseded).into(),
            Act::Compromise(at) => {
                client::revoke(&id(at), RevocationReasonCode::KeyCompromise).into()
            }
            Act::Destroy(at) => client::destroy(&id(at)).into(),
            Act::Name(at, n) => {
                let attribute = Instance { index: None, attribute: name(n) };
                op::add_attribute::Request { id: named(at), attribute }.into()
            }
            Act::Unname(at, n) => {
                let (id, current) = (named(at), Some(name(n)));
                op::delete_attribute::Request { id, current, ..<_>::default() }.into()
            }
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    let (at, name) = (0usize..6, 0u8..4);
    prop_oneof![
        3 => name.clone().prop_map(Act::Create),
        3 => at.clone().prop_map(Act::Activate),
        2 => at.clone().prop_map(Act::Deactivate),
        1 => at.clone().prop_map(Act::Compromise),
        2 => at.clone().prop_map(Act::Destroy),
        2 => (at.clone(), name.clone()).prop_map(|(at, name)| Act::Name(at, name)),
        1 => (at, name).prop_map(|(at, name)| Act::Unname(at, name)),
    ]
}

fn batch() -> impl Strategy<Value = (After, Vec<Act>)> {
    let after = prop_oneof![Just(After::Stop), Just(After::Continue), Just(After::Undo)];
    (after, proptest::collection::vec(act(), 1..6))
}

/// Sends a batch and expects of every item what the model says.
async fn send(client: &mut Client, model: &mut Model, after: After, acts: &[Act]) {
    let version = client.version;
    let mut header = RequestHeader::new(version);
    header.batch_error_continuation = Some(after);
    let items = acts.iter().map(|act| RequestItem::new(model.operation(act))).collect();
    let frame = RequestMessage { version, header, items }.encode().unwrap();
    let answers = ResponseMessage::decode(&client.exchange(&frame).await).unwrap().items;

    let (before, known) = (model.clone(), model.0.len());
    let mut expected = Vec::new();
    for act in acts {
        expected.push(model.act(act, known));
        if after != After::Continue && expected.last() == Some(&false) {
            break;
        }
    }
    assert_eq!(answers.len(), expected.len(), "{acts:?}");
    let undone = after == After::Undo && acts.len() > 1 && expected.contains(&false);
    let mut made = known;
    for (answer, done) in answers.into_iter().zip(&expected) {
        match answer.outcome {
            Outcome::Success(Answer::Create(created)) if *done && !undone => {
                model.0[made].id = Some(created.id);
                made += 1;
            }
            Outcome::Success(_) if *done && !undone => {}
            Outcome::Undone { .. } if *done && undone => {}
            Outcome::Failed(_) if !done => {}
            other => panic!("{acts:?} {after:?}: {other:?}, expected {done}"),
        }
    }
    if undone {
        *model = before;
    }
}

/// The server knows what the model knows, and no object more.
async fn compare(client: &mut Client, model: &Model) {
    for thing in &model.0 {
        let id = thing.id.as_deref().unwrap();
        let wanted = [AttributeKind::State.into(), AttributeKind::Name.into()];
        let told = client.get_attributes(client::get_attributes(id, wanted)).await.unwrap();
        let mut expected = vec![Attribute::State(thing.state)];
        let names = thing.names.iter().map(|name| format!("name {name}"));
        expected.extend(names.map(|name| Attribute::Name(Name::text(name))));
        let told: Vec<Attribute> = told.attributes.iter().cloned().collect();
        assert_eq!(told, expected);
    }
    let live = model.0.iter().filter(|thing| !thing.is_destroyed());
    let mut live: Vec<_> = live.filter_map(|thing| thing.id.clone()).collect();
    let mut found = client.locate(client::locate([])).await.unwrap().ids;
    live.sort();
    found.sort();
    assert_eq!(found, live);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..<_>::default() })]
    #[test]
    fn batches_do_what_the_model_says(
        batches in proptest::collection::vec(batch(), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let network = Network::start().await;
            let mut client = network.client("n1", Version::V2_1).await;
            let mut model = Model::default();
            for (after, acts) in &batches {
                send(&mut client, &mut model, *after, acts).await;
                compare(&mut client, &model).await;
            }
        });
    }
}
