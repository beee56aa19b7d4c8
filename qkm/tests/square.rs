//! Four clusters in a square with a controller, as `qkm demo --square` runs them: a cut fibre, an
//! eavesdropper, an empty pool and a killed middle node, one after the other, and keys go on. The
//! demonstration itself compares the keys at both ends and where they passed.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::{program, text};

#[test]
fn keys_go_on_after_every_fault_over_another_way() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("square");
    let shown = Command::new(program())
        .args(["demo", "--square", "--base-port", "23000", "--keep"])
        .arg(&home)
        .output()
        .unwrap();
    let (said, complaint) = (text(&shown.stdout), text(&shown.stderr));
    let log = |name: &str| std::fs::read_to_string(home.join(name)).unwrap_or_default();
    let logs = || ["north.log", "controller.log"].map(log).join("\n---\n");
    assert!(shown.status.success(), "{said}\n{complaint}\n{}", logs());
    for why in ["qkd-link-fault", "high-qber", "low-keys", "km-link-fault"] {
        assert_eq!(said.matches(&format!("({why})")).count(), 1, "{why}: {said}");
    }
    assert_eq!(said.matches("(its-relay)").count(), 5, "{said}");
    assert!(said.contains("KMIP     key"), "{said}");
}
