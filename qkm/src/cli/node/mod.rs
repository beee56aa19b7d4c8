//! `qkm node`: the key managers that share a store. One command, one file.

mod drain;
mod files;
mod join;
mod join_token;
mod list;
mod revoke;
mod show;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;

use super::{
    AdminArgs, ConfigArg,
    admin::{Request, send},
    hsm::Custodian,
};
use crate::fault::{Code, Exit, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List the key managers that share the store, and the members of the engine it is on.
    ///
    /// SAID: how long ago it told the others how it is. STORE: how long its last write took. BEHIND: entries
    /// of the engine's log that a member has not carried out yet.
    List(AdminArgs),
    /// Show one key manager, and why it is not ready.
    Show {
        /// Its name, as in [node].
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Write a token with which one new key manager joins, once.
    ///
    /// Ask it of a running key manager whose [node] names an authority. Whoever has the file can join
    /// instead of the new one, so bring it there secretly. It holds a private key that is nowhere else,
    /// the certificate of that key, which is good for joining only, and by what the new one knows the
    /// key manager it asks; the cluster keeps the SHA-256 of the certificate.
    JoinToken {
        /// What the new one is called: [node] name in its configuration.
        name: String,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How long it is good, in minutes, at most a day.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1440))]
        minutes: u32,
        /// Where the new one reaches [admin] of this key manager; default: where it listens.
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<String>,
        #[command(flatten)]
        custodian: Custodian,
    },
    /// Make the key manager of this configuration one of a cluster, before it is started.
    ///
    /// Makes the key of [node] and a key pair in the HSM; gets the certificate of [node], [node] ca if
    /// it is not there, and the KEK of a new epoch, which the cluster wraps for the HSM: by RSA-OAEP, and by
    /// ML-KEM as well where the HSM has it (`qkm node list` says which). KEKs
    /// of earlier epochs cannot leave the HSMs they are in: what they seal is sealed anew, and the new
    /// key manager is ready when that is done. The token is used up by the first request, even if the answer is lost: then
    /// ask for another. Broken off after the answer, the same command goes on without it.
    Join {
        /// What `qkm node join-token` wrote; `-` for standard input.
        token: PathBuf,
        /// The HSM has the cluster's KEKs: it is that of another of its key managers, or a copy.
        #[arg(long)]
        has_keks: bool,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Have a key manager leave the work to the others, and wait until it can be stopped.
    ///
    /// It is not ready any more, closes its fronts when what they had begun is done, ends the runs of keys
    /// it handed out from, and gives up the lead. That holds over restarts, until --undo.
    Drain {
        /// Its name.
        name: String,
        /// Let it work again.
        #[arg(long)]
        undo: bool,
        /// How long to wait.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
        #[command(flatten)]
        custodian: Custodian,
    },
    /// Take a key manager out of the cluster, for ever or until it joins again.
    ///
    /// The others accept its certificate no more, and cut its connections, and other clusters hear of it; it
    /// ends, and writes nothing even if it was paused; a new KEK epoch begins, whose KEK it does not get, and
    /// what is stored is sealed anew. Whoever has broken into it may know what it knew: take its user away
    /// from etcd first. Ask another key manager.
    Revoke {
        /// Its name.
        name: String,
        #[command(flatten)]
        custodian: Custodian,
    },
}

pub(super) fn run(command: &NodeCommand) -> Result<Exit, Failure> {
    match command {
        NodeCommand::List(admin) => list::list(admin),
        NodeCommand::Show { name, admin } => show::show(name, admin),
        NodeCommand::JoinToken { name, out, minutes, address, custodian } => {
            join_token::join_token(name, *minutes, address.as_deref(), out, custodian)
        }
        NodeCommand::Join { token, has_keks, config } => {
            join::join(token, &config.config, *has_keks)
        }
        NodeCommand::Drain { name, undo, wait, custodian } => {
            drain::drain(name, *undo, *wait, custodian)
        }
        NodeCommand::Revoke { name, custodian } => revoke::revoke(name, custodian),
    }
}

/// What the running key manager knows of all.
fn nodes(admin: &AdminArgs) -> Result<Value, Failure> {
    send(&admin.config.config, None, Request::Get("/v1/nodes"))
}

/// The one of this name among them.
fn find(answer: &Value, name: &str) -> Result<Value, Failure> {
    let all = answer["nodes"].as_array();
    let node = all.into_iter().flatten().find(|node| node["name"] == name).cloned();
    node.ok_or_else(|| {
        Failure::new(Code::S010, format!("no key manager {name} shares this store"))
            .help("`qkm node list` has the names")
    })
}

fn path(name: &str, act: &str) -> String {
    format!("/v1/nodes/{}/{act}", etsi014::path::encode(name))
}

/// `leads`, `follows`, or `away`, or what was decided of it; whether it is ready.
fn state(node: &Value) -> (&'static str, &'static str) {
    let is = |name: &str| node[name] == Value::Bool(true);
    let role = match (is("leads"), is("alive")) {
        _ if is("revoked") => "revoked",
        (false, true) if is("drained") => "drained",
        (_, true) if is("rests") => "drains",
        (true, _) => "leads",
        (false, true) => "follows",
        (false, false) => "away",
    };
    let well = node["troubles"].as_array().is_none_or(Vec::is_empty);
    let ready = match (is("alive"), well) {
        (false, _) => "",
        (true, true) => "ready",
        (true, false) => "NOT READY",
    };
    (role, ready)
}

/// As "3 s"; of another machine's clock, so never less than nothing.
fn ago(ms: &Value) -> String {
    let passed = km_core::clock::now_ms().saturating_sub(ms.as_u64().unwrap_or_default());
    format!("{} s", passed / 1000)
}
