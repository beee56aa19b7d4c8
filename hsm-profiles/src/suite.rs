//! What every [`Hsm`] must do, for any token. Enter through [`hsm_suite`].
//!
//! Each check says in a sentence what the token does not do. The token is left as it was.

use km_core::hsm::{Hsm, HsmError, KeyProtection, SealMethod, Sealed};
use km_core::material::ClearBytes;
use serde::Serialize;

/// One check and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is looked at.
    pub name: &'static str,
    /// What is wrong; nothing when the check passed.
    pub fault: Option<String>,
}

type Outcome = Result<(), String>;

/// Ends the check with a sentence unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

/// Lengths every profile takes: the shortest, one key, an odd one, one block.
const LENGTHS: [usize; 5] = [1, 32, 333, 4096, 65_536];

/// Runs every check against `hsm`, each whatever became of those before it.
#[must_use = "the checks say whether they passed"]
pub async fn hsm_suite(hsm: &dyn Hsm) -> Vec<Check> {
    let check = |name, outcome: Outcome| Check { name, fault: outcome.err() };
    vec![
        check("ready", ready(hsm).await),
        check("random is fresh and has the length asked for", random(hsm).await),
        check("what is sealed opens, 1 byte to 64 KiB", round_trips(hsm).await),
        check("nonces never repeat", nonces(hsm).await),
        check("moved and changed messages are refused", tampering(hsm).await),
        check("a changed way of sealing is refused", other_methods(hsm).await),
        check("malformed messages and nonces are refused", malformed(hsm).await),
        check("what is out of range is named so", out_of_range(hsm).await),
        check("still ready afterwards", ready(hsm).await),
    ]
}

/// For tests.
///
/// # Panics
/// When a check failed; says which and why.
#[allow(clippy::panic, reason = "tests are its callers")]
pub fn assert_passes(checks: &[Check]) {
    let told = |check: &Check| check.fault.as_ref().map(|why| format!("{}: {why}", check.name));
    let faults: Vec<_> = checks.iter().filter_map(told).collect();
    assert!(!checks.is_empty() && faults.is_empty(), "{faults:#?}");
}

async fn ready(hsm: &dyn Hsm) -> Outcome {
    let status = hsm.probe().await;
    ensure!(status.ready, "the token is not ready: {status:?}");
    ensure!(hsm.status() == status, "status() does not repeat what probe() found");
    ensure!(!hsm.current_kek().0.is_empty(), "there is no current KEK");
    Ok(())
}

async fn random(hsm: &dyn Hsm) -> Outcome {
    let first = take(hsm.random(32).await, "random")?;
    let second = take(hsm.random(32).await, "random")?;
    ensure!(first.len() == 32, "{} bytes instead of 32", first.len());
    ensure!(first != second, "the same bytes came twice");
    let long = take(hsm.random(4097).await, "random")?;
    ensure!(long.len() == 4097, "{} bytes instead of 4097", long.len());
    Ok(())
}

async fn round_trips(hsm: &dyn Hsm) -> Outcome {
    for len in LENGTHS {
        round_trip(hsm, len).await?;
    }
    Ok(())
}

async fn round_trip(hsm: &dyn Hsm, len: usize) -> Outcome {
    let clear = take(hsm.random(len).await, "random")?;
    for aad in [&b""[..], b"block 7 of north/south"] {
        let sealed = take(hsm.seal(aad, &clear).await, "seal")?;
        ensure!(sealed.kek == hsm.current_kek(), "not sealed under the current KEK");
        let nonce = sealed.iv.len();
        ensure!((12..=16).contains(&nonce), "a nonce of {nonce} bytes");
        let made = sealed.ciphertext.len();
        ensure!(made == len + 16, "{len} bytes became {made}, not 16 more");
        if len >= 16 {
            let leaked = clear.expose(|c| sealed.ciphertext.windows(16).any(|w| w == &c[..16]));
            ensure!(!leaked, "the ciphertext holds clear bytes");
        }
        let opened = take(hsm.open(aad, &sealed).await, "open")?;
        ensure!(opened == clear, "{len} bytes do not come back as they were");
    }
    Ok(())
}

async fn nonces(hsm: &dyn Hsm) -> Outcome {
    let clear = ClearBytes::copy_from(&[7; 32]);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        let sealed = take(hsm.seal(b"", &clear).await, "seal")?;
        ensure!(seen.insert(sealed.iv), "a nonce was used twice");
    }
    Ok(())
}

async fn tampering(hsm: &dyn Hsm) -> Outcome {
    let clear = take(hsm.random(64).await, "random")?;
    let sealed = take(hsm.seal(b"record 1", &clear).await, "seal")?;
    let other = take(hsm.seal(b"record 2", &clear).await, "seal")?;
    ensure!(sealed.ciphertext.len() == 80 && sealed.iv.len() >= 12, "{sealed:?} is no message");
    refused(hsm, b"record 2", &sealed, "moved to another record").await?;
    refused(hsm, b"record 1", &other, "taken from another record").await?;
    refused(hsm, b"", &sealed, "without its header").await?;
    refused(hsm, b"record 1\0", &sealed, "with a longer header").await?;
    for at in [0, 40, 63, 64, 79] {
        let mut changed = sealed.clone();
        changed.ciphertext[at] ^= 1;
        refused(hsm, b"record 1", &changed, "with a bit changed").await?;
    }
    let mut changed = sealed.clone();
    changed.iv[11] ^= 0x80;
    refused(hsm, b"record 1", &changed, "with another nonce").await?;
    for cut in [1, 15, 16, 63] {
        let mut cut_off = sealed.clone();
        cut_off.ciphertext.truncate(sealed.ciphertext.len() - cut);
        refused(hsm, b"record 1", &cut_off, "cut off at the end").await?;
    }
    let mut longer = sealed.clone();
    longer.ciphertext.push(0);
    refused(hsm, b"record 1", &longer, "with a byte added").await?;
    let opened = take(hsm.open(b"record 1", &sealed).await, "open after refusals")?;
    ensure!(opened == clear, "after refusals other bytes come back");
    Ok(())
}

/// The method is part of what is sealed: no change of it opens, whatever the KEK may do.
async fn other_methods(hsm: &dyn Hsm) -> Outcome {
    let clear = take(hsm.random(64).await, "random")?;
    let sealed = take(hsm.seal(b"record", &clear).await, "seal")?;
    let keys = [vec![0; 40], vec![0; 32], vec![0; 48], Vec::new(), vec![0; 1 << 16]];
    let wrapped =
        |protection: KeyProtection| keys.iter().map(move |key| (protection.clone(), key.clone()));
    let cbc = KeyProtection::Cbc { iv: [0; 16] };
    let gcm = [0, 12, 17].map(|len| KeyProtection::Gcm { iv: vec![0; len] });
    let own = match &sealed.method {
        SealMethod::WrappedKeyGcm { protection: KeyProtection::KeyWrapPadded, .. } => {
            KeyProtection::KeyWrapPadded
        }
        _ => KeyProtection::KeyWrap,
    };
    let mut methods: Vec<_> = wrapped(own)
        .chain(wrapped(cbc))
        .chain(gcm.into_iter().flat_map(wrapped))
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
        refused(hsm, b"record", &Sealed { method, ..sealed.clone() }, "with another method")
            .await?;
    }
    other_wrapping(hsm, &sealed, &keys).await?;
    let answer = hsm.open(b"record", &Sealed { format: 2, ..sealed }).await;
    ensure!(matches!(answer, Err(HsmError::Unsupported(_))), "another format: {answer:?}");
    Ok(())
}

/// Nor does key wrap with padding stand for the one without, under one KEK that may do both. The token need
/// not have the one that it does not seal by.
async fn other_wrapping(hsm: &dyn Hsm, sealed: &Sealed, keys: &[Vec<u8>]) -> Outcome {
    let SealMethod::WrappedKeyGcm { protection, data_key } = &sealed.method else { return Ok(()) };
    let protection = match protection {
        KeyProtection::KeyWrap => KeyProtection::KeyWrapPadded,
        KeyProtection::KeyWrapPadded => KeyProtection::KeyWrap,
        _ => return Ok(()),
    };
    for data_key in keys.iter().chain([data_key]) {
        let (protection, data_key) = (protection.clone(), data_key.clone());
        let method = SealMethod::WrappedKeyGcm { protection, data_key };
        let answer = hsm.open(b"record", &Sealed { method, ..sealed.clone() }).await;
        let opened = !matches!(answer, Err(HsmError::Refused(_) | HsmError::Unsupported(_)));
        ensure!(!opened, "with the other way of wrapping: {answer:?}");
    }
    Ok(())
}

async fn malformed(hsm: &dyn Hsm) -> Outcome {
    let clear = ClearBytes::copy_from(b"x");
    let sealed = take(hsm.seal(b"", &clear).await, "seal")?;
    for len in [0, 1, 11, 13, 16, 17] {
        let odd = Sealed { iv: vec![0; len], ..sealed.clone() };
        refused(hsm, b"", &odd, "with a nonce of another length").await?;
    }
    for len in [0, 1, 15, 16] {
        let short = Sealed { ciphertext: vec![0; len], ..sealed.clone() };
        refused(hsm, b"", &short, "too short for a tag").await?;
    }
    Ok(())
}

async fn out_of_range(hsm: &dyn Hsm) -> Outcome {
    let empty = ClearBytes::from_vec(Vec::new());
    let answer = hsm.seal(b"", &empty).await;
    ensure!(matches!(answer, Err(HsmError::Unsupported(_))), "empty message: {answer:?}");
    let huge = ClearBytes::from_vec(vec![0; (16 << 20) + 1]);
    let answer = hsm.seal(b"", &huge).await;
    ensure!(matches!(answer, Err(HsmError::Unsupported(_))), "huge message: {answer:?}");
    let sealed = take(hsm.seal(b"", &ClearBytes::copy_from(b"x")).await, "seal")?;
    let foreign = Sealed { kek: km_core::hsm::KekId("00".repeat(16)), ..sealed };
    let answer = hsm.open(b"", &foreign).await;
    ensure!(matches!(answer, Err(HsmError::Unsupported(_))), "unknown KEK: {answer:?}");
    Ok(())
}

async fn refused(hsm: &dyn Hsm, aad: &[u8], sealed: &Sealed, how: &str) -> Outcome {
    let answer = hsm.open(aad, sealed).await;
    ensure!(matches!(answer, Err(HsmError::Refused(_))), "{how}: {answer:?}");
    ensure!(hsm.status().ready, "{how}: bad data made the token unready");
    Ok(())
}

fn take<T>(answer: Result<T, HsmError>, what: &str) -> Result<T, String> {
    answer.map_err(|error| format!("{what}: {error}"))
}
