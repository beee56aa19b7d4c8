//! What applications were promised, held against what they get while parts of the network die: a key
//! that was issued is collected, once, with the same bytes. Enter through [`pair_worker`].

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
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
    /// Objects whose end was acknowledged.
    pub destroyed: Vec<String>,
    pub collected: u64,
    /// Keys whose one answer may be lost, and which nobody gives any more.
    pub doubtful: HashSet<String>,
    pub broken: Broken,
}

/// Promises that were not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Broken {
    /// Keys and objects that are gone, or were not answered for in time.
    pub lost: u64,
    /// Keys that were issued or delivered twice.
    pub doubled: u64,
    /// Keys and objects with other bytes than before.
    pub differing: u64,
    /// Objects of which what clients saw has no order.
    pub disordered: u64,
}

/// How long nothing was granted.
struct Service {
    last: Instant,
    longest: Duration,
}

impl Service {
    fn starts() -> Self {
        Self { last: Instant::now(), longest: Duration::ZERO }
    }
}

/// Shared by the workers of one load.
#[derive(Clone)]
pub struct Load {
    pub told: Arc<Mutex<Told>>,
    pub over: Arc<AtomicBool>,
    pub steps: Arc<AtomicU64>,
    /// Requests for new pool keys that were granted.
    pub granted: Arc<AtomicU64>,
    service: Arc<Mutex<Service>>,
    /// Whose turn it is of several KMs.
    pub next: Arc<AtomicUsize>,
    /// How often a worker asks again while nobody answers, every 25 ms.
    pub patience: usize,
}

/// Small and seeded, so that a failing run can be repeated.
pub struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    /// By `QKM_SEED`, or another one for each process.
    pub fn seeded() -> Self {
        let seed = from_env("QKM_SEED").unwrap_or_else(|| std::process::id().into());
        println!("QKM_SEED={seed}");
        Self { seed, state: seed | 1 }
    }

    /// What it began with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn roll(&mut self, below: u64) -> u64 {
        // xorshift64* (Vigna 2016); good enough to choose moments.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }
}

/// A number in the environment.
pub fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

impl Default for Load {
    fn default() -> Self {
        let (told, over, steps, granted, next) = Default::default();
        let service = Arc::new(Mutex::new(Service::starts()));
        Self { told, over, steps, granted, service, next, patience: PATIENCE }
    }
}

impl Load {
    /// Of the KMs of one cluster another than the time before.
    pub fn any<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.next.fetch_add(1, Relaxed) % of.len()]
    }

    /// One whose workers ask again so often while nobody answers.
    pub fn patient(patience: usize) -> Self {
        Self { patience, ..Self::default() }
    }

    /// The same load, whose grants are counted apart.
    pub fn counted_apart(&self) -> Self {
        let service = Arc::new(Mutex::new(Service::starts()));
        Self { granted: Arc::default(), service, ..self.clone() }
    }

    fn grant(&self) {
        let mut service = self.service.lock().unwrap();
        service.longest = service.longest.max(service.last.elapsed());
        service.last = Instant::now();
        self.granted.fetch_add(1, Relaxed);
    }

    /// From here on pauses of service are measured.
    pub fn watch_service(&self) {
        *self.service.lock().unwrap() = Service::starts();
    }

    /// The longest time without a grant since [`Load::watch_service`].
    pub fn longest_pause(&self) -> Duration {
        let service = self.service.lock().unwrap();
        service.longest.max(service.last.elapsed())
    }

    /// Counts a promise that was not kept: the run goes on, and fails at its end.
    pub fn broke(&self, which: impl FnOnce(&mut Broken) -> &mut u64, what: &str) {
        eprintln!("BROKEN: {what}");
        *which(&mut self.told.lock().unwrap().broken) += 1;
    }

    /// Panics unless every promise was kept.
    pub fn all_was_kept(&self) {
        let broken = self.told.lock().unwrap().broken;
        assert_eq!(broken, Broken::default(), "promises were broken; see above");
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
        load.grant();
        for (id, key) in said.keys() {
            let before = load.told.lock().unwrap().issued.insert(id.clone(), key.clone());
            if before.is_some() {
                load.broke(|b| &mut b.doubled, &format!("key {id} was issued twice"));
            }
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
                if said.keys() != [(id.to_owned(), key.to_owned())] {
                    load.broke(|b| &mut b.differing, &format!("key {id} has other bytes"));
                }
                load.told.lock().unwrap().collected += 1;
                if let Ok(again) = load.any(far).dec(master, &[id]).await
                    && again.status == 200
                {
                    load.broke(|b| &mut b.doubled, &format!("key {id} was delivered twice"));
                }
                return;
            }
            Ok(_) if doubt => {
                load.told.lock().unwrap().doubtful.insert(id.to_owned());
                return;
            }
            Ok(said) => {
                let what = format!("key {id} was lost: {} {:?}", said.status, said.body);
                return load.broke(|b| &mut b.lost, &what);
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    load.broke(|b| &mut b.lost, &format!("key {id} was not answered for in time"));
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
        let Some(bytes) = got_in_the_end(&load, &kmip, &id).await else { continue };
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
        let Some(here) = got_in_the_end(&load, &near, &id).await else { continue };
        let Some(there) = got_in_the_end(&load, &far, &id).await else { continue };
        if here != there {
            load.broke(|b| &mut b.differing, &format!("object {id} differs between the ends"));
        }
        let before = load.told.lock().unwrap().issued.insert(id.clone(), here.clone());
        if before.is_some() {
            load.broke(|b| &mut b.doubled, &format!("key {id} was issued twice"));
        }
        let mut told = load.told.lock().unwrap();
        told.objects.push((id.clone(), here));
        told.far_objects.push((id, there));
        load.steps.fetch_add(1, Relaxed);
    }
}

/// Get until it is answered. A refusal that is not for the moment is a broken promise, which is counted.
async fn got_in_the_end(load: &Load, kmip: &[Kmip], id: &str) -> Option<String> {
    let mut last = String::new();
    for _ in 0..load.patience {
        match load.any(kmip).ask(client::get(id)).await {
            Ok(got) => return Some(material(&got).expect("key material")),
            Err(error) => {
                if ["NotFound", "Destroyed", "Denied"].iter().any(|why| error.contains(why)) {
                    load.broke(|b| &mut b.lost, &format!("object {id} was lost: {error}"));
                    return None;
                }
                last = error;
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let what = format!("object {id} was not answered for in time: {last}");
    load.broke(|b| &mut b.lost, &what);
    None
}
