//! The tokens of a KM: which one is asked, and what is asked again. Enter through
//! [`Members::ask`].
//!
//! A request whose worker ended is asked again, of another token or of the worker that follows,
//! but only where that is safe: a sealing whose answer was lost is only waste, while a key that
//! was made and not told of would stay for ever.

mod kem;
mod sharing;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use km_core::hsm::{HsmError, HsmStatus, KekId, TokenRoom};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::warn;

use super::line::{Line, NotSent};
use super::member::{Begun, Member};
use super::sent::{Outcome, Sent, lost};
use super::start::Program;
use super::state::{Breaker, Common, MemberStatus};
use crate::clock::Clock;
use crate::config::{Spread, TokenConfig};
use crate::here::wanted_sessions;
use crate::profile::Profile;
use crate::request::Request;
use crate::response::Response;

pub use sharing::take_no_keks;

/// How often one request is sent at most. One that ends every worker it meets must not go round.
const TRIES: usize = 3;
/// How long dropping waits for workers to end by themselves.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// The tokens of one KM, in the order of the configuration.
pub(crate) struct Members {
    all: Vec<Arc<Member>>,
    common: Arc<Common>,
    spread: Spread,
    turn: AtomicUsize,
    /// Of each token, about.
    sessions: usize,
    clock: Arc<Clock>,
    deadline: Duration,
    /// KEKs that a token did not take when they were made.
    waiting: Mutex<sharing::Waiting>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Members {
    /// Starts the workers and waits until each has opened its token or failed to.
    pub(crate) async fn start(config: TokenConfig, program: Program) -> Result<Self, HsmError> {
        config.check()?;
        sharing::check_alike(&config)?;
        let (spread, deadline) = (config.spread, Duration::from_millis(config.deadline_ms));
        let sessions = wanted_sessions(&config, &Profile::load(&config.profile)?);
        let common: Arc<Common> = Arc::default();
        let (mut all, mut threads, mut opening) = (Vec::new(), Vec::new(), Vec::new());
        for (name, config) in config.members() {
            let Begun { member, thread, first } =
                Member::start(name, config, program.clone(), Arc::clone(&common))?;
            all.push(member);
            threads.push(thread);
            opening.push(first);
        }
        let clock: Arc<Clock> = Arc::default();
        let ticks = Arc::clone(&clock);
        let ticking = Builder::new().name("hsm-clock".to_owned());
        let ticking = ticking.spawn(move || ticks.run(deadline));
        threads.push(ticking.map_err(|e| HsmError::Setup(format!("no HSM thread: {e}")))?);
        let (turn, waiting, threads) = (AtomicUsize::new(0), Mutex::default(), Mutex::new(threads));
        let members =
            Self { all, common, spread, turn, sessions, clock, deadline, waiting, threads };
        members.opened(opening).await?;
        Ok(members)
    }

    /// One open token is enough to start with; the first error otherwise.
    async fn opened(
        &self,
        opening: Vec<oneshot::Receiver<Result<(), HsmError>>>,
    ) -> Result<(), HsmError> {
        let mut errors = Vec::new();
        for (member, first) in self.all.iter().zip(opening) {
            let stopped = |_| Err(HsmError::Unavailable("the HSM threads have stopped".to_owned()));
            if let Err(error) = first.await.unwrap_or_else(stopped) {
                if self.all.len() > 1 {
                    warn!(token = member.name, why = %error, "HSM token not open");
                }
                errors.push(error);
            }
        }
        match errors.into_iter().next() {
            Some(error) if self.common.current().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// Asks a token, and another or again when that is safe, until the deadline.
    pub(crate) async fn ask(&self, request: Request) -> Result<Response, HsmError> {
        let until = Instant::now() + self.deadline;
        if request.is_for_all() && self.all.len() > 1 {
            return self.ask_all(&request).await;
        }
        let mut tried = Vec::new();
        loop {
            let Some((n, line)) = self.choose(&request, &tried, until).await else {
                return self.ask_anyone(&request, until).await;
            };
            tried.push(n);
            let again = request.is_repeatable() && tried.len() < TRIES;
            let outcome = match Sent::to(n, line, &request, until) {
                Ok(sent) => self.outcome(sent, until).await,
                Err(NotSent::Refused(error)) => return Err(error),
                // Not sent, so safe whatever it is.
                Err(NotSent::Ended) if tried.len() < TRIES => continue,
                Err(NotSent::Ended) => Outcome::Lost,
            };
            match outcome {
                Outcome::Answered(Err(error))
                    if again
                        && request.another_may(&error)
                        && self.untried(&request, &tried).is_some() => {}
                Outcome::Answered(answer) => return answer,
                Outcome::Lost if again && Instant::now() < until => {}
                Outcome::Lost => return Err(lost(&request)),
                Outcome::Overdue(error) => return Err(error),
            }
        }
    }

    /// Asks every token; an error names the first that did not do it.
    async fn ask_all(&self, request: &Request) -> Result<Response, HsmError> {
        let mut failed = None;
        for (member, answer) in self.all.iter().zip(self.ask_each(request).await) {
            if let Err(error) = answer {
                failed = failed.or(Some(format!(
                    "not every token did it, {} did not ({error}): try again when all work",
                    member.name
                )));
            }
        }
        failed.map_or(Ok(Response::Done), |why| Err(HsmError::Unavailable(why)))
    }

    /// Asks every token, once, all at the same time: one that hangs takes none of another's.
    async fn ask_each(&self, request: &Request) -> Vec<Result<Response, HsmError>> {
        let until = Instant::now() + self.deadline;
        let sent: Vec<_> = (0..self.all.len()).map(|n| self.send_one(n, request, until)).collect();
        let mut answers = Vec::with_capacity(sent.len());
        for sent in sent {
            answers.push(match sent {
                Ok(sent) => self.outcome(sent, until).await.into_answer(request),
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Asks this one token, once.
    async fn ask_one(
        &self,
        n: usize,
        request: &Request,
        until: Instant,
    ) -> Result<Response, HsmError> {
        let sent = self.send_one(n, request, until)?;
        self.outcome(sent, until).await.into_answer(request)
    }

    fn send_one(&self, n: usize, request: &Request, until: Instant) -> Result<Sent, HsmError> {
        let away = || HsmError::Unavailable(self.troubles());
        let line = self.all.get(n).and_then(|member| member.running()).ok_or_else(away)?;
        Sent::to(n, line, request, until).map_err(|not| match not {
            NotSent::Refused(error) => error,
            NotSent::Ended => away(),
        })
    }

    /// Waits for the answer. A worker that has answered nothing for a whole deadline hangs, and
    /// is ended.
    async fn outcome(&self, sent: Sent, until: Instant) -> Outcome {
        let Sent { n, line, coming, at } = sent;
        tokio::select! {
            biased;
            answered = coming => answered.map_or(Outcome::Lost, Outcome::Answered),
            () = self.clock.past(until) => Outcome::Overdue(self.overdue(n, &line, at)),
        }
    }

    fn overdue(&self, n: usize, line: &Line, sent: Instant) -> HsmError {
        let ms = self.deadline.as_millis();
        // A line on which nothing was asked is silent as well. What was sent is sent a moment after its
        // time has begun, or much later when another token had it before: that blames nobody.
        let waited = sent.elapsed() >= self.deadline - self.deadline / 8;
        if !waited || !line.silent_for(self.deadline) {
            return HsmError::Unavailable(format!(
                "no answer within {ms} ms, the token is overloaded: send fewer requests at once"
            ));
        }
        let why = format!(
            "the token has answered nothing for {ms} ms: check the device and its service; the \
             worker process that holds its library is started again"
        );
        if let Some(member) = self.all.get(n) {
            member.kill(line, &why);
        }
        HsmError::Unavailable(why)
    }

    /// The token to ask: one not tried yet, else any that works; waits for one being started.
    async fn choose(
        &self,
        request: &Request,
        tried: &[usize],
        until: Instant,
    ) -> Option<(usize, Arc<Line>)> {
        loop {
            if let Some(chosen) =
                self.untried(request, tried).or_else(|| self.untried(request, &[]))
            {
                return Some(chosen);
            }
            let mut changed = std::pin::pin!(self.common.changed.notified());
            changed.as_mut().enable();
            if let Some(chosen) = self.untried(request, &[]) {
                return Some(chosen);
            }
            if !self.all.iter().any(|member| member.is_starting()) {
                return None;
            }
            tokio::select! {
                () = changed => {}
                () = self.clock.past(until) => return None,
            }
        }
    }

    fn untried(&self, request: &Request, tried: &[usize]) -> Option<(usize, Arc<Line>)> {
        let kek = request.kek();
        let count = self.all.len();
        let first = match self.spread {
            Spread::ActiveStandby => 0,
            Spread::ActiveActive => self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1),
        };
        (0..count)
            .map(|step| (first + step) % count)
            .filter(|n| !tried.contains(n))
            .find_map(|n| Some((n, self.all.get(n)?.usable(kek)?)))
    }

    /// Room of the token that has the least: what is kept is kept in every one. Tokens that are away
    /// do not count.
    pub(crate) async fn room(&self) -> Result<TokenRoom, HsmError> {
        let mut least: Option<TokenRoom> = None;
        let free = |room: &TokenRoom| room.free_bytes.unwrap_or(u64::MAX);
        for answer in self.ask_each(&Request::Room).await {
            if let Ok(Response::Room(room)) = answer {
                least = Some(least.filter(|least| free(least) <= free(&room)).unwrap_or(room));
            }
        }
        least.ok_or_else(|| HsmError::Unavailable(self.troubles()))
    }

    /// Names of the objects in any token: one that was away when another was told lacks them. Tokens
    /// that are away do not count.
    pub(crate) async fn names(&self, request: &Request) -> Result<Vec<String>, HsmError> {
        let (mut all, mut failed) = (None, None);
        for answer in self.ask_each(request).await {
            match answer.and_then(Response::names) {
                Ok(names) => all.get_or_insert_with(BTreeSet::new).extend(names),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match (all, failed) {
            (Some(names), _) => Ok(names.into_iter().collect()),
            (None, Some(error)) => Err(error),
            (None, None) => Err(HsmError::Unavailable(self.troubles())),
        }
    }

    /// No token works: one that runs says best why.
    async fn ask_anyone(&self, request: &Request, until: Instant) -> Result<Response, HsmError> {
        let runs = |m: &&Arc<Member>| m.running().is_some() && !m.lacks_current();
        let at = |fits: &dyn Fn(&Member) -> bool| {
            self.all.iter().position(|member| runs(&member) && fits(member))
        };
        let fitting = at(&|member| member.holds(request.kek())).or_else(|| at(&|_| true));
        match fitting {
            Some(n) => self.ask_one(n, request, until).await,
            None => Err(HsmError::Unavailable(self.troubles())),
        }
    }

    /// Tries every token, and lets those that lack a KEK look for it.
    pub(crate) async fn probe(self: &Arc<Self>) -> HsmStatus {
        let mut probes = JoinSet::new();
        for n in 0..self.all.len() {
            let members = Arc::clone(self);
            probes.spawn(async move { members.probe_one(n).await });
        }
        let mut failed = None;
        while let Some(done) = probes.join_next().await {
            failed = done.ok().and_then(Result::err).or(failed);
        }
        match (self.status(), failed) {
            // The workers tell success and failure, and a missing answer was noted.
            (status, Some(error)) if self.all.len() == 1 => {
                HsmStatus { ready: false, detail: error.to_string(), ..status }
            }
            (status, _) => status,
        }
    }

    async fn probe_one(&self, n: usize) -> Result<(), HsmError> {
        self.bring_waiting(n).await;
        let lacks = self.all.get(n).is_some_and(|member| member.lacks_current());
        let request = if lacks { Request::Keks } else { Request::Probe };
        let until = Instant::now() + self.deadline;
        let outcome = self.outcome(self.send_one(n, &request, until)?, until).await;
        if let Some(member) = self.all.get(n) {
            member.probed(match &outcome {
                Outcome::Overdue(error) => Some(error.to_string()),
                Outcome::Answered(_) | Outcome::Lost => None,
            });
        }
        outcome.into_answer(&request).map(drop)
    }

    pub(crate) fn current_kek(&self) -> KekId {
        self.common.current().unwrap_or_else(|| KekId(String::new()))
    }

    /// How many requests the tokens work on at the same time, about.
    pub(crate) fn sessions(&self) -> usize {
        match self.spread {
            Spread::ActiveStandby => self.sessions,
            Spread::ActiveActive => self.sessions * self.all.len(),
        }
    }

    /// Of each token, in the order of the configuration.
    pub(crate) fn each(&self) -> Vec<MemberStatus> {
        self.all.iter().map(|member| member.status()).collect()
    }

    /// Ready while any token is used; names that one.
    pub(crate) fn status(&self) -> HsmStatus {
        let each = self.each();
        let used = each.iter().find(|member| member.breaker == Breaker::Closed).or(each.first());
        let Some(used) = used else {
            let (token, serial, detail) = <(String, String, String)>::default();
            return HsmStatus { ready: false, token, serial, detail };
        };
        let mut status = used.status.clone();
        if !status.ready && each.len() > 1 {
            status.detail = self.troubles();
        }
        status
    }

    fn troubles(&self) -> String {
        let each = self.each();
        let why = |member: &MemberStatus| match each.len() {
            1 => member.status.detail.clone(),
            _ => format!("{}: {}", member.name, member.status.detail),
        };
        each.iter().map(why).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.clock.stop();
        self.all.iter().for_each(|member| member.stop());
        let until = Instant::now() + CLOSE_WAIT;
        let threads = self.threads.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            sleep(Duration::from_millis(1));
        }
        self.all.iter().for_each(|member| member.stop_now());
        for thread in threads.drain(..) {
            drop(thread.join());
        }
    }
}
