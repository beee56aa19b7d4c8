//! A token whose library is loaded in this process. Enter through [`Here::open`].

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, available_parallelism, sleep};
use std::time::{Duration, Instant};

use km_core::hsm::HsmError;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::config::TokenConfig;
use crate::library;
use crate::link::Link;
use crate::process::inside::Incoming;
use crate::profile::Profile;
use crate::queue::{Job, Queue, Reply};
use crate::request::Request;
use crate::response::Response;
use crate::watch::Watch;
use crate::worker;

/// How long dropping a token waits for a thread that is inside the library.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// One PKCS#11 token with its threads, sessions and KEKs. Dropping it closes them.
pub(crate) struct Here {
    link: Arc<Link>,
    queue: Arc<Queue>,
    clock: Arc<Clock>,
    watch: Arc<Watch>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    sessions: usize,
    deadline: Duration,
}

/// A token that is open and works, without its threads.
pub(crate) struct Ready {
    link: Arc<Link>,
    sessions: usize,
    deadline: Duration,
}

impl Ready {
    /// The error also says whether trying again would do harm.
    pub(crate) fn open(config: TokenConfig) -> Result<Self, (HsmError, bool)> {
        let mild = |error| (error, false);
        config.check().map_err(mild)?;
        let profile = Profile::load(&config.profile).map_err(mild)?;
        let library = library::load(config.library.as_deref(), &profile).map_err(mild)?;
        let deadline = Duration::from_millis(config.deadline_ms);
        let link = Arc::new(Link::open(config, profile, library)?);
        let sessions = sessions(&link).map_err(mild)?;
        worker::round_trip(&link).map_err(mild)?;
        Ok(Self { link, sessions, deadline })
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Starts the threads. Jobs are read from `incoming`, where there is one.
    pub(crate) fn start(self, incoming: Option<Incoming>) -> Result<Here, HsmError> {
        let Self { link, sessions, deadline } = self;
        let queue = Arc::new(Queue::new(sessions, link.profile.limits.short_sessions, incoming));
        let (clock, threads) = (Arc::default(), Mutex::default());
        let watch = Arc::new(Watch::new(deadline));
        let here = Here { link, queue, clock, watch, threads, sessions, deadline };
        here.start(sessions)?;
        Ok(here)
    }
}

impl Here {
    pub(crate) fn sessions(&self) -> usize {
        self.sessions
    }

    /// As [`crate::Token::open`].
    pub(crate) fn open(config: TokenConfig) -> Result<Self, HsmError> {
        Ready::open(config).map_err(|(error, _)| error)?.start(None)
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Queues a job, unless this token can never do it.
    fn push(&self, job: Job) -> Result<(), HsmError> {
        job.request.check(&self.link.profile)?;
        self.queue.push(job)
    }

    fn start(&self, sessions: usize) -> Result<(), HsmError> {
        for n in 0..sessions {
            let (link, queue) = (Arc::clone(&self.link), Arc::clone(&self.queue));
            let watched = self.watch.thread();
            self.spawn(format!("hsm-{n}"), move || worker::run(link, queue, watched))?;
        }
        let (clock, deadline) = (Arc::clone(&self.clock), self.deadline);
        self.spawn("hsm-clock".to_owned(), move || clock.run(deadline))
    }

    fn spawn(&self, name: String, run: impl FnOnce() + Send + 'static) -> Result<(), HsmError> {
        let thread = Builder::new()
            .name(name)
            .spawn(run)
            .map_err(|e| HsmError::Setup(format!("cannot start an HSM thread: {e}")))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Hands a request to the session threads and waits for the answer, or for the deadline.
    pub(crate) async fn ask(&self, request: Request) -> Result<Response, HsmError> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + self.deadline;
        self.push(Job { request, reply: Reply::Caller(reply), deadline })?;
        tokio::select! {
            biased;
            answered = answer => answered.unwrap_or_else(|_| Err(stopped())),
            () = self.clock.past(deadline) => Err(self.overdue()),
        }
    }

    /// No answer in time: overload when others got theirs, a hanging library when nobody did.
    fn overdue(&self) -> HsmError {
        let ms = self.deadline.as_millis();
        if !self.link.health.silent_for(self.deadline) {
            return HsmError::Unavailable(format!(
                "no answer within {ms} ms, the token is overloaded: send fewer requests at once"
            ));
        }
        let why = format!(
            "the token has answered nothing for {ms} ms: check the device and its service; if \
             they are well, restart this KM"
        );
        self.link.health.failed(&why);
        HsmError::Unavailable(why)
    }
}

/// Working sessions: as configured, within what profile and token allow; one more is the anchor.
fn sessions(link: &Link) -> Result<usize, HsmError> {
    let limits = &link.profile.limits;
    let of_token = link.connection()?.session_limit.unwrap_or(usize::MAX);
    let most = limits.sessions.min(of_token).saturating_sub(1);
    if most == 0 {
        return Err(HsmError::Setup(format!(
            "the token with {} allows {of_token} session(s), but two are needed: close other \
             applications, or raise its limit",
            link.config.token
        )));
    }
    match link.config.sessions {
        Some(n) if n > most => Err(HsmError::Setup(format!(
            "hsm.sessions is {n}, but the profile {} and the token allow at most {most} beside \
             the one that holds the login",
            link.profile.name
        ))),
        Some(n) => Ok(n),
        None => Ok(wanted_sessions(&link.config, &link.profile).clamp(1, most)),
    }
}

/// Working sessions as long as the token allows as many.
pub(crate) fn wanted_sessions(config: &TokenConfig, profile: &Profile) -> usize {
    let of_profile = config.sessions.or(profile.limits.default_sessions);
    of_profile.unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
}

fn stopped() -> HsmError {
    HsmError::Unavailable("the HSM threads have stopped".to_owned())
}

impl Drop for Here {
    /// Waits for the threads, so that no session is in use when the process ends, but not for
    /// ever: a hanging library must not hold up the shutdown.
    fn drop(&mut self) {
        self.queue.close();
        self.clock.stop();
        let until = Instant::now() + CLOSE_WAIT;
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            while !thread.is_finished() && Instant::now() < until {
                sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                drop(thread.join());
            }
        }
    }
}
