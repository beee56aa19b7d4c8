//! Random numbers from a token and from a device that reads as a QRNG does: mixed, tested, never
//! given twice, never replaced.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::HashSet,
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use common::{Machine, SoftHsm, random, temp_dir};
use km_core::{
    epoch::EpochPolicy,
    hsm::{Hsm, HsmError, HsmStatus, KekId, Sealed},
    material::ClearBytes,
    objects::{ObjectError, Objects},
    provenance::Origin,
    random::{CHUNK, QrngConfig, Random, RandomError, Unhealthy},
    usage::{Curve, DsaSet, KeyKind, kem::KemSet, seeded},
};

type Script = Box<dyn FnMut(usize) -> Result<Vec<u8>, HsmError> + Send>;

/// A token whose generator does what the test says.
struct Token {
    inner: Arc<SoftHsm>,
    script: Mutex<Script>,
    calls: AtomicUsize,
}

fn token(script: impl FnMut(usize) -> Result<Vec<u8>, HsmError> + Send + 'static) -> Arc<Token> {
    let script: Script = Box::new(script);
    Arc::new(Token { inner: SoftHsm::new(), script: Mutex::new(script), calls: 0.into() })
}

#[async_trait]
impl Hsm for Token {
    fn current_kek(&self) -> KekId {
        self.inner.current_kek()
    }
    async fn seal(&self, aad: &[u8], clear: &ClearBytes) -> Result<Sealed, HsmError> {
        self.inner.seal(aad, clear).await
    }
    async fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<ClearBytes, HsmError> {
        self.inner.open(aad, sealed).await
    }
    async fn random(&self, len: usize) -> Result<ClearBytes, HsmError> {
        self.calls.fetch_add(1, Relaxed);
        (self.script.lock().unwrap())(len).map(ClearBytes::from_vec)
    }
    async fn probe(&self) -> HsmStatus {
        self.status()
    }
    fn status(&self) -> HsmStatus {
        self.inner.status()
    }
}

fn fifo(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("qrng0");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Writes what `make` gives until the reader goes away.
fn feed(path: &Path, mut make: impl FnMut() -> Vec<u8> + Send + 'static) {
    let path = path.to_owned();
    std::thread::spawn(move || {
        let mut pipe = OpenOptions::new().write(true).open(path).unwrap();
        while pipe.write_all(&make()).is_ok() {}
    });
}

fn qrng(path: &Path, min_entropy: f64) -> QrngConfig {
    QrngConfig { path: path.to_owned(), min_entropy, deadline: Duration::from_secs(5) }
}

fn bytes(clear: &ClearBytes) -> Vec<u8> {
    clear.expose(<[u8]>::to_vec)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_get_different_bytes_with_few_calls_of_the_token() {
    let token = token(|len| Ok(random(len)));
    let random = Arc::new(Random::of_token(token.clone()));
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let random = random.clone();
            tokio::spawn(async move {
                let mut keys = Vec::new();
                for _ in 0..128 {
                    keys.push(bytes(&random.bytes(32).await.unwrap()));
                }
                keys
            })
        })
        .collect();
    let mut seen = HashSet::new();
    for task in tasks {
        seen.extend(task.await.unwrap());
    }
    assert_eq!(seen.len(), 32 * 128);
    let calls = token.calls.load(Relaxed);
    assert!(calls <= 1 + 32 * 128 * 32 / CHUNK, "{calls} calls for {} keys", seen.len());
    assert_eq!(random.bytes(CHUNK + 1).await.unwrap().len(), CHUNK + 1);
    assert!(random.bytes(65_537).await.is_err());
}

#[tokio::test]
async fn what_waited_since_the_last_renewal_is_thrown_away() {
    let mut count = 0u8;
    let token = token(move |len| {
        count += 1;
        Ok((0..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(count)).collect())
    });
    let random = Random::of_token(token.clone());
    let first = random.bytes(32).await.unwrap();
    random.renew().await;
    assert_eq!(token.calls.load(Relaxed), 3, "start-up, chunk, renewed chunk");
    assert_ne!(bytes(&first), bytes(&random.bytes(32).await.unwrap()));
}

#[tokio::test]
async fn a_stuck_token_gives_an_error_and_what_was_ready_goes_too() {
    let mut calls = 0;
    let token = token(move |len| {
        calls += 1;
        // Start-up and first chunk are good, the second chunk is not.
        Ok(if calls == 3 { vec![0x55; len] } else { random(len) })
    });
    let random = Random::of_token(token);
    random.bytes(32).await.unwrap();
    random.renew().await;
    let error = random.bytes(32).await.unwrap_err();
    let RandomError::Unhealthy { which: "token", test: Unhealthy::Repetition(6) } = error else {
        panic!("{error:?}")
    };
    let [status] = &random.status()[..] else { panic!() };
    assert!(status.failures == 1 && status.trouble.as_ref().unwrap().contains("health test"));
    // After a second it is tested from the start.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(random.bytes(32).await.unwrap().len(), 32);
    assert_eq!(random.status()[0].trouble, None);
}

/// Key pairs that are to leave the token, and ML-KEM where it has none, are made in this process.
#[tokio::test]
async fn no_generator_of_the_library_stands_in_for_a_source_that_is_away() {
    let (dir, machine, set) = (temp_dir(), Machine::new(), KemSet::MlKem768);
    let unlocked = machine.unlock(machine.disk.clone(), EpochPolicy::default()).await;
    let (records, well, _) = unlocked.unwrap();
    let gone = qrng(&dir.path().join("nowhere"), 8.0);
    let unwell = Random::with_qrng(Some(machine.hsm.clone()), gone).unwrap();
    let vault = well.clone().with_random(Arc::new(unwell));
    let objects = Objects::new(records.clone(), vault.clone());
    let kinds = [
        KeyKind::Rsa,
        KeyKind::Ec(Curve::P256),
        KeyKind::Ed25519,
        KeyKind::X25519,
        KeyKind::MlDsa(DsaSet::MlDsa65),
    ];
    for kind in kinds {
        let refused = objects.make_in_process(kind, 2048).await.map(drop);
        let is_away =
            |error: &RandomError| matches!(error, RandomError::Away { which: "qrng", .. });
        assert!(
            matches!(&refused, Err(ObjectError::Random(error)) if is_away(error)),
            "{kind:?}: {refused:?}"
        );
    }
    let pair = well.kem_key_pair(set).await.unwrap();
    let refused = vault.kem_key_pair(set).await.map(drop);
    assert!(matches!(refused, Err(HsmError::Unavailable(_))), "{refused:?}");
    let refused = vault.kem_encapsulate(set, &pair.public).await.map(drop);
    assert!(matches!(refused, Err(HsmError::Unavailable(_))), "{refused:?}");
    // While all are well they are made, and say of what.
    let objects = Objects::new(records, well);
    for kind in kinds {
        let (_, origin) = objects.make_in_process(kind, 2048).await.unwrap();
        let expected = if kind == KeyKind::Rsa { Origin::Library } else { Origin::HsmRng };
        assert_eq!(origin, expected, "{kind:?}");
    }
}

#[tokio::test]
async fn a_key_pair_that_is_to_leave_is_made_of_the_numbers_of_the_sources() {
    let (known, mut calls) = (random(CHUNK), 0);
    let given = known.clone();
    let token = token(move |len| {
        calls += 1;
        // After the start-up test.
        Ok(if calls == 2 { given.clone() } else { random(len) })
    });
    let machine = Machine::new();
    let unlocked = machine.unlock(machine.disk.clone(), EpochPolicy::default()).await;
    let (records, vault, _) = unlocked.unwrap();
    let vault = vault.with_random(Arc::new(Random::of_token(token)));
    let objects = Objects::new(records, vault);
    let (pair, _) = objects.make_in_process(KeyKind::Ed25519, 0).await.unwrap();
    let seed = ClearBytes::copy_from(&known[CHUNK - 32..]);
    let expected = seeded::make(KeyKind::Ed25519, &seed).unwrap().unwrap();
    assert_eq!((pair.private, pair.public), (expected.private, expected.public));
}

#[tokio::test]
async fn a_token_that_was_away_is_asked_again_at_once() {
    let mut calls = 0;
    let token = token(move |len| {
        calls += 1;
        if calls == 1 { Err(HsmError::Unavailable("gone".into())) } else { Ok(random(len)) }
    });
    let random = Random::of_token(token);
    assert!(matches!(random.bytes(32).await, Err(RandomError::Token(_))));
    assert!(random.bytes(32).await.is_ok());
}

#[tokio::test]
async fn both_sources_are_in_every_byte() {
    let (dir, known) = (temp_dir(), random(CHUNK));
    let path = fifo(&dir);
    // After the start-up test the token gives known bytes, and so does the device.
    let of_token = known.clone();
    let token = token(move |len| Ok(of_token[..len].to_vec()));
    let device = random(1024 + CHUNK);
    let copy = device.clone();
    feed(&path, move || copy.clone());
    let random = Random::with_qrng(Some(token), qrng(&path, 8.0)).unwrap();
    assert_eq!(random.origin(), Origin::HsmRngAndQrng);
    let mixed = bytes(&random.bytes(CHUNK).await.unwrap());
    let expected: Vec<u8> = known.iter().zip(&device[1024..]).map(|(a, b)| a ^ b).collect();
    assert_eq!(mixed, expected);
}

#[tokio::test]
async fn a_device_alone_is_read_and_conditioned() {
    let dir = temp_dir();
    let path = fifo(&dir);
    feed(&path, || random(512));
    let random = Random::with_qrng(None, qrng(&path, 5.0)).unwrap();
    assert_eq!(random.origin(), Origin::Qrng);
    let (one, two) = (random.bytes(32).await.unwrap(), random.bytes(32).await.unwrap());
    assert_ne!(bytes(&one), bytes(&two));
}

#[tokio::test]
async fn a_device_that_is_away_stuck_or_silent_is_never_replaced_by_the_token() {
    let dir = temp_dir();
    let path = fifo(&dir);
    let mixed = |path: &Path| {
        Random::with_qrng(Some(token(|len| Ok(random(len)))), qrng(path, 8.0)).unwrap()
    };
    let missing = mixed(&dir.path().join("nothing"));
    let error = missing.bytes(32).await.unwrap_err();
    assert!(matches!(&error, RandomError::Away { which: "qrng", .. }), "{error}");
    assert_eq!(missing.bytes(32).await.unwrap_err(), error, "left alone for a second");
    let statuses = missing.status();
    assert!(statuses[0].trouble.is_none() && statuses[1].trouble.is_some(), "{statuses:?}");

    // Nobody writes: opening the FIFO blocks, but not the caller.
    let hurried = QrngConfig { deadline: Duration::from_millis(300), ..qrng(&path, 8.0) };
    let silent = Random::with_qrng(Some(token(|len| Ok(random(len)))), hurried).unwrap();
    let begin = Instant::now();
    let error = silent.bytes(32).await.unwrap_err();
    assert!(error.to_string().contains("within"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(2));
    // Then somebody does.
    feed(&path, || random(512));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(silent.bytes(32).await.unwrap().len(), 32);

    let other = temp_dir();
    let path = fifo(&other);
    feed(&path, || vec![0; 512]);
    let error = mixed(&path).bytes(32).await.unwrap_err();
    assert!(matches!(error, RandomError::Unhealthy { which: "qrng", .. }), "{error}");
}

#[tokio::test]
async fn files_and_the_kernels_own_devices_are_no_qrng() {
    let dir = temp_dir();
    let file = dir.path().join("bytes");
    std::fs::write(&file, random(8192)).unwrap();
    for path in [file.as_path(), dir.path(), Path::new("/dev/zero"), Path::new("/dev/urandom")] {
        let error = Random::with_qrng(None, qrng(path, 8.0)).unwrap().bytes(32).await;
        assert!(matches!(error, Err(RandomError::Away { .. })), "{path:?}: {error:?}");
    }
    assert!(Random::with_qrng(None, qrng(&file, 8.5)).is_err());
    assert!(Random::with_qrng(None, qrng(&file, f64::NAN)).is_err());
}
