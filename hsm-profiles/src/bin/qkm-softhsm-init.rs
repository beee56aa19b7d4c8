//! Makes one SoftHSM token: `SOFTHSM2_CONF=... qkm-softhsm-init LABEL PIN_FILE`.
//! The child process of `hsm_profiles::softhsm::provision`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(label), Some(pin_file), None) =
        (arguments.next(), arguments.next().map(PathBuf::from), arguments.next())
    else {
        eprintln!("usage: SOFTHSM2_CONF=FILE qkm-softhsm-init LABEL PIN_FILE");
        return ExitCode::from(2);
    };
    match hsm_profiles::softhsm::init_token(None, &label.to_string_lossy(), &pin_file) {
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
