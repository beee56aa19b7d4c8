//! `qkm node join`: this machine's key manager becomes one of a cluster. It does not run yet.

use std::{
    collections::BTreeMap,
    fs,
    net::ToSocketAddrs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use hsm_profiles::TokenConfig;
use km_core::hsm::{KekParcel, KekReceiver, wrapping};
use serde::{Deserialize, Serialize};
use serde_json::json;
use transport::{IdentityRule, TlsFiles, pki, pki::San};

use super::{
    super::{
        admin::{Request, ask, client, print},
        hsm::kek_fingerprint,
    },
    files::{of, read, read_secret, write_new},
    join_token::Token,
};
use crate::{
    config::{Config, Shared},
    fault::{Code, Exit, Failure},
};

/// What the cluster answered. Kept until all of it is in its place, because it is answered once.
#[derive(Serialize, Deserialize)]
struct Joined {
    name: String,
    /// With that of the authority, in PEM.
    certificate: String,
    /// The authorities of the others, in PEM.
    ca: String,
    /// For the token, the first of several; none when it has the KEKs.
    parcels: Vec<KekParcel>,
    /// For further tokens, by name.
    #[serde(default)]
    members: BTreeMap<String, Vec<KekParcel>>,
}

pub(super) fn join(token: &Path, config_file: &Path, has_keks: bool) -> Result<Exit, Failure> {
    let config = Config::load(config_file)?;
    let shared = config.shared.as_ref().ok_or_else(|| {
        Failure::new(Code::C003, "the configuration has no [node]: it shares its store with none")
    })?;
    let tokens = tokens(&config.hsm);
    let kept = beside(&shared.desk.certificate, ".joined");
    let joined = match kept.exists() {
        true => parse(&read(&kept)?, &kept.display().to_string())?,
        false => {
            let joined = asked(token, config_file, shared, &tokens, has_keks)?;
            write_new(&kept, 0o600, &serde_json::to_vec(&joined).unwrap_or_default())?;
            joined
        }
    };
    finish(&joined, shared, config_file, &tokens)?;
    fs::remove_file(&kept).map_err(|e| of(&kept, &e))?;
    if let Some(parcel) = joined.parcels.last() {
        print(&format!("the KEK came by {}", wrapping(parcel.kem.is_some())));
    }
    print(&format!(
        "{} joined; its certificate is {}. Start it: it is ready once nothing is sealed under the KEK \
         epochs from before",
        joined.name,
        shared.desk.certificate.display()
    ));
    Ok(Exit::Done)
}

/// Asks the cluster. Nothing is kept of a try that fails.
fn asked(
    token: &Path,
    config_file: &Path,
    shared: &Shared,
    tokens: &[Option<String>],
    has_keks: bool,
) -> Result<Joined, Failure> {
    let token: Token = parse(&read_secret(token)?, "the token")?;
    if token.name != shared.seat.node {
        let text =
            format!("the token is for {}, and [node] name is {}", token.name, shared.seat.node);
        return Err(Failure::new(Code::C003, text));
    }
    let (certificate, key) = (&shared.desk.certificate, &shared.desk.key);
    if let Some(there) = [certificate, key].into_iter().find(|file| file.exists()) {
        let text = format!("{} is there already, and joining makes it", there.display());
        return Err(Failure::new(Code::C003, text).help("move it away, or name another in [node]"));
    }
    let (mut first, mut members) = (None, BTreeMap::new());
    for token in tokens.iter().filter(|_| !has_keks) {
        let receiver = receiver(config_file, key, token)?;
        match token {
            Some(name) if first.is_some() => drop(members.insert(name, receiver)),
            _ => first = Some(receiver),
        }
    }
    let request = pki::request(&token.name, &hosts(shared), key);
    let request = request.map_err(|e| Failure::new(Code::C001, e))?;
    let mut body = json!({ "request": request, "receiver": first });
    if !members.is_empty() {
        body["members"] = json!(members);
    }
    let joined = sent(&token, key, &body);
    joined.inspect_err(|_| drop(fs::remove_file(key)))
}

/// The server must be the very one that the token names: nobody else gets the request.
fn sent(token: &Token, key: &Path, body: &serde_json::Value) -> Result<Joined, Failure> {
    let folder = key.parent().unwrap_or(Path::new("."));
    let room = tempfile::Builder::new().prefix(".qkm-join-").tempdir_in(folder);
    let room = room.map_err(|e| of(folder, &e))?;
    let (shown, trust) = (room.path().join("shown"), room.path().join("trust"));
    let both = zeroize::Zeroizing::new([token.certificate.as_str(), &token.key].concat());
    write_new(&shown, 0o600, both.as_bytes())?;
    write_new(&trust, 0o600, token.trust.as_bytes())?;
    let files = TlsFiles { certificate: shown.clone(), key: shown, ca: trust };
    let unknown = |why: String| Failure::new(Code::A001, format!("{}: {why}", token.address));
    let server = format!("sha256:{}", token.server).parse::<IdentityRule>();
    let server = server.map_err(|e| unknown(e.to_string()))?;
    let found = token.address.to_socket_addrs().map_err(|e| unknown(e.to_string()))?.next();
    let address = found.ok_or_else(|| unknown("no such host".to_owned()))?;
    let answer =
        ask(&client(address, &files)?.expecting(server), Request::Change("/v1/nodes", body));
    serde_json::from_value(answer?).map_err(|e| Failure::new(Code::A004, e))
}

/// Puts all of it in its place; what is there already is left, so it may be done again.
fn finish(
    joined: &Joined,
    shared: &Shared,
    config_file: &Path,
    tokens: &[Option<String>],
) -> Result<(), Failure> {
    let (certificate, ca) = (&shared.desk.certificate, &shared.desk.ca);
    for (file, text) in [(ca, &joined.ca), (certificate, &joined.certificate)] {
        if !file.exists() {
            write_new(file, 0o644, text.as_bytes())?;
        }
    }
    let room = tempfile::tempdir().map_err(|e| of(certificate, &e))?;
    for (token, n) in tokens.iter().zip(0..) {
        let further = token.as_ref().and_then(|name| joined.members.get(name));
        let parcels = if n == 0 { Some(&joined.parcels) } else { further };
        for parcel in parcels.into_iter().flatten() {
            let file = room.path().join(format!("{n}-{}", parcel.number));
            write_new(&file, 0o600, &serde_json::to_vec(parcel).unwrap_or_default())?;
            let fingerprint = kek_fingerprint(parcel);
            let more = ["--fingerprint", &fingerprint];
            kek(&[Path::new("take"), &file], &more, config_file, token)?;
        }
    }
    Ok(())
}

/// The tokens of a configuration by their names there, of which the only one needs none.
fn tokens(hsm: &TokenConfig) -> Vec<Option<String>> {
    match hsm.member.is_empty() {
        true => vec![None],
        false => hsm.members().into_iter().map(|(name, _)| Some(name)).collect(),
    }
}

/// How a token takes KEKs. The vendor's library runs in a process of its own.
fn receiver(config: &Path, key: &Path, token: &Option<String>) -> Result<KekReceiver, Failure> {
    let room = tempfile::tempdir().map_err(|e| of(key, &e))?;
    let file = room.path().join("receiver");
    kek(&[Path::new("request"), &file], &[], config, token)?;
    parse(&read(&file)?, "the request of the token")
}

/// `qkm hsm kek` of this program.
fn kek(
    what: &[&Path],
    more: &[&str],
    config: &Path,
    token: &Option<String>,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Code::P001, error);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["hsm", "kek"]).args(what).args(more).arg("--config").arg(config);
    if let Some(token) = token {
        command.arg("--member").arg(token);
    }
    match command.stdout(Stdio::null()).status().map_err(failed)?.success() {
        true => Ok(()),
        false => Err(Failure::new(Code::H003, "the HSM did not do it; the lines above say why")),
    }
}

/// The host that the others reach it at.
fn hosts(shared: &Shared) -> Vec<San> {
    let desk = shared.seat.desk.as_str();
    let host = desk.rsplit_once(':').map_or(desk, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    vec![match host.parse() {
        Ok(address) => San::Ip(address),
        Err(_) => San::Dns(host.to_owned()),
    }]
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T, Failure> {
    // What serde says could quote a secret.
    let wrong = |_| Failure::new(Code::C001, format!("{what} is not what qkm wrote"));
    serde_json::from_str(text).map_err(wrong)
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
