//! The session threads. Enter through [`run`], one call per thread.
//!
//! Each thread owns one session ([`Lane`]). Whatever error the token answers, the session is
//! closed; [`Fault`] says what else to do before the request is tried again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use km_core::hsm::{HsmError, KekId};

use crate::fault::{Fault, classify};
use crate::lane::{Lane, OpError};
use crate::link::{Connection, Link, code};
use crate::queue::{Job, Queue, Reply, Taken, deliver};
use crate::request::Request;
use crate::response::Response;
use crate::watch::Watched;

/// New session, new login, one more: no error needs a fourth try.
const TRIES: usize = 3;
/// How often idle workers look whether a lost token is back.
const RECOVERY_PERIOD: Duration = Duration::from_millis(250);

/// Serves the queue until it is closed.
pub(crate) fn run(link: Arc<Link>, queue: Arc<Queue>, watched: Watched) {
    let mut worker = Worker { link, lane: None };
    let (mut batch, mut answers) = (Vec::new(), Vec::new());
    let mut done = None;
    loop {
        let nap = (!worker.link.health.is_ready()).then_some(RECOVERY_PERIOD);
        match queue.take(&mut batch, done.take(), nap) {
            Taken::Closed => return,
            Taken::Nap => {
                let looks = || worker.attempt(|lane| lane.round_trip(None), OnData::Retry);
                drop(watched.during(watched.patience(None), looks));
            }
            Taken::Jobs(work) => {
                done = Some(work);
                let jobs = batch.drain(..);
                answers.extend(jobs.map(|job| {
                    let patience = watched.patience(Some(&job.request));
                    watched.during(patience, || worker.answer(job))
                }));
                deliver(answers.drain(..));
            }
        }
    }
}

/// One round trip on the calling thread. Mechanism lists do not show everything: only this proves
/// that sealing works.
pub(crate) fn round_trip(link: &Arc<Link>) -> Result<(), HsmError> {
    Worker { link: Arc::clone(link), lane: None }.retried(|lane| lane.round_trip(None))
}

/// What a data error means to the running operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnData {
    /// The sealed data is suspect.
    Stop,
    /// No sealed data is at stake, so the token is suspect.
    Retry,
}

enum Stop {
    Data(String),
    Answer(HsmError),
}

struct Worker {
    link: Arc<Link>,
    lane: Option<Lane>,
}

impl Worker {
    /// Serves a request unless nobody waits for it. A panic costs one request, not a thread.
    fn answer(&mut self, job: Job) -> (Reply, Result<Response, HsmError>) {
        if job.is_late() {
            let why = "the request waited for the HSM past its deadline: send fewer at once";
            return (job.reply, Err(HsmError::Unavailable(why.to_owned())));
        }
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(job.request)));
        let answer = served.unwrap_or_else(|_| {
            self.lane = None;
            Err(HsmError::Unavailable("the HSM worker failed on this request".to_owned()))
        });
        (job.reply, answer)
    }

    fn serve(&mut self, request: Request) -> Result<Response, HsmError> {
        match request {
            Request::Seal { aad, clear } => {
                self.retried(|lane| lane.seal(&aad, &clear)).map(Response::Sealed)
            }
            Request::Open { aad, sealed } => self
                .opening(&sealed.kek, |lane| lane.open_sealed(&aad, &sealed))
                .map(Response::Clear),
            Request::Random { len } => self.retried(|lane| lane.random(len)).map(Response::Clear),
            Request::Probe => self.retried(|lane| lane.round_trip(None)).map(|()| Response::Done),
            Request::CreateKek => {
                let (link, mut begun) = (Arc::clone(&self.link), None);
                self.retried(|lane| link.create_kek(lane, &mut begun)).map(Response::Kek)
            }
            Request::CreateKekFor { from, receivers, seed } => {
                let (link, mut begun) = (Arc::clone(&self.link), Vec::new());
                let given = (&receivers[..], &seed);
                self.retried(|lane| link.create_kek_for(lane, from, given, &mut begun))
                    .map(|(kek, parcels)| Response::KekMade(kek, parcels))
            }
            Request::KekReceiver => {
                let link = Arc::clone(&self.link);
                self.retried(|lane| link.kek_receiver(lane)).map(Response::Receiver)
            }
            Request::TakeKek { parcel } => {
                let link = Arc::clone(&self.link);
                self.retried(|lane| link.take_kek(lane, &parcel)).map(Response::Kek)
            }
            Request::DestroyKek { kek } => {
                let link = Arc::clone(&self.link);
                self.retried(|lane| link.destroy_kek(lane, &kek)).map(|()| Response::Done)
            }
            Request::Keks => {
                let link = Arc::clone(&self.link);
                self.retried(|lane| link.find_again(lane)).map(Response::Keks)
            }
            Request::StoreObject { name, clear } => {
                self.retried(|lane| lane.store_object(&name, &clear)).map(|()| Response::Done)
            }
            Request::ReadObject { name } => {
                self.retried(|lane| lane.read_object(&name)).map(Response::Clear)
            }
            Request::DeleteObject { name } => {
                self.retried(|lane| lane.delete_object(&name)).map(|()| Response::Done)
            }
            Request::ObjectNames { prefix } => {
                self.retried(|lane| lane.object_names(&prefix)).map(Response::Names)
            }
            Request::Room => {
                let link = Arc::clone(&self.link);
                self.retried(|lane| link.room(lane)).map(Response::Room)
            }
            Request::MakeKey { aad, kind, bits } => {
                self.retried(|lane| lane.make_key(&aad, kind, bits)).map(Response::Made)
            }
            Request::UseKey { key, uses } => {
                let kek = &key.sealed.kek;
                let each = |lane: &mut Lane| -> Result<Vec<_>, OpError> {
                    uses.iter().map(|one| lane.use_key(&key, &one.action, &one.input)).collect()
                };
                self.opening(kek, each).map(Response::Used)
            }
            Request::AgreeKey { base, public, aad, kind, bits } => {
                let new = (&aad[..], kind, bits);
                self.opening(&base.sealed.kek, |lane| lane.agree_key(&base, &public, new))
                    .map(Response::Made)
            }
            Request::RewrapKey { aad, sealed } => {
                let kek = &sealed.kek;
                self.opening(kek, |lane| lane.rewrap_key(&aad, &sealed)).map(Response::Sealed)
            }
            Request::ForgetKey { name } => {
                self.link.forgotten.add(name);
                self.retried(Lane::forget).map(|()| Response::Done)
            }
            Request::KemKeyPair { set } => self
                .retried(|lane| lane.kem_key_pair(set))
                .map(|(name, public)| Response::Pair { name, public }),
            Request::KemEncapsulate { set, public } => self
                .retried(|lane| lane.kem_encapsulate(set, &public))
                .map(|(ciphertext, secret)| Response::Encapsulated { ciphertext, secret }),
            Request::KemDecapsulate { name, ciphertext } => {
                self.retried(|lane| lane.kem_decapsulate(&name, &ciphertext)).map(Response::Clear)
            }
            Request::KemForget { name } => {
                self.retried(|lane| lane.kem_forget(&name)).map(|()| Response::Done)
            }
        }
    }

    /// A bad tag, or a sick token that says so of good data: only a round trip under the same
    /// KEK tells them apart.
    fn opening<T>(
        &mut self,
        kek: &KekId,
        mut op: impl FnMut(&mut Lane) -> Result<T, OpError>,
    ) -> Result<T, HsmError> {
        let mut first = self.attempt(&mut op, OnData::Stop);
        if matches!(first, Err(Stop::Answer(HsmError::Unsupported(_)))) && self.look_again(kek)? {
            first = self.attempt(&mut op, OnData::Stop);
        }
        let Err(Stop::Data(_)) = first else { return finish(first) };
        self.retried(|lane| lane.round_trip(Some(kek)))?;
        finish(self.attempt(op, OnData::Stop))
    }

    /// Looks for a KEK that is not known yet: another KM that shares the token may have made it since.
    /// Whether there was reason to.
    fn look_again(&mut self, kek: &KekId) -> Result<bool, HsmError> {
        let link = Arc::clone(&self.link);
        self.retried(|lane| match lane.holds(kek) {
            true => Ok(false),
            false => link.find_again(lane).map(|_| true),
        })
    }

    fn retried<T>(
        &mut self,
        op: impl FnMut(&mut Lane) -> Result<T, OpError>,
    ) -> Result<T, HsmError> {
        finish(self.attempt(op, OnData::Retry))
    }

    fn attempt<T>(
        &mut self,
        mut op: impl FnMut(&mut Lane) -> Result<T, OpError>,
        on_data: OnData,
    ) -> Result<T, Stop> {
        let mut last = None;
        for tries in 1..=TRIES {
            let connection = self.connection().map_err(Stop::Answer)?;
            let generation = connection.generation;
            let done = self.inside(connection, &mut op);
            let error = match done {
                Ok(value) => {
                    self.link.succeeded();
                    return Ok(value);
                }
                Err(OpError::Answer(error)) => return Err(Stop::Answer(error)),
                Err(OpError::Close(error)) => {
                    self.lane = None;
                    return Err(Stop::Answer(error));
                }
                Err(OpError::Token(error)) => error,
            };
            self.lane = None;
            let why = code(&error);
            match classify(&error, &self.link.profile.errors) {
                Fault::Data if on_data == OnData::Stop => return Err(Stop::Data(why)),
                // A session that is logged out in the middle of a call may answer anything: only what
                // every new one says again is the request's fault.
                Fault::Request if tries == TRIES => return Err(Stop::Answer(self.cannot(&why))),
                Fault::Request => {}
                // The same answer after a new session is the token's fault.
                Fault::Session | Fault::Data if last.is_none() => {}
                _ => self.link.lost(generation, &why),
            }
            last = Some(error);
        }
        let error = last.map_or_else(
            || HsmError::Unavailable("no session".to_owned()),
            |e| self.link.explain("the token does not work", &e),
        );
        Err(Stop::Answer(error))
    }

    /// The connection of this worker's lane while it lasts, else the newest. Takes no lock as
    /// long as nothing was lost.
    fn connection(&mut self) -> Result<Arc<Connection>, HsmError> {
        match &self.lane {
            Some(lane) if self.link.is_current(lane.connection.generation) => {
                Ok(Arc::clone(&lane.connection))
            }
            _ => {
                self.lane = None;
                self.link.connection()
            }
        }
    }

    /// Runs `op` while the library cannot be restarted, and only on handles of its present start.
    fn inside<T>(
        &mut self,
        connection: Arc<Connection>,
        op: impl FnOnce(&mut Lane) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let library = Arc::clone(&self.link.library);
        let _inside = library.enter()?;
        if connection.epoch != library.epoch() {
            let gone = RvError::CryptokiNotInitialized;
            return Err(Error::Pkcs11(gone, Function::Initialize).into());
        }
        op(self.lane(connection)?)
    }

    fn lane(&mut self, connection: Arc<Connection>) -> Result<&mut Lane, OpError> {
        let lane = match self.lane.take() {
            Some(lane) => lane,
            None => Lane::open(&self.link, connection)?,
        };
        Ok(self.lane.insert(lane))
    }

    fn cannot(&self, why: &str) -> HsmError {
        HsmError::Unsupported(format!(
            "the token with {} refuses the request: {why}; check the profile {} and the KEK's \
             attributes",
            self.link.config.token, self.link.profile.name
        ))
    }
}

fn finish<T>(done: Result<T, Stop>) -> Result<T, HsmError> {
    done.map_err(|stop| match stop {
        Stop::Answer(error) => error,
        Stop::Data(why) => HsmError::Refused(format!(
            "it was changed, or belongs to another record, or was sealed elsewhere ({why}; the \
             KEK itself works)"
        )),
    })
}
