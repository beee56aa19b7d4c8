//! `qkm hsm kek`: a token takes KEKs that another one made. Needs no running server.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use hsm_profiles::parcels;
use km_core::hsm::{KekParcel, KekReceiver, wrapping};
use km_core::usage::Hash;
use serde::{Serialize, de::DeserializeOwned};

use super::{TokenArgs, apart, token::say};
use crate::{
    fault::{Code, Exit, Failure},
    hardening,
    serve::of_hsm,
};

/// A key pair may take a minute.
const TIME: Duration = Duration::from_secs(120);
/// Longest file that is read.
const MOST_BYTES: u64 = 64 * 1024;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KekCommand {
    /// Write down what another token needs to wrap KEKs for this one.
    ///
    /// The token makes a key pair for it once; the private half never leaves it. Bring the file to a
    /// custodian of the key manager whose KEKs this token is to share: qkm hsm epoch rotate --for FILE
    Request {
        /// The file to write.
        file: PathBuf,
        #[command(flatten)]
        token: TokenArgs,
    },
    /// Take the KEK of a new epoch that another token made.
    ///
    /// Anybody can wrap a KEK of their own for this token. So learn the fingerprint from the custodian
    /// who made the file, and not by the way the file came.
    Take {
        /// What `qkm hsm epoch rotate --for` wrote.
        file: PathBuf,
        /// What it printed.
        #[arg(long, value_name = "HEX")]
        fingerprint: String,
        #[command(flatten)]
        token: TokenArgs,
    },
}

pub(in crate::cli) fn run(command: &KekCommand) -> Result<Exit, Failure> {
    let (KekCommand::Request { token, .. } | KekCommand::Take { token, .. }) = command;
    if !token.here {
        apart::lone(token)?;
        return apart::each(token, TIME);
    }
    hardening::protect(false)?;
    match command {
        KekCommand::Request { file, token } => {
            may_be_made(file)?;
            let receiver = parcels::receiver(token.token_config()?).map_err(|e| of_hsm(&e))?;
            write(file, &receiver)?;
            say(&format!(
                "{}: bring it to a custodian, for `qkm hsm epoch rotate --for {}`\n",
                file.display(),
                file.display()
            ));
        }
        KekCommand::Take { file, fingerprint, token } => {
            let parcel: KekParcel = read(file)?;
            let found = self::fingerprint(&parcel);
            if !found.eq_ignore_ascii_case(fingerprint.trim()) {
                let text = format!(
                    "{} has the fingerprint {found}: it is not what the custodian made",
                    file.display()
                );
                return Err(Failure::new(Code::H004, text));
            }
            let kek = parcels::take(token.token_config()?, &parcel).map_err(|e| of_hsm(&e))?;
            let by = wrapping(parcel.kem.is_some());
            say(&format!(
                "the token holds KEK {} of epoch {}, which came by {by}\n",
                kek.id.0, kek.number
            ));
        }
    }
    Ok(Exit::Done)
}

/// Tells a parcel from every other.
pub(in crate::cli) fn fingerprint(parcel: &KekParcel) -> String {
    hex::encode(Hash::Sha256.of(&serde_json::to_vec(parcel).unwrap_or_default()))
}

/// The receiver that a file describes.
pub(super) fn receiver(file: &Path) -> Result<KekReceiver, Failure> {
    read(file)
}

/// Where the parcel for the receiver of `file` goes.
pub(super) fn parcel_file(file: &Path) -> Result<PathBuf, Failure> {
    let mut name = file.as_os_str().to_owned();
    name.push(".kek");
    let name = PathBuf::from(name);
    may_be_made(&name)?;
    Ok(name)
}

fn may_be_made(file: &Path) -> Result<(), Failure> {
    match file.symlink_metadata() {
        Ok(_) => Err(Failure::new(Code::C003, format!("{} is there already", file.display()))),
        Err(_) => Ok(()),
    }
}

fn read<T: DeserializeOwned>(file: &Path) -> Result<T, Failure> {
    let failed = |what: String| Failure::new(Code::C001, format!("{}: {what}", file.display()));
    let size = std::fs::metadata(file).map_err(|e| failed(e.to_string()))?.len();
    if size > MOST_BYTES {
        return Err(failed("it is too long".to_owned()));
    }
    let text = std::fs::read(file).map_err(|e| failed(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))
}

/// Writes a new file.
pub(super) fn write(file: &Path, what: &impl Serialize) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::new(Code::C001, format!("{}: {e}", file.display()));
    let text = serde_json::to_vec(what).unwrap_or_default();
    let mut options = std::fs::OpenOptions::new();
    let mut made = options.write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    made.write_all(&text).and_then(|()| made.sync_all()).map_err(failed)
}
