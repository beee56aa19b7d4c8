//! `qkm pool ledger --network`: whether the accounts of all pools of the network balance to the bit.

use serde_json::Value;
use transport::{
    Profile, client_config,
    http::{ClientLimits, HttpClient},
};

use super::{
    AdminArgs, Output,
    admin::{ACCOUNT, Request, ask, print, show, text},
};
use crate::{
    config::Config,
    fault::{Code, Exit, Failure},
};

/// Asks the first controller of this KM that answers, with the certificate of [operator].
pub(super) fn run(args: &AdminArgs) -> Result<Exit, Failure> {
    let answer = asked(&Config::load(&args.config.config)?)?;
    let head = [
        "BETWEEN",
        "AT",
        "ABSORBED",
        "PAD",
        "TAG",
        "DELIVERED",
        "BURNED",
        "REJECTED",
        "STORED",
        "BOTH ENDS",
    ];
    if let Output::Json = args.output {
        show(args.output, &answer, &head, "pools", |_| Vec::new())?;
    } else {
        let rows: Vec<Vec<String>> = list(&answer["pools"]).flat_map(rows).collect();
        // Nobody may be reading any more.
        let _ = super::table::print(&head, &rows);
        print(&sum(&answer));
    }
    let wrong = |pool: &Value| matches!(pool["verdict"].as_str(), Some("differ" | "not-balanced"));
    match list(&answer["pools"]).any(wrong) {
        true => Ok(Exit::Failed),
        false => Ok(Exit::Done),
    }
}

fn asked(config: &Config) -> Result<Value, Failure> {
    let missing = |table: &str| Failure::new(Code::C003, format!("there is no [{table}]"));
    let entry = config.controller.as_ref().ok_or_else(|| missing("controller"))?;
    let operator = config.operator.as_ref().ok_or_else(|| missing("operator"))?;
    let tls = client_config(operator, Profile::Front).map_err(|e| Failure::new(Code::T001, e))?;
    let mut last = missing("controller");
    for address in &entry.addresses {
        let client = HttpClient::new(address, None, tls.clone(), ClientLimits::default());
        let client = client.map_err(|e| Failure::new(Code::A001, e))?;
        match ask(&client.expecting(entry.identity.clone()), Request::Get("/v1/books")) {
            Ok(answer) => return Ok(answer),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// One for each end of a pool.
fn rows(pool: &Value) -> Vec<Vec<String>> {
    let between = list(&pool["between"]).map(text).collect::<Vec<_>>().join("~");
    let verdict = match pool["verdict"].as_str().unwrap_or_default() {
        "balanced" => "balanced",
        "in-use" => "in use",
        "differ" => "DIFFER",
        "not-balanced" => "NOT BALANCED",
        _ => "not reported",
    };
    let row = |(at, book): (&Value, &Value)| {
        let mut row = vec![between.clone(), text(at)];
        row.extend(ACCOUNT.map(|name| text(&book["ledger"][name])));
        row.extend([text(&book["stored_bits"]), verdict.to_owned()]);
        row
    };
    list(&pool["between"]).zip(list(&pool["books"])).map(row).collect()
}

fn sum(answer: &Value) -> String {
    let count =
        |verdict: &str| list(&answer["pools"]).filter(|pool| pool["verdict"] == verdict).count();
    let total = ACCOUNT.map(|name| format!("{name} {}", text(&answer["total"][name]))).join(", ");
    let stored = text(&answer["stored_bits"]);
    let [balanced, in_use, unknown] = ["balanced", "in-use", "unknown"].map(count);
    let [differ, unbalanced] = ["differ", "not-balanced"].map(count);
    format!(
        "all together, in bits: {total}, stored {stored}\n{balanced} pools balance at both ends, \
         {in_use} are in use, {unknown} were not reported by both; {differ} DIFFER, {unbalanced} do NOT \
         BALANCE"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_end_has_a_row_and_the_last_line_counts_what_fits() {
        let book = json!({ "ledger": { "absorbed": 100, "pad": 20, "tag": 5, "delivered": 25,
            "burned": 0, "rejected": 0 }, "stored_bits": 50, "ends_agree": true });
        let pool = json!({ "between": ["a", "b"], "books": [book, null], "verdict": "unknown" });
        let told: Vec<String> = rows(&pool).iter().map(|row| row.join(" ")).collect();
        assert_eq!(told[0], "a~b a 100 20 5 25 0 0 50 not reported");
        assert_eq!(told[1].trim_end(), "a~b b        not reported");
        let said = sum(&json!({ "pools": [pool], "total": book["ledger"], "stored_bits": 50 }));
        assert!(said.contains("absorbed 100") && said.contains("1 were not reported"), "{said}");
    }
}
