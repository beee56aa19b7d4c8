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
    enums::CryptographicAlgorithm,
    op::{add_attribute, get_attributes, modify_attribute},
};
use qkm_tests::{
    clients::Kmip,
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
const ASKED: u64 = 6;

/// Registers whose history was checked, and the requests in them.
#[derive(Clone, Default)]
pub(crate) struct Registers {
    pub(crate) checked: Arc<AtomicU64>,
    pub(crate) asked: Arc<AtomicU64>,
}

/// Requests that are granted at north count in the load.
pub(crate) fn start_load(cluster: &Cluster) -> (Load, Registers, Vec<tokio::task::JoinHandle<()>>) {
    let load = Load { patience: PATIENCE, ..Load::default() };
    let elsewhere = Load { granted: Arc::default(), ..load.clone() };
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

/// One object after the other whose comment several clients write and read at the same time, at any KM; what
/// they saw must have an order.
async fn register_worker(load: Load, registers: Registers, clients: Vec<Arc<Vec<Kmip>>>) {
    while !load.over.load(Relaxed) {
        let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, []);
        let Ok(Answer::Create(made)) = load.any(&clients[0]).ask(create).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let id = made.id.to_string();
        let attribute = Instance { index: None, attribute: Attribute::Comment("0".into()) };
        let add = add_attribute::Request { id: Some(id.as_str().into()), attribute };
        if load.any(&clients[0]).ask(Operation::AddAttribute(add)).await.is_err() {
            continue;
        }
        let asking = clients.iter().enumerate().map(|(client, kms)| {
            tokio::spawn(ask_register(load.clone(), kms.clone(), id.clone(), client as u64))
        });
        let mut events = Vec::new();
        for asked in asking.collect::<Vec<_>>() {
            events.extend(asked.await.expect("a client of a register"));
        }
        assert!(linearizable(0, &events), "object {id} has no order: {events:#?}");
        registers.checked.fetch_add(1, Relaxed);
        registers.asked.fetch_add(events.len() as u64, Relaxed);
    }
}

async fn ask_register(load: Load, kms: Arc<Vec<Kmip>>, id: String, client: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for number in 1..=ASKED {
        let value = client * ASKED + number;
        let writes = (number + client).is_multiple_of(2);
        let operation = if writes { write(&id, value) } else { read(&id) };
        let (kms, began) = (load.any(&kms), Instant::now());
        let said = tokio::time::timeout(GIVEN_UP, kms.ask(operation)).await;
        let ended = Some(Instant::now());
        match said {
            Ok(Ok(Answer::GetAttributes(answer))) => {
                let comment = answer.attributes.list.iter().find_map(|i| match &i.attribute {
                    Attribute::Comment(text) => text.parse().ok(),
                    _ => None,
                });
                let act = Act::Read(comment.expect("a comment"));
                events.push(Event { act, began, ended });
            }
            Ok(Ok(_)) => events.push(Event { act: Act::Write(value), began, ended }),
            // It may have been done all the same.
            _ if writes => events.push(Event { act: Act::Write(value), began, ended: None }),
            _ => {}
        }
    }
    events
}

fn write(id: &str, value: u64) -> Operation {
    let new = Instance { index: None, attribute: Attribute::Comment(value.to_string()) };
    let id = Some(id.into());
    Operation::ModifyAttribute(modify_attribute::Request { id, current: None, new })
}

fn read(id: &str) -> Operation {
    let id = Some(id.into());
    Operation::GetAttributes(get_attributes::Request { id, attributes: Vec::new() })
}
