//! Combination with ML-KEM: known answers, the exchange, and what the policy of each end allows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../km-core/tests/common/mod.rs"]
mod ends;
mod net;

use std::time::{Duration, Instant};

use ends::{bytes_of, ids_of, sae};
use km_core::{
    hsm::Custody,
    ids::{ClusterId, LinkId, PoolTag},
    material::ClearBytes,
    module::ModuleKey,
    provenance::{Combination, CombineMethod, EndTag, Grade, HopCipher},
    route::CipherPolicy,
    usage::kem::KemSet,
};
use net::{Net, Plan};
use relay::{
    Scheme,
    agreement::Raw,
    combine::{Combine, KemSecret, combine},
    frame::{Frame, Hello},
    kems::{MOST_TIME, RENEW_TIME},
    session::{Action, Event, Feed, Session, SessionError, Start},
};

fn made(step: usize, end: usize) -> Vec<u8> {
    (0..end).map(|at| (at * step % 256) as u8).collect()
}

fn answers() -> [Vec<u8>; 2] {
    let public: Vec<u8> = (0..1184).map(|at| (at % 251) as u8).collect();
    let ciphertext: Vec<u8> = (0..1088).map(|at| (at % 241) as u8).collect();
    let secret = ClearBytes::from_vec(made(1, 32));
    let secret = KemSecret::new(KemSet::MlKem768, &public, &ciphertext, secret).unwrap();
    let bits = ClearBytes::from_vec(made(7, 20_000));
    [CombineMethod::Xor, CombineMethod::CatKdf].map(|method| {
        let out = combine(method, &secret, PoolTag::from_bits(0x5A_5A5A), 77, &bits).unwrap();
        out.expose(<[u8]>::to_vec)
    })
}

/// What `combine.py` beside this file gives, which is written over another library.
#[test]
fn both_combiners_give_the_known_answers() {
    let known = [
        "f664bac983e3b3bae0555c0b83dc8f6c2bb8d4e5dcffc61e75054f85d8b30562",
        "3601f475b1317d1615a2abbe48bd02a1b8c08a610bf7d1fd44e0b9181b370688",
    ];
    for (answer, known) in answers().iter().zip(known) {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, answer);
        let text: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, known);
    }
}

#[test]
fn both_combiners_agree_with_python_cryptography() {
    let beside = || concat!(env!("CARGO_MANIFEST_DIR"), "/../target/venv").into();
    let venv = std::env::var_os("QKM_VENV").map_or_else(beside, std::path::PathBuf::from);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/combine.py");
    let python = venv.join("bin/python3");
    assert!(python.exists(), "{} is missing: run `make test`", python.display());
    let ran = std::process::Command::new(python).arg(script).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let theirs = String::from_utf8(ran.stdout).unwrap();
    let ours: Vec<String> = answers()
        .iter()
        .map(|answer| answer.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    assert_eq!(theirs.lines().collect::<Vec<_>>(), ours);
}

#[test]
fn every_input_counts_and_short_ones_are_refused() {
    let (public, ciphertext) = (vec![1; 1184], vec![2; 1088]);
    let key = |public: &[u8], secret: u8| {
        let secret = ClearBytes::from_vec(vec![secret; 32]);
        KemSecret::new(KemSet::MlKem768, public, &ciphertext, secret).unwrap()
    };
    let other_public = [vec![9], vec![1; 1183]].concat();
    let bits = |first: u8| ClearBytes::from_vec([vec![first], vec![7; 63]].concat());
    for method in [CombineMethod::Xor, CombineMethod::CatKdf] {
        let run = |key: &KemSecret, pool, number, bits: &ClearBytes| {
            combine(method, key, PoolTag::from_bits(pool), number, bits).unwrap()
        };
        let reference = run(&key(&public, 5), 1, 1, &bits(0));
        assert_eq!(reference.len(), 64);
        assert_ne!(run(&key(&public, 6), 1, 1, &bits(0)), reference);
        assert_ne!(run(&key(&other_public, 5), 1, 1, &bits(0)), reference);
        assert_ne!(run(&key(&public, 5), 2, 1, &bits(0)), reference);
        assert_ne!(run(&key(&public, 5), 1, 2, &bits(0)), reference);
        assert_ne!(run(&key(&public, 5), 1, 1, &bits(1)), reference);
        let none = ClearBytes::from_vec(Vec::new());
        assert!(combine(method, &key(&public, 5), PoolTag::from_bits(1), 1, &none).is_none());
    }
    let short = ClearBytes::from_vec(vec![5; 31]);
    assert!(KemSecret::new(KemSet::MlKem768, &public, &ciphertext, short).is_none());
    let whole = ClearBytes::from_vec(vec![5; 32]);
    assert!(KemSecret::new(KemSet::MlKem1024, &public, &ciphertext, whole).is_none());
}

/// Both tags of a combined block need the secret, though every bit of the block was relayed by others.
#[test]
fn who_relayed_the_bits_of_a_combined_block_cannot_make_its_tags() {
    let (public, ciphertext) = (vec![1; 1184], vec![2; 1088]);
    let secret = |byte| {
        let secret = ClearBytes::from_vec(vec![byte; 32]);
        KemSecret::new(KemSet::MlKem768, &public, &ciphertext, secret).unwrap()
    };
    let bytes = ClearBytes::from_vec(made(7, 4096));
    let raw = Raw::join(&[ModuleKey { id: "k".into(), bytes, came: None }]).unwrap();
    for method in [CombineMethod::Xor, CombineMethod::CatKdf] {
        let tag = |secret: &KemSecret, number| {
            let combined = raw.combined(method, secret, PoolTag::from_bits(1), number).unwrap();
            combined.confirm_tag(9)
        };
        assert_eq!(tag(&secret(5), 9), tag(&secret(5), 9));
        assert_ne!(tag(&secret(5), 9), raw.confirm_tag(9), "the relayed bits are enough");
        assert_ne!(tag(&secret(5), 9), tag(&secret(6), 9), "any secret will do");
        assert_ne!(tag(&secret(5), 9), tag(&secret(5), 10), "two blocks have the same tag keys");
    }
}

fn with(required: bool, method: CombineMethod) -> Option<Combine> {
    Some(Combine { required, method, set: KemSet::MlKem768 })
}

/// Keys over two hops, all pools combined: what their provenance says.
async fn combined(method: CombineMethod, path: &[HopCipher], grade: Grade) {
    let plan = Plan::chain(2, CipherPolicy::OtpOnly, Scheme::FirstKey);
    let net = Net::start(Plan { combine: vec![with(true, method); 3], ..plan }).await;
    net.until("the far pool is fed", |net| net.kms[0].pool("c").own_bytes() > 0).await;
    let (a, c) = (sae("sae-a"), sae("sae-c"));
    let keys = net.kms[0].supply.issue(&a, std::slice::from_ref(&c), 256, 8).await.unwrap();
    let got = net.kms[2].supply.collect(&c, None, &ids_of(&keys)).await.unwrap();
    for (key, same) in keys.iter().zip(&got) {
        assert_eq!(bytes_of(key), bytes_of(same));
        for seen in [&key.provenance, &same.provenance] {
            // The token of these ends has no ML-KEM, whichever of the two it is.
            let (kem, custody) = (KemSet::MlKem768, Some(Custody::HostTransient));
            let with = Combination { kem, method, custody };
            assert_eq!((seen.combined, seen.grade()), (Some(with), grade));
            assert_eq!(seen.end_tag(), EndTag::MlKem);
            let ciphers: Vec<HopCipher> = seen.path.iter().map(|hop| hop.cipher).collect();
            assert_eq!(ciphers, path);
        }
    }
    net.stop_and_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exclusive_or_keeps_what_the_bits_may_claim() {
    combined(CombineMethod::Xor, &[HopCipher::Shared, HopCipher::Otp], Grade::ItsRelay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_derived_key_is_computational_and_so_is_what_it_hides() {
    let path = [HopCipher::OtpComputational, HopCipher::OtpComputational];
    combined(CombineMethod::CatKdf, &path, Grade::Computational).await;
}

/// Whether the two ends of a link set so agree on blocks, and whether those are combined.
async fn agreed(a: Option<Combine>, b: Option<Combine>) -> Option<bool> {
    let plan = Plan::chain(1, CipherPolicy::OtpOnly, Scheme::FirstKey);
    let net = Net::start(Plan { combine: vec![a, b], relays: Vec::new(), ..plan }).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) && net.kms[0].pool("b").own_bytes() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if net.kms[0].pool("b").own_bytes() == 0 {
        assert_eq!(net.kms[1].pool("a").view().blocks, 0);
        return None;
    }
    let (a, b) = (sae("sae-a"), sae("sae-b"));
    let keys = net.kms[0].supply.issue(&a, &[b], 256, 1).await.unwrap();
    Some(keys[0].provenance.combined.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_end_requires_the_other_cannot_leave_out() {
    use CombineMethod::{CatKdf, Xor};
    let (required, optional) = (with(true, Xor), with(false, Xor));
    assert_eq!(agreed(required, None).await, None);
    assert_eq!(agreed(None, required).await, None);
    assert_eq!(agreed(required, with(true, CatKdf)).await, None);
    assert_eq!(agreed(required, optional).await, Some(true));
    assert_eq!(agreed(optional, None).await, Some(false));
    assert_eq!(agreed(None, optional).await, Some(false));
}

/// A spoiled exchange ends the connection before any block is combined with it.
#[test]
fn a_secret_that_differs_is_noticed_before_it_is_used() {
    let now = Instant::now();
    let cluster = |name: &str| ClusterId::parse(name).unwrap();
    let begin = |here: &str, peer: &str| {
        let pool = PoolTag::of_pair(&cluster(here), &cluster(peer));
        let hello = Hello {
            cluster: cluster(here),
            pool,
            highest: 0,
            doubtful: Vec::new(),
            floor: 0,
            given: Vec::new(),
            key_ttl_ms: 60_000,
        };
        let feed = Some(Feed::Qkd(vec![LinkId::parse("link").unwrap()]));
        let combine = with(true, CombineMethod::Xor);
        let (here, peer) = (cluster(here), cluster(peer));
        Session::new(Start { here, peer, pool, feed, combine, hello }, now)
    };
    for spoiled in [false, true] {
        let ((mut a, from_a), (mut b, from_b)) = (begin("a", "b"), begin("b", "a"));
        let frame = |actions: &[Action]| {
            let sent = actions.iter().find_map(|action| match action {
                Action::Send(frame) => Some(frame.clone()),
                _ => None,
            });
            sent.unwrap()
        };
        b.on_frame(frame(&from_a)).unwrap();
        let up = a.on_frame(frame(&from_b)).unwrap();
        let id = up.iter().find_map(|action| match action {
            Action::KemMake { id, .. } => Some(*id),
            _ => None,
        });
        let id = id.expect("an exchange begins with the link");
        assert!(!a.has_room(), "proposed before anything could be combined");
        let offer = a.on_event(Event::KemMade { id, public: vec![1; 1184] });
        assert!(matches!(b.on_frame(frame(&offer)).unwrap()[..], [Action::KemSeal { .. }]));
        let secret = |byte| ClearBytes::from_vec(vec![byte; 32]);
        let (public, ciphertext) = (vec![1; 1184], vec![2; 1088]);
        let answer = b.on_event(Event::KemSealed {
            id,
            public,
            ciphertext,
            secret: secret(5),
            custody: Custody::InToken,
        });
        let opening = a.on_frame(frame(&answer)).unwrap();
        assert!(matches!(opening[..], [Action::KemOpen { .. }]));
        // The same answer again opens nothing more.
        assert!(a.on_frame(frame(&answer)).unwrap().is_empty());
        let (secret, custody) = (secret(5 + u8::from(spoiled)), Custody::InToken);
        let ready = a.on_event(Event::KemOpened { id, secret, custody });
        let Frame::KemReady { .. } = frame(&ready) else { panic!("{ready:?}") };
        match b.on_frame(frame(&ready)) {
            Ok(actions) => assert!(!spoiled && actions.is_empty()),
            Err(error) => assert!(spoiled && matches!(error, SessionError::Combination(_))),
        }
        assert!(a.has_room());
        // No new exchange gets through.
        a.on_event(Event::Tick(now + RENEW_TIME));
        assert!(a.has_room());
        a.on_event(Event::Tick(now + MOST_TIME));
        assert!(!a.has_room(), "one secret serves for ever");
    }
}
