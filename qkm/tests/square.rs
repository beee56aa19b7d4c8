//! Five clusters with two controllers, as `qkm demo --square` runs them: a cut fibre, an eavesdropper, an
//! empty pool, modules switched off, a killed controller, a killed middle node, and no controller at
//! all, one after the other, and keys go on. The demonstration itself compares the keys at both ends and where they passed.
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
    let logs = || ["north.log", "controller.log", "controller-2.log"].map(log).join("\n---\n");
    assert!(shown.status.success(), "{said}\n{complaint}\n{}", logs());
    let mut times = Vec::new();
    for why in ["qkd-link-fault", "high-qber", "low-keys", "module-fault", "km-link-fault"] {
        assert_eq!(said.matches(&format!("({why})")).count(), 1, "{why}: {said}");
        let line = said.lines().find(|line| line.contains(why)).unwrap();
        println!("{line}");
        let ms: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        times.push(ms);
    }
    assert!(said.contains("ms north follows the other"), "{said}");
    // A busy machine may hold up one of them.
    times.sort_unstable();
    assert!(times[3] < 1000 && times[4] < 5000, "{times:?} ms");
    assert_eq!(said.matches("(its-relay)").count(), 8, "{said}");
    assert_eq!(said.matches("KMIP     key").count(), 8, "{said}");
    let to_village = said.lines().filter(|line| line.contains("village, relayed by"));
    let computational = to_village.filter(|line| line.ends_with("village (computational)"));
    assert_eq!(computational.count(), 8, "{said}");
}
