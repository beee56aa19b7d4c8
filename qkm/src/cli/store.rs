//! `qkm store`: backup of a running key manager, restore of a stopped one.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{
    AdminArgs, ConfigArg, Output,
    admin::{Request, print, send, text},
    runtime,
};
use crate::{
    config::Config,
    fault::{Exit, Failure},
    hardening, logging,
    restore::{self, Restored},
    worker,
};

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Copy the store of the running key manager into the directory `backups` beside it.
    ///
    /// Everything in it is sealed; without the HSM it opens nothing. It cannot be put back as it is,
    /// only by `qkm store restore`.
    Backup(AdminArgs),
    /// Make a backup, or any older copy, the store of the stopped key manager.
    ///
    /// All keys in its pools are burned, since nobody knows which of them were handed out after the
    /// copy was made; the pools fill again. Managed objects are as the copy has them. The store that
    /// was there stays beside it, under a name such as
    /// store.qkm.replaced-1795600000000.
    ///
    /// Every token must answer. A restore that fails leaves the store as it was, unless it says that
    /// the same restore must be done again: the HSM knows of it by then, and refuses what was there.
    Restore {
        /// The backup.
        file: PathBuf,
        #[command(flatten)]
        config: ConfigArg,
    },
}

pub(super) fn run(command: &StoreCommand, log: &str) -> Result<Exit, Failure> {
    match command {
        StoreCommand::Backup(args) => backup(args),
        StoreCommand::Restore { file, config } => {
            let done = restore(file, &config.config, log)?;
            print(&format!(
                "restored {} as generation {}; burned {} bytes of pool keys{}",
                file.display(),
                done.generation,
                done.burned_bits / 8,
                done.replaced.map_or_else(String::new, |old| format!(
                    "; the store from before is {}",
                    old.display()
                )),
            ));
            Ok(Exit::Done)
        }
    }
}

fn backup(args: &AdminArgs) -> Result<Exit, Failure> {
    let answer = send(&args.config.config, None, Request::Post("/v1/store/backups"))?;
    match args.output {
        Output::Json => print(&serde_json::to_string_pretty(&answer).unwrap_or_default()),
        Output::Table => print(&format!(
            "{} ({} bytes, generation {})",
            text(&answer["file"]),
            text(&answer["bytes"]),
            text(&answer["generation"])
        )),
    }
    if let Some(warning) = answer["warning"].as_str() {
        eprintln!("warning: the HSM was not told that this copy is old: {warning}");
    }
    Ok(Exit::Done)
}

fn restore(file: &Path, config: &Path, log: &str) -> Result<Restored, Failure> {
    let mut config = Config::load(config)?;
    hardening::protect(config.dumpable)?;
    config.worker = worker::program(config.dumpable, config.memory_lock, log);
    logging::start(log)?;
    hardening::lock_memory(config.memory_lock)?;
    let runtime = runtime()?;
    let done = runtime.block_on(restore::restore(&config, file));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    done
}
