//! What a call is told to do. Enter through [`called`].
//!
//! Each line of the control file is a function, which of its calls, and a fault:
//! ```text
//! C_Encrypt 3 answer 0x30     the third call since the process began, and all after it
//! C_Decrypt 1 sleep 200       milliseconds
//! C_Login 1 hang
//! C_FindObjects 1 abort
//! C_Encrypt 1 short           a length that is one too small
//! C_Encrypt 1 long            a length of 2^40 more
//! ```
//! The names of all functions ever called stand in the file with `.called` at its end.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cryptoki_sys::CK_RV;

/// What is left to do to a call when [`called`] returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Answer(CK_RV),
    Short,
    Long,
}

static CALLS: Mutex<Option<HashMap<&'static str, u64>>> = Mutex::new(None);

/// Counts a call and does what the control file says; does not return when that is to hang.
pub(crate) fn called(name: &'static str) -> Option<Fault> {
    let control = PathBuf::from(std::env::var_os("QKM_SHIM_CONTROL")?);
    let count = count(name, &control);
    let text = std::fs::read_to_string(control).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let of_this = words.next()? == name && words.next()?.parse::<u64>().ok()? <= count;
        of_this.then(|| fault(words.next()?, words.next()))?
    })
}

fn count(name: &'static str, control: &std::path::Path) -> u64 {
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let count = calls.get_or_insert_default().entry(name).or_default();
    *count += 1;
    if *count == 1 {
        let mut path = OsString::from(control);
        path.push(".called");
        let file = std::fs::File::options().create(true).append(true).open(path);
        // One write of a line: processes that append at once do not mix theirs.
        drop(file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes())));
    }
    *count
}

fn fault(what: &str, how: Option<&str>) -> Option<Fault> {
    match what {
        "answer" => {
            let code = how?.strip_prefix("0x")?;
            Some(Fault::Answer(CK_RV::from_str_radix(code, 16).ok()?))
        }
        "sleep" => {
            std::thread::sleep(Duration::from_millis(how?.parse().ok()?));
            None
        }
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "abort" => std::process::abort(),
        "short" => Some(Fault::Short),
        "long" => Some(Fault::Long),
        _ => None,
    }
}
