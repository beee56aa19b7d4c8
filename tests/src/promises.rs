//! What applications were promised, held against what they get while parts of the network die: a key
//! that was issued is collected, once, with the same bytes. Enter through [`pair_worker`].

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use kmip::{Answer, client, enums::CryptographicAlgorithm};

use crate::clients::{Etsi014, Kmip, material};

/// Bits of a Cryptographic Usage Mask.
pub const ENCRYPT_DECRYPT: i32 = 12;
/// How often a collector asks again while a KM is away.
const PATIENCE: usize = 400;
/// Of a worker whom nothing is given.
const PAUSE: Duration = Duration::from_millis(20);

/// What the applications were told, by all workers.
#[derive(Default)]
pub struct Told {
    pub issued: HashMap<String, String>,
    pub objects: Vec<(String, String)>,
    pub far_objects: Vec<(String, String)>,
    pub collected: u64,
    pub doubtful: u64,
}

/// Shared by the workers of one load.
#[derive(Clone)]
pub struct Load {
    pub told: Arc<Mutex<Told>>,
    pub over: Arc<AtomicBool>,
    pub steps: Arc<AtomicU64>,
    /// Requests for new pool keys that were granted.
    pub granted: Arc<AtomicU64>,
    /// Whose turn it is of several KMs.
    pub next: Arc<AtomicUsize>,
    /// How often a worker asks again while nobody answers, every 25 ms.
    pub patience: usize,
}

/// Small and seeded, so that a failing run can be repeated.
pub struct Dice(u64);

impl Dice {
    /// By `QKM_SEED`, or another one for each process.
    pub fn seeded() -> Self {
        let seed = from_env("QKM_SEED").unwrap_or_else(|| std::process::id().into());
        println!("QKM_SEED={seed}");
        Self(seed | 1)
    }

    pub fn roll(&mut self, below: u64) -> u64 {
        // xorshift64* (Vigna 2016); good enough to choose moments.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }
}

/// A number in the environment.
pub fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

impl Default for Load {
    fn default() -> Self {
        let (told, over, steps, granted, next) = Default::default();
        Self { told, over, steps, granted, next, patience: PATIENCE }
    }
}

impl Load {
    /// Of the KMs of one cluster another than the time before.
    pub fn any<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.next.fetch_add(1, Relaxed) % of.len()]
    }
}

/// Issues keys at one end and collects each at the other, until the load is over; each end may have several
/// KMs, any of which answers.
pub async fn pair_worker(
    load: Load,
    near: Vec<Etsi014>,
    far: Vec<Etsi014>,
    (master, slave): (&'static str, &'static str),
) {
    while !load.over.load(Relaxed) {
        let said = match load.any(&near).enc(slave, 3).await {
            Ok(said) if said.status == 200 => said,
            Ok(said) if said.status != 503 => {
                panic!("enc_keys answered {}: {:?}", said.status, said.body)
            }
            _ => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        load.granted.fetch_add(1, Relaxed);
        for (id, key) in said.keys() {
            let before = load.told.lock().unwrap().issued.insert(id.clone(), key.clone());
            assert!(before.is_none(), "key {id} was issued twice");
            collect(&load, &far, master, &id, &key).await;
        }
        load.steps.fetch_add(1, Relaxed);
    }
}

/// An issued key must be collected at the first attempt that is answered at all; only an attempt
/// whose answer was lost may have used it up, and one that failed after something may have been done.
async fn collect(load: &Load, far: &[Etsi014], master: &str, id: &str, key: &str) {
    let mut doubt = false;
    for _ in 0..load.patience {
        match load.any(far).dec(master, &[id]).await {
            Err(_) => doubt = true,
            Ok(said) if said.status == 503 => doubt |= !said.did_nothing(),
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

/// Makes keys; what one KM made any other has.
pub async fn object_worker(load: Load, kmip: Vec<Kmip>) {
    while !load.over.load(Relaxed) {
        let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, []);
        let Ok(Answer::Create(created)) = load.any(&kmip).ask(create).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let id = created.id.to_string();
        let bytes = got_in_the_end(&load, &kmip, &id).await;
        load.told.lock().unwrap().objects.push((id, bytes));
        load.steps.fetch_add(1, Relaxed);
    }
}

/// Pool keys over KMIP: the object and the mark of its collection are one commit, so the far end
/// gets the key however often a KM dies in between, and always the same one.
pub async fn pool_object_worker(load: Load, near: Vec<Kmip>, far: Vec<Kmip>) {
    while !load.over.load(Relaxed) {
        let group = kmip::attribute::Attribute::ObjectGroup("qkd/south".into());
        let create = client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, [group]);
        let Ok(Answer::Create(created)) = load.any(&near).ask(create).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let id = created.id.to_string();
        let here = got_in_the_end(&load, &near, &id).await;
        let there = got_in_the_end(&load, &far, &id).await;
        assert_eq!(here, there, "object {id} differs between the ends");
        let mut told = load.told.lock().unwrap();
        assert!(told.issued.insert(id.clone(), here.clone()).is_none(), "{id} was issued twice");
        told.objects.push((id.clone(), here));
        told.far_objects.push((id, there));
        load.steps.fetch_add(1, Relaxed);
    }
}

/// Get until it is answered. A refusal that is not for the moment is a broken promise.
async fn got_in_the_end(load: &Load, kmip: &[Kmip], id: &str) -> String {
    let mut last = String::new();
    for _ in 0..load.patience {
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
