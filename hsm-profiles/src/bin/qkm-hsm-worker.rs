//! A worker process for tests of this crate. A key manager is its own: `qkm hsm-worker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match hsm_profiles::serve_worker() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
