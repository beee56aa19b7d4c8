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
//! C_GenerateRandom 1 stuck 12 the same 12 bytes, again and again from the first at each call
//! C_GetTokenInfo 1 flags 0x40000  these flags of the token as well
//! ```
//! With `after` before it (`C_GenerateKey 1 after answer 0x30`) a fault comes when the real library has
//! done what it was told. The names of all functions ever called stand in the file with `.called` at
//! its end.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cryptoki_sys::{CK_FLAGS, CK_RV};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Answer(CK_RV),
    Sleep(Duration),
    Hang,
    Abort,
    Short,
    Long,
    Stuck(usize),
    Flags(CK_FLAGS),
}

/// What is to befall a call, and when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    fault: Fault,
    after: bool,
}

static CALLS: Mutex<Option<HashMap<&'static str, u64>>> = Mutex::new(None);

/// Counts a call; what the control file says of it.
pub(crate) fn called(name: &'static str) -> Option<Order> {
    let control = PathBuf::from(std::env::var_os("QKM_SHIM_CONTROL")?);
    let count = count(name, &control);
    let text = std::fs::read_to_string(control).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().peekable();
        let of_this = words.next()? == name && words.next()?.parse::<u64>().ok()? <= count;
        let after = of_this && words.next_if_eq(&"after").is_some();
        of_this.then(|| Some(Order { fault: fault(words.next()?, words.next())?, after }))?
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
    let number = || CK_RV::from_str_radix(how?.strip_prefix("0x")?, 16).ok();
    Some(match what {
        "answer" => Fault::Answer(number()?),
        "sleep" => Fault::Sleep(Duration::from_millis(how?.parse().ok()?)),
        "hang" => Fault::Hang,
        "abort" => Fault::Abort,
        "short" => Fault::Short,
        "long" => Fault::Long,
        "stuck" => Fault::Stuck(how?.parse().ok()?),
        "flags" => Fault::Flags(number()?),
        _ => return None,
    })
}

impl Order {
    /// What comes before the real call: the answer in its place, if there is one.
    pub(crate) fn before(self) -> Option<CK_RV> {
        if self.after { None } else { self.fault.strike() }
    }

    /// What comes after it: the answer instead of the real one.
    pub(crate) fn after(self) -> Option<CK_RV> {
        if self.after { self.fault.strike() } else { None }
    }

    /// What becomes of a length that the real library answered.
    pub(crate) fn bend(self, length: u64) -> u64 {
        match self.fault {
            Fault::Short => length.saturating_sub(1),
            Fault::Long => length.saturating_add(1 << 40),
            _ => length,
        }
    }

    /// What becomes of random bytes: a period of them looks random, whatever its length.
    pub(crate) fn stick(self, bytes: &mut [u8]) {
        let Fault::Stuck(period) = self.fault else { return };
        let mut state = 1u32;
        for (at, byte) in bytes.iter_mut().enumerate() {
            if at % period.max(1) == 0 {
                state = 1;
            }
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
    }

    /// The flags of a token.
    pub(crate) fn mark(self, flags: CK_FLAGS) -> CK_FLAGS {
        match self.fault {
            Fault::Flags(more) => flags | more,
            _ => flags,
        }
    }
}

impl Fault {
    /// Does not return when it is to hang.
    fn strike(self) -> Option<CK_RV> {
        match self {
            Self::Answer(code) => return Some(code),
            Self::Sleep(time) => std::thread::sleep(time),
            Self::Hang => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            Self::Abort => std::process::abort(),
            Self::Short | Self::Long | Self::Stuck(_) | Self::Flags(_) => {}
        }
        None
    }
}
