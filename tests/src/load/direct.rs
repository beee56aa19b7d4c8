//! The same PKCS#11 calls as the KM makes for a key in use, in a plain loop on one session for each
//! thread. Runs in a process of its own, since SoftHSM reads its configuration once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::{Mechanism, aead::GcmParams};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

/// Bytes that are encrypted at a time.
pub const BYTES: usize = 1024;
const ROLE: &str = "--direct";
/// As long as what binds a block to its header.
pub const SEAL_AAD: &[u8] = b"block header of thirty-two bytes";

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// AES-256-GCM of [`BYTES`] bytes.
    Encrypt,
    /// ECDSA on P-256 of a hash.
    Sign,
    /// AES-256-GCM of so many bytes, its nonce from the token.
    Seal(usize),
    /// Back from that.
    Open(usize),
}

impl Direct {
    fn name(self) -> (&'static str, usize) {
        match self {
            Self::Encrypt => ("encrypt", BYTES),
            Self::Sign => ("sign", 0),
            Self::Seal(len) => ("seal", len),
            Self::Open(len) => ("open", len),
        }
    }

    fn named(name: &str, len: usize) -> Option<Self> {
        let all = [Self::Encrypt, Self::Sign, Self::Seal(len), Self::Open(len)];
        all.into_iter().find(|one| one.name() == (name, len))
    }

    /// Operations per second with `threads` threads, in a child of this program.
    pub fn per_second(self, conf: &Path, pin_file: &Path, threads: usize, time: Duration) -> f64 {
        let (name, len) = self.name();
        let output = Command::new(std::env::current_exe().expect("own path"))
            .args([ROLE, name, &len.to_string(), &threads.to_string()])
            .arg(time.as_millis().to_string())
            .arg(pin_file)
            .env("SOFTHSM2_CONF", conf)
            .output()
            .expect("the child runs");
        let said = String::from_utf8_lossy(&output.stdout);
        said.trim().parse().unwrap_or_else(|_| panic!("no figure: {output:?}"))
    }

    fn key(self, session: &Session) -> ObjectHandle {
        let made = match self {
            Self::Encrypt | Self::Seal(_) | Self::Open(_) => {
                let template = [
                    Attribute::ValueLen(32.into()),
                    Attribute::Token(false),
                    Attribute::Encrypt(true),
                    Attribute::Decrypt(true),
                ];
                session.generate_key(&Mechanism::AesKeyGen, &template)
            }
            Self::Sign => {
                let curve = km_core::usage::der::curve_oid(km_core::usage::Curve::P256);
                let public = [Attribute::Token(false), Attribute::EcParams(curve.to_vec())];
                let private = [Attribute::Token(false), Attribute::Sign(true)];
                let pair = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
                pair.map(|(_, private)| private)
            }
        };
        made.expect("the token makes a key")
    }

    /// What one thread repeats.
    fn repeated<'s>(self, session: &'s Session) -> Box<dyn FnMut() + 's> {
        let key = self.key(session);
        let clear = vec![1; self.name().1];
        let seal = move |nonce: &mut [u8], aad: &[u8]| {
            let gcm = GcmParams::new(nonce, aad, 128.into()).expect("parameters");
            session.encrypt(&Mechanism::AesGcm(gcm), key, &clear).expect("the token does it")
        };
        match self {
            Self::Encrypt => Box::new(move || drop(seal(&mut [7; 12], &[]))),
            Self::Sign => Box::new(move || {
                drop(session.sign(&Mechanism::Ecdsa, key, &[1; 32]).expect("the token does it"));
            }),
            Self::Seal(_) => Box::new(move || {
                let mut nonce = [0; 12];
                session.generate_random_slice(&mut nonce).expect("the token has random numbers");
                drop(seal(&mut nonce, SEAL_AAD));
            }),
            Self::Open(_) => {
                let sealed = seal(&mut [7; 12], SEAL_AAD);
                Box::new(move || {
                    let mut nonce = [7; 12];
                    let gcm = GcmParams::new(&mut nonce, SEAL_AAD, 128.into()).expect("parameters");
                    let clear = session.decrypt(&Mechanism::AesGcm(gcm), key, &sealed);
                    drop(clear.expect("the token does it"));
                })
            }
        }
    }
}

/// Whether this process is such a child; then the figure is printed.
pub fn role() -> bool {
    let mut args = std::env::args().skip_while(|arg| arg != ROLE).skip(1);
    let (Some(what), Some(len), Some(threads), Some(ms), Some(pin_file)) =
        (args.next(), args.next(), args.next(), args.next(), args.next())
    else {
        return false;
    };
    let number = |text: String| text.parse::<usize>().expect("a number");
    let what = Direct::named(&what, number(len)).expect("something to do");
    let time = Duration::from_millis(ms.parse().expect("a number"));
    let threads = number(threads);
    println!("{}", run(what, threads, time, &PathBuf::from(pin_file)));
    true
}

fn run(what: Direct, threads: usize, time: Duration, pin_file: &Path) -> f64 {
    let profile = hsm_profiles::Profile::load("softhsm2").expect("a profile");
    let library = profile.libraries.iter().find(|path| path.exists()).expect("SoftHSM");
    let pkcs11 = Pkcs11::new(library).expect("it loads");
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("it starts");
    let slot = *pkcs11.get_slots_with_initialized_token().expect("slots").first().expect("a token");
    let login = pkcs11.open_rw_session(slot).expect("a session");
    let pin = std::fs::read_to_string(pin_file).expect("a PIN");
    let pin = AuthPin::new(pin.trim().to_owned().into());
    login.login(UserType::User, Some(&pin)).expect("a login");
    let (over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let since = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let session = pkcs11.open_rw_session(slot).expect("a session");
                let mut once = what.repeated(&session);
                while !over.load(Relaxed) {
                    once();
                    count.fetch_add(1, Relaxed);
                }
            });
        }
        std::thread::sleep(time);
        over.store(true, Relaxed);
    });
    count.load(Relaxed) as f64 / since.elapsed().as_secs_f64()
}
