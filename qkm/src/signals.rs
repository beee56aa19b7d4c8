//! From signals of the system to one orderly end. Enter through [`until_asked_to_stop`].

use std::{io::Read, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use transport::{Shutdown, ShutdownHandle};

use crate::fault::{Code, Failure};

/// Longest orderly end of a process whose parent has died.
const ORPHAN_GRACE: Duration = Duration::from_secs(20);

/// A shutdown that starts with SIGTERM or SIGINT and, when `with_parent`, as soon as standard
/// input closes (a pipe from the parent closes with it, however the parent ends).
pub(crate) fn until_asked_to_stop(with_parent: bool) -> Result<Shutdown, Failure> {
    let fail = |e: std::io::Error| Failure::new(Code::P001, format!("cannot watch signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let (closed, parent) = tokio::sync::oneshot::channel::<()>();
    let held = if with_parent {
        std::thread::spawn(move || watch_parent(closed));
        None
    } else {
        Some(closed)
    };
    let (handle, shutdown): (ShutdownHandle, Shutdown) = Shutdown::pair();
    tokio::spawn(async move {
        // Without a parent to watch, this keeps that branch waiting.
        let _held = held;
        let why = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = parent => "standard input closed",
        };
        info!(why, "stopping");
        handle.start();
    });
    Ok(shutdown)
}

/// Drops `closed` when standard input ends; ends the process when that does not help in time.
fn watch_parent(closed: tokio::sync::oneshot::Sender<()>) {
    await_end_of_input();
    drop(closed);
    std::thread::sleep(ORPHAN_GRACE);
    std::process::exit(1);
}

fn await_end_of_input() {
    let mut byte = [0];
    loop {
        match std::io::stdin().read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
