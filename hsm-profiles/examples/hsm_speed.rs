//! Seals and opens per second: through `Token` with many callers, against one plain loop of the
//! same PKCS#11 calls on one session. Run it with `--release`:
//! `cargo run --release -p hsm-profiles --example hsm_speed [SECONDS_PER_ROW]`
//!
//! Makes its own SoftHSM token: it starts itself again, first to make it, then to use it.

use std::error::Error;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use hsm_profiles::softhsm::{CONF_VARIABLE, init_token, provision};
use hsm_profiles::{PinSource, Profile, Token, TokenConfig, TokenSelector};
use km_core::hsm::{Hsm, Sealed};
use km_core::material::ClearBytes;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const CALLERS: usize = 64;
const AAD: &[u8] = b"block header of thirty-two bytes";

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["init", label, pin] => Ok(init_token(None, label, pin.as_ref()).map(drop)?),
        ["run", pin, seconds] => measure(pin, Duration::from_secs_f64(seconds.parse()?)),
        ref rest => start(rest.first().copied().unwrap_or("1")),
    }
}

fn start(seconds: &str) -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("init");
    let made = provision(dir.path(), "speed", child)?;
    let status = Command::new(std::env::current_exe()?)
        .arg("run")
        .arg(&made.pin_file)
        .arg(seconds)
        .env(CONF_VARIABLE, &made.conf)
        .status()?;
    if status.success() { Ok(()) } else { Err("the measurement failed".into()) }
}

fn measure(pin: &str, time: Duration) -> Outcome<()> {
    let token = Token::open(TokenConfig {
        library: None,
        profile: "softhsm2".to_owned(),
        token: TokenSelector::Label("speed".to_owned()),
        pin: PinSource::File(pin.into()),
        kek_label: "qkm-kek-".to_owned(),
        create_kek: true,
        sessions: None,
        deadline_ms: 10_000,
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (session, kek) = direct_session()?;
    println!(
        "{:>6}  {:<5} {:>12} {:>12} {:>6}",
        "bytes", "op", "token op/s", "direct op/s", "ratio"
    );
    for len in [32, 4096, 65_536] {
        let direct = direct(&session, kek, len, time)?;
        let through = runtime.block_on(through_token(&token, len, time))?;
        for (op, token, direct) in [("seal", through.0, direct.0), ("open", through.1, direct.1)] {
            println!("{len:>6}  {op:<5} {token:>12.0} {direct:>12.0} {:>6.2}", token / direct);
        }
    }
    Ok(())
}

/// The login of the token covers this session: logins belong to the process.
fn direct_session() -> Outcome<(Session, ObjectHandle)> {
    let profile = Profile::load("softhsm2")?;
    let path = profile.libraries.iter().find(|p| p.exists()).ok_or("no SoftHSM library")?;
    let pkcs11 = Pkcs11::new(path)?;
    for slot in pkcs11.get_slots_with_token()? {
        if pkcs11.get_token_info(slot)?.label() == "speed" {
            let session = pkcs11.open_rw_session(slot)?;
            let label = Attribute::Label(b"qkm-kek-1".to_vec());
            let kek = session.find_objects(&[label])?.into_iter().next().ok_or("no KEK")?;
            return Ok((session, kek));
        }
    }
    Err("no token".into())
}

fn per_second(time: Duration, mut op: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let (start, mut count) = (Instant::now(), 0u32);
    while start.elapsed() < time {
        op()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

fn direct(session: &Session, kek: ObjectHandle, len: usize, time: Duration) -> Outcome<(f64, f64)> {
    let clear = vec![7; len];
    let seal = |iv: &mut [u8]| -> Outcome<Vec<u8>> {
        session.generate_random_slice(iv)?;
        let gcm = Mechanism::AesGcm(GcmParams::new(iv, AAD, 128.into())?);
        Ok(session.encrypt(&gcm, kek, &clear)?)
    };
    let mut iv = [0; 12];
    let sealed = seal(&mut iv)?;
    let opens = per_second(time, || {
        let gcm = Mechanism::AesGcm(GcmParams::new(&mut iv, AAD, 128.into())?);
        black_box(session.decrypt(&gcm, kek, &sealed)?);
        Ok(())
    })?;
    let seals = per_second(time, || {
        black_box(seal(&mut [0; 12])?);
        Ok(())
    })?;
    Ok((seals, opens))
}

async fn through_token(token: &Arc<Token>, len: usize, time: Duration) -> Outcome<(f64, f64)> {
    let clear = Arc::new(ClearBytes::from_vec(vec![7; len]));
    let sealed: Arc<Sealed> = Arc::new(token.seal(AAD, &clear).await?);
    let seals = load(time, |until| {
        let (token, clear) = (Arc::clone(token), Arc::clone(&clear));
        async move {
            let mut count = 0u32;
            while Instant::now() < until {
                black_box(token.seal(AAD, &clear).await?);
                count += 1;
            }
            Ok(count)
        }
    })
    .await?;
    let opens = load(time, |until| {
        let (token, sealed) = (Arc::clone(token), Arc::clone(&sealed));
        async move {
            let mut count = 0u32;
            while Instant::now() < until {
                black_box(token.open(AAD, &sealed).await?);
                count += 1;
            }
            Ok(count)
        }
    })
    .await?;
    Ok((seals, opens))
}

async fn load<F>(time: Duration, caller: impl Fn(Instant) -> F) -> Outcome<f64>
where
    F: Future<Output = Outcome<u32>> + Send + 'static,
{
    let start = Instant::now();
    let callers: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(caller(start + time))).collect();
    let mut total = 0.0;
    for caller in callers {
        total += f64::from(caller.await??);
    }
    Ok(total / start.elapsed().as_secs_f64())
}
