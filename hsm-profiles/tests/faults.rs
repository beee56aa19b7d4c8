//! The token fails in every function the KM calls, in every way, also once it has done what it was told:
//! no wrong answer, no answer past the deadline, and service again soon after, without anybody's help.
//! Somebody else signs all the time, so that a session may hang while others work.
//!
//! `QKM_FAULTS=all` tries every fault at every function (`make hsm-faults`), otherwise a choice.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "faults/keys.rs"]
mod keys;
#[path = "faults/objects.rs"]
mod objects;
#[path = "../../testkit/p11_shim.rs"]
#[allow(unreachable_pub)]
mod p11_shim;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Room, with_token, worker_program};
use hsm_profiles::soft::SoftToken;
use hsm_profiles::{Token, TokenConfig};
use keys::Keys;
use km_core::hsm::{Hsm, HsmError, Sealed};
use km_core::material::ClearBytes;
use objects::Objects;
use p11_shim::Shim;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::{JoinHandle, JoinSet};

const DEADLINE: Duration = Duration::from_millis(500);
/// An answer that the deadline is over comes late by an eighth of it, as documented; the rest is
/// for a busy machine.
const LATEST: Duration = Duration::from_millis(500 + 62 + 1500);
/// How long a fault lasts.
const TROUBLE: Duration = Duration::from_millis(1200);
/// A session that hangs in long work is ended after four deadlines.
const HANGS: Duration = Duration::from_millis(4 * 500 + 500);
/// Service is back this soon after.
const BACK: Duration = Duration::from_secs(12);
/// Tokens at work at the same time, each with its worker and its faults.
const LANES: usize = 10;

/// What reaches a function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Sealing and opening.
    Use,
    /// The start of a worker.
    Start,
    /// Closing a session after an error.
    Error,
    /// Looking for a lost token.
    Loss,
    /// Making and destroying KEKs.
    Keks,
    /// Making and using keys of applications.
    Keys,
    /// Keeping data in the token.
    Objects,
}

/// All functions a KM calls. The test fails when it calls another.
const FUNCTIONS: [(&str, By); 40] = [
    ("C_EncryptInit", By::Use),
    ("C_Encrypt", By::Use),
    ("C_DecryptInit", By::Use),
    ("C_Decrypt", By::Use),
    ("C_GenerateRandom", By::Use),
    ("C_Initialize", By::Start),
    ("C_GetSlotList", By::Start),
    ("C_GetTokenInfo", By::Start),
    ("C_GetMechanismInfo", By::Start),
    ("C_GetMechanismList", By::Start),
    ("C_OpenSession", By::Start),
    ("C_GetSessionInfo", By::Start),
    ("C_Login", By::Start),
    ("C_FindObjectsInit", By::Start),
    ("C_FindObjects", By::Start),
    ("C_FindObjectsFinal", By::Start),
    ("C_GetAttributeValue", By::Start),
    ("C_CopyObject", By::Start),
    ("C_CloseSession", By::Error),
    ("C_Finalize", By::Loss),
    ("C_GenerateKey", By::Keks),
    ("C_DestroyObject", By::Keks),
    ("C_SignInit", By::Keys),
    ("C_Sign", By::Keys),
    ("C_WrapKey", By::Keys),
    ("C_UnwrapKey", By::Keys),
    ("C_GenerateKeyPair", By::Keys),
    ("C_DeriveKey", By::Keys),
    ("C_CreateObject", By::Keys),
    ("C_GenerateKey", By::Keys),
    ("C_DestroyObject", By::Keys),
    ("C_GetAttributeValue", By::Keys),
    ("C_Encrypt", By::Keys),
    ("C_Decrypt", By::Keys),
    ("C_DigestInit", By::Keys),
    ("C_DigestKey", By::Keys),
    ("C_DigestFinal", By::Keys),
    ("C_CreateObject", By::Objects),
    ("C_DestroyObject", By::Objects),
    ("C_GetAttributeValue", By::Objects),
];

const FAULTS: [&str; 14] = [
    "answer 0x30",
    "hang",
    "abort",
    "answer 0x5",
    "answer 0x6",
    "answer 0xb3",
    "answer 0x101",
    "sleep 40",
    "sleep 2000",
    "short",
    "long",
    "after answer 0x30",
    "after answer 0x5",
    "after abort",
];

fn scenarios() -> Vec<(&'static str, By, &'static str)> {
    let all = std::env::var("QKM_FAULTS").is_ok_and(|which| which == "all");
    let mut scenarios = Vec::new();
    for (function, by) in FUNCTIONS {
        let central = by == By::Use && ["C_Encrypt", "C_Decrypt"].contains(&function);
        let choice: &[&str] = match by {
            _ if all || central => &FAULTS,
            By::Keys => &["answer 0x5", "abort", "short"],
            By::Objects => &["answer 0x30", "after answer 0x5", "after abort"],
            By::Keks => &["answer 0x30", "hang", "abort", "after answer 0x30", "after answer 0x5"],
            _ => &FAULTS[..3],
        };
        scenarios.extend(choice.iter().map(|fault| (function, by, *fault)));
    }
    scenarios
}

/// A token with its worker, its shim, and something sealed before all troubles.
struct Lane {
    token: Arc<Token>,
    shim: Shim,
    before: Sealed,
    keys: Keys,
    objects: Objects,
    /// The one who signs.
    other: JoinHandle<()>,
}

impl Lane {
    async fn new(room: &Room, n: usize, shim: &Path) -> Self {
        let orders = Shim::new(room.dir.join(format!("shim-{n}")));
        let real = common::library(SoftToken::SoftHsm);
        // A copy of its own: what one makes and destroys is not there for the others.
        let (_, mut env) = room.copied(&format!("tokens-{n}"));
        env.extend(orders.env(&real));
        let config = TokenConfig {
            library: Some(shim.to_owned()),
            env,
            deadline_ms: u64::try_from(DEADLINE.as_millis()).unwrap(),
            sessions: Some(2),
            ..room.config()
        };
        let token = Token::start(config, worker_program()).await.unwrap();
        let before = token.seal(b"before", &clear()).await.unwrap();
        let keys = Keys::new(&token).await;
        let (shared, other) = (Arc::clone(&token), keys.other_user());
        let other = tokio::spawn(async move { other.signs(&shared).await });
        Self { token, shim: orders, before, keys, objects: Objects::default(), other }
    }

    async fn endure(&self, (function, by, fault): (&str, By, &str)) {
        let name = format!("{function} {fault}");
        let mut orders = vec![format!("{function} 1 {fault}")];
        // What brings the KM to the function; it stands after the fault, which has the first word.
        match by {
            By::Error => orders.push("C_Encrypt 1 answer 0xb3".to_owned()),
            By::Loss => {
                orders.extend(["C_Encrypt", "C_OpenSession"].map(|f| format!("{f} 1 answer 0x30")));
            }
            By::Use | By::Start | By::Keks | By::Keys | By::Objects => {}
        }
        let restarts = self.token.members()[0].restarts;
        self.shim.order(&orders);
        if by == By::Start {
            self.kill_worker();
        }
        let (began, mut sealed) = (Instant::now(), Vec::new());
        // A worker that ends is started again after a pause; one that hangs while it opens the
        // token is ended after a while.
        let ends = ["hang", "abort", "after abort"].contains(&fault);
        let least = restarts + u64::from(by == By::Start);
        let met = || !ends || self.token.members()[0].restarts > least;
        while began.elapsed() < TROUBLE || (!met() && began.elapsed() < BACK) {
            sealed.extend(self.try_all(&name, by).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.shim.lift();
        let lifted = Instant::now();
        if fault == "hang" {
            // The other one may have met it last.
            tokio::time::sleep(HANGS).await;
        }
        let all = if [By::Keys, By::Objects].contains(&by) { by } else { By::Use };
        while self.try_all(&name, all).await.is_none() {
            assert!(lifted.elapsed() < BACK, "{name}: {:?}", self.token.members());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(met(), "{name}: was it met at all?");
        for sealed in sealed.iter().chain([&self.before]) {
            let opened = self.token.open(b"before", sealed).await;
            assert_eq!(opened.unwrap(), clear(), "{name}: sealed well or not at all");
        }
        let status = self.token.probe().await;
        assert!(status.ready, "{name}: {status:?}");
        assert!(!self.other.is_finished(), "{name}: whoever signs met a wrong answer");
        let keks = self.token.keks().await.unwrap();
        let numbers: BTreeSet<_> = keks.iter().map(|kek| kek.number).collect();
        assert_eq!(numbers.len(), keks.len(), "{name}: two KEKs of one number: {keks:?}");
    }

    /// Every operation once. Gives what was sealed; empty when anything failed, as it may.
    async fn try_all(&self, name: &str, by: By) -> Option<Sealed> {
        let sealed = within(name, self.token.seal(b"before", &clear())).await;
        let opened = within(name, self.token.open(b"before", &self.before)).await;
        if let Some(opened) = &opened {
            assert_eq!(*opened, clear(), "{name}: a wrong answer");
        }
        let random = within(name, self.token.random(32)).await;
        if by == By::Keks
            && let Some(first) = within(name, self.token.create_kek()).await
            && within(name, self.token.create_kek()).await.is_some()
        {
            within(name, self.token.destroy_kek(&first)).await;
        }
        if by == By::Keys {
            self.keys.try_all(name, &self.token).await?;
        }
        if by == By::Objects {
            self.objects.try_all(name, &self.token).await?;
        }
        opened.and(random).and(sealed)
    }

    fn kill_worker(&self) {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let children: String = tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
            .collect();
        let ours = self.shim.env(Path::new("")).remove("QKM_SHIM_CONTROL").unwrap();
        for pid in children.split_whitespace() {
            let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut entries = env.split(|byte| *byte == 0);
            if entries.any(|entry| entry == format!("QKM_SHIM_CONTROL={ours}").as_bytes()) {
                let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
                // It may have ended by itself meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn clear() -> ClearBytes {
    ClearBytes::copy_from(&[0x5A; 40])
}

/// The answer, if it is one. It comes in time; an error says that the token is away, and never
/// blames the data.
async fn within<T>(name: &str, asked: impl Future<Output = Result<T, HsmError>>) -> Option<T> {
    let began = Instant::now();
    let answer = asked.await;
    assert!(began.elapsed() < LATEST, "{name}: an answer after {:?}", began.elapsed());
    match answer {
        Ok(answer) => Some(answer),
        Err(HsmError::Unavailable(_)) => None,
        Err(other) => panic!("{name}: {other:?}"),
    }
}

#[test]
fn whatever_fails_no_answer_is_wrong_or_late_and_service_comes_back() {
    let name = "whatever_fails_no_answer_is_wrong_or_late_and_service_comes_back";
    with_token(name, |room| {
        let shim = p11_shim::library();
        let called = common::runtime().block_on(async {
            // Makes the KEK that all lanes use.
            drop(room.start().await);
            let waiting = Arc::new(Mutex::new(scenarios()));
            let mut lanes = JoinSet::new();
            for n in 0..LANES {
                let (lane, waiting) = (Lane::new(&room, n, &shim).await, Arc::clone(&waiting));
                lanes.spawn(async move {
                    loop {
                        let next = waiting.lock().unwrap().pop();
                        let Some(scenario) = next else {
                            lane.other.abort();
                            return lane.shim.called();
                        };
                        lane.endure(scenario).await;
                    }
                });
            }
            let mut called = BTreeSet::new();
            while let Some(lane) = lanes.join_next().await {
                called.extend(lane.unwrap());
            }
            called
        });
        let tried: BTreeSet<_> = FUNCTIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(called, tried, "functions called, and functions that failed");
    });
}
