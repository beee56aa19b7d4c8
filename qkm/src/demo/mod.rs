//! A whole small network on loopback: two clusters with SoftHSM, one simulated QKD link. Enter
//! through [`run`]; tests use [`provision`] and start the parts themselves.
//!
//! - `layout`: where everything is. `provision`: makes it. `files`: the configuration files.
//! - `square`: four clusters with a controller, and what happens when parts of it fail.
//! - `cluster`: three key managers that share a store on an `engine` of three members.
//! - `children`: the processes. `selfcheck`: one key at both ends. `text`: what a person sees.
//!
//! **Demonstration only**: the QKD link is simulated, the HSM is software, the CA's key is a file.

mod children;
mod cluster;
mod engine;
mod files;
mod layout;
mod provision;
mod selfcheck;
mod square;
mod text;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use transport::Shutdown;

use crate::{
    fault::{Code, Exit, Failure},
    serve::of_hsm,
};
use children::Children;
pub use layout::{Layout, Site};
pub use provision::{Options, provision};
pub use selfcheck::{etsi014_pair, kmip_pair};

/// First of the ports when none is asked for.
pub const BASE_PORT: u16 = 18_440;
/// Longest wait until everything answers and the first keys are there.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Where a demonstration keeps its files.
#[derive(Debug)]
pub enum Place {
    /// A new directory under the temporary directory; erased at the end.
    Temporary,
    /// This new or empty directory; erased at the end.
    Erase(PathBuf),
    /// This new or empty directory; kept.
    Keep(PathBuf),
}

/// Runs the demonstration until `shutdown`.
pub async fn run(place: Place, base_port: u16, shutdown: Shutdown) -> Result<(), Failure> {
    let room = Room::open(place)?;
    text::banner();
    let options = Options { base_port, ..Options::default() };
    let layout = provision(room.path(), &options)?;
    let mut children = Children::start(&layout)?;
    let shown = tokio::select! {
        ready = introduce(&layout) => ready,
        ended = children.one_ended() => Err(ended),
        () = shutdown.requested() => Ok(false),
    };
    let end = match shown {
        Ok(true) => tokio::select! {
            ended = children.one_ended() => Err(ended),
            () = shutdown.requested() => Ok(()),
        },
        Ok(false) => Ok(()),
        Err(failure) => Err(failure),
    };
    text::stopping(&room);
    children.stop().await;
    room.close();
    end
}

/// Runs the demonstration of four clusters: makes them, breaks one part after the other, and shows
/// that keys go on. Ends by itself.
pub async fn run_square(place: Place, base_port: u16, shutdown: Shutdown) -> Result<(), Failure> {
    let room = Room::open(place)?;
    let end = tokio::select! {
        end = square::run(room.path(), base_port) => end,
        () = shutdown.requested() => Ok(()),
    };
    text::stopping(&room);
    room.close();
    end
}

/// Runs the demonstration of three key managers that share a store on etcd, until `shutdown`.
pub async fn run_cluster(
    place: Place,
    base_port: u16,
    etcd: Option<PathBuf>,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    let room = Room::open(place)?;
    let end = cluster::run(room.path(), base_port, etcd, shutdown).await;
    text::stopping(&room);
    room.close();
    end
}

/// Waits for everything, checks it, and says what is where.
async fn introduce(layout: &Layout) -> Result<bool, Failure> {
    let late = |what: &str| {
        Failure::new(Code::D001, format!("{what} was not ready within {READY_WITHIN:?}"))
            .help(format!("the logs are in {}", layout.dir.display()))
    };
    for site in layout.sites() {
        let ready = tokio::time::timeout(READY_WITHIN, children::ready(site.monitor)).await;
        ready.map_err(|_| late(site.cluster))?;
    }
    text::serving(layout);
    let checked = tokio::time::timeout(READY_WITHIN, selfcheck::all(layout)).await;
    let checked = checked.map_err(|_| late("the first key"))??;
    text::checked(&checked);
    text::commands(layout);
    Ok(true)
}

/// The child's part of making a token in software.
pub(crate) fn make_token(
    library: Option<&Path>,
    label: &str,
    pin_file: &Path,
) -> Result<Exit, Failure> {
    let made = hsm_profiles::soft::init_token(library, label, pin_file);
    made.map(|_| Exit::Done).map_err(|e| of_hsm(&e))
}

/// The directory, and whether it stays.
struct Room {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Temporary(TempDir),
    Erase,
    Keep,
}

impl Room {
    fn open(place: Place) -> Result<Self, Failure> {
        let fail = |path: &Path, what: &dyn std::fmt::Display| {
            Failure::new(Code::D001, format!("{}: {what}", path.display()))
                .help("name a directory that does not exist yet, or an empty one of yours")
        };
        let (path, kind) = match place {
            Place::Temporary => {
                let made = tempfile::Builder::new().prefix("qkm-demo-").tempdir();
                let dir = made.map_err(|e| fail(&std::env::temp_dir(), &e))?;
                (dir.path().to_owned(), Kind::Temporary(dir))
            }
            Place::Erase(path) => (path, Kind::Erase),
            Place::Keep(path) => (path, Kind::Keep),
        };
        if let Ok(mut entries) = std::fs::read_dir(&path)
            && entries.next().is_some()
        {
            return Err(fail(&path, &"is not empty"));
        }
        let path = provision::private_dir(&path).map_err(|e| fail(&path, &e))?;
        Ok(Self { path, kind })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn is_kept(&self) -> bool {
        matches!(self.kind, Kind::Keep)
    }

    fn close(self) {
        let erased = match self.kind {
            Kind::Temporary(dir) => dir.close(),
            Kind::Erase => std::fs::remove_dir_all(&self.path),
            Kind::Keep => Ok(()),
        };
        if let Err(error) = erased {
            eprintln!("warning: {} could not be erased: {error}", self.path.display());
        }
    }
}
