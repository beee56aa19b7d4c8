//! `qkm key trace`: the way of one key from the module to its applications, as this end knows it.

use serde_json::Value;

use super::{
    AdminArgs, Output,
    admin::{self, Request, text},
    table,
};
use crate::fault::{Exit, Failure};

/// Where, what happened, and more about it.
type Step = [String; 3];

pub(super) fn key(args: &AdminArgs, id: &str) -> Result<Exit, Failure> {
    let path = format!("/v1/keys/{}", etsi014::path::encode(id));
    let answer = admin::send(&args.config.config, None, Request::Get(&path))?;
    match args.output {
        Output::Json => return admin::tree(args.output, &answer),
        Output::Table => {
            let rows: Vec<Vec<String>> = steps(&answer).into_iter().map(Vec::from).collect();
            // Nobody may be reading any more.
            let _ = table::print(&["WHERE", "WHAT", "MORE"], &rows);
        }
    }
    Ok(Exit::Done)
}

fn step(place: &str, what: &str, more: impl Into<String>) -> Step {
    [place.to_owned(), what.to_owned(), more.into()]
}

fn steps(answer: &Value) -> Vec<Step> {
    let mut steps = Vec::new();
    let key = &answer["pool_key"];
    if key.is_object() {
        born(key, &mut steps);
        here(key, &mut steps);
    }
    for object in list(&answer["objects"]) {
        if !key.is_object() {
            provenance(&object["provenance"], &mut steps);
        }
        let what = format!("managed object, {}", text(&object["state"]));
        steps.push(step(&text(&object["owner"]), &what, ""));
    }
    steps
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn born(key: &Value, steps: &mut Vec<Step>) {
    let way = &key["provenance"];
    if !way.is_object() {
        let why = "its block is used up, and was erased with the way of its keys before this KM started, \
                   or long ago";
        return steps.push(step("", "not known any more", why));
    }
    let module = text(&key["module"]);
    if !module.is_empty() {
        steps.push(step(&module, "QKD module", ""));
    }
    provenance(way, steps);
}

fn provenance(way: &Value, steps: &mut Vec<Step>) {
    let shares: Vec<&Value> = list(&way["split"]).collect();
    match shares.len() {
        0 => one_way(way, "bits born", steps),
        more => {
            let ways = more + 1;
            one_way(way, &format!("share 1 of {ways} born"), steps);
            for (share, number) in shares.into_iter().zip(2..) {
                one_way(share, &format!("share {number} of {ways} born"), steps);
            }
            steps.push(step("", "exclusive or of the shares", "no node between had two of them"));
        }
    }
    if way["combined"].is_object() {
        let with = ["kem", "method", "custody"].map(|name| text(&way["combined"][name]));
        let with: Vec<String> = with.into_iter().filter(|text| !text.is_empty()).collect();
        let with = with.join(", ");
        steps.push(step("", "combined by both ends", with));
    }
    let ends = format!("grade {}", text(&way["grade"]));
    steps.push(step(
        "",
        "compared by both ends",
        format!("{ends}, tag keyed by {} bits", text(&way["end_tag"])),
    ));
}

/// Where bits were born, and over which hops they came.
fn one_way(way: &Value, born: &str, steps: &mut Vec<Step>) {
    let origin = match &way["origin"] {
        Value::Object(named) => {
            let of = |(kind, name): (&String, &Value)| format!("{kind} {}", text(name));
            named.iter().map(of).collect::<Vec<_>>().join(", ")
        }
        other => text(other),
    };
    steps.push(step("", born, origin));
    for hop in list(&way["path"]) {
        steps.push(step(&text(&hop["to"]), "hop", text(&hop["cipher"])));
    }
}

fn here(key: &Value, steps: &mut Vec<Step>) {
    let place = format!("block {}", text(&key["block"]));
    let bytes = format!("{} bytes at {}", text(&key["length"]), text(&key["offset"]));
    let state = text(&key["state"]);
    let received = text(&key["received_ms"]);
    if !received.is_empty() {
        let since = format!("{bytes}; received at {received} ms of the Unix epoch");
        steps.push(step(&place, "sealed by the HSM and stored", since));
    }
    let run = &key["run"];
    let names = |value: &Value| list(value).map(text).collect::<Vec<_>>().join(", ");
    if run.is_object() {
        let slaves = names(&run["slaves"]);
        steps.push(step(&text(&run["master"]), "assigned", format!("for {slaves}")));
        match &run["handed_out"] {
            Value::Bool(true) => steps.push(step(&text(&run["master"]), "handed out", "")),
            Value::Bool(false) => steps.push(step("", "burned", "never handed out")),
            _ => {}
        }
        for by in list(&run["collected_by"]) {
            steps.push(step(&text(by), "collected", ""));
        }
    }
    steps.push(step(&place, "now", state));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_way_of_a_relayed_key_is_told_from_its_birth_to_its_application() {
        let answer = json!({ "id": "k", "pool_key": {
            "peer": "c", "block": 7, "offset": 64, "length": 32, "state": "waiting",
            "module": "", "received_ms": 5,
            "run": { "master": "sae-a", "slaves": ["sae-c"], "collected_by": ["sae-c"],
                "handed_out": true },
            "provenance": { "origin": { "Qkd": "link-0" }, "grade": "its-relay",
                "end_tag": "ml-kem", "combined": { "kem": "MlKem768", "method": "xor" },
                "path": [{ "to": "b", "cipher": "shared" }, { "to": "c", "cipher": "otp" }] } } });
        let told: Vec<String> = steps(&answer).iter().map(|step| step[..2].join("|")).collect();
        let expected = [
            "|bits born",
            "b|hop",
            "c|hop",
            "|combined by both ends",
            "|compared by both ends",
            "block 7|sealed by the HSM and stored",
            "sae-a|assigned",
            "sae-a|handed out",
            "sae-c|collected",
            "block 7|now",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn every_way_of_a_split_key_is_told() {
        let hops =
            |middle| json!([{ "to": middle, "cipher": "shared" }, { "to": "d", "cipher": "otp" }]);
        let answer = json!({ "pool_key": { "block": 7, "state": "free", "provenance": {
            "origin": { "Qkd": "link-0" }, "path": hops("b"), "grade": "its-relay", "end_tag": "relayed",
            "split": [{ "origin": { "Qkd": "link-2" }, "path": hops("c") }] } } });
        let told: Vec<String> = steps(&answer).iter().map(|step| step.join("|")).collect();
        let expected = [
            "|share 1 of 2 born|Qkd link-0",
            "b|hop|shared",
            "d|hop|otp",
            "|share 2 of 2 born|Qkd link-2",
            "c|hop|shared",
            "d|hop|otp",
            "|exclusive or of the shares|no node between had two of them",
        ];
        assert_eq!(told[..7], expected);
    }

    #[test]
    fn of_an_erased_block_only_its_end_is_told() {
        let answer = json!({ "pool_key": { "block": 7, "state": "erased" } });
        let told: Vec<String> = steps(&answer).iter().map(|step| step[1].clone()).collect();
        assert_eq!(told, ["not known any more", "now"]);
    }
}
