//! `qkm node list`.

use serde_json::Value;

use super::{
    super::{
        AdminArgs, Output,
        admin::{self, print, text},
    },
    ago, nodes, state,
};
use crate::fault::{Exit, Failure};

pub(super) fn list(args: &AdminArgs) -> Result<Exit, Failure> {
    let answer = nodes(args)?;
    let head = ["NODE", "DESK", "STATE", "READY", "SAID", "STORE", "KEKS BY", "BUILD"];
    admin::show(args.output, &answer, &head, "nodes", |node| {
        let (role, ready) = state(node);
        let store = node["store_ms"].as_u64().map_or_else(String::new, |ms| format!("{ms} ms"));
        vec![
            text(&node["name"]),
            text(&node["desk"]),
            role.to_owned(),
            ready.to_owned(),
            ago(&node["told_ms"]),
            store,
            text(&node["kek_wrapping"]),
            text(&node["build"]),
        ]
    })?;
    if matches!(args.output, Output::Json) {
        return Ok(Exit::Done);
    }
    print("");
    let head = ["ENGINE", "VERSION", "STATE", "BEHIND", "SIZE", "TROUBLE"];
    admin::show(args.output, &answer, &head, "engine", |member| {
        let well = member["trouble"].is_null();
        let role = match (well, member["leads"] == Value::Bool(true)) {
            (false, _) => "away",
            (true, true) => "leads",
            (true, false) => "follows",
        };
        let size =
            member["db_bytes"].as_u64().map(|bytes| format!("{:.1} MiB", bytes as f64 / 1048576.0));
        vec![
            text(&member["address"]),
            text(&member["version"]),
            role.to_owned(),
            text(&member["behind"]),
            size.unwrap_or_default(),
            text(&member["trouble"]),
        ]
    })
}
