//! The one place where errors of the parts become a [`Failure`] with its code.

use std::path::Path;

use km_core::{
    anchor::AnchorError, epoch::EpochError, hsm::HsmError, objects::ObjectError,
    random::RandomError, records::RecordError, store::StoreError, vault::VaultError,
};
use transport::TlsError;

use crate::{
    config::Config,
    fault::{Code, Failure},
};

/// An error of the token.
pub(crate) fn of_hsm(error: &HsmError) -> Failure {
    let code = match error {
        HsmError::Setup(_) => Code::H001,
        HsmError::Unavailable(_) => Code::H002,
        HsmError::Unsupported(_) | HsmError::Full(_) => Code::H003,
        HsmError::Refused(_) | HsmError::Input(_) => Code::H004,
    };
    Failure::new(code, error)
}

/// An error of the store at `path`.
pub(crate) fn of_store(path: &Path, error: &StoreError) -> Failure {
    let code = match error {
        StoreError::NewerFormat { .. } => Code::S002,
        StoreError::Damaged(_) => Code::S003,
        StoreError::Barred => Code::J002,
        StoreError::Unavailable(_) | StoreError::Full(_) | StoreError::TooLarge(_) => Code::S001,
    };
    Failure::new(code, format!("store {}: {error}", path.display()))
}

/// An error of a record in the store at `path`.
pub(crate) fn of_record(path: &Path, error: &RecordError) -> Failure {
    let code = match error {
        RecordError::Store(error) => return of_store(path, error),
        RecordError::Newer { .. } => Code::S002,
        RecordError::Damaged { .. } => Code::S003,
    };
    Failure::new(code, format!("store {}: {error}", path.display()))
}

/// An error of the vault over the store at `path`.
pub(crate) fn of_vault(path: &Path, error: &VaultError) -> Failure {
    match error {
        VaultError::Hsm(error) => of_hsm(error),
        VaultError::Random(error) => of_random(error),
        VaultError::Store(error) => of_store(path, error),
        VaultError::Foreign(_) => {
            Failure::new(Code::S004, format!("store {}: {error}", path.display()))
        }
    }
}

/// An error of the KEK epochs of the store at `path`.
pub(crate) fn of_epochs(path: &Path, error: &EpochError) -> Failure {
    let code = match error {
        EpochError::Hsm(error) => return of_hsm(error),
        EpochError::Record(error) => return of_record(path, error),
        EpochError::Missing { .. } => Code::S005,
        _ => Code::E003,
    };
    Failure::new(code, format!("store {}: {error}", path.display()))
}

/// The store compared with what the token has seen of it.
pub(crate) fn of_anchor(config: &Config, error: &AnchorError) -> Failure {
    match error {
        AnchorError::Hsm(error) => of_hsm(error),
        AnchorError::Record(error) => of_record(&config.store_file(), error),
        AnchorError::Older { .. } | AnchorError::Unknown { .. } => older_copy(config, error),
    }
}

/// The store is not the newest copy of itself.
pub(crate) fn older_copy(config: &Config, why: impl std::fmt::Display) -> Failure {
    let shown = config.store_file().display().to_string();
    let failure = Failure::new(Code::S006, format!("store {shown}: {why}"));
    failure.help(match &config.shared {
        None => format!("put the newest copy back; or, without one: qkm store restore {shown}"),
        Some(_) => {
            "put the newest copy back; or, without one, stop all key managers that share the \
                    store, and then: qkm store restore"
                .to_owned()
        }
    })
}

/// An error of the managed objects in the store at `path`.
pub(crate) fn of_objects(path: &Path, error: &ObjectError) -> Failure {
    match error {
        ObjectError::Hsm(error) => of_hsm(error),
        ObjectError::Record(error) => of_record(path, error),
        _ => Failure::new(Code::S001, format!("store {}: {error}", path.display())),
    }
}

/// An error of the random sources.
pub(crate) fn of_random(error: &RandomError) -> Failure {
    match error {
        RandomError::Token(error) => of_hsm(error),
        _ => Failure::new(Code::R001, error),
    }
}

/// An error of certificate files in the table `of`.
pub(crate) fn of_tls(of: &str, error: &TlsError) -> Failure {
    Failure::new(Code::T001, format!("{of}: {error}"))
}
