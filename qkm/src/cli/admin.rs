//! Commands that ask a running server over its admin API.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::Value;
use transport::{
    Profile, client_config,
    http::{ClientError, ClientLimits, HttpClient},
};

use super::{AdminArgs, Output, table};
use crate::{
    config::Config,
    fault::{Code, Exit, Failure},
};

pub(super) fn pools(args: &AdminArgs) -> Result<Exit, Failure> {
    let answer = send(&args.config.config, None, Request::Get("/v1/pools"))?;
    let head =
        ["PEER", "LINK", "STORED", "OURS", "BLOCKS", "DELIVERED", "BURNED", "REJECTED", "ACCOUNT"];
    show(args.output, &answer, &head, "pools", |pool| {
        let ledger = |name: &str| bytes(&pool["ledger"][name]);
        let is = |name: &str, yes: &str, no: &str| {
            (if pool[name] == Value::Bool(true) { yes } else { no }).to_owned()
        };
        vec![
            text(&pool["peer"]),
            is("link_up", "up", "down"),
            bytes(&pool["stored_bits"]),
            bytes(&pool["own_bits"]),
            text(&pool["blocks"]),
            ledger("delivered"),
            ledger("burned"),
            ledger("rejected"),
            is("balanced", "balanced", "NOT BALANCED"),
        ]
    })
}

/// What an account tells, in order.
pub(super) const ACCOUNT: [&str; 6] = ["absorbed", "pad", "tag", "delivered", "burned", "rejected"];

pub(super) fn ledger(args: &AdminArgs) -> Result<Exit, Failure> {
    let answer = send(&args.config.config, None, Request::Get("/v1/pools"))?;
    let head = [
        "PEER",
        "ABSORBED",
        "PAD",
        "TAG",
        "DELIVERED",
        "BURNED",
        "REJECTED",
        "STORED",
        "ACCOUNT",
        "PEER'S PAD",
        "BOTH ENDS",
    ];
    show(args.output, &answer, &head, "pools", |pool| {
        let mut row = vec![text(&pool["peer"])];
        row.extend(ACCOUNT.map(|name| text(&pool["ledger"][name])));
        row.push(text(&pool["stored_bits"]));
        let balanced = pool["balanced"] == Value::Bool(true);
        row.push(if balanced { "balanced" } else { "NOT BALANCED" }.to_owned());
        row.push(text(&pool["peer_ledger"]["pad"]));
        let ends = match &pool["ends_agree"] {
            Value::Bool(true) => "agree",
            Value::Bool(false) => "DIFFER",
            _ => "in use",
        };
        row.push(ends.to_owned());
        row
    })
}

pub(super) fn feed(args: &AdminArgs, peer: &str, bytes: u64) -> Result<Exit, Failure> {
    let path = format!("/v1/pools/{}/feed/{bytes}", etsi014::path::encode(peer));
    let answer = send(&args.config.config, None, Request::Post(&path))?;
    match args.output {
        Output::Json => print(&pretty(&answer)),
        Output::Table => print(&format!("{bytes} bytes are ordered for the pool with {peer}")),
    }
    Ok(Exit::Done)
}

pub(super) fn copy(args: &AdminArgs, name: &str, to: &str) -> Result<Exit, Failure> {
    let [name, to_path] = [name, to].map(etsi014::path::encode);
    let path = format!("/v1/keys/{name}/copies/{to_path}");
    let answer = send(&args.config.config, None, Request::Post(&path))?;
    match args.output {
        Output::Json => print(&pretty(&answer)),
        Output::Table => {
            let there = match text(&answer["placed"]).as_str() {
                "there" => "had it already",
                _ => "has it now",
            };
            let grade = text(&answer["provenance"]["grade"]);
            print(&format!("{to} {there}, as {} (grade {grade})", text(&answer["id"])));
        }
    }
    Ok(Exit::Done)
}

pub(super) fn links(args: &AdminArgs) -> Result<Exit, Failure> {
    let answer = send(&args.config.config, None, Request::Get("/v1/links"))?;
    let counts = ["connections", "agreed", "mismatched", "given_up", "in_flight", "tampered"];
    let head = [
        "PEER",
        "STATE",
        "CONNECTIONS",
        "AGREED",
        "MISMATCHED",
        "GIVEN UP",
        "IN FLIGHT",
        "TAMPERED",
    ];
    show(args.output, &answer, &head, "links", |link| {
        let up = if link["up"] == Value::Bool(true) { "up" } else { "down" };
        let mut row = vec![text(&link["peer"]), up.to_owned()];
        row.extend(counts.iter().map(|name| text(&link[*name])));
        row
    })
}

pub(super) fn key(args: &AdminArgs, id: &str) -> Result<Exit, Failure> {
    let path = format!("/v1/keys/{}", etsi014::path::encode(id));
    let answer = send(&args.config.config, None, Request::Get(&path))?;
    tree(args.output, &answer)
}

/// The routes this KM goes by.
pub(super) fn routes(args: &AdminArgs) -> Result<Exit, Failure> {
    let answer = send(&args.config.config, None, Request::Get("/v1/routes"))?;
    let head = ["TO", "ROUTES, BEST FIRST", "DISJOINT", "MOST BITS/S", "FED"];
    show(args.output, &answer, &head, "routes", |ways| {
        let each = |list: &Value| {
            let way = |route: &Value| {
                let hops: Vec<_> =
                    route["hops"].as_array().into_iter().flatten().map(text).collect();
                hops.join(" > ")
            };
            list.as_array().into_iter().flatten().map(way).collect::<Vec<_>>()
        };
        let (routes, disjoint) = (each(&ways["routes"]), each(&ways["disjoint"]));
        let most = text(&ways["max_bits_per_s"]);
        let (to, fed) = (text(&ways["to"]), text(&ways["feed"]["mode"]));
        vec![to, routes.join("; "), disjoint.len().to_string(), most, fed]
    })
}

/// All that was answered, nested or not.
pub(super) fn tree(output: Output, answer: &Value) -> Result<Exit, Failure> {
    match output {
        Output::Json => print(&pretty(answer)),
        Output::Table => {
            let mut rows = Vec::new();
            flatten("", answer, &mut rows);
            table::print(&["FIELD", "VALUE"], &rows).or_else(ignore_closed_pipe)?;
        }
    }
    Ok(Exit::Done)
}

pub(super) fn show(
    output: Output,
    answer: &Value,
    head: &[&str],
    list: &str,
    row: impl Fn(&Value) -> Vec<String>,
) -> Result<Exit, Failure> {
    match output {
        Output::Json => print(&pretty(answer)),
        Output::Table => {
            let rows: Vec<_> = answer[list].as_array().into_iter().flatten().map(row).collect();
            table::print(head, &rows).or_else(ignore_closed_pipe)?;
        }
    }
    Ok(Exit::Done)
}

fn ignore_closed_pipe(_: std::io::Error) -> Result<(), Failure> {
    Ok(())
}

pub(super) fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Bits as bytes with a binary unit.
fn bytes(bits: &Value) -> String {
    let bytes = bits.as_u64().unwrap_or_default() as f64 / 8.0;
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = units.iter().enumerate().rev().find(|(n, _)| bytes >= 1024f64.powi(*n as i32));
    let (power, unit) = step.unwrap_or((0, &units[0]));
    let decimals = if power == 0 { 0 } else { 1 };
    format!("{:.decimals$} {unit}", bytes / 1024f64.powi(power as i32))
}

fn flatten(name: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                let dot = if name.is_empty() { "" } else { "." };
                flatten(&format!("{name}{dot}{member}"), value, rows);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (at, item) in items.iter().enumerate() {
                flatten(&format!("{name}[{at}]"), item, rows);
            }
        }
        Value::Array(items) => {
            let all: Vec<String> = items.iter().map(text).collect();
            rows.push(vec![name.to_owned(), all.join(", ")]);
        }
        other => rows.push(vec![name.to_owned(), text(other)]),
    }
}

/// What the admin API is asked.
#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    /// To show what is at this path.
    Get(&'a str),
    /// To change something.
    Post(&'a str),
    /// To change something, as the body says.
    Change(&'a str, &'a Value),
}

/// One request to the admin API of the server that runs with this configuration, with the
/// certificate and key of [operator] or those given.
pub(super) fn send(
    file: &Path,
    shown: Option<(PathBuf, PathBuf)>,
    request: Request<'_>,
) -> Result<Value, Failure> {
    let config = Config::load(file)?;
    ask(&of_km(&config, file, shown)?, request)
}

/// One request to a server of ours.
pub(super) fn ask(client: &HttpClient, request: Request<'_>) -> Result<Value, Failure> {
    let runtime = super::runtime()?;
    let answer = runtime.block_on(async {
        match request {
            Request::Get(path) => client.get(path).await,
            Request::Post(path) => client.post(path, b"{}".to_vec().into()).await,
            Request::Change(path, body) => {
                client.post(path, body.to_string().into_bytes().into()).await
            }
        }
    });
    let (status, body) = answer.map_err(|error| match error {
        ClientError::Connect(_) | ClientError::Timeout { .. } => Failure::new(Code::A001, error),
        other => Failure::new(Code::A004, other),
    })?;
    let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let problem = || {
        let detail = text(&value["detail"]);
        if detail.is_empty() { format!("the admin API answered {status}") } else { detail }
    };
    match (status, Code::parse(&text(&value["code"]))) {
        (200, _) => Ok(value),
        (_, Some(code)) => Err(Failure::new(code, problem())),
        (401 | 403, None) => Err(Failure::new(Code::A002, problem())),
        (_, None) => Err(Failure::new(Code::A004, problem())),
    }
}

fn of_km(
    config: &Config,
    file: &Path,
    shown: Option<(PathBuf, PathBuf)>,
) -> Result<HttpClient, Failure> {
    let missing = |table: &str| {
        Failure::new(Code::C003, format!("{} has no [{table}]", file.display()))
            .help("`qkm config example` shows [admin] and [operator]")
    };
    let admin = config.admin.as_ref().ok_or_else(|| missing("admin"))?;
    let mut operator = config.operator.clone().ok_or_else(|| missing("operator"))?;
    if let Some((certificate, key)) = shown {
        (operator.certificate, operator.key) = (certificate, key);
    }
    client(admin.front.listen, &operator)
}

/// For the server of ours that listens at `address`.
pub(super) fn client(
    mut address: std::net::SocketAddr,
    operator: &transport::TlsFiles,
) -> Result<HttpClient, Failure> {
    let tls = client_config(operator, Profile::Front).map_err(|e| Failure::new(Code::T001, e))?;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr = match address.ip() {
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    HttpClient::new(&address.to_string(), None, tls, ClientLimits::default())
        .map_err(|e| Failure::new(Code::A001, e))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bits_are_shown_as_bytes() {
        let shown = |bits: u64| bytes(&json!(bits));
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(8 * 1023), "1023 B");
        assert_eq!(shown(8 * 1536), "1.5 KiB");
        assert_eq!(shown(8 << 30), "1.0 GiB");
    }

    #[test]
    fn nested_answers_become_rows() {
        let mut rows = Vec::new();
        flatten("", &json!({"a": {"b": 1, "c": ["x", "y"]}, "d": [{"e": true}]}), &mut rows);
        assert_eq!(rows, [["a.b", "1"], ["a.c", "x, y"], ["d[0].e", "true"]]);
    }
}
