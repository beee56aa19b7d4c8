//! The OASIS test cases against a running key manager: real `qkm serve`, SoftHSM, the mutual-TLS
//! socket, binary TTLV; the cases of the message encoding profiles over HTTPS in their own form. Enter
//! through [`replay`].
//!
//! | Module | What lives there |
//! |---|---|
//! | `xml` | a test case file as trees with variables |
//! | `compare` | whether an answer is the one a case expects, by the rules of KMIP Profiles |
//! | `scope` | what is known while a case runs: variables, and values that may differ |
//! | `run` | one case: requests out, answers compared, objects destroyed |
//! | `report` | the table, `results.json`, and what the repository says about single cases |
//!
//! Requests and answers are plain TTLV trees here: a wrong idea shared with the server's own
//! structures would show.

mod compare;
mod report;
mod run;
mod scope;
#[path = "../../../testkit/oasis.rs"]
mod xml;

use std::path::{Path, PathBuf};

use crate::network::{End, Network, Options};

use run::Way;

pub use report::{Exceptions, Report, Row, Verdict};

/// Where the test cases are looked for: `$QKM_SHARED/oasis-kmip`, else beside the project.
pub fn folder() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    std::env::var_os("QKM_SHARED").map_or_else(beside, PathBuf::from).join("oasis-kmip")
}

/// Every XML file below `folder`, by name.
pub fn cases(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if path.is_dir() {
            found.extend(cases(&path));
        } else if path.extension().is_some_and(|end| end == "xml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A case may use what the one before it in its family left: `SASED-M` of `SASED-M-2-14`.
fn family(case: &str) -> &str {
    let end = case.char_indices().find(|(_, letter)| letter.is_ascii_digit());
    end.map_or(case, |(at, _)| &case[..at])
}

/// The form of the messages of a case over HTTPS, when it is one of the message encoding profiles.
fn media_type(case: &str) -> Option<&'static str> {
    let profiles = [
        ("MSGENC-HTTPS-", "application/octet-stream"),
        ("MSGENC-JSON-", "application/json"),
        ("MSGENC-XML-", "text/xml"),
    ];
    profiles.iter().find(|(profile, _)| case.starts_with(profile)).map(|(_, kind)| *kind)
}

/// Runs all of `cases` against one key manager started for them.
pub async fn replay(cases: &[PathBuf], exceptions: &Exceptions) -> Report {
    // Some cases are of a client that may not do what it asks for.
    let sae_x_operations = Some(r#"["RNGRetrieve", "Query", "DiscoverVersions"]"#);
    let options = Options { sae_x_operations, ..Options::default() };
    let network = Network::north_alone(options).await;
    let client = network.kmip_client(End::North, "sae-n1");
    let mut report = Report::default();
    let (mut family_before, mut made) = (String::new(), false);
    for path in cases {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let family = family(&name).to_owned();
        let failed = report.rows.last().is_some_and(|row| row.verdict.is_failure());
        if failed || family != family_before {
            run::tidy(&client).await.expect("what a case left can be destroyed");
            made = false;
        }
        family_before = family;
        let verdict = match (exceptions.not_applicable(&name), std::fs::read_to_string(path)) {
            (Some(reason), _) => Verdict::NotApplicable(reason.to_owned()),
            (None, Ok(text)) => {
                let https =
                    |kind| Way::Https(Box::new(network.kmip_https(End::North, "sae-n1", kind)));
                let other =
                    exceptions.client(&name).map(|sae| network.kmip_client(End::North, sae));
                let client = other.as_ref().unwrap_or(&client);
                let way = media_type(&name).map_or(Way::Socket(client), https);
                match run::case(&way, &text, &mut made).await {
                    Ok(()) => Verdict::Passed,
                    Err(why) => Verdict::Failed(why),
                }
            }
            (None, Err(error)) => Verdict::Failed(format!("cannot be read: {error}")),
        };
        report.rows.push(Row { case: name, verdict });
    }
    report
}
