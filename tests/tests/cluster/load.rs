//! Applications at work, and what they are told. Enter through [`start_load`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use kmip::{
    Answer, Operation,
    attribute::{Attribute, Instance},
    client,
    enums::{CryptographicAlgorithm, State},
    op::{add_attribute, get_attributes, modify_attribute},
};
use qkm_tests::{
    clients::{Kmip, material},
    cluster::{Cluster, NORTH, SOUTH},
    history::{Act, Event, linearizable},
    promises::{ENCRYPT_DECRYPT, Load, object_worker, pair_worker, pool_object_worker},
};

/// How often a worker asks again while nobody answers.
const PATIENCE: usize = 1200;
/// How long a client of a register waits before it gives an answer up.
const GIVEN_UP: Duration = Duration::from_millis(1500);
/// Clients of one register, and what each asks of it.
const CLIENTS: usize = 3;
const ASKED: u64 = 8;
/// Which of its requests has it destroyed, and by which client.
const ENDS: (u64, u64) = (6, 0);

/// Registers whose history was checked, and the requests in them.
#[derive(Clone, Default)]
pub(crate) struct Registers {
    pub(crate) checked: Arc<AtomicU64>,
    pub(crate) asked: Arc<AtomicU64>,
}

/// Requests that are granted at north count in the load.
pub(crate) fn start_load(cluster: &Cluster) -> (Load, Registers, Vec<tokio::task::JoinHandle<()>>) {
    let load = Load::patient(PATIENCE);
    let elsewhere = load.counted_apart();
    let registers = Registers::default();
    let at_north = |sae: &str| (0..NORTH).map(|km| cluster.etsi(km, sae)).collect::<Vec<_>>();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (near, far) = (at_north("sae-n1"), vec![cluster.etsi(SOUTH, "sae-s1")]);
        workers.push(tokio::spawn(pair_worker(load.clone(), near, far, ("sae-n1", "sae-s1"))));
        let (near, far) = (vec![cluster.etsi(SOUTH, "sae-s1")], at_north("sae-n1"));
        workers.push(tokio::spawn(pair_worker(elsewhere.clone(), near, far, ("sae-s1", "sae-n1"))));
    }
    let kmip = |sae: &str| (0..NORTH).map(|km| cluster.kmip(km, sae)).collect::<Vec<_>>();
    workers.push(tokio::spawn(object_worker(load.clone(), kmip("sae-n1"))));
    let far = vec![cluster.kmip(SOUTH, "sae-s1")];
    workers.push(tokio::spawn(pool_object_worker(load.clone(), kmip("sae-n1"), far)));
    let clients: Vec<_> = (0..CLIENTS).map(|_| kmip("sae-n1")).map(Arc::new).collect();
    workers.push(tokio::spawn(register_worker(load.clone(), registers.clone(), clients)));
    (load, registers, workers)
}

/// One object after the other that several clients change, read, use and destroy at the same time, at any
/// KM; what they saw must have an order.
async fn register_worker(load: Load, registers: Registers, clients: Vec<Arc<Vec<Kmip>>>) {
    while !load.over.load(Relaxed) {
        let Some((id, bytes)) = new_register(&load, &clients[0]).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let object = Arc::new((id, bytes));
        let asking = clients.iter().enumerate().map(|(client, kms)| {
            tokio::spawn(ask_register(load.clone(), kms.clone(), object.clone(), client as u64))
        });
        let mut events = Vec::new();
        for asked in asking.collect::<Vec<_>>() {
            events.extend(asked.await.expect("a client of a register"));
        }
        let id = &object.0;
        if !linearizable(0, &events) {
            let what = format!("object {id} has no order: {events:#?}");
            load.broke(|b| &mut b.disordered, &what);
        }
        if events.iter().any(|event| event.act == Act::Destroy && event.ended.is_some()) {
            load.told.lock().unwrap().destroyed.push(id.clone());
        }
        registers.checked.fetch_add(1, Relaxed);
        registers.asked.fetch_add(events.len() as u64, Relaxed);
    }
}

/// An object with a comment, and its bytes.
async fn new_register(load: &Load, kms: &[Kmip]) -> Option<(String, String)> {
    let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, []);
    let Ok(Answer::Create(made)) = load.any(kms).ask(create).await else { return None };
    let id = made.id.to_string();
    let attribute = Instance { index: None, attribute: Attribute::Comment("0".into()) };
    let add = add_attribute::Request { id: Some(id.as_str().into()), attribute };
    load.any(kms).ask(add).await.ok()?;
    let got = load.any(kms).ask(client::get(&id)).await.ok()?;
    Some((id, material(&got)?))
}

/// What a client does with a register: each its own way.
async fn ask_register(
    load: Load,
    kms: Arc<Vec<Kmip>>,
    object: Arc<(String, String)>,
    client: u64,
) -> Vec<Event> {
    let (id, bytes) = (&object.0, &object.1);
    let mut events = Vec::new();
    for number in 1..=ASKED {
        let value = client * ASKED + number;
        // What it does if it is done without an answer; reading does nothing.
        let (operation, does) = match (number + client) % 3 {
            _ if (number, client) == ENDS => (client::destroy(id).into(), Some(Act::Destroy)),
            0 => (write(id, value), Some(Act::Write(value))),
            1 => (client::get(id).into(), None),
            _ => (read(id), None),
        };
        let (kms, began) = (load.any(&kms), Instant::now());
        let said = tokio::time::timeout(GIVEN_UP, kms.ask(operation)).await;
        let ended = Some(Instant::now());
        let act = match said {
            Ok(Ok(answer)) => {
                if material(&answer).is_some_and(|now| now != *bytes) {
                    load.broke(|b| &mut b.differing, &format!("object {id} has other bytes"));
                }
                Some(done(&answer, does))
            }
            Ok(Err(error)) if is_destroyed(&error) => Some(Act::Refused),
            _ => None,
        };
        match (act, does) {
            (Some(act), _) => events.push(Event { act, began, ended }),
            // It may have been done all the same.
            (None, Some(act)) => events.push(Event { act, began, ended: None }),
            (None, None) => {}
        }
    }
    events
}

/// What an answer says; `does`: what was asked to be done, if anything.
fn done(answer: &Answer, does: Option<Act>) -> Act {
    let Answer::GetAttributes(answer) = answer else { return does.unwrap_or(Act::Use) };
    let (mut value, mut destroyed) = (None, false);
    for instance in &answer.attributes.list {
        match &instance.attribute {
            Attribute::Comment(text) => value = text.parse().ok(),
            Attribute::State(state) => destroyed = *state == State::Destroyed,
            _ => {}
        }
    }
    Act::Read { value: value.expect("a comment"), destroyed }
}

/// Whether a refusal says so, whatever was asked.
pub(crate) fn is_destroyed(error: &str) -> bool {
    error.contains("was destroyed") || error.contains("is Destroyed")
}

fn write(id: &str, value: u64) -> Operation {
    let new = Instance { index: None, attribute: Attribute::Comment(value.to_string()) };
    let id = Some(id.into());
    modify_attribute::Request { id, current: None, new }.into()
}

fn read(id: &str) -> Operation {
    let id = Some(id.into());
    get_attributes::Request { id, attributes: Vec::new() }.into()
}
