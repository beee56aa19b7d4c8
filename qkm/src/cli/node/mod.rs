//! `qkm node`: the key managers that share a store. One command, one file.

mod list;
mod show;

use clap::Subcommand;
use serde_json::Value;

use super::{
    AdminArgs,
    admin::{Request, send},
};
use crate::fault::{Exit, Failure};

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
}

pub(super) fn run(command: &NodeCommand) -> Result<Exit, Failure> {
    match command {
        NodeCommand::List(admin) => list::list(admin),
        NodeCommand::Show { name, admin } => show::show(name, admin),
    }
}

/// What the running key manager knows of all.
fn nodes(admin: &AdminArgs) -> Result<Value, Failure> {
    send(&admin.config.config, None, Request::Get("/v1/nodes"))
}

/// `leads`, `follows`, or `away`; whether it is ready.
fn state(node: &Value) -> (&'static str, &'static str) {
    let is = |name: &str| node[name] == Value::Bool(true);
    let role = match (is("leads"), is("alive")) {
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
