//! `make oasis`: the OASIS test cases against a running key manager, as a table and in
//! `target/oasis/results.json`. Arguments: `--dir DIR` takes another folder of such files, of any
//! version; further words run only the cases whose names start with one of them. Cases of 1.4 and 2.1 are
//! run again as cases of 1.3 and 2.0, whose profiles Query tells as well.
#![allow(clippy::expect_used, reason = "a test program")]

use std::{path::PathBuf, process::ExitCode};

use qkm_tests::{
    network::target_dir,
    oasis::{Case, Exceptions, cases, folder, replay},
};

#[tokio::main]
async fn main() -> ExitCode {
    let (mut dir, mut starts) = (folder(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--dir" => dir = arguments.next().map(PathBuf::from).expect("--dir DIR"),
            _ => starts.push(argument),
        }
    }
    let mut found = cases(&dir);
    let is_named = |case: &Case| starts.iter().any(|start| case.name.starts_with(start));
    found.retain(|case| starts.is_empty() || is_named(case));
    let older: Vec<Case> = found.iter().filter_map(Case::older).collect();
    found.extend(older);
    if found.is_empty() {
        eprintln!("no test case in {}; name their folder: --dir DIR", dir.display());
        return ExitCode::FAILURE;
    }
    let exceptions = Exceptions::of_repository();
    let report = replay(&found, &exceptions).await;
    println!("{report}");
    report.write(&target_dir().join("oasis")).expect("target/oasis can be written");
    let mended = report.mended(&exceptions);
    if !mended.is_empty() {
        eprintln!("they pass now, take them off tests/oasis.toml: {}", mended.join(" "));
    }
    let regressions = report.regressions(&exceptions);
    regressions.iter().for_each(|regression| eprintln!("{regression}"));
    if regressions.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
