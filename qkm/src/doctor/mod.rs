//! Checks everything a key manager needs, without being one. Enter through [`examine`].
//!
//! Works while the server is down, and says what a running server keeps it from looking at.
//! No KEK is made and no record is written or deleted. But the store's files change: opening it
//! counts the opening in them, and closing it empties its write-ahead log into the database. The
//! token is logged in to, and seals and opens a test value that is kept nowhere.

mod certificates;
mod controllers;
mod host;

use std::{
    fmt,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hsm_profiles::Token;
use km_core::{
    anchor::Anchor,
    cabinet::{Cabinet, CabinetView},
    custody::{Custodies, QUICK, SLOW},
    epoch::{self, Epoch, EpochState},
    hsm::{Custody, Hsm},
    ids::PoolTag,
    material::ClearBytes,
    pool,
    records::Records,
    store::{Store, StoreError},
    vault::{RECORD_KEY, Vault},
};

use crate::{
    config::Config,
    fault::{Code, Failure},
    migrate::refuse_marked,
    serve::{
        custody_lines, epoch_warnings, of_anchor, of_epochs, of_hsm, of_record, of_store, of_vault,
        open_random, open_store,
    },
};

const PROBE_WAIT: Duration = Duration::from_secs(2);

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but look at it.
    Warning,
    /// Does not work.
    Failure,
}

/// The result of all checks.
#[derive(Debug, Default)]
pub struct Report(Vec<(Level, String)>);

impl Report {
    /// Whether any check failed.
    pub fn has_failures(&self) -> bool {
        self.0.iter().any(|(level, _)| *level == Level::Failure)
    }

    /// The lines in order.
    pub fn lines(&self) -> &[(Level, String)] {
        &self.0
    }

    fn say(&mut self, level: Level, text: impl Into<String>) {
        self.0.push((level, text.into()));
    }

    fn ok(&mut self, text: impl Into<String>) {
        self.say(Level::Ok, text);
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.say(Level::Warning, text);
    }

    fn fail(&mut self, failure: &Failure) {
        self.say(Level::Failure, failure.to_string());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (level, text) in &self.0 {
            let level = match level {
                Level::Ok => "[ok]",
                Level::Warning => "[warning]",
                Level::Failure => "[failure]",
            };
            let mut lines = text.lines();
            writeln!(f, "{level:<10} {}", lines.next().unwrap_or_default())?;
            for line in lines {
                writeln!(f, "           {line}")?;
            }
        }
        Ok(())
    }
}

/// Runs every check of the configuration at `path`; those that need another are left out after it
/// failed.
pub async fn examine(path: &Path) -> Report {
    let mut report = Report::default();
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(failure) => {
            report.fail(&failure);
            return report;
        }
    };
    report.ok(format!("configuration {} is well formed", path.display()));
    let running = server_answers(&config);
    if let Some(answer) = &running {
        let ready = answer.split("; ").next() == Some("ready");
        let text = format!("a server runs with this configuration: {answer}");
        report.say(if ready { Level::Ok } else { Level::Warning }, text);
    }
    certificates::check(&config, &mut report);
    host::check(&config, &mut report);
    folder(&config, &mut report);
    let token = token(&config, &mut report).await;
    random(&config, token.clone(), &mut report).await;
    store(&config, token, running.is_some(), &mut report).await;
    ports(&config, running.is_some(), &mut report);
    controllers::check(&config, &mut report).await;
    clock(&config, &mut report);
    report
}

/// What `/readyz` of a server with this configuration says; `None` when none answers.
fn server_answers(config: &Config) -> Option<String> {
    let mut socket = TcpStream::connect_timeout(&config.monitor?, PROBE_WAIT).ok()?;
    socket.set_read_timeout(Some(PROBE_WAIT)).ok()?;
    socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: qkm\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.take(16 * 1024).read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some(body.trim().replace('\n', "; "))
}

fn folder(config: &Config, report: &mut Report) {
    let shown = config.store.display();
    match std::fs::metadata(&config.store) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report.ok(format!("{shown} does not exist yet; the first start makes it"));
        }
        Err(error) => report.warn(format!("{shown} cannot be looked at: {error}")),
        Ok(meta) if !meta.is_dir() => report.warn(format!("{shown} is no directory")),
        Ok(meta) => {
            let mode = meta.permissions().mode() & 0o777;
            if mode & 0o077 == 0 {
                report.ok(format!("{shown} is private (mode {mode:04o})"));
            } else {
                report.warn(format!(
                    "{shown} is open to other users (mode {mode:04o}): run chmod 700 on it"
                ));
            }
        }
    }
}

async fn token(config: &Config, report: &mut Report) -> Option<Arc<Token>> {
    let mut settings = config.hsm.clone();
    settings.create_kek = false;
    let token = match Token::start(settings, config.worker.clone()).await {
        Ok(token) => token,
        // Only a token without a KEK says so, and the first start makes one.
        Err(error) if config.hsm.create_kek && error.to_string().contains("create_kek") => {
            report.warn("HSM login works; the token has no KEK yet, the first start makes it");
            return None;
        }
        Err(error) => {
            report.fail(&of_hsm(&error));
            return None;
        }
    };
    let status = token.status();
    report.ok(format!("HSM token {:?} (serial {}): logged in", status.token, status.serial));
    for member in token.members().iter().filter(|member| !member.status.ready) {
        report.warn(format!("HSM token {}: {}", member.name, member.status.detail));
    }
    epoch_warnings(config).into_iter().for_each(|warning| report.warn(warning));
    match round_trip(token.as_ref()).await {
        Ok((kek, custody)) => {
            report.ok(format!("HSM seals and opens under KEK {kek}; keys: {custody}"));
        }
        Err(failure) => report.fail(&failure),
    }
    custodies(config, token.as_ref(), report).await;
    room(config, token.as_ref(), report).await;
    Some(token)
}

/// Makes a key of each kind, uses it, and keeps none.
async fn custodies(config: &Config, hsm: &dyn Hsm, report: &mut Report) {
    let (found, kinds) = (Custodies::default(), [QUICK, SLOW].concat());
    match found.survey(hsm, &kinds, config.crypto_in_process).await {
        Ok(()) => {
            custody_lines(&found.list())
                .into_iter()
                .for_each(|line| report.ok(format!("use of {line}")));
        }
        Err(error) => report.fail(&of_hsm(&error)),
    }
}

async fn room(config: &Config, hsm: &dyn Hsm, report: &mut Report) {
    let kept = hsm.object_names(&Cabinet::prefix_of(&config.cluster)).await;
    let (room, held) = match (hsm.room().await, kept) {
        (Ok(room), Ok(kept)) => (room, kept.len() as u64),
        (Err(error), _) | (_, Err(error)) => return report.fail(&of_hsm(&error)),
    };
    match (CabinetView { held, most: config.token_objects, room }).nearly_full() {
        Some(why) => report.warn(format!("the HSM is nearly full: {why}")),
        None => report.ok(format!("HSM keeps {held} objects of {} allowed", config.token_objects)),
    }
}

async fn round_trip(hsm: &dyn Hsm) -> Result<(String, Custody), Failure> {
    let (aad, clear) = (b"qkm doctor", ClearBytes::copy_from(b"not a key"));
    let sealed = hsm.seal(aad, &clear).await.map_err(|e| of_hsm(&e))?;
    let opened = hsm.open(aad, &sealed).await.map_err(|e| of_hsm(&e))?;
    if opened != clear {
        let text = "the HSM opened sealed data to something else".to_owned();
        return Err(of_hsm(&km_core::hsm::HsmError::Unsupported(text)));
    }
    Ok((sealed.kek.0, sealed.method.custody()))
}

/// Draws once from every source; a device gives these bytes to nobody else.
async fn random(config: &Config, token: Option<Arc<Token>>, report: &mut Report) {
    let Some(token) = token else {
        return report.warn("without the HSM the random sources cannot be tried");
    };
    let random = match open_random(config, token) {
        Ok(random) => random,
        Err(failure) => return report.fail(&failure),
    };
    random.renew().await;
    for source in random.status() {
        match source.trouble {
            None => report.ok(format!("random source {}: passes its health test", source.source)),
            Some(trouble) => report.fail(&Failure::new(Code::R001, trouble)),
        }
    }
}

async fn store(config: &Config, token: Option<Arc<Token>>, running: bool, report: &mut Report) {
    let path = config.store_file();
    if config.shared.is_none() && !path.exists() {
        return report.ok(format!("store {} does not exist yet", path.display()));
    }
    let store = match open_store(config).await {
        Ok((store, _)) => store,
        Err(StoreError::Unavailable(_)) if running && config.shared.is_none() => {
            return report.ok("the store is in use by the running server; not audited");
        }
        Err(error) => return report.fail(&of_store(&path, &error)),
    };
    report.ok(format!("store {} opens and has a known format", path.display()));
    match audit(config, store, token).await {
        Ok(lines) => lines.into_iter().for_each(|(level, text)| report.say(level, text)),
        Err(failure) => report.fail(&failure),
    }
}

/// Recounts every pool from its records and compares with its account.
async fn audit(
    config: &Config,
    store: Arc<dyn Store>,
    token: Option<Arc<Token>>,
) -> Result<Vec<(Level, String)>, Failure> {
    let path = config.store_file();
    refuse_marked(config, store.as_ref()).await?;
    let Some(token) = token else {
        return Ok(vec![(Level::Warning, "without the HSM the accounts cannot be audited".into())]);
    };
    let has_key = store.get(RECORD_KEY).await.map_err(|e| of_store(&path, &e))?.is_some();
    if !has_key {
        return Ok(vec![(Level::Ok, "the store is empty".into())]);
    }
    let key = Vault::new(token.clone())
        .record_key(store.as_ref())
        .await
        .map_err(|e| of_vault(&path, &e))?;
    let records = Records::new(store, &key);
    let keeper = config.keeper_of_generations();
    let anchor = Anchor::open(token.clone(), records.clone(), &keeper, false);
    let anchor = anchor.await.map_err(|e| of_anchor(config, &e))?;
    let newest = format!("the store is in generation {}, the newest", anchor.store());
    let epochs = epoch::inspect(token.as_ref(), &records).await;
    let epochs = epochs.map_err(|e| of_epochs(&path, &e))?;
    let mut lines = vec![(Level::Ok, newest), epoch_line(&epochs)];
    // Of several KMs one may be changing them now.
    let still = config.peers.iter().filter(|_| config.shared.is_none());
    for peer in still {
        let tag = PoolTag::of_pair(&config.cluster, &peer.cluster);
        let (ledger, stored) =
            pool::audit(&records, tag).await.map_err(|e| of_record(&path, &e))?;
        let name = &peer.cluster;
        lines.push(if ledger.balanced_with(stored) {
            (Level::Ok, format!("pool with {name}: {} bytes stored, account balances", stored / 8))
        } else {
            let due = ledger.due().map_or("less than nothing".to_owned(), |bits| bits.to_string());
            let text = format!(
                "pool with {name}: {stored} bits are stored, the account says {due}: put this \
                 store aside and start with an empty one"
            );
            (Level::Failure, text)
        });
    }
    Ok(lines)
}

fn epoch_line(epochs: &[Epoch]) -> (Level, String) {
    let in_state = |state| epochs.iter().filter(move |epoch| epoch.state == state);
    let active = in_state(EpochState::Active).next_back().map_or(0, |epoch| epoch.number);
    let retiring = in_state(EpochState::Retiring).count();
    (Level::Ok, format!("KEK epoch {active} seals, {retiring} retiring; the HSM holds their KEKs"))
}

fn ports(config: &Config, running: bool, report: &mut Report) {
    let listens = [
        ("etsi014", config.etsi014.as_ref().map(|front| front.listen)),
        ("kmip", config.kmip.as_ref().map(|front| front.listen)),
        ("km_link", config.km_link.as_ref().map(|front| front.listen)),
        ("monitor", config.monitor),
        ("admin", config.admin.as_ref().map(|admin| admin.front.listen)),
    ];
    for (name, address) in listens {
        let Some(address) = address else { continue };
        match free(address) {
            Ok(()) => report.ok(format!("[{name}] {address} is free")),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && running => {
                report.ok(format!("[{name}] {address} is in use by the running server"));
            }
            Err(error) => report.say(
                Level::Failure,
                format!("[{name}] cannot listen on {address}: {error}; choose another address"),
            ),
        }
    }
}

fn free(address: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(address).map(drop)
}

fn clock(config: &Config, report: &mut Report) {
    let now = SystemTime::now();
    let written = std::fs::metadata(config.store_file()).and_then(|meta| meta.modified());
    let ahead = written.ok().and_then(|at| at.duration_since(now).ok());
    if let Some(ahead) = ahead.filter(|ahead| *ahead > Duration::from_secs(60)) {
        return report.say(
            Level::Failure,
            format!("the clock is {ahead:.0?} behind the last write of the store: set it"),
        );
    }
    let synchronised = Path::new("/run/systemd/timesync/synchronized").exists()
        || Path::new("/run/chrony/chronyd.pid").exists()
        || Path::new("/run/chronyd.pid").exists();
    if synchronised {
        report.ok("the clock is synchronised");
    } else {
        report.warn(
            "no sign of clock synchronisation (systemd-timesyncd, chrony): certificates and key \
             expiry need a right clock",
        );
    }
}
