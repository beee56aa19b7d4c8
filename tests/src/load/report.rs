//! The table on the screen and `target/bench/results.json`.

use std::path::Path;

use serde::Serialize;

/// One figure. Names are stable: later work adds to them.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub value: f64,
    pub unit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub fn add(&mut self, name: &str, value: f64, unit: &str) {
        self.push(Row { name: name.into(), value, unit: unit.into(), baseline: None, ratio: None });
    }

    /// A figure beside the one it is measured against in the same run.
    pub fn against(&mut self, name: &str, value: f64, unit: &str, baseline: f64) {
        let ratio = Some(value / baseline);
        let baseline = Some(baseline);
        self.push(Row { name: name.into(), value, unit: unit.into(), baseline, ratio });
    }

    fn push(&mut self, row: Row) {
        let beside = match (row.baseline, row.ratio) {
            (Some(baseline), Some(ratio)) => format!("  ({ratio:.2} of {baseline:.1})"),
            _ => String::new(),
        };
        println!("{:<44} {:>14.1} {}{beside}", row.name, row.value, row.unit);
        self.rows.push(row);
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.name == name).map(|row| row.value)
    }

    pub fn write(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        let text = serde_json::to_string_pretty(&self.rows).expect("plain rows");
        std::fs::write(path, text).expect("a writable file");
    }
}
