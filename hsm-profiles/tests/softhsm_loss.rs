//! The token is lost behind the KM's back; service resumes without a restart.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{LABEL, Room, runtime, with_token};
use cryptoki::session::SessionState;
use hsm_profiles::{Token, TokenConfig};
use km_core::hsm::{Hsm, HsmError, Sealed, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::{Action, Cipher, Curve, Hash, KeyKind, Scheme};

async fn sealed(token: &Token) -> Sealed {
    token.seal(b"before", &ClearBytes::copy_from(&[5; 40])).await.unwrap()
}

/// What was sealed before the loss opens, new data seals, and the status says so.
async fn works(token: &Token, before: &Sealed) {
    let opened = token.open(b"before", before).await.unwrap();
    assert_eq!(opened, ClearBytes::copy_from(&[5; 40]));
    sealed(token).await;
    assert!(token.status().ready);
}

/// `break_it` must be survived by every one of the next requests.
fn survives(room: &Room, break_it: impl Fn(&Room)) {
    let token = room.open();
    let kek = token.current_kek();
    runtime().block_on(async {
        let before = sealed(&token).await;
        for _ in 0..5 {
            break_it(room);
            works(&token, &before).await;
        }
        assert_eq!(token.current_kek(), kek);
    });
}

#[test]
fn a_logout_is_survived() {
    with_token("a_logout_is_survived", |room| {
        survives(&room, |room| room.other_session().logout().unwrap());
    });
}

#[test]
fn a_restarted_library_is_survived() {
    with_token("a_restarted_library_is_survived", |room| {
        survives(&room, |room| room.other_handle().finalize().unwrap());
    });
}

#[test]
fn closed_sessions_are_survived() {
    with_token("closed_sessions_are_survived", |room| survives(&room, close_all_sessions));
}

/// What another part of the process, or the operator's tool of a vendor, may do at any time.
#[allow(unsafe_code)]
fn close_all_sessions(room: &Room) {
    let slot = room.slot().id();
    // SAFETY: the library is loaded and initialized already, so this only adds a reference, and
    // the call takes a slot number by value.
    let answer = unsafe {
        cryptoki_sys::Pkcs11::new(common::library(hsm_profiles::soft::SoftToken::SoftHsm))
            .unwrap()
            .C_CloseAllSessions(slot)
    };
    assert_eq!(answer, cryptoki_sys::CKR_OK);
}

/// SoftHSM answers CKR_GENERAL_ERROR to a bad tag and to a key it cannot read alike. Good data
/// must not be called bad because of the latter.
#[test]
fn a_damaged_kek_is_not_blamed_on_the_data() {
    with_token("a_damaged_kek_is_not_blamed_on_the_data", |room| {
        let token = room.open();
        runtime().block_on(async {
            let before = sealed(&token).await;
            let intact = damage_keys(&room.dir.join("softhsm"));
            room.other_handle().finalize().unwrap();
            let answer = token.open(b"before", &before).await;
            let Err(HsmError::Unavailable(why)) = &answer else { panic!("{answer:?}") };
            assert!(why.contains("CKR_GENERAL_ERROR"), "{why}");
            assert!(!token.status().ready);
            for (object, bytes) in intact {
                std::fs::write(object, bytes).unwrap();
            }
            room.other_handle().finalize().unwrap();
            ready_again(&token).await;
            works(&token, &before).await;
        });
    });
}

/// Breaks the padding of the KEK and of the key that wraps in its epoch; gives their files and what was in
/// them.
fn damage_keys(store: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let token = std::fs::read_dir(store).unwrap().next().unwrap().unwrap().path();
    // In an object file: attribute type, kind (3: bytes), length, then the bytes.
    let value = [0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 3];
    for entry in std::fs::read_dir(token).unwrap() {
        let path = entry.unwrap().path();
        let intact = std::fs::read(&path).unwrap();
        let Some(at) = intact.windows(16).position(|w| w == value) else { continue };
        let len = u64::from_be_bytes(intact[at + 16..at + 24].try_into().unwrap());
        let mut damaged = intact.clone();
        // The last byte of the block before the last one decides the padding (CBC).
        damaged[at + 24 + usize::try_from(len).unwrap() - 17] ^= 0x80;
        std::fs::write(&path, damaged).unwrap();
        all.push((path, intact));
    }
    assert_eq!(all.len(), 2, "secret keys in {}", store.display());
    all
}

async fn ready_again(token: &Token) {
    let until = Instant::now() + Duration::from_secs(30);
    while !token.status().ready {
        assert!(Instant::now() < until, "{:?}", token.status());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_logout_under_load_fails_no_request() {
    with_token("a_logout_under_load_fails_no_request", |room| {
        let token = room.open();
        runtime().block_on(async {
            let before = sealed(&token).await;
            let load: Vec<_> = (0..8)
                .map(|_| {
                    let (token, before) = (token.clone(), before.clone());
                    tokio::spawn(async move {
                        let mut refused = 0;
                        for _ in 0..200 {
                            match token.open(b"before", &before).await {
                                Ok(clear) => assert_eq!(clear.len(), 40),
                                Err(HsmError::Unavailable(_)) => refused += 1,
                                Err(other) => panic!("good data must never be blamed: {other}"),
                            }
                        }
                        refused
                    })
                })
                .collect();
            for _ in 0..3 {
                room.other_session().logout().unwrap();
                works(&token, &before).await;
            }
            let mut refused = 0;
            for task in load {
                refused += task.await.unwrap();
            }
            assert!(refused < 800, "{refused} of 1600 requests were turned away");
            works(&token, &before).await;
        });
    });
}

/// Keys in use are objects of a session, gone with the login: what the token says of a request it was
/// interrupted in is not the request's fault.
#[test]
fn a_logout_under_load_refuses_no_use_of_a_key() {
    with_token("a_logout_under_load_refuses_no_use_of_a_key", |room| {
        let token = room.open();
        runtime().block_on(async {
            let uses = uses(&token).await;
            let load: Vec<_> = (0..8)
                .map(|n: usize| {
                    let (token, uses) = (token.clone(), uses.clone());
                    tokio::spawn(async move {
                        let mut done = 0;
                        let until = Instant::now() + Duration::from_secs(30);
                        while done < 200 && Instant::now() < until {
                            let (key, action) = &uses[(n + done) % uses.len()];
                            match token.use_key(key, action, &ClearBytes::copy_from(&[7; 32])).await
                            {
                                Ok(_) => done += 1,
                                // Between two attempts to get in again.
                                Err(HsmError::Unavailable(_)) => {
                                    tokio::time::sleep(Duration::from_millis(5)).await;
                                }
                                Err(other) => {
                                    panic!("{action:?} of good data was refused: {other}")
                                }
                            }
                        }
                        done
                    })
                })
                .collect();
            while !load.iter().all(tokio::task::JoinHandle::is_finished) {
                room.other_session().logout().unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut done = 0;
            for task in load {
                done += task.await.unwrap();
            }
            assert_eq!(done, 1600, "requests answered");
        });
    });
}

/// A session that was logged out sees no private objects, and no keys.
#[test]
fn a_logout_hides_nothing_the_token_holds() {
    with_token("a_logout_hides_nothing_the_token_holds", |room| {
        let token = room.open();
        runtime().block_on(async {
            token.store_object("held-1", &ClearBytes::copy_from(&[1; 8])).await.unwrap();
            let looking = {
                let token = token.clone();
                tokio::spawn(async move {
                    let mut seen = 0;
                    for _ in 0..200 {
                        let looks = (token.object_names("held-").await, token.keks().await);
                        match looks.0 {
                            Ok(names) => assert_eq!(names, ["held-1"]),
                            Err(error) => assert!(matches!(error, HsmError::Unavailable(_))),
                        }
                        assert!(looks.1.is_err() || looks.1.is_ok_and(|keks| keks.len() == 1));
                        match token.read_object("held-1").await {
                            Ok(_) => seen += 1,
                            Err(error) => {
                                assert!(matches!(error, HsmError::Unavailable(_)), "{error}")
                            }
                        }
                    }
                    seen
                })
            };
            while !looking.is_finished() {
                room.other_session().logout().unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(looking.await.unwrap() > 50);
        });
    });
}

/// What applications do with keys: one they brought, and two made in the token.
async fn uses(token: &Token) -> Vec<(TokenKey, Action)> {
    let bytes = ClearBytes::copy_from(&[8; 32]);
    let sealed = token.seal(b"brought", &bytes).await.unwrap();
    let brought = |name: &str, kind| TokenKey {
        name: name.as_bytes().to_vec(),
        kind,
        wrapped: false,
        aad: b"brought".to_vec(),
        sealed: sealed.clone(),
    };
    let mut uses = vec![
        (brought("aes", KeyKind::Aes), Action::Encrypt(Cipher::Cbc { iv: [1; 16], padded: true })),
        (brought("hmac", KeyKind::Hmac), Action::Mac(Hash::Sha256)),
    ];
    for (name, kind, bits, action) in [
        ("ec", KeyKind::Ec(Curve::P256), 256, Action::Sign(Scheme::Ecdsa(Hash::Sha256))),
        ("made", KeyKind::Aes, 256, Action::Encrypt(Cipher::Ecb { padded: false })),
    ] {
        let sealed = token.make_key(b"made", kind, bits).await.unwrap().sealed;
        let (name, aad) = (name.as_bytes().to_vec(), b"made".to_vec());
        uses.push((TokenKey { name, kind, wrapped: true, aad, sealed }, action));
    }
    uses
}

/// SoftHSM looks for its tokens when it starts, so only a restart of the library finds it again.
#[test]
fn a_token_folder_moved_away_and_back_is_found_again() {
    with_token("a_token_folder_moved_away_and_back_is_found_again", |room| {
        let token = room.open();
        let (here, away) = (room.dir.join("softhsm"), room.dir.join("away"));
        runtime().block_on(async {
            let before = sealed(&token).await;
            for empty_folder_meanwhile in [false, true] {
                std::fs::rename(&here, &away).unwrap();
                if empty_folder_meanwhile {
                    std::fs::create_dir(&here).unwrap();
                }
                let status = token.probe().await;
                assert!(!status.ready, "{status:?}");
                let answer = token.open(b"before", &before).await;
                assert!(matches!(answer, Err(HsmError::Unavailable(_))), "{answer:?}");
                if empty_folder_meanwhile {
                    std::fs::remove_dir(&here).unwrap();
                }
                std::fs::rename(&away, &here).unwrap();
                ready_again(&token).await;
                works(&token, &before).await;
            }
        });
    });
}

/// Restarts of the library because of one token must not spoil the work on another.
#[test]
fn a_lost_token_does_not_take_its_neighbour_along() {
    with_token("a_lost_token_does_not_take_its_neighbour_along", |room| {
        let lost = room.open();
        let neighbour = room.second_token("south");
        let (here, away) = (room.token_folder(LABEL), room.dir.join("away"));
        runtime().block_on(async {
            let (before, kept) = (sealed(&lost).await, sealed(&neighbour).await);
            let load: Vec<_> = (0..4)
                .map(|_| {
                    let (neighbour, kept) = (neighbour.clone(), kept.clone());
                    tokio::spawn(async move {
                        let until = Instant::now() + Duration::from_secs(2);
                        while Instant::now() < until {
                            let opened = neighbour.open(b"before", &kept).await.unwrap();
                            assert_eq!(opened, ClearBytes::copy_from(&[5; 40]));
                            sealed(&neighbour).await;
                        }
                    })
                })
                .collect();
            std::fs::rename(&here, &away).unwrap();
            let status = lost.probe().await;
            assert!(!status.ready && status.detail.contains("south"), "{status:?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
            std::fs::rename(&away, &here).unwrap();
            ready_again(&lost).await;
            works(&lost, &before).await;
            for task in load {
                task.await.unwrap();
            }
            works(&neighbour, &kept).await;
        });
    });
}

/// How many sessions this process has open. SoftHSM does not tell, but its handles are small.
#[allow(unsafe_code)]
fn sessions() -> usize {
    let valid = |handle: &cryptoki_sys::CK_SESSION_HANDLE| {
        let mut info = cryptoki_sys::CK_SESSION_INFO::default();
        // SAFETY: the library is loaded and initialized already, so this only adds a reference;
        // the handle goes by value, and `info` outlives the call that writes to it.
        let answer = unsafe {
            cryptoki_sys::Pkcs11::new(common::library(hsm_profiles::soft::SoftToken::SoftHsm))
                .unwrap()
                .C_GetSessionInfo(*handle, &raw mut info)
        };
        answer == cryptoki_sys::CKR_OK
    };
    (1..100).filter(valid).count()
}

/// After a restart the library counts sessions anew: closing one of before would close somebody
/// else's of now.
#[test]
fn sessions_of_before_a_restart_close_none_of_after() {
    with_token("sessions_of_before_a_restart_close_none_of_after", |room| {
        // The first one opened has the low numbers, which the second one gets after the restart.
        let open = || Token::open(TokenConfig { sessions: Some(1), ..room.config() }).unwrap();
        let (first, second) = (open(), open());
        runtime().block_on(async {
            let before = sealed(&first).await;
            room.other_handle().finalize().unwrap();
            works(&second, &before).await;
            assert_eq!(sessions(), 2, "the anchor and the lane of the second");
            works(&first, &before).await;
            assert_eq!(sessions(), 4, "and those of the first");
        });
    });
}

/// Random bytes need no login: only the look at the new session notices that it is gone.
#[test]
fn a_new_session_finds_the_login_or_renews_it() {
    with_token("a_new_session_finds_the_login_or_renews_it", |room| {
        let token = room.open();
        room.other_session().logout().unwrap();
        runtime().block_on(async {
            token.random(32).await.unwrap();
            let state = room.other_session().get_session_info().unwrap().session_state();
            assert_eq!(state, SessionState::RwUser);
        });
    });
}

#[test]
fn a_token_that_goes_away_comes_back_without_requests() {
    with_token("a_token_that_goes_away_comes_back_without_requests", |room| {
        let token = room.open();
        let (here, away) = (room.dir.join("softhsm"), room.dir.join("away"));
        runtime().block_on(async {
            let before = sealed(&token).await;
            std::fs::rename(&here, &away).unwrap();
            std::fs::create_dir(&here).unwrap();
            room.other_handle().finalize().unwrap();
            let answer = token.open(b"before", &before).await;
            assert!(matches!(answer, Err(HsmError::Unavailable(_))), "{answer:?}");
            let status = token.status();
            assert!(!status.ready && status.detail.contains("present: none"), "{status:?}");
            std::fs::remove_dir(&here).unwrap();
            std::fs::rename(&away, &here).unwrap();
            // SoftHSM looks at its folder when it starts.
            room.other_handle().finalize().unwrap();
            ready_again(&token).await;
            works(&token, &before).await;
        });
    });
}

/// SoftHSM waits for the lock on a token's files: a real hang inside the library.
#[test]
fn a_hanging_library_is_told_after_the_deadline_and_survived() {
    with_token("a_hanging_library_is_told_after_the_deadline_and_survived", |room| {
        let token = Token::open(TokenConfig { deadline_ms: 400, ..room.config() }).unwrap();
        let mut holder = hold_locks(&room.token_folder(LABEL));
        runtime().block_on(async {
            let before = sealed(&token).await;
            let asked = Instant::now();
            let status = token.probe().await;
            let waited = asked.elapsed();
            assert!(waited >= Duration::from_millis(400), "{waited:?}");
            let told = status.detail.contains("answered nothing for 400 ms");
            assert!(!status.ready && told, "{status:?}");
            assert!(!token.status().ready, "until it answers again");
            holder.kill().unwrap();
            holder.wait().unwrap();
            ready_again(&token).await;
            works(&token, &before).await;
        });
    });
}

/// Another process that locks every file of the token until it is killed.
fn hold_locks(folder: &Path) -> Child {
    let lock = "import fcntl, os, sys
held = [open(e.path, 'r+b') for e in os.scandir(sys.argv[1])]
[fcntl.lockf(f, fcntl.LOCK_EX) for f in held]
print('held', flush=True)
sys.stdin.read()";
    let mut holder = Command::new("python3")
        .args(["-c", lock])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 5];
    holder.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"held\n");
    holder
}
