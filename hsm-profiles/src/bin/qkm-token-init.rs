//! Makes one token in software: `SOFTHSM2_CONF=... qkm-token-init LABEL PIN_FILE`, or with
//! `KRYOPTIC_CONF`; `QKM_TOKEN_LIBRARY` names a library that is not where the profile says.
//! The child process of `hsm_profiles::soft::provision`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(label), Some(pin_file), None) =
        (arguments.next(), arguments.next().map(PathBuf::from), arguments.next())
    else {
        eprintln!("usage: SOFTHSM2_CONF=FILE qkm-token-init LABEL PIN_FILE");
        return ExitCode::from(2);
    };
    let library = std::env::var_os("QKM_TOKEN_LIBRARY").map(PathBuf::from);
    match hsm_profiles::soft::init_token(library.as_deref(), &label.to_string_lossy(), &pin_file) {
        Ok(serial) => {
            println!("{serial}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
