//! `qkm hsm`: the HSM and what this key manager keeps in it. One file for each subject.

mod epoch;

use clap::Subcommand;

pub(super) use epoch::run as epoch;

use super::AdminArgs;

#[derive(Debug, Subcommand)]
pub(super) enum HsmCommand {
    /// Epochs of the key-encryption key (KEK).
    ///
    /// New data is sealed under the newest epoch. What older ones sealed is sealed anew in the
    /// background. Once an epoch is empty two custodians together may destroy it; copies of the store
    /// from before then open no more.
    #[command(subcommand)]
    Epoch(EpochCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum EpochCommand {
    /// List the epochs.
    ///
    /// SEALS: made under it. RECORDS: still sealed under it when the store was last looked through;
    /// `empty` once nothing can be. APPROVED BY: who wants it destroyed, or had it destroyed.
    List(AdminArgs),
    /// Begin a new epoch now.
    Rotate(Custodian),
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
    admin: AdminArgs,
    /// Certificate to show in place of that in [operator].
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<std::path::PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<std::path::PathBuf>,
}
