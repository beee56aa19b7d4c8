//! What applications were promised, held against what they get while parts of the network die: a key
//! that was issued is collected, once, with the same bytes. Enter through [`pair_worker`].

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::clients::Etsi014;

/// How often a collector asks again while a KM is away.
pub const PATIENCE: usize = 400;

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
#[derive(Clone, Default)]
pub struct Load {
    pub told: Arc<Mutex<Told>>,
    pub over: Arc<AtomicBool>,
    pub steps: Arc<AtomicU64>,
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

/// Issues keys at one end and collects each at the other, until the load is over.
pub async fn pair_worker(
    load: Load,
    near: Etsi014,
    far: Etsi014,
    master: &'static str,
    slave: &'static str,
) {
    while !load.over.load(Relaxed) {
        let Ok(said) = near.enc(slave, 3).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        match said.status {
            200 => {}
            503 => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            other => panic!("enc_keys answered {other}: {:?}", said.body),
        }
        for (id, key) in said.keys() {
            let before = load.told.lock().unwrap().issued.insert(id.clone(), key.clone());
            assert!(before.is_none(), "key {id} was issued twice");
            collect(&load, &far, master, &id, &key).await;
        }
        load.steps.fetch_add(1, Relaxed);
    }
}

/// An issued key must be collected at the first attempt that is answered at all; only an attempt
/// whose answer was lost may have used it up.
async fn collect(load: &Load, far: &Etsi014, master: &str, id: &str, key: &str) {
    let mut doubt = false;
    for _ in 0..PATIENCE {
        match far.dec(master, &[id]).await {
            Err(_) => doubt = true,
            Ok(said) if said.status == 503 => doubt = true,
            Ok(said) if said.status == 200 => {
                assert_eq!(said.keys(), [(id.to_owned(), key.to_owned())], "bytes differ");
                load.told.lock().unwrap().collected += 1;
                if let Ok(again) = far.dec(master, &[id]).await {
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
