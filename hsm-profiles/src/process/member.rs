//! One token of a KM with its worker process. Enter through [`Member::start`].
//!
//! A thread of its own starts the worker, waits until it ends, and starts it again: at once after
//! a long life, with growing pauses otherwise. A refused PIN ends that for good, since every
//! further try brings the token closer to locking.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use km_core::hsm::{HsmError, HsmStatus, KekId};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::Seen;
use super::line::Line;
use super::start::{self, NotOpened, Opened, Program, Sockets, unavailable};
use super::state::{Breaker, Common, MemberStatus};
use crate::config::TokenConfig;
use crate::link::Known;
use crate::parcels;
use crate::profile::Profile;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A worker that lived this long is started again at once.
const STEADY: Duration = Duration::from_secs(10);
/// Opening a token may take this many deadlines, at least [`LEAST_OPENING`].
const OPENING_DEADLINES: u32 = 2;
const LEAST_OPENING: Duration = Duration::from_secs(3);

/// Where the worker of a member stands.
#[derive(Clone)]
enum Phase {
    Starting,
    Running(Arc<Line>),
    Pausing(String),
    Refused(HsmError),
}

struct View {
    phase: Phase,
    seen: Seen,
    /// What is said of a probe that had no answer in time, until its worker tells a change or answers one.
    unanswered: Option<String>,
}

impl View {
    fn answers(&self) -> bool {
        self.seen.status.ready && self.unanswered.is_none()
    }
}

pub(super) struct Member {
    pub(super) name: String,
    config: TokenConfig,
    program: Program,
    common: Arc<Common>,
    view: RwLock<View>,
    restarts: AtomicU64,
    process: Mutex<Process>,
    stopping: Condvar,
}

/// A member whose thread runs.
pub(super) struct Begun {
    pub(super) member: Arc<Member>,
    pub(super) thread: JoinHandle<()>,
    /// Hears how the first opening ended.
    pub(super) first: oneshot::Receiver<Result<(), HsmError>>,
}

#[derive(Default)]
struct Process {
    running: Option<(OwnedFd, Sockets)>,
    killed: Option<String>,
    stop: bool,
}

impl Member {
    /// Starts the thread.
    pub(super) fn start(
        name: String,
        config: TokenConfig,
        program: Program,
        common: Arc<Common>,
    ) -> Result<Begun, HsmError> {
        let status = HsmStatus {
            ready: false,
            token: name.clone(),
            serial: String::new(),
            detail: "starting".to_owned(),
        };
        let member = Arc::new(Self {
            name,
            config,
            program,
            common,
            view: RwLock::new(View {
                phase: Phase::Starting,
                seen: Seen { status, known: Known::default() },
                unanswered: None,
            }),
            restarts: AtomicU64::new(0),
            process: Mutex::default(),
            stopping: Condvar::new(),
        });
        let (tell, first) = oneshot::channel();
        let (runs, runtime) = (Arc::clone(&member), Handle::current());
        let thread = Builder::new()
            .name("hsm-member".to_owned())
            .spawn(move || runs.run(&runtime, tell))
            .map_err(|e| HsmError::Setup(format!("cannot start an HSM thread: {e}")))?;
        Ok(Begun { member, thread, first })
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        self.view.write().unwrap_or_else(PoisonError::into_inner).phase = phase;
        self.common.changed.notify_waiters();
    }

    fn saw(&self, seen: Seen) {
        self.common.learn(&seen.known);
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        (view.seen, view.unanswered) = (seen, None);
        drop(view);
        self.common.changed.notify_waiters();
    }

    /// A probe was answered, or not in time: then others are asked, until one is.
    pub(super) fn probed(&self, unanswered: Option<String>) {
        self.view.write().unwrap_or_else(PoisonError::into_inner).unanswered = unanswered;
        self.common.changed.notify_waiters();
    }

    fn run(self: Arc<Self>, runtime: &Handle, tell: oneshot::Sender<Result<(), HsmError>>) {
        let mut tell = Some(tell);
        let mut failures = 0u32;
        loop {
            let began = Instant::now();
            let why = match self.open(runtime) {
                Ok(mut child) => {
                    drop(tell.take().map(|tell| tell.send(Ok(()))));
                    let why = self.live(&mut child);
                    if began.elapsed() >= STEADY {
                        failures = 0;
                    }
                    why
                }
                Err(NotOpened { error, for_good }) => {
                    if let Some(tell) = tell.take() {
                        drop(tell.send(Err(error.clone())));
                    }
                    if for_good {
                        error!(token = self.name, why = %error, "HSM token given up");
                        return self.set(Phase::Refused(error));
                    }
                    error.to_string()
                }
            };
            if self.process().stop {
                return;
            }
            warn!(token = self.name, why, "HSM worker is started again");
            self.restarts.fetch_add(1, Ordering::Relaxed);
            self.pause(failures, why);
            failures = failures.saturating_add(1);
            if self.process().stop {
                return;
            }
            self.set(Phase::Starting);
        }
    }

    /// Starts a worker and waits until its token is open.
    fn open(self: &Arc<Self>, runtime: &Handle) -> Result<Child, NotOpened> {
        let mut config = self.config.clone();
        // A token that was open has its KEKs: one that shows none now is not what it was.
        config.create_kek &= self.view().seen.known.keks.is_empty();
        let deadline = Duration::from_millis(config.deadline_ms);
        let until = Instant::now() + (deadline * OPENING_DEADLINES).max(LEAST_OPENING);
        let (mut child, sockets) = start::spawn(&self.program, &config).map_err(|error| {
            let path = self.program.path.display();
            unavailable(&format!("the HSM worker process {path} does not start: {error}"))
        })?;
        let opened = self
            .enlist(&child, &sockets)
            .map_err(|e| unavailable(&format!("the HSM worker process cannot be watched: {e}")))
            .and_then(|()| start::open(sockets, &config, until))
            .and_then(|opened| {
                self.connect(opened, runtime).map_err(|e| unavailable(&e.to_string()))
            });
        match opened {
            Ok(()) => Ok(child),
            Err(mut not) => {
                let status = child.kill().and_then(|()| child.wait());
                self.process().running = None;
                if let (HsmError::Unavailable(why), Ok(status)) = (&mut not.error, status)
                    && !status.success()
                    && status.signal() != Some(Signal::KILL.as_raw())
                {
                    why.push_str(&format!(" ({status})"));
                }
                Err(not)
            }
        }
    }

    /// From here on it can be killed and stopped.
    fn enlist(&self, child: &Child, sockets: &Sockets) -> io::Result<()> {
        let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        let mut process = self.process();
        if process.stop {
            return Err(io::Error::other("the key manager stops"));
        }
        process.killed = None;
        process.running = Some((handle, sockets.try_clone()?));
        Ok(())
    }

    /// Lets requests through to the worker.
    fn connect(self: &Arc<Self>, opened: Opened, runtime: &Handle) -> io::Result<()> {
        let Opened { sockets: Sockets { requests, answers }, inbox, seen } = opened;
        requests.set_nonblocking(true)?;
        answers.set_nonblocking(true)?;
        let inside = runtime.enter();
        let reading = tokio::net::UnixStream::from_std(answers)?;
        drop(inside);
        let line = Arc::new(Line::new(requests));
        info!(token = self.name, serial = seen.status.serial, "HSM worker runs");
        self.saw(seen);
        self.set(Phase::Running(Arc::clone(&line)));
        let writes = Arc::clone(&line);
        let writer = runtime.spawn(async move { writes.write().await });
        let (member, reads) = (Arc::clone(self), line);
        runtime.spawn(async move {
            if let Err(error) = reads.read(reading, inbox, |seen| member.saw(seen)).await {
                member.kill(&reads, &error.to_string());
            }
            writer.abort();
            member.set(Phase::Starting);
            reads.end();
        });
        Ok(())
    }

    /// Waits until the worker ends, and says why it did.
    fn live(&self, child: &mut Child) -> String {
        let status = child.wait();
        let mut process = self.process();
        if let Some((_, sockets)) = process.running.take() {
            // A process that the library started may hold the other ends open.
            drop(sockets.requests.shutdown(Shutdown::Both));
            drop(sockets.answers.shutdown(Shutdown::Both));
        }
        let ended = match status {
            Ok(status) => format!("its worker process ended ({status})"),
            Err(error) => format!("its worker process is lost: {error}"),
        };
        process.killed.take().unwrap_or(ended)
    }

    /// Waits before the worker is started again.
    fn pause(&self, failures: u32, why: String) {
        let Some(doublings) = failures.checked_sub(1) else { return };
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(7)).min(LONGEST_PAUSE);
        self.set(Phase::Pausing(why));
        let waited = self.stopping.wait_timeout_while(self.process(), pause, |p| !p.stop);
        drop(waited);
    }

    /// Ends the worker behind `line` at once.
    pub(super) fn kill(&self, line: &Line, why: &str) {
        let is_of_now =
            matches!(&self.view().phase, Phase::Running(now) if std::ptr::eq(&**now, line));
        let mut process = self.process();
        if is_of_now
            && process.killed.is_none()
            && let Some((handle, _)) = &process.running
        {
            // It fails when the process has ended, and then there is nothing to end.
            let _ = pidfd_send_signal(handle, Signal::KILL);
            process.killed = Some(why.to_owned());
        }
    }

    /// Lets the worker end, and starts no other.
    pub(super) fn stop(&self) {
        let mut process = self.process();
        process.stop = true;
        if let Some((_, sockets)) = &process.running {
            drop(sockets.requests.shutdown(Shutdown::Write));
        }
        self.stopping.notify_all();
    }

    /// Ends a worker that did not end by itself after [`Member::stop`].
    pub(super) fn stop_now(&self) {
        if let Some((handle, _)) = &self.process().running {
            // It fails when the process has ended, and then there is nothing to end.
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }

    /// The worker, when it runs and its token works and holds `kek`, or the KEK that seals.
    pub(super) fn usable(&self, kek: Option<&KekId>) -> Option<Arc<Line>> {
        let view = self.view();
        match &view.phase {
            Phase::Running(line) if view.answers() && self.fits(&view, kek) => {
                Some(Arc::clone(line))
            }
            _ => None,
        }
    }

    fn fits(&self, view: &View, kek: Option<&KekId>) -> bool {
        match kek {
            Some(kek) => view.seen.known.keks.iter().any(|one| one.id == *kek),
            None => self.common.is_current_in(&view.seen.known.keks),
        }
    }

    /// Whether its token holds `kek`, or the one that seals.
    pub(super) fn holds(&self, kek: Option<&KekId>) -> bool {
        self.fits(&self.view(), kek)
    }

    /// The worker, whether its token works or not.
    pub(super) fn running(&self) -> Option<Arc<Line>> {
        match &self.view().phase {
            Phase::Running(line) => Some(Arc::clone(line)),
            _ => None,
        }
    }

    /// Whether its worker runs and its token works, and no probe of it is unanswered.
    pub(super) fn answers(&self) -> bool {
        let view = self.view();
        matches!(view.phase, Phase::Running(_)) && view.answers()
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.view().phase, Phase::Starting)
    }

    /// Whether its token works but lacks the KEK that seals.
    pub(super) fn lacks_current(&self) -> bool {
        let view = self.view();
        view.seen.status.ready && !self.fits(&view, None)
    }

    /// Refuses when its profile takes no KEK of another token.
    pub(super) fn check_takes_keks(&self) -> Result<(), HsmError> {
        parcels::check(&Profile::load(&self.config.profile)?)
    }

    pub(super) fn status(&self) -> MemberStatus {
        let view = self.view();
        let mut status = view.seen.status.clone();
        let breaker = match &view.phase {
            Phase::Running(_) if !status.ready => Breaker::HalfOpen,
            Phase::Running(_) if view.unanswered.is_some() => {
                status.detail = view.unanswered.clone().unwrap_or_default();
                Breaker::HalfOpen
            }
            Phase::Running(_) if self.fits(&view, None) => Breaker::Closed,
            Phase::Running(_) => {
                let kek = self.common.current().map_or_else(String::new, |kek| kek.0);
                status.detail = format!(
                    "it lacks KEK {kek}, which seals now: copy that key to it by the HSM's means, or \
                     begin a new epoch (`qkm hsm epoch rotate`), or take it out of hsm.member"
                );
                Breaker::Open
            }
            Phase::Starting => {
                "its worker process is being started".clone_into(&mut status.detail);
                Breaker::HalfOpen
            }
            Phase::Pausing(why) => {
                status.detail = format!("{why}; its worker process is started again soon");
                Breaker::Open
            }
            Phase::Refused(error) => {
                status.detail = error.to_string();
                Breaker::Open
            }
        };
        status.ready = breaker == Breaker::Closed;
        let restarts = self.restarts.load(Ordering::Relaxed);
        MemberStatus { name: self.name.clone(), breaker, restarts, status }
    }
}
