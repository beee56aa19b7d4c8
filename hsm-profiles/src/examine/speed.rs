//! How fast a token is. Enter through [`speeds`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::mechanism::Mechanism;
use km_core::hsm::{Hsm, HsmError};
use km_core::material::ClearBytes;
use serde::Serialize;

use super::abilities::Bench;

/// Message lengths in bytes.
const LENGTHS: [usize; 3] = [256, 4096, 65_536];
/// Callers at once, so that every session has work.
const CALLERS: usize = 16;
const AAD: &[u8] = b"qkm speed";

/// How often something was done.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    /// What.
    pub operation: &'static str,
    /// Length of the message in bytes.
    pub bytes: usize,
    /// How often a second.
    pub per_second: f64,
}

/// Seals, opens, random numbers and signatures, each for `time`.
pub(super) async fn speeds(
    hsm: &Arc<dyn Hsm>,
    bench: &Bench<'_>,
    time: Duration,
) -> Result<Vec<Speed>, HsmError> {
    let mut found = Vec::new();
    for bytes in LENGTHS {
        let clear = hsm.random(bytes).await?;
        let sealed = Arc::new(hsm.seal(AAD, &clear).await?);
        let clear = Arc::new(clear);
        let seal = |hsm: Arc<dyn Hsm>| {
            let clear = Arc::clone(&clear);
            async move { hsm.seal(AAD, &clear).await.map(drop) }
        };
        found.push(Speed { operation: "seal", bytes, per_second: rate(hsm, time, seal).await? });
        let open = |hsm: Arc<dyn Hsm>| {
            let sealed = Arc::clone(&sealed);
            async move { hsm.open(AAD, &sealed).await.map(drop) }
        };
        found.push(Speed { operation: "open", bytes, per_second: rate(hsm, time, open).await? });
    }
    let random = |hsm: Arc<dyn Hsm>| async move { hsm.random(32).await.map(|_: ClearBytes| ()) };
    let per_second = rate(hsm, time, random).await?;
    found.push(Speed { operation: "random", bytes: 32, per_second });
    // A token without ECDSA has no such row; the abilities say why.
    if let Some(per_second) = signatures(bench, time) {
        found.push(Speed { operation: "sign, ECDSA P-256, one session", bytes: 32, per_second });
    }
    Ok(found)
}

/// How often a second all callers together get their answer.
async fn rate<F>(
    hsm: &Arc<dyn Hsm>,
    time: Duration,
    operation: impl Fn(Arc<dyn Hsm>) -> F,
) -> Result<f64, HsmError>
where
    F: Future<Output = Result<(), HsmError>> + Send + 'static,
{
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        tasks.spawn(operation(Arc::clone(hsm)));
    }
    let mut done = 0u32;
    while let Some(joined) = tasks.join_next().await {
        joined.map_err(|e| HsmError::Unavailable(format!("a caller failed: {e}")))??;
        done += 1;
        if start.elapsed() < time {
            tasks.spawn(operation(Arc::clone(hsm)));
        }
    }
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}

fn signatures(bench: &Bench<'_>, time: Duration) -> Option<f64> {
    let (_, private) = bench.key_pair().ok()?;
    let start = Instant::now();
    let mut done = 0u32;
    while start.elapsed() < time {
        bench.session.sign(&Mechanism::Ecdsa, private, &[5; 32]).ok()?;
        done += 1;
    }
    Some(f64::from(done) / start.elapsed().as_secs_f64())
}
