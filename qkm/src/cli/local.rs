//! Commands that need no running server.

use std::{io::Write, path::Path};

use clap::CommandFactory;
use qkd_ingest::sim::{SimConfig, SimError};

use super::Cli;
use crate::{
    config::{self, Config},
    doctor,
    fault::{Code, Exit, Failure},
    hardening,
};

/// What standard output refuses (a closed pipe) is nobody's to report.
fn say(text: &str) -> Result<Exit, Failure> {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(Exit::Done)
}

pub(super) fn check(file: &Path) -> Result<Exit, Failure> {
    let config = Config::load(file)?;
    say(&format!(
        "{}: cluster {}, {} peer(s), {} application(s) here: well formed\n",
        file.display(),
        config.cluster,
        config.peers.len(),
        config.applications.len()
    ))
}

pub(super) fn example() -> Result<Exit, Failure> {
    say(config::EXAMPLE)
}

pub(super) fn doctor(file: &Path) -> Result<Exit, Failure> {
    // It logs in to the token and opens the record key.
    hardening::protect(false)?;
    let runtime = super::runtime()?;
    let report = runtime.block_on(doctor::examine(file));
    say(&report.to_string())?;
    Ok(if report.has_failures() { Code::V001.exit() } else { Exit::Done })
}

pub(super) fn explain(code: Option<&str>) -> Result<Exit, Failure> {
    let Some(wanted) = code else {
        let lines = Code::ALL.iter().map(|code| format!("{}  {}\n", code.id(), code.title()));
        return say(&lines.collect::<String>());
    };
    match Code::parse(wanted) {
        Some(code) => say(&format!("{}: {}\n\n{}\n", code.id(), code.title(), code.explanation())),
        None => Err(Failure::new(Code::C002, format!("there is no code {wanted:?}"))
            .help("`qkm explain` lists all codes")),
    }
}

pub(super) fn completions(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "qkm", &mut script);
    say(&String::from_utf8_lossy(&script))
}

pub(super) fn version() -> Result<Exit, Failure> {
    say(&format!("qkm {}\n", env!("CARGO_PKG_VERSION")))
}

/// The configuration of a simulated link.
pub(super) fn sim_config(file: &Path) -> Result<SimConfig, Failure> {
    let text = config::read(file)?;
    config::parse_toml(&text, &file.display())
}

pub(super) fn sim_failure(error: SimError) -> Failure {
    let code = match &error {
        SimError::Config(_) => Code::C003,
        SimError::Tls { .. } => Code::T001,
        SimError::Listen { .. } => Code::L001,
    };
    Failure::new(code, error)
}
