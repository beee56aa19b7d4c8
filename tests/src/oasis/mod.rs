//! The OASIS test cases against a running key manager: real `qkm serve`, SoftHSM, the mutual-TLS
//! socket, binary TTLV; the cases of the message encoding profiles over HTTPS in their own form. Enter
//! through [`replay`].
//!
//! | Module | What lives there |
//! |---|---|
//! | `xml` | a test case file as trees with variables |
//! | `compare` | whether an answer is the one a case expects, by the rules of KMIP Profiles |
//! | `older` | a case as one of the version before its own |
//! | `query` | what an answer to Query must have |
//! | `scope` | what is known while a case runs: variables, and values that may differ |
//! | `words` | how parts of messages are told |
//! | `run` | one case: requests out, answers compared, objects destroyed |
//! | `report` | the table, `results.json`, and what the repository says about single cases |
//!
//! Requests and answers are plain TTLV trees here: a wrong idea shared with the server's own
//! structures would show.

mod compare;
mod older;
mod query;
mod report;
mod run;
mod scope;
mod words;
#[path = "../../../testkit/oasis.rs"]
mod xml;

use std::path::{Path, PathBuf};

use kmip::{Version, tag::Tag};

use crate::network::{End, Network, Options};

use run::Way;

pub use report::{Exceptions, Report, Row, Verdict};

/// Where the test cases are looked for: `$QKM_SHARED/oasis-kmip`, else beside the project.
pub fn folder() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    std::env::var_os("QKM_SHARED").map_or_else(beside, PathBuf::from).join("oasis-kmip")
}

/// A test case, in a version.
#[derive(Clone, Debug)]
pub struct Case {
    /// `SASED-M-2-14`, or `SASED-M-2-14 as 1.3`.
    pub name: String,
    path: PathBuf,
    /// Where it is not its own version.
    version: Option<Version>,
}

impl Case {
    /// The same case, of the version before its own.
    pub fn older(&self) -> Option<Self> {
        let version = older::version_before(&self.name)?;
        let name = format!("{} as {version}", self.name);
        Some(Self { name, version: Some(version), ..self.clone() })
    }

    fn messages(&self) -> Result<Vec<(Tag, xml::Template)>, String> {
        let text = std::fs::read_to_string(&self.path);
        let text = text.map_err(|error| format!("cannot be read: {error}"))?;
        let mut messages = xml::messages(&text)?;
        if let Some(version) = self.version {
            older::say(&mut messages, version);
        }
        Ok(messages)
    }

    /// A case may use what the one before it in its family left: `SASED-M` of `SASED-M-2-14`.
    fn family(&self) -> (&str, Option<Version>) {
        let end = self.name.find(|letter: char| letter.is_ascii_digit());
        (&self.name[..end.unwrap_or(self.name.len())], self.version)
    }

    /// The form of its messages over HTTPS, when it is one of the message encoding profiles.
    fn media_type(&self) -> Option<&'static str> {
        let profiles = [
            ("MSGENC-HTTPS-", "application/octet-stream"),
            ("MSGENC-JSON-", "application/json"),
            ("MSGENC-XML-", "text/xml"),
        ];
        let of = profiles.iter().find(|(profile, _)| self.name.starts_with(profile));
        of.map(|(_, kind)| *kind)
    }
}

/// Every XML file below `folder`, by name.
pub fn cases(folder: &Path) -> Vec<Case> {
    let mut found: Vec<Case> = files(folder)
        .into_iter()
        .filter_map(|path| {
            let name = path.file_stem()?.to_string_lossy().into_owned();
            Some(Case { name, path, version: None })
        })
        .collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|end| end == "xml") {
            found.push(path);
        }
    }
    found
}

/// Runs all of `cases` against one key manager started for them.
pub async fn replay(cases: &[Case], exceptions: &Exceptions) -> Report {
    // Some cases are of a client that may not do what it asks for.
    let sae_x_operations = Some(r#"["RNGRetrieve", "Query", "DiscoverVersions"]"#);
    let options = Options { sae_x_operations, ..Options::default() };
    let network = Network::north_alone(options).await;
    let client = network.kmip_client(End::North, "sae-n1");
    let mut report = Report::default();
    let (mut family_before, mut made) = (None, false);
    for case in cases {
        let failed = report.rows.last().is_some_and(|row| row.verdict.is_failure());
        if failed || family_before != Some(case.family()) {
            run::tidy(&client).await.expect("what a case left can be destroyed");
            made = false;
        }
        family_before = Some(case.family());
        let verdict = match (exceptions.not_applicable(&case.name), case.messages()) {
            (Some(reason), _) => Verdict::NotApplicable(reason.to_owned()),
            (None, Ok(messages)) => {
                let https =
                    |kind| Way::Https(Box::new(network.kmip_https(End::North, "sae-n1", kind)));
                let other =
                    exceptions.client(&case.name).map(|sae| network.kmip_client(End::North, sae));
                let client = other.as_ref().unwrap_or(&client);
                let way = case.media_type().map_or(Way::Socket(client), https);
                match run::case(&way, &messages, &mut made).await {
                    Ok(()) => Verdict::Passed,
                    Err(why) => Verdict::Failed(why),
                }
            }
            (None, Err(why)) => Verdict::Failed(why),
        };
        report.rows.push(Row { case: case.name.clone(), verdict });
    }
    report
}
