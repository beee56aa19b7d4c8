//! Applications at work, and what they are told. Enter through [`start_load`].

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
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
    clients::{Etsi014, Kmip, material},
    cluster::{Cluster, NORTH, SOUTH},
    history::{Act, Event, linearizable},
};

pub(crate) const ENCRYPT_DECRYPT: i32 = 12;
/// How often a worker asks again while nobody answers.
const PATIENCE: usize = 1200;
/// How long a client of a register waits before it gives an answer up.
const GIVEN_UP: Duration = Duration::from_millis(1500);
/// Clients of one register, and what each asks of it.
const CLIENTS: usize = 3;
const ASKED: u64 = 6;

/// What the applications were told, by all workers.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) issued: HashMap<String, String>,
    pub(crate) objects: Vec<(String, String)>,
    pub(crate) collected: u64,
    pub(crate) doubtful: u64,
    /// Registers whose history was checked, and the requests in them.
    pub(crate) registers: u64,
    pub(crate) asked: u64,
}

#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) told: Arc<Mutex<Told>>,
    pub(crate) over: Arc<AtomicBool>,
    /// Keys issued at north, over any KM.
    pub(crate) north: Arc<AtomicU64>,
    pub(crate) next: Arc<AtomicUsize>,
}

impl Load {
    /// Each request goes to another KM than the one before.
    pub(crate) fn any<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.next.fetch_add(1, Relaxed) % of.len()]
    }
}

pub(crate) fn start_load(cluster: &Cluster) -> (Load, Vec<tokio::task::JoinHandle<()>>) {
    let (told, over, north, next) = Default::default();
    let load = Load { told, over, north, next };
    let at_north = |sae: &str| (0..NORTH).map(|km| cluster.etsi(km, sae)).collect::<Vec<_>>();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (near, far) = (at_north("sae-n1"), vec![cluster.etsi(SOUTH, "sae-s1")]);
        workers.push(tokio::spawn(pair_worker(load.clone(), near, far, ("sae-n1", "sae-s1"))));
        let (near, far) = (vec![cluster.etsi(SOUTH, "sae-s1")], at_north("sae-n1"));
        workers.push(tokio::spawn(pair_worker(load.clone(), near, far, ("sae-s1", "sae-n1"))));
    }
    let kmip = |sae: &str| (0..NORTH).map(|km| cluster.kmip(km, sae)).collect::<Vec<_>>();
    workers.push(tokio::spawn(object_worker(load.clone(), kmip("sae-n1"))));
    let far = vec![cluster.kmip(SOUTH, "sae-s1")];
    workers.push(tokio::spawn(pool_object_worker(load.clone(), kmip("sae-n1"), far)));
    let registers: Vec<_> = (0..CLIENTS).map(|_| kmip("sae-n1")).map(Arc::new).collect();
    workers.push(tokio::spawn(register_worker(load.clone(), registers)));
    (load, workers)
}

async fn pair_worker(
    load: Load,
    near: Vec<Etsi014>,
    far: Vec<Etsi014>,
    (master, slave): (&'static str, &'static str),
) {
    while !load.over.load(Relaxed) {
        let said = match load.any(&near).enc(slave, 2).await {
            Ok(said) if said.status == 200 => said,
            Ok(said) if said.status != 503 => {
                panic!("enc_keys answered {}: {:?}", said.status, said.body)
            }
            _ => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if near.len() > 1 {
            load.north.fetch_add(1, Relaxed);
        }
        for (id, key) in said.keys() {
            let before = load.told.lock().unwrap().issued.insert(id.clone(), key.clone());
            assert!(before.is_none(), "key {id} was issued twice");
            collect(&load, &far, master, &id, &key).await;
        }
    }
}

/// An issued key must be collected at the first attempt that is answered at all, at whichever KM;
/// only an attempt whose answer was lost may have used it up.
async fn collect(load: &Load, far: &[Etsi014], master: &str, id: &str, key: &str) {
    let mut doubt = false;
    for _ in 0..PATIENCE {
        match load.any(far).dec(master, &[id]).await {
            Err(_) => doubt = true,
            Ok(said) if said.status == 503 => doubt = true,
            Ok(said) if said.status == 200 => {
                assert_eq!(said.keys(), [(id.to_owned(), key.to_owned())], "bytes differ");
                load.told.lock().unwrap().collected += 1;
                if let Ok(again) = load.any(far).dec(master, &[id]).await {
                    assert_ne!(again.status, 200, "key {id} was delivered twice");
                }
                return;
            }
            Ok(said) => {
                assert!(doubt, "an issued key was lost: {} {:?}", said.status, said.body);
                load.told.lock().unwrap().doubtful += 1;
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("key {id} was not answered for in time");
}

/// What one KM made another one has.
async fn object_worker(load: Load, kmip: Vec<Kmip>) {
    while !load.over.load(Relaxed) {
        let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, []);
        let Ok(Answer::Create(created)) = load.any(&kmip).ask(create).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let id = created.id.to_string();
        let bytes = got_in_the_end(&load, &kmip, &id).await;
        load.told.lock().unwrap().objects.push((id, bytes));
    }
}

/// Pool keys over KMIP: drawn at one KM, an object at each, and the same at the other end.
async fn pool_object_worker(load: Load, near: Vec<Kmip>, far: Vec<Kmip>) {
    while !load.over.load(Relaxed) {
        let group = kmip::attribute::Attribute::ObjectGroup("qkd/south".into());
        let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, [group]);
        let Ok(Answer::Create(created)) = load.any(&near).ask(create).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let id = created.id.to_string();
        let here = got_in_the_end(&load, &near, &id).await;
        let there = got_in_the_end(&load, &far, &id).await;
        assert_eq!(here, there, "object {id} differs between the ends");
        let mut told = load.told.lock().unwrap();
        assert!(told.issued.insert(id.clone(), here.clone()).is_none(), "{id} was issued twice");
        told.objects.push((id, here));
    }
}

/// Get until it is answered. A refusal that is not for the moment is a broken promise.
async fn got_in_the_end(load: &Load, kmip: &[Kmip], id: &str) -> String {
    let mut last = String::new();
    for _ in 0..PATIENCE {
        match load.any(kmip).ask(client::get(id)).await {
            Ok(got) => return material(&got).expect("key material"),
            Err(error) => {
                let lost =
                    ["NotFound", "Destroyed", "Denied"].iter().any(|why| error.contains(why));
                assert!(!lost, "object {id} was lost: {error}");
                last = error;
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("object {id} was not answered for in time: {last}");
}

/// One object after the other whose comment several clients write and read at the same time, at any KM; what
/// they saw must have an order.
async fn register_worker(load: Load, clients: Vec<Arc<Vec<Kmip>>>) {
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
        let mut told = load.told.lock().unwrap();
        told.registers += 1;
        told.asked += events.len() as u64;
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
