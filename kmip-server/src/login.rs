//! User names and passwords that requests carry besides the certificate of their connection.
//!
//! What is configured is a salted slow hash ([`PasswordHash`]). Once a password was found right, a
//! fast hash of it under a key of this process alone tells it again, so that only the first request
//! of an application waits for the slow one.
//!
//! Whoever guesses does it at a [`Gate`], one password after the other with a pause after each wrong
//! one, and leaves the places of the slow hash to others meanwhile.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::{constant_time, hmac, pbkdf2, rand};
use km_core::ids::SaeId;
use kmip::{SecretText, message::UsernameAndPassword};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use wiped::Wiped;
use zeroize::Zeroizing;

use crate::policy::Policies;

const NAME: &str = "pbkdf2-sha512";
/// OWASP Password Storage Cheat Sheet, 2023: PBKDF2-HMAC-SHA-512.
const ITERATIONS: u32 = 210_000;
/// The hash of every new connection must not cost more than about ten seconds.
const MOST_ITERATIONS: u32 = 10_000_000;
const SALT: usize = 16;
const HASH: usize = 32;
/// Slow hashes at a time.
const AT_A_TIME: usize = 2;
/// Longest wait for a slow hash.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause of a gate after a wrong password.
const PAUSE: Duration = Duration::from_millis(500);

/// Who a request must say it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// User name, compared byte by byte.
    pub username: String,
    /// What the password must hash to.
    pub password: PasswordHash,
}

/// A salted slow hash of a password, written `pbkdf2-sha512$ITERATIONS$SALT$HASH` (hexadecimal).
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    iterations: NonZeroU32,
    salt: [u8; SALT],
    hash: [u8; HASH],
}

/// What is not such a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a password hash of this kind; `qkm kmip password` makes one")]
pub struct BadHash;

impl PasswordHash {
    /// Hashes `password` with a fresh salt; takes a fraction of a second. `None` when the system
    /// gives no random numbers.
    pub fn make(password: &[u8]) -> Option<Self> {
        let mut salt = [0; SALT];
        rand::fill(&mut salt).ok()?;
        let iterations = NonZeroU32::new(ITERATIONS)?;
        let mut hash = [0; HASH];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, &salt, password, &mut hash);
        Some(Self { iterations, salt, hash })
    }

    /// Whether it is of `password`. `false` takes as long as a hash of `most` iterations: how long must
    /// not tell with whose it was compared.
    fn fits_as_slowly(&self, password: &[u8], most: NonZeroU32) -> bool {
        let fits = self.fits(password);
        let rest = NonZeroU32::new(most.get().saturating_sub(self.iterations.get()));
        if let (false, Some(rest)) = (fits, rest) {
            let mut unused = Zeroizing::new([0; HASH]);
            let salt = &self.salt;
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rest, salt, password, unused.as_mut_slice());
        }
        fits
    }

    fn fits(&self, password: &[u8]) -> bool {
        let Self { iterations, salt, hash } = self;
        // Compares in constant time.
        pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, *iterations, salt, password, hash).is_ok()
    }
}

impl FromStr for PasswordHash {
    type Err = BadHash;

    fn from_str(text: &str) -> Result<Self, BadHash> {
        let parts: Vec<&str> = text.split('$').collect();
        let [NAME, iterations, salt_text, hash_text] = parts.as_slice() else {
            return Err(BadHash);
        };
        let iterations: u32 = iterations.parse().map_err(|_| BadHash)?;
        let fits = (ITERATIONS..=MOST_ITERATIONS).contains(&iterations);
        let iterations = NonZeroU32::new(iterations).filter(|_| fits).ok_or(BadHash)?;
        let (mut salt, mut hash) = ([0; SALT], [0; HASH]);
        hex::decode_to_slice(salt_text, &mut salt).map_err(|_| BadHash)?;
        hex::decode_to_slice(hash_text, &mut hash).map_err(|_| BadHash)?;
        Ok(Self { iterations, salt, hash })
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, hash) = (hex::encode(self.salt), hex::encode(self.hash));
        write!(f, "{NAME}${}${salt}${hash}", self.iterations)
    }
}

/// Without salt and hash.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME} of {} iterations", self.iterations)
    }
}

/// Where the passwords of one certificate are checked, one at a time.
#[derive(Debug)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// Checks passwords.
pub(crate) struct Guard {
    /// Of this process alone.
    key: hmac::Key,
    /// Fast hashes of passwords found right.
    right: Mutex<HashMap<SaeId, hmac::Tag>>,
    slow: Arc<Semaphore>,
    /// What those are compared with who are nobody, with the most iterations of all.
    nobody: PasswordHash,
}

/// Why a login counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Missing,
    Wrong,
    Busy,
}

impl Refusal {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Missing => {
                "this certificate needs a user name and password besides: send them as Credential \
                 in the Authentication of the request header"
            }
            Self::Wrong => "user name or password are wrong for this certificate",
            Self::Busy => {
                "the password was not checked: others of this certificate, or too many in all, were \
                 being checked for ten seconds; try again later"
            }
        }
    }
}

impl Guard {
    /// Of an application with one of the logins in `policies`.
    pub(crate) fn new(policies: &Policies) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        let mut hash = [0; HASH];
        // Without random numbers the key is all zero: nobody outside this process sees what it makes.
        let _ = rand::fill(key.as_mut_slice()).and_then(|()| rand::fill(&mut hash));
        let logins = policies.values().filter_map(|policy| policy.login.as_ref());
        let most = logins.map(|login| login.password.iterations).max();
        let iterations = most.or(NonZeroU32::new(ITERATIONS)).unwrap_or(NonZeroU32::MIN);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()),
            right: Mutex::default(),
            slow: Arc::new(Semaphore::new(AT_A_TIME)),
            nobody: PasswordHash { iterations, salt: [0; SALT], hash },
        }
    }

    /// Whether `said` is the login of `of`; without one, nobody's. `gate` is that of the certificate.
    pub(crate) async fn check(
        &self,
        of: Option<(&SaeId, &Login)>,
        said: &UsernameAndPassword,
        gate: &Gate,
    ) -> Result<(), Refusal> {
        let password = said.password.as_ref().map(bytes).unwrap_or_default();
        let tag = hmac::sign(&self.key, &password);
        let is_known = || of.is_some_and(|(sae, _)| self.is_known(sae, &tag));
        if is_known() {
            return Ok(());
        }
        let until = Instant::now() + PATIENCE;
        let at_gate = place(&gate.0, until).await?;
        // Who came first may have shown the same.
        if is_known() {
            return Ok(());
        }
        let place = place(&self.slow, until).await?;
        let hash = of.map_or(&self.nobody, |(_, login)| &login.password).clone();
        let most = self.nobody.iterations;
        let checked = tokio::task::spawn_blocking(move || {
            let fits = wiped::leaving_none(|| hash.fits_as_slowly(&password, most));
            drop(place);
            (fits, at_gate)
        });
        match (checked.await, of) {
            (Ok((true, _)), Some((sae, _))) => {
                self.known().insert(sae.clone(), tag);
                Ok(())
            }
            (Ok((_, at_gate)), _) => {
                tokio::spawn(async move {
                    tokio::time::sleep(PAUSE).await;
                    drop(at_gate);
                });
                Err(Refusal::Wrong)
            }
            (Err(_), _) => Err(Refusal::Busy),
        }
    }

    fn is_known(&self, sae: &SaeId, tag: &hmac::Tag) -> bool {
        let known = self.known();
        let right = known.get(sae).map(AsRef::as_ref);
        right.is_some_and(|right| {
            constant_time::verify_slices_are_equal(right, tag.as_ref()).is_ok()
        })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<SaeId, hmac::Tag>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a place until then.
async fn place(places: &Arc<Semaphore>, until: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
    let place = tokio::time::timeout_at(until, places.clone().acquire_owned()).await;
    place.ok().and_then(Result::ok).ok_or(Refusal::Busy)
}

fn bytes(text: &SecretText) -> Wiped {
    text.expose(|text| Wiped::copy_of(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::policy::Policy;

    #[test]
    fn a_hash_survives_its_text_and_tells_the_password_alone() {
        let hash = PasswordHash::make(b"correct horse").unwrap();
        let read: PasswordHash = hash.to_string().parse().unwrap();
        assert_eq!(read, hash);
        assert!(read.fits(b"correct horse") && !read.fits(b"correct house") && !read.fits(b""));
        assert_ne!(PasswordHash::make(b"correct horse").unwrap(), hash, "salted");
    }

    #[test]
    fn what_is_no_hash_or_a_fast_one_is_refused() {
        let good = PasswordHash::make(b"x").unwrap().to_string();
        let fast = good.replace("$210000$", "$1000$");
        let endless = good.replace("$210000$", "$4000000000$");
        let cut = &good[..good.len() - 2];
        for text in ["", "x", "password", &fast, &endless, cut, &good.replace("512", "256")] {
            assert_eq!(text.parse::<PasswordHash>(), Err(BadHash), "{text}");
        }
    }

    #[tokio::test]
    async fn only_the_right_password_of_the_right_user_passes_also_the_second_time() {
        let (guard, gate) = (Guard::new(&Policies::new()), Gate::default());
        let said = |password: &str| UsernameAndPassword {
            username: "ada".into(),
            password: Some(SecretText::copy_from(password)),
        };
        let password = PasswordHash::make(b"right").unwrap();
        let login = Login { username: "ada".into(), password };
        let sae = SaeId::parse("ada").unwrap();
        for _ in 0..2 {
            assert_eq!(
                guard.check(Some((&sae, &login)), &said("wrong"), &gate).await,
                Err(Refusal::Wrong)
            );
            assert_eq!(guard.check(Some((&sae, &login)), &said("right"), &gate).await, Ok(()));
            assert_eq!(guard.check(None, &said("right"), &gate).await, Err(Refusal::Wrong));
        }
    }

    #[tokio::test]
    async fn who_guesses_takes_one_place_and_pauses() {
        let (guard, gate, other) = (Guard::new(&Policies::new()), Gate::default(), Gate::default());
        let said = UsernameAndPassword { username: "ada".into(), password: None };
        let (since, guessed) = (Instant::now(), Cell::new(false));
        let guesses = async {
            let guess = || guard.check(None, &said, &gate);
            let _ = tokio::join!(guess(), guess(), guess());
            guessed.set(true);
        };
        tokio::join!(guesses, async {
            while gate.0.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            assert!(guard.slow.available_permits() >= AT_A_TIME - 1);
            assert_eq!(guard.check(None, &said, &other).await, Err(Refusal::Wrong));
            assert!(!guessed.get(), "nobody waits for another certificate");
        });
        assert!(since.elapsed() >= 2 * PAUSE);
    }

    #[test]
    fn nobody_is_compared_as_slowly_as_anybody() {
        let password = PasswordHash::make(b"x").unwrap();
        let slow = NonZeroU32::new(2 * ITERATIONS).unwrap();
        let password = PasswordHash { iterations: slow, ..password };
        let login = Some(Login { username: "ada".into(), password });
        let policy = Policy { login, ..Policy::default() };
        let policies = Policies::from([(SaeId::parse("ada").unwrap(), policy)]);
        assert_eq!(Guard::new(&policies).nobody.iterations, slow);
        assert_eq!(Guard::new(&Policies::new()).nobody.iterations.get(), ITERATIONS);
        // Nor does a faster hash tell that it is another's.
        let fast = PasswordHash::make(b"x").unwrap();
        let took = |most: u32| {
            let since = Instant::now();
            assert!(!fast.fits_as_slowly(b"y", NonZeroU32::new(most).unwrap()));
            since.elapsed()
        };
        assert!(took(16 * ITERATIONS) > 2 * took(ITERATIONS));
    }
}
