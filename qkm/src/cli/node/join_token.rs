//! `qkm node join-token`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use transport::pki;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    super::{
        admin::{Request, print, send, text},
        hsm::Custodian,
    },
    files::{read, write_new},
    path,
};
use crate::{
    config::Config,
    fault::{Code, Exit, Failure},
};

/// What a new key manager joins with. Whoever has it can join in its place.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    /// What it will be called.
    pub(super) name: String,
    /// The admin API of a key manager of the cluster, `host:port`.
    pub(super) address: String,
    /// Certificates of the authorities by which that one is known, in PEM.
    pub(super) trust: String,
    /// SHA-256 of its own certificate, in hexadecimal.
    pub(super) server: String,
    /// A certificate that is good for joining, once, in PEM.
    pub(super) certificate: String,
    /// Its private key, in PEM. It is nowhere else.
    pub(super) key: String,
}

pub(super) fn join_token(
    name: &str,
    minutes: u32,
    address: Option<&str>,
    file: &Path,
    custodian: &Custodian,
) -> Result<Exit, Failure> {
    let config = Config::load(&custodian.admin.config.config)?;
    let missing = |what: &str| Failure::new(Code::C003, format!("the configuration has no {what}"));
    let admin = config.admin.as_ref().ok_or_else(|| missing("[admin]"))?;
    let operator = config.operator.as_ref().ok_or_else(|| missing("[operator]"))?;
    let address = match address {
        Some(address) => address.to_owned(),
        None if admin.front.listen.ip().is_unspecified() => {
            let text = "[admin] listens on every address of this machine";
            return Err(Failure::new(Code::C003, text)
                .help("say with --address where the new key manager reaches it"));
        }
        None => admin.front.listen.to_string(),
    };
    let server = admin.front.tls().fingerprint().map_err(|e| Failure::new(Code::T001, e))?;
    let (request, key) =
        pki::request_in_memory(&format!("join {name}")).map_err(|e| Failure::new(Code::C001, e))?;
    let shown = custodian.certificate.clone().zip(custodian.key.clone());
    let body = json!({ "request": request, "minutes": minutes });
    let path = path(name, "invite");
    let answer = send(&custodian.admin.config.config, shown, Request::Change(&path, &body))?;
    let token = Token {
        name: name.to_owned(),
        address,
        trust: read(&operator.ca)?,
        server: hex::encode(server),
        certificate: text(&answer["certificate"]),
        key: key.to_string(),
    };
    write_new(file, 0o600, &wiped::Wiped::new(serde_json::to_vec(&token).unwrap_or_default()))?;
    print(&format!(
        "{}: bring it to the machine of {name}, secretly, for `qkm node join` within {minutes} minutes",
        file.display()
    ));
    Ok(Exit::Done)
}
