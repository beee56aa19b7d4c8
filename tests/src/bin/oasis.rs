//! `make oasis`: the OASIS test cases against a running key manager, as a table and in
//! `target/oasis/results.json`. Arguments: `--dir DIR` takes another folder of such files, of any
//! version; further words run only the cases whose names start with one of them.
#![allow(clippy::expect_used, reason = "a test program")]

use std::{path::PathBuf, process::ExitCode};

use qkm_tests::{
    network::target_dir,
    oasis::{Exceptions, cases, folder, replay},
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
    found.retain(|path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        starts.is_empty() || starts.iter().any(|start| name.starts_with(start))
    });
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
