//! The worker process. Enter through [`serve`].
//!
//! The session threads read the requests, and write the answers of a batch with one call: no thread
//! stands between the sockets and the token. The first thread only waits for the KM to close the
//! socket of the requests. The process ends then, and when the KM's process ends.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use km_core::hsm::HsmError;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde::Serialize;

use super::{Asked, Seen, Told, now_us};
use crate::config::TokenConfig;
use crate::here::Ready;
use crate::link::Link;
use crate::queue::{Job, Reply};
use crate::response::Response;
use crate::wire::{Inbox, Outbox};

/// How soon the KM hears of a change that comes without an answer, and of a call that hangs.
const LOOK: Duration = Duration::from_millis(100);

/// Serves one token over standard input and output, which must be the sockets that the KM made.
///
/// Call it first thing in a process that does nothing else.
///
/// # Errors
/// When they are no such sockets, or what comes is no message.
pub fn serve() -> io::Result<()> {
    close_others()?;
    // Should the KM's thread that started this process be gone already, the socket is closed.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    ignore_stop_signals()?;
    let (mut requests, mut answers) = take_sockets()?;
    let mut inbox = Inbox::default();
    let Some(Asked::Open(config)) = receive(&mut requests, &mut inbox)? else {
        return Err(wrong("the KM's first message is no configuration"));
    };
    match limit_memory(&config).and_then(|()| Ready::open(*config)) {
        Ok(ready) => converse((&requests, &mut answers), inbox, ready),
        Err((error, for_good)) => send(&mut answers, &Told::NotOpened { error, for_good }),
    }
}

fn converse(
    (requests, answers): (&UnixStream, &mut UnixStream),
    inbox: Inbox,
    ready: Ready,
) -> io::Result<()> {
    let back = Arc::new(Back::new(answers.try_clone()?, Arc::clone(ready.link())));
    let broken = Arc::default();
    let incoming = Incoming {
        socket: requests.try_clone()?,
        inbox,
        back: Arc::clone(&back),
        jobs: Vec::new(),
        timeout: None,
        broken: Arc::clone(&broken),
    };
    let here = match ready.start(Some(incoming)) {
        Ok(here) => here,
        Err(error) => return send(answers, &Told::NotOpened { error, for_good: false }),
    };
    send(answers, &Told::Opened(back.link.seen()))?;
    let watch = Arc::clone(here.watch());
    Builder::new().name("hsm-look".to_owned()).spawn(move || {
        loop {
            if watch.hangs() {
                back.tell_hang();
            }
            back.flush();
            wiped::clear_registers();
            sleep(LOOK);
        }
    })?;
    wait_for_end(requests)?;
    drop(here);
    match broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Returns when the KM closed the socket, or [`Incoming`] did.
fn wait_for_end(socket: &UnixStream) -> io::Result<()> {
    // This thread has read the PIN.
    wiped::clear_registers();
    loop {
        match poll(&mut [PollFd::new(socket, PollFlags::RDHUP)], None) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What [`Incoming::fetch`] came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    Jobs,
    /// The nap was over before a job came.
    Nap,
    /// The KM closed the socket, or sent what makes no sense.
    End,
}

/// The requests of the KM. At most what the KM lets be under way at once is ever waiting here.
pub(crate) struct Incoming {
    socket: UnixStream,
    inbox: Inbox,
    back: Arc<Back>,
    jobs: Vec<Job>,
    /// What the socket is set to.
    timeout: Option<Duration>,
    broken: Arc<Mutex<Option<io::Error>>>,
}

impl Incoming {
    /// Waits for requests, for `nap` at most, and reads what came together. A partial one is kept
    /// for the next call.
    pub(crate) fn fetch(&mut self, nap: Option<Duration>) -> Fetched {
        self.try_fetch(nap).unwrap_or_else(|error| {
            *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            drop(self.socket.shutdown(Shutdown::Both));
            Fetched::End
        })
    }

    /// What was read.
    pub(crate) fn jobs(&mut self) -> impl Iterator<Item = Job> {
        self.jobs.drain(..)
    }

    fn try_fetch(&mut self, nap: Option<Duration>) -> io::Result<Fetched> {
        loop {
            self.read_whole()?;
            if !self.jobs.is_empty() {
                return Ok(Fetched::Jobs);
            }
            if nap != self.timeout {
                self.socket.set_read_timeout(nap)?;
                self.timeout = nap;
            }
            let room = self.inbox.room().map_err(wrong)?;
            // Nothing is kept of what this thread did last while it waits: a core dump shows its registers.
            wiped::clear_registers();
            match self.socket.read(room) {
                Ok(0) => return Ok(Fetched::End),
                Ok(count) => self.inbox.filled(count),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Ok(Fetched::Nap),
                    io::ErrorKind::ConnectionReset => return Ok(Fetched::End),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Makes jobs of the requests that are there as a whole; answers at once what this token can
    /// never do.
    fn read_whole(&mut self) -> io::Result<()> {
        let mut refused = false;
        while let Some(asked) = self.inbox.next().map_err(wrong)? {
            let Asked::Do { id, until_us, request } = asked else {
                return Err(wrong("the token is open already"));
            };
            if let Err(error) = request.check(&self.back.link.profile) {
                self.back.put(id, Err(error));
                refused = true;
                continue;
            }
            let left = Duration::from_micros(until_us.saturating_sub(now_us()));
            let reply = Reply::Socket { id, back: Arc::clone(&self.back) };
            self.jobs.push(Job { request, reply, deadline: Instant::now() + left });
        }
        if refused {
            self.back.flush();
        }
        Ok(())
    }
}

/// The way back to the KM.
pub(crate) struct Back {
    out: Mutex<Outbox>,
    socket: UnixStream,
    link: Arc<Link>,
    /// The last change of the token's state that the KM knows.
    told: AtomicU64,
}

impl Back {
    fn new(socket: UnixStream, link: Arc<Link>) -> Self {
        let told = AtomicU64::new(link.health.changes());
        Self { out: Mutex::default(), socket, link, told }
    }

    fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an answer. It leaves with the next [`Back::flush`].
    pub(crate) fn put(&self, id: u64, answer: Result<Response, HsmError>) {
        let mut out = self.lock();
        self.put_change(&mut out);
        if out.push(&Told::Answer { id, answer }).is_err() {
            let why = "the answer is longer than a worker may send".to_owned();
            // Short, so it fits.
            let _ = out.push(&Told::Answer { id, answer: Err(HsmError::Unsupported(why)) });
        }
    }

    fn put_change(&self, out: &mut Outbox) {
        let changes = self.link.health.changes();
        if self.told.swap(changes, Ordering::AcqRel) != changes {
            let _ = out.push(&Told::Changed(self.link.seen()));
        }
    }

    /// Asks the KM to end this process. It leaves with the next [`Back::flush`].
    fn tell_hang(&self) {
        // Short, so it fits.
        let _ = self.lock().push(&Told::Hangs);
    }

    /// Writes what waits. A KM that is gone is noticed by the thread that reads.
    pub(crate) fn flush(&self) {
        let mut out = self.lock();
        self.put_change(&mut out);
        let written = (&self.socket).write_all(out.waiting());
        let count = out.waiting().len();
        out.sent(count);
        drop(written);
    }
}

/// The next message; `None` when the KM closed the socket.
fn receive(socket: &mut UnixStream, inbox: &mut Inbox) -> io::Result<Option<Asked>> {
    loop {
        if let Some(asked) = inbox.next().map_err(wrong)? {
            return Ok(Some(asked));
        }
        match socket.read(inbox.room().map_err(wrong)?) {
            Ok(0) => return Ok(None),
            Ok(count) => inbox.filled(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn send<T: Serialize>(socket: &mut UnixStream, message: &T) -> io::Result<()> {
    let mut out = Outbox::default();
    out.push(message).map_err(wrong)?;
    socket.write_all(out.waiting())
}

fn wrong(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// The sockets of requests and of answers: one for each direction, since the kernel wakes whoever reads a
/// local socket also when the other end has read what was written there. They move away from standard
/// input and output, which the library's own children would inherit, and the library may write to.
fn take_sockets() -> io::Result<(UnixStream, UnixStream)> {
    let requests = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let answers = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    for socket in [&requests, &answers] {
        socket.peer_addr().map_err(|_| wrong("only a running key manager starts this command"))?;
    }
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    rustix::stdio::dup2_stdout(std::fs::File::options().write(true).open("/dev/null")?)?;
    Ok((requests, answers))
}

/// Closes whatever the KM or its own parent left open to this process.
#[allow(unsafe_code)]
fn close_others() -> io::Result<()> {
    let listed = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .collect::<Vec<_>>();
    // The listing itself was among them, and is closed now.
    let open = |number: &i32| std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    for number in listed.into_iter().filter(|number| *number > 2 && open(number)) {
        // SAFETY: the process has just started, has one thread, and opened nothing itself.
        unsafe { rustix::io::close(number) };
    }
    Ok(())
}

/// A signal to stop goes to the whole group or service; the KM still needs its token then.
fn ignore_stop_signals() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        // The handler stays when nobody listens any more, and does nothing.
        drop(signal(kind)?);
    }
    Ok(())
}

fn limit_memory(config: &TokenConfig) -> Result<(), (HsmError, bool)> {
    let Some(mib) = config.memory_mib else { return Ok(()) };
    let bytes = Some(mib << 20);
    setrlimit(Resource::As, Rlimit { current: bytes, maximum: bytes }).map_err(|error| {
        (HsmError::Setup(format!("hsm.memory_mib cannot be set to {mib}: {error}")), true)
    })
}

impl Link {
    /// The state of the token; does not block.
    pub(crate) fn seen(&self) -> Seen {
        Seen { status: self.status(), known: self.known() }
    }
}
