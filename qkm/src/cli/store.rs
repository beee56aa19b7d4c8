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
    fault::{Code, Exit, Failure},
    hardening, logging,
    migrate::{self, Migrated},
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
    /// Move everything from the store of one configuration into that of another: from an embedded store
    /// to etcd, or back. All key managers of both must be stopped.
    ///
    /// No key is lost, and none handed out twice: the old store is marked as moved, and not used any
    /// more, before the new one may be. Broken off, run the same command again.
    Migrate {
        /// The configuration of the new store, which must be empty; --config names that of the old one.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Make a backup, or any older copy, the store of the stopped key manager.
    ///
    /// All keys in its pools are burned, since nobody knows which of them were handed out after the
    /// copy was made; the pools fill again. Managed objects are as the copy has them. The store that
    /// was there stays beside it, under a name such as
    /// store.qkm.replaced-1795600000000.
    ///
    /// Every token must answer. A restore that fails leaves the store as it was, unless it says that
    /// the same restore must be done again: the HSM knows of it by then, and refuses what was there.
    ///
    /// Where several key managers share the store: stop all of them, put a snapshot of etcd back with its
    /// own tools, and then say so with this command, without a file.
    Restore {
        /// The backup of an embedded store.
        file: Option<PathBuf>,
        #[command(flatten)]
        config: ConfigArg,
    },
}

pub(super) fn run(command: &StoreCommand, log: &str) -> Result<Exit, Failure> {
    match command {
        StoreCommand::Backup(args) => backup(args),
        StoreCommand::Migrate { to, config } => {
            let Migrated { records, bytes } = migrate(&config.config, to, log)?;
            print(&format!("moved {records} records of {bytes} bytes; use {} now", to.display()));
            Ok(Exit::Done)
        }
        StoreCommand::Restore { file, config } => {
            let done = restore(file.as_deref(), &config.config, log)?;
            print(&format!(
                "restored {} as generation {}; burned {} bytes of pool keys{}",
                file.as_ref().map_or("the shared store".to_owned(), |f| f.display().to_string()),
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

/// Runs what works on a store whose key managers are stopped, as protected as they are.
fn protected<T>(
    config: &Path,
    log: &str,
    work: impl AsyncFnOnce(&Config) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut config = Config::load(config)?;
    hardening::protect(config.dumpable)?;
    config.worker = worker::program(config.dumpable, config.memory_lock, log);
    logging::start(log)?;
    hardening::lock_memory(config.memory_lock)?;
    let runtime = runtime()?;
    let done = runtime.block_on(work(&config));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    done
}

fn migrate(from: &Path, to: &Path, log: &str) -> Result<Migrated, Failure> {
    let to = Config::load(to)?;
    protected(from, log, async |from| migrate::migrate(from, &to).await)
}

fn restore(file: Option<&Path>, config: &Path, log: &str) -> Result<Restored, Failure> {
    protected(config, log, async |config| match (&config.shared, file) {
        (None, Some(file)) => restore::restore(config, file).await,
        (Some(shared), None) => restore::restore_shared(config, shared).await,
        (None, None) => Err(Failure::new(Code::S009, "an embedded store is restored from a file")
            .help("name the backup: qkm store restore FILE")),
        (Some(_), Some(_)) => {
            Err(Failure::new(Code::S009, "several key managers share this store, on etcd")
                .help("put a snapshot of etcd back, then run this without a file"))
        }
    })
}
