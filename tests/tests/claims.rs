//! SECURITY.md names a test for each claim; they must exist.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

#[test]
fn every_test_that_security_md_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    // Names in backquotes: a file and a function.
    let named: Vec<(&str, &str)> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.split_once(".rs::"))
        .collect();
    assert!(named.len() > 50, "the names are not found any more: {}", named.len());
    let missing: Vec<String> = named
        .into_iter()
        .filter(|(file, test)| {
            let source = std::fs::read_to_string(root.join(format!("{file}.rs")));
            !source.is_ok_and(|source| source.contains(&format!("fn {test}(")))
        })
        .map(|(file, test)| format!("{file}.rs::{test}"))
        .collect();
    assert!(missing.is_empty(), "SECURITY.md claims tests that are not there: {missing:#?}");
}
