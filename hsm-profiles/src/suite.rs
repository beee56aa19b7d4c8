//! What every [`Hsm`] must do, for any token. Enter through [`hsm_suite`].
//!
//! Each check panics with a sentence when the token does not pass. The token is left as it was.

use km_core::hsm::{Hsm, HsmError, KeyProtection, SealMethod, Sealed};
use km_core::material::ClearBytes;

/// Lengths every profile takes: the shortest, one key, an odd one, one block.
const LENGTHS: [usize; 5] = [1, 32, 333, 4096, 65_536];

/// Runs every check against `hsm`.
///
/// # Panics
/// When a check fails.
pub async fn hsm_suite(hsm: &dyn Hsm) {
    ready(hsm).await;
    random_is_fresh_and_sized(hsm).await;
    for len in LENGTHS {
        round_trip(hsm, len).await;
    }
    nonces_never_repeat(hsm).await;
    tampering_is_refused(hsm).await;
    another_method_is_refused(hsm).await;
    malformed_is_refused(hsm).await;
    out_of_range_is_unsupported(hsm).await;
    ready(hsm).await;
}

async fn ready(hsm: &dyn Hsm) {
    let status = hsm.probe().await;
    assert!(status.ready, "the token is ready: {status:?}");
    assert_eq!(hsm.status(), status, "status() repeats what probe() found");
    assert!(!hsm.current_kek().0.is_empty(), "there is a current KEK");
}

async fn random_is_fresh_and_sized(hsm: &dyn Hsm) {
    let first = take(hsm.random(32).await, "random");
    let second = take(hsm.random(32).await, "random");
    assert_eq!(first.len(), 32, "random has the length asked for");
    assert_ne!(first, second, "random bytes repeat");
    assert_eq!(take(hsm.random(4097).await, "random").len(), 4097);
}

async fn round_trip(hsm: &dyn Hsm, len: usize) {
    let clear = take(hsm.random(len).await, "random");
    for aad in [&b""[..], b"block 7 of north/south"] {
        let sealed = take(hsm.seal(aad, &clear).await, "seal");
        assert_eq!(sealed.kek, hsm.current_kek(), "sealed under the current KEK");
        assert_eq!(sealed.iv.len(), 12, "a 96-bit nonce");
        assert_eq!(sealed.ciphertext.len(), len + 16, "ciphertext and a 128-bit tag");
        if len >= 16 {
            let leaked = clear.expose(|c| sealed.ciphertext.windows(16).any(|w| w == &c[..16]));
            assert!(!leaked, "the ciphertext holds clear bytes");
        }
        let opened = take(hsm.open(aad, &sealed).await, "open");
        assert_eq!(opened, clear, "{len} bytes come back as they were");
    }
}

async fn nonces_never_repeat(hsm: &dyn Hsm) {
    let clear = ClearBytes::copy_from(&[7; 32]);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        let sealed = take(hsm.seal(b"", &clear).await, "seal");
        assert!(seen.insert(sealed.iv), "a nonce was used twice");
    }
}

async fn tampering_is_refused(hsm: &dyn Hsm) {
    let clear = take(hsm.random(64).await, "random");
    let sealed = take(hsm.seal(b"record 1", &clear).await, "seal");
    let other = take(hsm.seal(b"record 2", &clear).await, "seal");
    refused(hsm, b"record 2", &sealed, "moved to another record").await;
    refused(hsm, b"record 1", &other, "taken from another record").await;
    refused(hsm, b"", &sealed, "without its header").await;
    refused(hsm, b"record 1\0", &sealed, "with a longer header").await;
    for at in [0, 40, 63, 64, 79] {
        let mut changed = sealed.clone();
        changed.ciphertext[at] ^= 1;
        refused(hsm, b"record 1", &changed, "with a bit changed").await;
    }
    let mut changed = sealed.clone();
    changed.iv[11] ^= 0x80;
    refused(hsm, b"record 1", &changed, "with another nonce").await;
    for cut in [1, 15, 16, 63] {
        let mut cut_off = sealed.clone();
        cut_off.ciphertext.truncate(sealed.ciphertext.len() - cut);
        refused(hsm, b"record 1", &cut_off, "cut off at the end").await;
    }
    let mut longer = sealed.clone();
    longer.ciphertext.push(0);
    refused(hsm, b"record 1", &longer, "with a byte added").await;
    let opened = take(hsm.open(b"record 1", &sealed).await, "open after refusals");
    assert_eq!(opened, clear);
}

/// The method is part of what is sealed: no change of it opens, whatever the KEK may do.
async fn another_method_is_refused(hsm: &dyn Hsm) {
    let clear = take(hsm.random(64).await, "random");
    let sealed = take(hsm.seal(b"record", &clear).await, "seal");
    let keys = [vec![0; 40], vec![0; 32], Vec::new(), vec![0; 1 << 16]];
    let wrapped =
        |protection: KeyProtection| keys.iter().map(move |key| (protection.clone(), key.clone()));
    let cbc = KeyProtection::Cbc { iv: [0; 16] };
    let mut methods: Vec<_> = wrapped(KeyProtection::KeyWrap)
        .chain(wrapped(cbc))
        .map(|(protection, data_key)| SealMethod::WrappedKeyGcm { protection, data_key })
        .chain([SealMethod::TokenGcm])
        .filter(|method| *method != sealed.method)
        .collect();
    if let SealMethod::WrappedKeyGcm { protection, data_key } = &sealed.method {
        for at in [0, data_key.len() / 2, data_key.len() - 1] {
            let (protection, mut data_key) = (protection.clone(), data_key.clone());
            data_key[at] ^= 1;
            methods.push(SealMethod::WrappedKeyGcm { protection, data_key });
        }
        if let KeyProtection::Cbc { mut iv } = protection.clone() {
            iv[7] ^= 1;
            let (protection, data_key) = (KeyProtection::Cbc { iv }, data_key.clone());
            methods.push(SealMethod::WrappedKeyGcm { protection, data_key });
        }
    }
    for method in methods {
        refused(hsm, b"record", &Sealed { method, ..sealed.clone() }, "with another method").await;
    }
    let answer = hsm.open(b"record", &Sealed { format: 2, ..sealed }).await;
    assert!(matches!(answer, Err(HsmError::Unsupported(_))), "another format: {answer:?}");
}

async fn malformed_is_refused(hsm: &dyn Hsm) {
    let clear = ClearBytes::copy_from(b"x");
    let sealed = take(hsm.seal(b"", &clear).await, "seal");
    for len in [0, 1, 11, 13, 16, 17] {
        let odd = Sealed { iv: vec![0; len], ..sealed.clone() };
        refused(hsm, b"", &odd, "with a nonce of another length").await;
    }
    for len in [0, 1, 15, 16] {
        let short = Sealed { ciphertext: vec![0; len], ..sealed.clone() };
        refused(hsm, b"", &short, "too short for a tag").await;
    }
}

async fn out_of_range_is_unsupported(hsm: &dyn Hsm) {
    let empty = ClearBytes::from_vec(Vec::new());
    let answer = hsm.seal(b"", &empty).await;
    assert!(matches!(answer, Err(HsmError::Unsupported(_))), "empty message: {answer:?}");
    let huge = ClearBytes::from_vec(vec![0; (16 << 20) + 1]);
    let answer = hsm.seal(b"", &huge).await;
    assert!(matches!(answer, Err(HsmError::Unsupported(_))), "huge message: {answer:?}");
    let sealed = take(hsm.seal(b"", &ClearBytes::copy_from(b"x")).await, "seal");
    let foreign = Sealed { kek: km_core::hsm::KekId("00".repeat(16)), ..sealed };
    let answer = hsm.open(b"", &foreign).await;
    assert!(matches!(answer, Err(HsmError::Unsupported(_))), "unknown KEK: {answer:?}");
}

async fn refused(hsm: &dyn Hsm, aad: &[u8], sealed: &Sealed, how: &str) {
    let answer = hsm.open(aad, sealed).await;
    assert!(matches!(answer, Err(HsmError::Refused(_))), "{how}: {answer:?}");
    assert!(hsm.status().ready, "{how}: bad data must not make the token unready");
}

#[allow(clippy::panic)]
fn take<T>(answer: Result<T, HsmError>, what: &str) -> T {
    answer.unwrap_or_else(|error| panic!("{what}: {error}"))
}
