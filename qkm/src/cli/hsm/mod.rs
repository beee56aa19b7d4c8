//! `qkm hsm`: the HSM and what this key manager keeps in it. One file for each subject.

mod apart;
mod epoch;
mod kek;
mod token;

use std::path::PathBuf;

use clap::Subcommand;

pub(super) use epoch::run as epoch;
pub(super) use kek::{fingerprint as kek_fingerprint, run as kek};
pub(super) use token::run as token;

use super::{AdminArgs, ConfigArg, Output};

#[derive(Debug, Subcommand)]
pub(super) enum HsmCommand {
    /// Epochs of the key-encryption key (KEK).
    ///
    /// New data is sealed under the newest epoch. What older ones sealed is sealed anew in the
    /// background. Once an epoch is empty two custodians together may destroy it; copies of the store
    /// from before then open no more.
    #[command(subcommand)]
    Epoch(EpochCommand),
    /// Let another token share the KEKs: a standby, or that of another key manager.
    #[command(subcommand)]
    Kek(kek::KekCommand),
    #[command(flatten)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum EpochCommand {
    /// List the epochs.
    ///
    /// SEALS: made under it. RECORDS: still sealed under it when the store was last looked through;
    /// `empty` once nothing can be. Of several key managers on one store the one that leads tells: ask
    /// it, also to destroy. APPROVED BY: who wants it destroyed, or had it destroyed.
    List(AdminArgs),
    /// Show who did what to the epochs, oldest first.
    Log(AdminArgs),
    /// Begin a new epoch now.
    Rotate {
        /// Wrap the KEK of the new epoch for the token that wrote this file (`qkm hsm kek request`); the
        /// result is FILE.kek. May be given several times.
        #[arg(long = "for", value_name = "FILE")]
        receivers: Vec<PathBuf>,
        #[command(flatten)]
        custodian: Custodian,
    },
    /// Approve the destruction of an epoch; the second custodian's approval destroys it.
    Destroy {
        /// Its number.
        number: u64,
        #[command(flatten)]
        custodian: Custodian,
    },
}

/// Who asks for a change.
#[derive(Debug, clap::Args)]
pub(super) struct Custodian {
    #[command(flatten)]
    pub(super) admin: AdminArgs,
    /// Certificate to show in place of that in [operator].
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(super) certificate: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(super) key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// List the tokens of a PKCS#11 library.
    ///
    /// Without --library, those of all libraries that the built-in profiles know and that are
    /// installed here, all loaded in this process: name one if another crashes. Nobody is logged in. SESSIONS: open / at most. MECHANISMS: those with a name.
    List {
        /// The PKCS#11 library.
        #[arg(long, value_name = "FILE")]
        library: Option<PathBuf>,
        /// Table for people, JSON for programs.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Try a token: conformance suite, custody of each function, speed.
    ///
    /// Without --token or --serial, every token of the configuration in turn. The library is loaded in
    /// a process for each token: should it crash or hang, the others are tried all the same.
    ///
    /// Seals under keys made for this, which are destroyed afterwards; nothing else in the token is
    /// touched. KEYS says where keys are while the function runs: in the token, or for that time in
    /// the memory of the host.
    Test {
        #[command(flatten)]
        token: TokenArgs,
        /// How long each speed is measured; 0 for none.
        #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
        seconds: f64,
    },
    /// Check the PIN once and say what was found. A wrong PIN is not tried a second time.
    ///
    /// Without --token or --serial, that of every token of the configuration; each in a process of its
    /// own.
    Login {
        #[command(flatten)]
        token: TokenArgs,
    },
    /// Print a built-in profile, which says what was tested with it; without a name, list them.
    Profile {
        /// Its name.
        name: Option<String>,
    },
}

/// Which token: that of a configuration file, or the one described.
#[derive(Debug, clap::Args)]
pub(super) struct TokenArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Only this one of several tokens of the configuration, by its name there.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["token", "serial"])]
    member: Option<String>,
    /// Label of a token; the configuration file is not read then.
    #[arg(long, value_name = "LABEL", requires = "pin_file")]
    token: Option<String>,
    /// Serial number of a token; the configuration file is not read then.
    #[arg(long, value_name = "NUMBER", requires = "pin_file", conflicts_with = "token")]
    serial: Option<String>,
    /// File with its user PIN, for its owner alone.
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// The PKCS#11 library, in place of that of the configuration or the profile.
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// The profile, by name or file, in place of that of the configuration or the one that fits.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Table for people, JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// This is the process for the token.
    #[arg(long, hide = true)]
    here: bool,
    /// The token it is for, of several.
    #[arg(long, hide = true)]
    here_as: Option<String>,
}
