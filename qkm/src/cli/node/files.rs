//! Small files that the commands of this group read and write.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use crate::fault::{Code, Failure};

/// Longest file that is read.
const MOST_BYTES: u64 = 1 << 20;

pub(super) fn of(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::C001, format!("{}: {error}", file.display()))
}

pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let (mut text, open) = (String::new(), fs::File::open(file).map_err(|e| of(file, &e))?);
    open.take(MOST_BYTES).read_to_string(&mut text).map_err(|e| of(file, &e))?;
    Ok(text)
}

/// What is for its owner alone, from a file or, for `-`, from standard input.
pub(super) fn read_secret(file: &Path) -> Result<Zeroizing<String>, Failure> {
    // Grown, it would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MOST_BYTES as usize));
    let mut source: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => {
            let open = fs::File::open(file).map_err(|e| of(file, &e))?;
            let mode = open.metadata().map_err(|e| of(file, &e))?.permissions().mode();
            if mode & 0o077 != 0 {
                let text = format!("{} can be read by others (mode {mode:o})", file.display());
                return Err(Failure::new(Code::C001, text)
                    .help("make another one, and keep it with mode 0600"));
            }
            Box::new(open)
        }
    };
    source.by_ref().take(MOST_BYTES).read_to_string(&mut text).map_err(|e| of(file, &e))?;
    Ok(text)
}

/// Writes a new file, durably. One that is there already is left alone.
pub(super) fn write_new(file: &Path, mode: u32, bytes: &[u8]) -> Result<(), Failure> {
    let mut options = fs::OpenOptions::new();
    let made = options.write(true).create_new(true).mode(mode).open(file);
    let written = made.and_then(|mut made| made.write_all(bytes).and_then(|()| made.sync_all()));
    written.map_err(|e| of(file, &e))
}
