//! Passwords: read from a file or a terminal, hashed for the configuration.

use std::{
    fs::File,
    io::{IsTerminal, Read, Write, stdin},
    path::Path,
};

use kmip::SecretText;
use kmip_server::PasswordHash;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::say;
use crate::fault::{Code, Failure};

/// Longest password, in bytes.
const LONGEST: usize = 1024;

/// Prints the hash of the password that standard input brings.
pub(super) fn hash() -> Result<(), Failure> {
    let quiet = Quiet::start();
    let password = line(stdin()).map_err(|what| failure("standard input", &what))?;
    drop(quiet);
    let hash = password.expose(|password| PasswordHash::make(password.as_bytes()));
    let hash = hash.ok_or_else(|| failure("the system", "no random numbers for a salt"))?;
    say(&hash.to_string());
    Ok(())
}

/// The password in the first line of `file`.
pub(super) fn read(file: &Path) -> Result<SecretText, Failure> {
    let text = File::open(file).map_err(|error| error.to_string()).and_then(line);
    text.map_err(|what| failure(&file.display().to_string(), &what))
}

fn failure(place: &str, what: &str) -> Failure {
    Failure::new(Code::K004, format!("no password from {place}: {what}"))
}

/// The first line, without its end.
fn line(mut from: impl Read) -> Result<SecretText, String> {
    let mut bytes = Zeroizing::new([0; LONGEST + 1]);
    let mut filled = 0;
    while !bytes[..filled].contains(&b'\n') && filled < bytes.len() {
        match from.read(&mut bytes[filled..]).map_err(|error| error.to_string())? {
            0 => break,
            more => filled += more,
        }
    }
    let end = bytes[..filled].iter().position(|byte| *byte == b'\n').unwrap_or(filled);
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "it is not UTF-8".to_owned())?;
    match text.trim_end_matches('\r') {
        "" => Err("the first line is empty".to_owned()),
        text if text.len() > LONGEST => Err(format!("it is longer than {LONGEST} bytes")),
        text => Ok(SecretText::copy_from(text)),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Option<Termios>);

impl Quiet {
    fn start() -> Self {
        if !stdin().is_terminal() {
            return Self(None);
        }
        let before = tcgetattr(stdin()).ok();
        if let Some(mut now) = before.clone() {
            now.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(stdin(), OptionalActions::Flush, &now);
        }
        let _ = write!(std::io::stderr(), "Password: ");
        Self(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(stdin(), OptionalActions::Flush, before);
            let _ = writeln!(std::io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_password() {
        for text in ["secret words", "secret words\n", "secret words\r\nmore\n"] {
            assert!(line(text.as_bytes()).unwrap().expose(|word| word == "secret words"));
        }
        let long = "x".repeat(LONGEST + 1);
        for bad in ["", "\n", "\r\n", "\u{fffd}x", long.as_str()] {
            let bytes =
                if bad.starts_with('\u{fffd}') { &[0xFF, b'\n'][..] } else { bad.as_bytes() };
            assert!(line(bytes).is_err(), "{bad}");
        }
    }
}
