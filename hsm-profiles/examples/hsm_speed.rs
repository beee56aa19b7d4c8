//! Seals and opens per second and their CPU time: one plain loop of the PKCS#11 calls on one
//! session, `Token` with the library in this process, and `Token` with the library in a worker
//! process, with 1, 8 and 64 callers, one after the other. Run it with `--release`:
//! `cargo run --release -p hsm-profiles --example hsm_speed [SECONDS_PER_ROW [SESSIONS]]`
//!
//! CPU time is that of both processes, callers and runtime included, and is the figure to
//! compare on a shared machine. It is read from `/proc`, so this runs on Linux.
//!
//! Makes its own SoftHSM token: it starts itself again, first to make it, then to use it.

use std::collections::BTreeMap;
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
use hsm_profiles::soft::{CONF_VARIABLE, SoftToken, init_token, provision};
use hsm_profiles::{PinSource, Profile, Program, Spread, Token, TokenConfig, TokenSelector};
use km_core::hsm::{Hsm, Sealed};
use km_core::material::ClearBytes;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Message lengths, and how many callers work at once.
const ROWS: [(usize, &[usize]); 4] =
    [(32, &[64]), (256, &[1, 8, 64]), (4096, &[64]), (65_536, &[64])];
/// Linux reports process times in hundredths of a second, whatever the kernel's own tick.
const TICKS_PER_SECOND: f64 = 100.0;
const AAD: &[u8] = b"block header of thirty-two bytes";

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["init", label, pin] => Ok(init_token(None, label, pin.as_ref()).map(drop)?),
        ["worker"] => Ok(hsm_profiles::serve_worker()?),
        ["run", pin] => measure(pin, 1.0, None),
        ["run", pin, seconds] => measure(pin, seconds.parse()?, None),
        ["run", pin, seconds, sessions] => measure(pin, seconds.parse()?, Some(sessions.parse()?)),
        ref rest => start(rest),
    }
}

fn start(arguments: &[&str]) -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("init");
    let made = provision(SoftToken::SoftHsm, dir.path(), "speed", child)?;
    let status = Command::new(std::env::current_exe()?)
        .arg("run")
        .arg(&made.pin_file)
        .args(arguments)
        .env(CONF_VARIABLE, &made.conf)
        .status()?;
    if status.success() { Ok(()) } else { Err("the measurement failed".into()) }
}

fn measure(pin: &str, seconds: f64, sessions: Option<usize>) -> Outcome<()> {
    let time = Duration::from_secs_f64(seconds);
    let config = TokenConfig {
        library: None,
        profile: "softhsm2".to_owned(),
        token: TokenSelector::Label("speed".to_owned()),
        pin: PinSource::File(pin.into()),
        kek_label: "qkm-kek-".to_owned(),
        create_kek: true,
        sessions,
        deadline_ms: 10_000,
        env: BTreeMap::new(),
        memory_mib: None,
        name: None,
        member: Vec::new(),
        spread: Spread::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let here = Token::open(config.clone())?;
    let program = Program { path: std::env::current_exe()?, arguments: vec!["worker".into()] };
    let away = runtime.block_on(Token::start(config, program))?;
    let (session, kek) = direct_session()?;
    println!(
        "{:>6} {:>7}  {:<4} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8}",
        "bytes", "callers", "op", "direct/s", "here/s", "worker/s", "CPU us", "CPU us", "CPU us"
    );
    for (len, callers) in ROWS {
        let direct = direct(&session, kek, len, time)?;
        for callers in callers {
            let here = runtime.block_on(through_token(&here, len, *callers, time))?;
            let away = runtime.block_on(through_token(&away, len, *callers, time))?;
            for ((op, direct), (here, away)) in
                ["seal", "open"].iter().zip(&direct).zip(here.iter().zip(&away))
            {
                println!(
                    "{len:>6} {callers:>7}  {op:<4} {:>9.0} {:>9.0} {:>9.0} {:>8.1} {:>8.1} \
                     {:>8.1}",
                    direct.per_second,
                    here.per_second,
                    away.per_second,
                    direct.cpu_us,
                    here.cpu_us,
                    away.cpu_us,
                );
            }
        }
    }
    Ok(())
}

/// What one kind of operation costs.
struct Cost {
    per_second: f64,
    cpu_us: f64,
}

/// Counts from its making to [`Meter::stop`].
struct Meter {
    start: Instant,
    cpu_seconds: f64,
}

impl Meter {
    fn start() -> Outcome<Self> {
        Ok(Self { start: Instant::now(), cpu_seconds: cpu_seconds()? })
    }

    fn stop(self, operations: u32) -> Outcome<Cost> {
        let operations = f64::from(operations);
        Ok(Cost {
            per_second: operations / self.start.elapsed().as_secs_f64(),
            cpu_us: (cpu_seconds()? - self.cpu_seconds) * 1e6 / operations,
        })
    }
}

/// User and system time of this process and its worker. The name of the program, in parentheses,
/// may hold spaces.
fn cpu_seconds() -> Outcome<f64> {
    let mut processes = vec![std::process::id()];
    for task in std::fs::read_dir("/proc/self/task")? {
        let children = std::fs::read_to_string(task?.path().join("children"))?;
        processes.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    let mut ticks = 0;
    for process in processes {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat has another form")?;
        let times = fields.split_whitespace().skip(11).take(2);
        ticks += times.map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    }
    Ok(f64::from(ticks) / TICKS_PER_SECOND)
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

fn repeat(time: Duration, mut op: impl FnMut() -> Outcome<()>) -> Outcome<Cost> {
    let (meter, mut count) = (Meter::start()?, 0u32);
    while meter.start.elapsed() < time {
        op()?;
        count += 1;
    }
    meter.stop(count)
}

/// Costs of seal and open.
fn direct(session: &Session, kek: ObjectHandle, len: usize, time: Duration) -> Outcome<[Cost; 2]> {
    let clear = vec![7; len];
    let seal = |iv: &mut [u8]| -> Outcome<Vec<u8>> {
        session.generate_random_slice(iv)?;
        let gcm = Mechanism::AesGcm(GcmParams::new(iv, AAD, 128.into())?);
        Ok(session.encrypt(&gcm, kek, &clear)?)
    };
    let mut iv = [0; 12];
    let sealed = seal(&mut iv)?;
    let seals = repeat(time, || {
        black_box(seal(&mut [0; 12])?);
        Ok(())
    })?;
    let opens = repeat(time, || {
        let gcm = Mechanism::AesGcm(GcmParams::new(&mut iv, AAD, 128.into())?);
        black_box(session.decrypt(&gcm, kek, &sealed)?);
        Ok(())
    })?;
    Ok([seals, opens])
}

async fn through_token(
    token: &Arc<Token>,
    len: usize,
    callers: usize,
    time: Duration,
) -> Outcome<[Cost; 2]> {
    let clear = Arc::new(ClearBytes::from_vec(vec![7; len]));
    let sealed: Arc<Sealed> = Arc::new(token.seal(AAD, &clear).await?);
    let seals = load(callers, time, |until| {
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
    let opens = load(callers, time, |until| {
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
    Ok([seals, opens])
}

async fn load<F>(callers: usize, time: Duration, caller: impl Fn(Instant) -> F) -> Outcome<Cost>
where
    F: Future<Output = Outcome<u32>> + Send + 'static,
{
    let meter = Meter::start()?;
    let until = meter.start + time;
    let callers: Vec<_> = (0..callers).map(|_| tokio::spawn(caller(until))).collect();
    let mut total = 0;
    for caller in callers {
        total += caller.await??;
    }
    meter.stop(total)
}
