//! ML-KEM: known answers of NIST (FIPS 203), and the library this program uses against RustCrypto's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, ML_KEM_768, ML_KEM_1024};
use common::{SoftHsm, random};
use km_core::{
    custody::ML_KEM, hsm::Custody, material::ClearBytes, usage::kem::KemSet, vault::Vault,
};
use ml_kem::{
    B32, Key, MlKem768, MlKem1024, Seed,
    kem::{Decapsulate, KeyExport},
};

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// A line of `vectors/ml-kem.txt`.
struct Vector {
    set: KemSet,
    function: &'static str,
    values: BTreeMap<&'static str, Vec<u8>>,
}

impl Vector {
    fn all() -> Vec<Self> {
        let lines = include_str!("vectors/ml-kem.txt").lines();
        let parse = |line: &'static str| {
            let mut words = line.split(' ');
            let set = match words.next().unwrap() {
                "ML-KEM-768" => KemSet::MlKem768,
                "ML-KEM-1024" => KemSet::MlKem1024,
                other => panic!("{other}"),
            };
            let function = words.next().unwrap();
            let value = |word: &'static str| {
                let (name, hex) = word.split_once('=').unwrap();
                (name, unhex(hex))
            };
            Self { set, function, values: words.map(value).collect() }
        };
        lines.filter(|line| !line.starts_with('#')).map(parse).collect()
    }
}

/// RustCrypto's ML-KEM by one set, as the functions the tests need.
macro_rules! theirs {
    ($name:ident, $set:ty) => {
        mod $name {
            use super::*;

            type Private = ml_kem::DecapsulationKey<$set>;
            type Public = ml_kem::EncapsulationKey<$set>;

            #[allow(deprecated, reason = "the known answers are in this form")]
            pub(super) fn decapsulate_expanded(key: &[u8], ciphertext: &[u8]) -> Vec<u8> {
                let key = Private::from_expanded(&key.try_into().unwrap()).unwrap();
                key.decapsulate(&ciphertext.try_into().unwrap()).to_vec()
            }

            pub(super) fn decapsulate(seed: &[u8], ciphertext: &[u8]) -> Vec<u8> {
                let key = Private::from_seed(Seed::try_from(seed).unwrap());
                key.decapsulate(&ciphertext.try_into().unwrap()).to_vec()
            }

            pub(super) fn public(seed: &[u8]) -> Vec<u8> {
                let key = Private::from_seed(Seed::try_from(seed).unwrap());
                key.encapsulation_key().to_bytes().to_vec()
            }

            pub(super) fn encapsulate(public: &[u8], m: &[u8]) -> (Vec<u8>, Vec<u8>) {
                let key = Key::<Public>::try_from(public).unwrap();
                let key = Public::new(&key).unwrap();
                let (ciphertext, secret) =
                    key.encapsulate_deterministic(&B32::try_from(m).unwrap());
                (ciphertext.to_vec(), secret.to_vec())
            }
        }
    };
}

theirs!(theirs768, MlKem768);
theirs!(theirs1024, MlKem1024);

/// A ciphertext and its secret.
type Sealed = (Vec<u8>, Vec<u8>);

/// The functions of one set.
struct Theirs {
    public: fn(&[u8]) -> Vec<u8>,
    encapsulate: fn(&[u8], &[u8]) -> Sealed,
    decapsulate: fn(&[u8], &[u8]) -> Vec<u8>,
    decapsulate_expanded: fn(&[u8], &[u8]) -> Vec<u8>,
}

fn theirs(set: KemSet) -> Theirs {
    match set {
        KemSet::MlKem768 => Theirs {
            public: theirs768::public,
            encapsulate: theirs768::encapsulate,
            decapsulate: theirs768::decapsulate,
            decapsulate_expanded: theirs768::decapsulate_expanded,
        },
        KemSet::MlKem1024 => Theirs {
            public: theirs1024::public,
            encapsulate: theirs1024::encapsulate,
            decapsulate: theirs1024::decapsulate,
            decapsulate_expanded: theirs1024::decapsulate_expanded,
        },
    }
}

#[test]
fn both_libraries_give_the_known_answers_of_nist() {
    let vectors = Vector::all();
    assert_eq!(vectors.len(), 4);
    for Vector { set, function, values } in vectors {
        let algorithm = match set {
            KemSet::MlKem768 => &ML_KEM_768,
            KemSet::MlKem1024 => &ML_KEM_1024,
        };
        let (dk, c, k) = (&values["dk"], &values["c"], &values["k"]);
        assert_eq!(c.len(), set.ciphertext_bytes());
        let key = DecapsulationKey::new(algorithm, dk).unwrap();
        let ours = key.decapsulate(Ciphertext::from(c.as_slice())).unwrap();
        assert_eq!(ours.as_ref(), k, "{set:?} {function}");
        assert_eq!(&(theirs(set).decapsulate_expanded)(dk, c), k, "{set:?} {function}");
        if function == "encapsulation" {
            let (ek, m) = (&values["ek"], &values["m"]);
            assert_eq!(ek.len(), set.public_bytes());
            assert_eq!((theirs(set).encapsulate)(ek, m), (c.clone(), k.clone()));
        }
    }
}

/// And the other way round.
#[tokio::test]
async fn what_one_library_makes_the_other_opens() {
    let vault = Vault::new(SoftHsm::new());
    let bytes = |secret: &ClearBytes| secret.expose(<[u8]>::to_vec);
    for round in 0..20 {
        for set in [KemSet::MlKem768, KemSet::MlKem1024] {
            let (theirs, seed, m) = (theirs(set), random(64), random(32));
            let public = (theirs.public)(&seed);
            let made = vault.kem_encapsulate(set, &public).await.unwrap();
            assert_eq!(made.custody, Custody::HostTransient);
            let (mut ciphertext, secret) = (made.ciphertext, made.secret);
            assert_eq!((theirs.decapsulate)(&seed, &ciphertext), bytes(&secret));
            ciphertext[round] ^= 1;
            assert_ne!((theirs.decapsulate)(&seed, &ciphertext), bytes(&secret));

            let pair = vault.kem_key_pair(set).await.unwrap();
            let (ciphertext, secret) = (theirs.encapsulate)(&pair.public, &m);
            assert_eq!(bytes(&vault.kem_decapsulate(&pair, &ciphertext).await.unwrap()), secret);
        }
    }
    // This token has no ML-KEM: every use is told as one of this process.
    let told = vault.custodies().list();
    let (_, view) = told.iter().find(|(name, _)| *name == ML_KEM).expect("it is told");
    assert_eq!(view.best, Some(Some(Custody::HostTransient)));
    assert_eq!((view.in_token, view.host_transient), (0, 20 * 2 * 3));
}
