//! Logs: JSON when standard error is not a terminal, for people otherwise. Enter through [`start`].

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

use crate::fault::{Code, Failure};

/// The PKCS#11 wrapper calls each mechanism of the token that it has no name for an error.
const QUIET: &str = "cryptoki::mechanism=off";

/// Starts logging to standard error. `filter` is a level (`info`) or directives
/// (`info,qkd_ingest=debug`).
pub(crate) fn start(filter: &str) -> Result<(), Failure> {
    let parsed = EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| {
        Failure::new(Code::C002, format!("--log {filter:?} is no filter: {error}"))
            .help("use error, warn, info, debug or trace, or directives such as info,relay=debug")
    })?;
    let logs = fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first.
    let _ = if std::io::stderr().is_terminal() {
        logs.with_target(false).finish().try_init()
    } else {
        logs.json().flatten_event(true).finish().try_init()
    };
    Ok(())
}
