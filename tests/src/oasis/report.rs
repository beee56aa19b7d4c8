//! What came of the cases.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::{Deserialize, Serialize};

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Passed,
    /// Why.
    Failed(String),
    /// Why it says nothing about this server.
    NotApplicable(String),
}

impl Verdict {
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub case: String,
    #[serde(rename = "result")]
    pub verdict: Verdict,
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
}

/// What the repository says about single cases, by name, each with its reason.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceptions {
    #[serde(default)]
    not_applicable: BTreeMap<String, String>,
    #[serde(default)]
    expected_failures: BTreeMap<String, String>,
    /// Who asks, where it is not the usual client.
    #[serde(default)]
    clients: BTreeMap<String, String>,
}

impl Exceptions {
    /// Those of `tests/oasis.toml`.
    pub fn of_repository() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("oasis.toml");
        let text = std::fs::read_to_string(&path).expect("tests/oasis.toml is there");
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// What holds of a case holds of it in the version before, too.
    pub fn not_applicable(&self, case: &str) -> Option<&str> {
        of_case(&self.not_applicable, case)
    }

    /// Likewise.
    pub fn client(&self, case: &str) -> Option<&str> {
        of_case(&self.clients, case)
    }

    pub fn expected_failure(&self, case: &str) -> Option<&str> {
        self.expected_failures.get(case).map(String::as_str)
    }
}

fn of_case<'a>(said: &'a BTreeMap<String, String>, case: &str) -> Option<&'a str> {
    let own = case.split_once(" as ").map_or(case, |(own, _)| own);
    said.get(case).or_else(|| said.get(own)).map(String::as_str)
}

impl Report {
    /// How many passed, failed, and do not apply.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.rows.iter().fold((0, 0, 0), |(p, f, n), row| match row.verdict {
            Verdict::Passed => (p + 1, f, n),
            Verdict::Failed(_) => (p, f + 1, n),
            Verdict::NotApplicable(_) => (p, f, n + 1),
        })
    }

    /// Cases that fail although the repository does not say so, a sentence for each.
    pub fn regressions(&self, exceptions: &Exceptions) -> Vec<String> {
        let regression = |row: &Row| match &row.verdict {
            Verdict::Failed(why) if exceptions.expected_failure(&row.case).is_none() => {
                Some(format!("{} fails: {why}", row.case))
            }
            _ => None,
        };
        self.rows.iter().filter_map(regression).collect()
    }

    /// Cases that pass although the repository says they fail.
    pub fn mended(&self, exceptions: &Exceptions) -> Vec<&str> {
        let passed = self.rows.iter().filter(|row| row.verdict == Verdict::Passed);
        let mended = passed.filter(|row| exceptions.expected_failure(&row.case).is_some());
        mended.map(|row| row.case.as_str()).collect()
    }

    /// Writes `results.json` into `folder`.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let (passed, failed, not_applicable) = self.counts();
        let text = serde_json::json!({
            "passed": passed, "failed": failed, "not_applicable": not_applicable,
            "cases": self.rows,
        });
        std::fs::write(folder.join("results.json"), format!("{text:#}\n"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.case.len()).max().unwrap_or(0);
        for Row { case, verdict } in &self.rows {
            match verdict {
                Verdict::Passed => writeln!(f, "{case:width$}  passed")?,
                Verdict::Failed(why) => writeln!(f, "{case:width$}  FAILED  {why}")?,
                Verdict::NotApplicable(why) => {
                    writeln!(f, "{case:width$}  not applicable  {why}")?;
                }
            }
        }
        let (passed, failed, not_applicable) = self.counts();
        write!(f, "{passed} passed, {failed} failed, {not_applicable} not applicable")
    }
}
