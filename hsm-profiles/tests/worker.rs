//! The library in a worker process: the same answers, and no harm when it ends.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Room, runtime, with_token, worker_program};
use hsm_profiles::suite::{assert_passes, hsm_suite};
use hsm_profiles::{Breaker, PinSource, Program, Token, TokenConfig, TokenSelector};
use km_core::hsm::{Hsm, HsmError, Sealed};
use km_core::material::ClearBytes;
use rustix::process::{Pid, Signal, kill_process};

/// The processes this one has started and not seen the end of.
fn children() -> Vec<Pid> {
    let of_thread = |task: std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("children")).unwrap_or_default()
    };
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let all: String = tasks.map(|task| of_thread(task.unwrap())).collect();
    all.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

fn kill_workers() {
    let children = children();
    assert!(!children.is_empty());
    children.into_iter().for_each(|pid| kill_process(pid, Signal::KILL).unwrap());
}

/// Returns once they stand still: the signal reaches one thread, which stops the others.
fn stop_workers() {
    let children = children();
    assert!(!children.is_empty());
    let stands = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    };
    for pid in children {
        kill_process(pid, Signal::STOP).unwrap();
        let tasks = || std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
        while !tasks().all(|task| stands(task.unwrap())) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

async fn sealed(token: &Token) -> Sealed {
    token.seal(b"before", &ClearBytes::copy_from(&[5; 40])).await.unwrap()
}

async fn serves(token: &Token, before: &Sealed) {
    let opened = token.open(b"before", before).await.unwrap();
    assert_eq!(opened, ClearBytes::copy_from(&[5; 40]));
    sealed(token).await;
}

async fn works(token: &Token, before: &Sealed) {
    serves(token, before).await;
    assert!(token.status().ready);
}

async fn ready_again(token: &Token) {
    let until = Instant::now() + Duration::from_secs(30);
    while !token.members().iter().all(|member| member.breaker == Breaker::Closed) {
        assert!(Instant::now() < until, "{:?}", token.members());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_worker_passes_the_suite() {
    with_token("a_worker_passes_the_suite", |room| {
        runtime().block_on(async {
            let token = room.start().await;
            assert_passes(&hsm_suite(&*token).await);
            let kek = token.create_kek().await.unwrap().id;
            assert_eq!((token.current_kek(), token.keks().await.unwrap().len()), (kek, 2));
            assert_passes(&hsm_suite(&*token).await);
            let [member] = &token.members()[..] else { panic!("one token") };
            assert_eq!((member.breaker, member.restarts), (Breaker::Closed, 0));
        });
        assert!(children().is_empty(), "the worker has ended with its token");
    });
}

/// SoftHSM writes the token's file at each login, and who starts meanwhile sees no token: about one start
/// in twenty, with three that start over and over.
#[test]
fn a_token_opens_while_others_log_in() {
    with_token("a_token_opens_while_others_log_in", |room| {
        runtime().block_on(async {
            drop(room.start().await);
            let starts = async || {
                for _ in 0..25 {
                    assert!(room.start().await.status().ready);
                }
            };
            tokio::join!(starts(), starts(), starts(), starts());
        });
    });
}

/// What an operator reads must not depend on where the library is loaded.
#[test]
fn mistakes_are_told_in_the_same_words() {
    with_token("mistakes_are_told_in_the_same_words", |room| {
        let wrong = room.dir.join("wrong.pin");
        std::fs::write(&wrong, "31415926").unwrap();
        std::fs::set_permissions(&wrong, PermissionsExt::from_mode(0o600)).unwrap();
        let lacking =
            include_str!("../profiles/softhsm2.toml").replace("AES_KEY_GEN", "HKDF_DERIVE");
        let profile = room.dir.join("lacking.toml");
        std::fs::write(&profile, lacking).unwrap();
        let good = room.config();
        let configs = [
            // First: the other mistakes are met after a KEK was made.
            TokenConfig { create_kek: false, ..good.clone() },
            TokenConfig { library: Some(PathBuf::from("/nowhere/libhsm.so")), ..good.clone() },
            TokenConfig { token: TokenSelector::Label("nort".into()), ..good.clone() },
            TokenConfig { profile: profile.display().to_string(), ..good.clone() },
            TokenConfig { sessions: Some(4000), ..good.clone() },
            TokenConfig { pin: PinSource::File(room.dir.join("none.pin")), ..good.clone() },
            TokenConfig { pin: PinSource::File(wrong), ..good.clone() },
        ];
        for config in configs {
            let here = Token::open(config.clone()).map(|_| ()).unwrap_err();
            let away = runtime().block_on(Token::start(config, worker_program())).map(|_| ());
            assert_eq!(away.unwrap_err(), here);
        }
    });
}

#[test]
fn a_program_that_is_no_worker_is_told_and_does_not_hang() {
    with_token("a_program_that_is_no_worker_is_told_and_does_not_hang", |room| {
        for (path, arguments, word) in [
            ("/nowhere/qkm", vec![], "does not start"),
            ("/bin/true", vec![], "ended while it opened the token"),
            ("/bin/false", vec![], "exit status: 1"),
            ("/bin/sleep", vec!["1000".into()], "did not open the token in time"),
        ] {
            let program = Program { path: path.into(), arguments };
            let config = TokenConfig { deadline_ms: 100, ..room.config() };
            let asked = Instant::now();
            let error = runtime().block_on(Token::start(config, program)).map(|_| ()).unwrap_err();
            assert!(matches!(&error, HsmError::Unavailable(_)), "{error:?}");
            assert!(error.to_string().contains(word), "{error}");
            assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
            assert!(children().is_empty());
        }
    });
}

/// Sealing and opening may be repeated, so nobody but the operator notices.
#[test]
fn a_killed_worker_under_load_fails_no_request() {
    with_token("a_killed_worker_under_load_fails_no_request", |room| {
        runtime().block_on(async {
            let token = room.start().await;
            let before = sealed(&token).await;
            let until = Instant::now() + Duration::from_secs(3);
            let load: Vec<_> = (0..16)
                .map(|_| {
                    let (token, before) = (Arc::clone(&token), before.clone());
                    tokio::spawn(async move {
                        let mut count = 0;
                        while Instant::now() < until {
                            serves(&token, &before).await;
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(300)).await;
            kill_workers();
            for task in load {
                assert!(task.await.unwrap() > 0);
            }
            ready_again(&token).await;
            assert_eq!(token.members()[0].restarts, 1);
        });
    });
}

/// A worker that is stopped answers nothing, like a library that hangs.
#[test]
fn a_stopped_worker_is_ended_at_the_deadline_and_replaced() {
    with_token("a_stopped_worker_is_ended_at_the_deadline_and_replaced", |room| {
        runtime().block_on(async {
            let config = TokenConfig { deadline_ms: 400, ..room.config() };
            let token = Token::start(config, worker_program()).await.unwrap();
            let before = sealed(&token).await;
            stop_workers();
            let asked = Instant::now();
            let answer = token.open(b"before", &before).await;
            let waited = asked.elapsed();
            let Err(HsmError::Unavailable(why)) = &answer else { panic!("{answer:?}") };
            assert!(why.contains("answered nothing for 400 ms"), "{why}");
            assert!((400..550).contains(&waited.as_millis()), "{waited:?}");
            ready_again(&token).await;
            works(&token, &before).await;
        });
    });
}

/// Whether a key was made when the answer is lost, nobody knows: it must not be tried twice.
#[test]
fn what_may_not_be_repeated_is_not() {
    with_token("what_may_not_be_repeated_is_not", |room| {
        runtime().block_on(async {
            let token = room.start().await;
            stop_workers();
            let asking = {
                let token = Arc::clone(&token);
                tokio::spawn(async move { token.create_kek().await })
            };
            tokio::time::sleep(Duration::from_millis(200)).await;
            kill_workers();
            let answer = asking.await.unwrap();
            let Err(HsmError::Unavailable(why)) = &answer else { panic!("{answer:?}") };
            assert!(why.contains("not known whether"), "{why}");
            ready_again(&token).await;
            assert_eq!(token.keks().await.unwrap().len(), 1);
        });
    });
}

#[test]
fn the_memory_of_a_worker_can_be_limited() {
    with_token("the_memory_of_a_worker_can_be_limited", |room| {
        runtime().block_on(async {
            let config = TokenConfig { memory_mib: Some(4096), ..room.config() };
            let token = Token::start(config, worker_program()).await.unwrap();
            sealed(&token).await;
            let pid = children()[0].as_raw_nonzero();
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
            assert_eq!(line.matches("4294967296").count(), 2, "{line}");
        });
    });
}

/// Two folders of tokens, the second a copy of the first: each worker has its own.
fn two_tokens(room: &Room) -> TokenConfig {
    // The first start makes the KEK that both must hold.
    drop(room.open());
    let (conf, env) = room.copied("copy");
    assert!(conf.exists());
    let member = hsm_profiles::MemberConfig {
        name: "south".into(),
        profile: None,
        library: None,
        token: None,
        pin: None,
        env: Some(env),
    };
    TokenConfig { member: vec![member], deadline_ms: 1000, ..room.config() }
}

#[test]
fn a_standby_takes_over_and_the_first_comes_back() {
    with_token("a_standby_takes_over_and_the_first_comes_back", |room| {
        runtime().block_on(async {
            let token = Token::start(two_tokens(&room), worker_program()).await.unwrap();
            ready_again(&token).await;
            let before = sealed(&token).await;
            let (here, away) = (room.dir.join("softhsm"), room.dir.join("away"));
            std::fs::rename(&here, &away).unwrap();
            token.probe().await;
            let [first, second] = &token.members()[..] else { panic!("two tokens") };
            assert_ne!(first.breaker, Breaker::Closed);
            assert_eq!((&second.name[..], second.breaker), ("south", Breaker::Closed));
            works(&token, &before).await;
            std::fs::rename(&away, &here).unwrap();
            ready_again(&token).await;
            works(&token, &before).await;
            assert!(token.members().iter().all(|member| member.restarts == 0));
        });
    });
}

#[test]
fn two_active_tokens_share_the_work_and_stand_in_for_each_other() {
    with_token("two_active_tokens_share_the_work_and_stand_in_for_each_other", |room| {
        runtime().block_on(async {
            let config = TokenConfig {
                spread: hsm_profiles::Spread::ActiveActive,
                deadline_ms: 5000,
                ..two_tokens(&room)
            };
            let token = Token::start(config, worker_program()).await.unwrap();
            ready_again(&token).await;
            assert_passes(&hsm_suite(&*token).await);
            let before = sealed(&token).await;
            for _ in 0..5 {
                kill_process(children()[0], Signal::KILL).unwrap();
                for _ in 0..20 {
                    serves(&token, &before).await;
                }
                ready_again(&token).await;
            }
        });
    });
}

#[test]
fn a_token_without_the_kek_that_seals_is_not_used() {
    with_token("a_token_without_the_kek_that_seals_is_not_used", |room| {
        runtime().block_on(async {
            let config = two_tokens(&room);
            let token = Token::start(config.clone(), worker_program()).await.unwrap();
            ready_again(&token).await;
            let before = sealed(&token).await;
            // By somebody who knows of the first one only.
            let alone = TokenConfig { member: Vec::new(), ..config };
            let alone = Token::start(alone, worker_program()).await.unwrap();
            let kek = alone.create_kek().await.unwrap().id;
            drop(alone);
            assert_eq!(token.keks().await.unwrap().len(), 2);
            let after = sealed(&token).await;
            assert_eq!((token.current_kek(), &after.kek), (kek.clone(), &kek));
            token.probe().await;
            let second = &token.members()[1];
            assert_eq!(second.breaker, Breaker::Open);
            assert!(second.status.detail.contains(&kek.0), "{}", second.status.detail);
            let old = token.keks().await.unwrap()[0].clone();
            // With the first away the second still opens what it can, and seals nothing.
            std::fs::rename(room.dir.join("softhsm"), room.dir.join("away")).unwrap();
            token.probe().await;
            token.open(b"before", &before).await.unwrap();
            let answer = token.seal(b"", &ClearBytes::copy_from(b"x")).await;
            assert!(matches!(answer, Err(HsmError::Unavailable(_))), "{answer:?}");
            assert!(!token.status().ready);
            // Destroyed means destroyed in every token.
            let answer = token.destroy_kek(&old).await;
            assert!(matches!(answer, Err(HsmError::Unavailable(_))), "{answer:?}");
        });
    });
}
