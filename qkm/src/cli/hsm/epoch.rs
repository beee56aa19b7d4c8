//! `qkm hsm epoch`: asks the admin API.

use std::{path::PathBuf, time::Duration};

use km_core::{
    clock::now_ms,
    hsm::{KekParcel, KekReceiver},
};
use serde_json::{Value, json};

use super::{Custodian, EpochCommand, kek};
use crate::{
    cli::{
        Output,
        admin::{Request, print, send, show, text},
    },
    fault::{Code, Exit, Failure},
};

const PATH: &str = "/v1/hsm/epochs";
const LOG_PATH: &str = "/v1/hsm/epochs/log";

pub(in crate::cli) fn run(command: &EpochCommand) -> Result<Exit, Failure> {
    match command {
        EpochCommand::List(args) => {
            let answer = send(&args.config.config, None, Request::Get(PATH))?;
            let head = ["EPOCH", "STATE", "AGE", "SEALS", "RECORDS", "APPROVED BY"];
            show(args.output, &answer, &head, "epochs", row)
        }
        EpochCommand::Log(args) => {
            let answer = send(&args.config.config, None, Request::Get(LOG_PATH))?;
            show(args.output, &answer, &["AGO", "WHO", "WHAT", "EPOCH"], "deeds", deed)
        }
        EpochCommand::Rotate { receivers, custodian } => rotate(receivers, custodian),
        EpochCommand::Destroy { number, custodian } => {
            let answer = change(custodian, &format!("{PATH}/{number}/destroy"), &json!({}))?;
            say(custodian, &answer, &destroyed(*number, &answer))
        }
    }
}

fn rotate(receivers: &[PathBuf], custodian: &Custodian) -> Result<Exit, Failure> {
    let files: Vec<PathBuf> =
        receivers.iter().map(|file| kek::parcel_file(file)).collect::<Result<_, _>>()?;
    let wanted: Vec<KekReceiver> =
        receivers.iter().map(|file| kek::receiver(file)).collect::<Result<_, _>>()?;
    let answer = change(custodian, PATH, &json!({ "receivers": wanted }))?;
    let mut line = format!("epoch {} begins", text(&answer["number"]));
    let parcels: Vec<KekParcel> =
        serde_json::from_value(answer["parcels"].clone()).unwrap_or_default();
    if parcels.len() != files.len() {
        return Err(Failure::new(Code::A004, "the answer has no KEK for every token"));
    }
    for (file, parcel) in files.iter().zip(&parcels) {
        kek::write(file, parcel)?;
        let fingerprint = kek::fingerprint(parcel);
        line.push_str(&format!("\n{}: fingerprint {fingerprint}", file.display()));
    }
    say(custodian, &answer, &line)
}

fn change(custodian: &Custodian, path: &str, body: &Value) -> Result<Value, Failure> {
    let shown = custodian.certificate.clone().zip(custodian.key.clone());
    send(&custodian.admin.config.config, shown, Request::Change(path, body))
}

fn say(custodian: &Custodian, answer: &Value, line: &str) -> Result<Exit, Failure> {
    match custodian.admin.output {
        Output::Json => print(&serde_json::to_string_pretty(answer).unwrap_or_default()),
        Output::Table => print(line),
    }
    Ok(Exit::Done)
}

fn destroyed(number: u64, answer: &Value) -> String {
    let by = operators(answer);
    if answer["state"] == "destroyed" {
        return format!("epoch {number} is destroyed, approved by {by}");
    }
    let left = answer["until_ms"].as_u64().unwrap_or_default().saturating_sub(now_ms());
    format!(
        "approved by {by}; epoch {number} is destroyed when a second custodian runs the same command \
         within {}",
        span(left)
    )
}

fn operators(of: &Value) -> String {
    let approvals = of["approvals"].as_array().into_iter().flatten();
    approvals.map(|approval| text(&approval["operator"])).collect::<Vec<_>>().join(" and ")
}

fn row(epoch: &Value) -> Vec<String> {
    let made = epoch["made_ms"].as_u64().unwrap_or_default();
    let left = match &epoch["records_left"] {
        _ if epoch["state"] == "active" || epoch["state"] == "destroyed" => String::new(),
        _ if epoch["empty"] == Value::Bool(true) => "empty".to_owned(),
        Value::Null => "?".to_owned(),
        left => text(left),
    };
    vec![
        text(&epoch["number"]),
        text(&epoch["state"]),
        span(now_ms().saturating_sub(made)),
        text(&epoch["seals"]),
        left,
        operators(epoch),
    ]
}

fn deed(entry: &Value) -> Vec<String> {
    let ago = now_ms().saturating_sub(entry["at_ms"].as_u64().unwrap_or_default());
    let (what, number) = entry["what"].as_object().and_then(|what| what.iter().next()).unzip();
    let what = what.map_or_else(String::new, |what| what.replace('_', " "));
    vec![span(ago), text(&entry["who"]), what, number.map_or_else(String::new, text)]
}

/// Milliseconds in the largest unit that fits.
fn span(ms: u64) -> String {
    let seconds = Duration::from_millis(ms).as_secs();
    let units = [("d", 86_400), ("h", 3600), ("min", 60)];
    match units.iter().find(|(_, unit)| seconds >= 2 * unit) {
        Some((name, unit)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_first_approval_says_what_is_missing() {
        let answer = json!({
            "state": "approved",
            "approvals": [{"operator": "cn:ada", "at_ms": 1}],
            "until_ms": now_ms() + 3_599_999,
        });
        let said = destroyed(3, &answer);
        assert!(said.starts_with("approved by cn:ada; epoch 3"), "{said}");
        assert!(said.contains("second custodian") && said.ends_with("59 min"), "{said}");
        let both = json!({
            "state": "destroyed",
            "approvals": [{"operator": "cn:ada"}, {"operator": "cn:bob"}],
        });
        assert_eq!(destroyed(3, &both), "epoch 3 is destroyed, approved by cn:ada and cn:bob");
    }

    #[test]
    fn spans_are_told_in_the_largest_unit() {
        assert_eq!(span(1999), "1 s");
        assert_eq!(span(119_000), "119 s");
        assert_eq!(span(7_200_000), "2 h");
        assert_eq!(span(90 * 86_400_000), "90 d");
    }
}
