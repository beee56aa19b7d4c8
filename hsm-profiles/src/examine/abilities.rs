//! What a token can do with keys, each tried once. Enter through [`abilities`].
//!
//! All objects are those of one session, and gone with it.

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use km_core::hsm::Custody;
use km_core::material::ClearBytes;
use serde::Serialize;

use crate::keys;
use crate::library::Library;
use crate::link::code;
use crate::profile::{Import, MechanismName, Profile, Wrap};
use crate::slot::offers;

/// Lengths in bytes that tell padding from silent padding.
const WRAPPED_BYTES: [usize; 3] = [16, 31, 32];
/// `prime256v1` as an ASN.1 object identifier.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const GCM_IV_BYTES: usize = 12;
const GCM_TAG_BITS: u64 = 128;

/// A function, and where its keys are while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ability {
    /// What was tried.
    pub function: String,
    /// Where the keys were; none when the token does not do it.
    pub custody: Option<Custody>,
    /// Why not, or what to know.
    pub detail: String,
}

impl Ability {
    pub(super) fn new(function: impl Into<String>, custody: Custody, detail: &str) -> Self {
        Self { function: function.into(), custody: Some(custody), detail: detail.to_owned() }
    }
}

/// The token as all trials see it.
pub(super) struct Bench<'a> {
    pub(super) library: &'a Library,
    pub(super) slot: Slot,
    pub(super) session: &'a Session,
    pub(super) profile: &'a Profile,
}

pub(super) type Trial = Result<String, String>;

/// Tries every function that a key manager has a use for.
pub(super) fn abilities(bench: &Bench<'_>) -> Vec<Ability> {
    let mut found = vec![bench.told("random", Custody::InToken, bench.random())];
    if bench.profile.keys.token_objects_only {
        let why = "the profile says that every object is one of the token: nothing was tried";
        let function = "keys for the time of a session".to_owned();
        found.push(Ability { function, custody: None, detail: why.to_owned() });
        return found;
    }
    for way in &bench.profile.wrap {
        let done = bench.wrap(way);
        found.push(bench.told(
            format!("wrap and unwrap, {}", way.mechanism),
            Custody::InToken,
            done,
        ));
    }
    let import = match bench.profile.keys.import {
        Import::Create => "import a clear key (C_CreateObject)",
        Import::EncryptThenUnwrap => "import a clear key (encrypt, then unwrap)",
        Import::Refused => "import a clear key",
    };
    for (function, custody, done) in [
        (import, Custody::HostTransient, bench.import()),
        ("encrypt, AES-256-GCM", Custody::InToken, bench.encrypt()),
        ("MAC, HMAC-SHA-256", Custody::InToken, bench.mac()),
        ("derive, HKDF", Custody::InToken, bench.hkdf()),
        ("derive, SP 800-108 counter mode", Custody::InToken, bench.has("SP800_108_COUNTER_KDF")),
        ("key pair and signature, ECDSA P-256", Custody::InToken, bench.sign()),
        ("agreement, ECDH P-256", Custody::InToken, bench.ecdh()),
        ("key encapsulation, ML-KEM-768", Custody::InToken, bench.ml_kem()),
        ("signature, ML-DSA-65", Custody::InToken, bench.ml_dsa()),
        ("a wrapping key marked trusted by the user", Custody::InToken, bench.trusted()),
    ] {
        found.push(bench.told(function, custody, done));
    }
    found
}

impl Bench<'_> {
    fn told(&self, function: impl Into<String>, custody: Custody, done: Trial) -> Ability {
        let (custody, detail) = match done {
            Ok(detail) => (Some(custody), detail),
            Err(why) => (None, why),
        };
        Ability { function: function.into(), custody, detail }
    }

    /// Only asked for: parameters and templates differ too much between products to be tried.
    pub(super) fn has(&self, name: &'static str) -> Trial {
        let mechanism = MechanismName::standard(name);
        match offers(self.library, self.slot, &mechanism) {
            Ok(true) => Ok("offered, not tried".to_owned()),
            Ok(false) => Err(format!("{mechanism} is not offered")),
            Err(error) => Err(code(&error)),
        }
    }

    fn random(&self) -> Trial {
        let take = || self.session.generate_random_vec(32).map_err(told);
        let (first, second) = (take()?, take()?);
        if first.len() != 32 || first == second {
            return Err("gives the same bytes twice".to_owned());
        }
        Ok(String::new())
    }

    /// An AES-256 key of this session that may do what `may` says.
    fn aes(&self, may: &[Attribute]) -> Result<ObjectHandle, Error> {
        self.generate(false, may)
    }

    fn generate(&self, extractable: bool, may: &[Attribute]) -> Result<ObjectHandle, Error> {
        let mut template = vec![
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(32.into()),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(extractable),
        ];
        template.extend_from_slice(may);
        self.profile.keys.fit(&mut template);
        self.session.generate_key(&Mechanism::AesKeyGen, &template)
    }

    /// Keys of several lengths, wrapped, unwrapped and compared; a changed one must be refused.
    fn wrap(&self, way: &Wrap) -> Trial {
        if !offers(self.library, self.slot, &way.mechanism).map_err(told)? {
            return Err("not offered".to_owned());
        }
        let kek = self.aes(&[Attribute::Wrap(true), Attribute::Unwrap(true)]).map_err(told)?;
        let trial = |len: usize| self.wrapped_comes_back(way, kek, len);
        let (expected, others): (Vec<usize>, Vec<usize>) =
            WRAPPED_BYTES.into_iter().partition(|len| len % way.multiple == 0);
        for len in expected {
            trial(len).map_err(|why| format!("a key of {len} bytes: {why}"))?;
        }
        let in_token = self.unwraps_for_use(way, kek)?;
        let better: Vec<_> = others.iter().filter(|len| trial(**len).is_ok()).collect();
        let worse: Vec<_> = others.iter().map(|len| (len, trial(*len))).collect();
        let odd = worse.iter().filter_map(|(len, done)| {
            done.as_ref().err().map(|why| format!("a key of {len} bytes: {why}"))
        });
        let odd = odd.collect::<Vec<_>>().join(", ");
        Ok([
            in_token,
            odd,
            better.is_empty().then(String::new).unwrap_or_else(|| {
                format!("also exact for {better:?} bytes: wrap.multiple may be smaller")
            }),
        ]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; "))
    }

    fn wrapped_comes_back(&self, way: &Wrap, kek: ObjectHandle, len: usize) -> Trial {
        let clear = self.session.generate_random_vec(len as u32).map_err(told)?;
        let mut template = vec![Attribute::KeyType(KeyType::GENERIC_SECRET)];
        template.extend(secret(false));
        let clear = ClearBytes::from_vec(clear);
        let key = keys::import(self.session, self.profile, &template, &clear).map_err(told)?;
        let wrapped = keys::wrap(self.session, way, kek, key).map_err(told)?;
        let unwrap = |wrapped: &[u8]| {
            keys::unwrap(self.session, way, kek, wrapped, len, &self.fitted(&template))
        };
        let back = unwrap(&wrapped).map_err(told)?;
        let value = self.session.get_attributes(back, &[AttributeType::Value]).map_err(told)?;
        let Some(Attribute::Value(value)) = value.into_iter().next() else {
            return Err("shows no value to compare".to_owned());
        };
        if ClearBytes::from_vec(value) != clear {
            return Err("comes back changed".to_owned());
        }
        let mut changed = wrapped;
        if let Some(byte) = changed.first_mut() {
            *byte ^= 1;
        }
        match unwrap(&changed) {
            Ok(_) => Err("a changed wrapped key is taken".to_owned()),
            Err(_) => Ok(String::new()),
        }
    }

    /// A wrapped key comes back as one that never leaves the token, and works as before.
    fn unwraps_for_use(&self, way: &Wrap, kek: ObjectHandle) -> Trial {
        let may = [Attribute::Encrypt(true), Attribute::Decrypt(true)];
        let key = self.generate(true, &may).map_err(told)?;
        let wrapped = keys::wrap(self.session, way, kek, key).map_err(told)?;
        let mut template = vec![Attribute::KeyType(KeyType::AES)];
        template.extend(secret(true));
        template.extend(may);
        let template = self.fitted(&template);
        let back = keys::unwrap(self.session, way, kek, &wrapped, 32, &template).map_err(told)?;
        if self.by(key)? != self.by(back)? {
            return Err("the key that comes back is another one".to_owned());
        }
        let value = self.session.get_attributes(back, &[AttributeType::Value]);
        if value.is_ok_and(|found| !found.is_empty()) {
            return Err("a key unwrapped as sensitive shows its value".to_owned());
        }
        Ok("unwraps for use, not extractable".to_owned())
    }

    fn fitted(&self, template: &[Attribute]) -> Vec<Attribute> {
        let mut template = template.to_vec();
        template.push(Attribute::Class(ObjectClass::SECRET_KEY));
        self.profile.keys.fit(&mut template);
        template
    }

    fn import(&self) -> Trial {
        let clear = ClearBytes::copy_from(&[3; 32]);
        let mut template = vec![Attribute::KeyType(KeyType::AES), Attribute::Encrypt(true)];
        template.extend(secret(true));
        let key = keys::import(self.session, self.profile, &template, &clear);
        let key = key.map_err(|error| match error {
            Error::NotSupported => "the profile says that it is refused".to_owned(),
            error => told(error),
        })?;
        self.by(key)?;
        Ok(String::new())
    }

    /// The nonce is ours here. A token that makes its own is tried by sealing.
    fn encrypt(&self) -> Trial {
        let may = [Attribute::Encrypt(true), Attribute::Decrypt(true)];
        let key = self.aes(&may).map_err(told)?;
        let run = |iv: &mut [u8]| {
            let gcm = GcmParams::new(iv, b"header", GCM_TAG_BITS.into())?;
            self.session.encrypt(&Mechanism::AesGcm(gcm), key, b"message")
        };
        run(&mut [1; GCM_IV_BYTES]).map_err(told)?;
        Ok(match run(&mut []) {
            Ok(_) => "takes an empty nonce: never pass one".to_owned(),
            Err(_) => String::new(),
        })
    }

    fn mac(&self) -> Trial {
        let len = self.profile.keys.hmac_bytes.max(32) as u64;
        let mut template =
            vec![Attribute::KeyType(KeyType::GENERIC_SECRET), Attribute::ValueLen(len.into())];
        template.extend(secret(true));
        template.extend([Attribute::Sign(true), Attribute::Verify(true)]);
        self.profile.keys.fit(&mut template);
        let generate = Mechanism::GenericSecretKeyGen;
        let key = self.session.generate_key(&generate, &template).map_err(told)?;
        let mac = self.session.sign(&Mechanism::Sha256Hmac, key, b"message").map_err(told)?;
        let verify = |message| self.session.verify(&Mechanism::Sha256Hmac, key, message, &mac);
        verify(b"message").map_err(told)?;
        match verify(b"massage") {
            Ok(()) => Err("verifies a changed message".to_owned()),
            Err(_) => Ok(String::new()),
        }
    }

    /// A P-256 key pair of this session.
    pub(super) fn key_pair(&self) -> Result<(ObjectHandle, ObjectHandle), Error> {
        if self.profile.keys.token_objects_only {
            return Err(Error::NotSupported);
        }
        let public =
            [Attribute::Token(false), Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)];
        let mut private = vec![
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        self.profile.keys.fit(&mut private);
        self.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
    }

    fn sign(&self) -> Trial {
        let (public, private) = self.key_pair().map_err(told)?;
        let digest = [5; 32];
        let signature = self.session.sign(&Mechanism::Ecdsa, private, &digest).map_err(told)?;
        let verify = |digest| self.session.verify(&Mechanism::Ecdsa, public, digest, &signature);
        verify(&digest).map_err(told)?;
        match verify(&[6; 32]) {
            Ok(()) => Err("verifies a changed digest".to_owned()),
            Err(_) => Ok(String::new()),
        }
    }

    /// Keys that only a trusted key may wrap are safe from a key that an intruder brings along.
    fn trusted(&self) -> Trial {
        let may = [Attribute::Wrap(true), Attribute::Trusted(true)];
        match self.aes(&may) {
            Ok(_) => Ok("whoever has the user PIN can make one: it protects nothing".to_owned()),
            Err(error) => {
                Err(format!("{}: the security officer must set CKA_TRUSTED", told(error)))
            }
        }
    }
}

/// What every secret key of a trial is.
fn secret(sensitive: bool) -> [Attribute; 4] {
    [
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(!sensitive),
    ]
}

pub(super) fn told(error: Error) -> String {
    code(&error)
}
