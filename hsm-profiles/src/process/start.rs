//! Starting a worker process, and its first exchange. Enter through [`start`].

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use km_core::hsm::HsmError;

use super::{Ask, Seen, Told};
use crate::config::TokenConfig;
use crate::wire::{Inbox, Outbox};

/// The command that calls [`crate::serve_worker`]. Nothing about the token is in it.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program; a KM starts itself, `/proc/self/exe`.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Why the token is not open.
pub(crate) struct NotOpened {
    pub(crate) error: HsmError,
    /// Trying again would do harm: the token refused the PIN.
    pub(crate) for_good: bool,
}

/// The KM's ends of the two sockets of a worker.
pub(crate) struct Sockets {
    pub(crate) requests: UnixStream,
    pub(crate) answers: UnixStream,
}

impl Sockets {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let (requests, answers) = (self.requests.try_clone()?, self.answers.try_clone()?);
        Ok(Self { requests, answers })
    }
}

/// A worker that has opened its token.
pub(crate) struct Opened {
    pub(crate) sockets: Sockets,
    pub(crate) inbox: Inbox,
    pub(crate) seen: Seen,
}

const TUNABLES: &str = "GLIBC_TUNABLES";
/// Freed pieces of memory of each size that a thread keeps for itself, and the largest of them in bytes (of a
/// size there is one for every 16 bytes). PKCS#11 libraries make and free dozens in each call; the C library's
/// usual 7 of up to 1 KiB are not enough for them, and what is left over costs a tenth of SoftHSM's time. More
/// than 127 is too much for versions before 2.30.
const KEPT_PIECES: &str = "glibc.malloc.tcache_count=127:glibc.malloc.tcache_max=4096";

/// What the C library of a worker is told; what the administrator tells it comes last, and wins.
fn tunables(told: Option<OsString>) -> OsString {
    [Some(KEPT_PIECES.into()), told].into_iter().flatten().collect::<Vec<_>>().join(":".as_ref())
}

/// Starts the process. It must be waited for by the thread that calls this, and that thread must
/// last: Linux ends the worker with the thread that started it.
pub(crate) fn spawn(program: &Program, config: &TokenConfig) -> io::Result<(Child, Sockets)> {
    let (requests, to_read) = UnixStream::pair()?;
    let (answers, to_write) = UnixStream::pair()?;
    let child = Command::new(&program.path)
        .args(&program.arguments)
        .env(TUNABLES, tunables(std::env::var_os(TUNABLES)))
        .envs(&config.env)
        .stdin(OwnedFd::from(to_read))
        .stdout(OwnedFd::from(to_write))
        .stderr(Stdio::inherit())
        // An interrupt from the terminal is for the KM, which still needs its token then.
        .process_group(0)
        .spawn()?;
    Ok((child, Sockets { requests, answers }))
}

/// Sends the configuration and waits until the token is open, at most until `until`.
pub(crate) fn open(
    mut sockets: Sockets,
    config: &TokenConfig,
    until: Instant,
) -> Result<Opened, NotOpened> {
    let mut inbox = Inbox::default();
    let told = exchange(&mut sockets, &mut inbox, config, until);
    match told {
        Ok(Told::Opened(seen)) => Ok(Opened { sockets, inbox, seen }),
        Ok(Told::NotOpened { error, for_good }) => Err(NotOpened { error, for_good }),
        Ok(_) => Err(unavailable("the HSM worker process answered before it was asked")),
        Err(error) if is_end(&error) => {
            Err(unavailable("the HSM worker process ended while it opened the token"))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(unavailable(
            "the PKCS#11 library did not open the token in time: check the device and its service",
        )),
        Err(error) => Err(unavailable(&format!("the HSM worker process cannot be used: {error}"))),
    }
}

pub(crate) fn unavailable(what: &str) -> NotOpened {
    NotOpened { error: HsmError::Unavailable(what.to_owned()), for_good: false }
}

/// Whether the process is gone, whoever noticed first.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn exchange(
    Sockets { requests, answers }: &mut Sockets,
    inbox: &mut Inbox,
    config: &TokenConfig,
    until: Instant,
) -> io::Result<Told> {
    let mut out = Outbox::default();
    out.push(&Ask::Open(config)).map_err(io::Error::other)?;
    requests.set_write_timeout(Some(remaining(until)?))?;
    requests.write_all(out.waiting())?;
    loop {
        if let Some(told) = inbox.next().map_err(io::Error::other)? {
            return Ok(told);
        }
        answers.set_read_timeout(Some(remaining(until)?))?;
        match answers.read(inbox.room().map_err(io::Error::other)?) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => inbox.filled(count),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {}
                _ => return Err(error),
            },
        }
    }
}

fn remaining(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left < Duration::from_millis(1) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
