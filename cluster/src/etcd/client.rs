//! The members of the engine, and which of them answers. Enter through [`Client::call`].
//!
//! One connection is in use at a time. A member that does not answer in time, or is cut off from the others,
//! is left for the next one.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use km_core::store::StoreError;
use prost::Message;
use tokio::sync::Mutex;
use transport::{Profile, TlsClient, client_config};

use super::{
    EtcdConfig,
    channel::{CallError, Channel, code},
    proto,
};

/// Longest wait for one member's answer to a small request.
pub(super) const ONE_TRY: Duration = Duration::from_millis(1500);
const USUAL: Patience = Patience { within: ONE_TRY, shuns: false };
/// Longest wait for all of them together: an election of the engine takes up to two seconds.
const ALL_TRIES: Duration = Duration::from_secs(4);
const SET_BACK: &str = "an older copy of etcd was put back. Stop all key managers that share it, then: \
                        qkm store restore";
const PAUSE: Duration = Duration::from_millis(50);
/// How long a member that said nothing, or could not be reached soon, is not connected to as long as others can
/// be.
const SHUNNED_FOR: Duration = Duration::from_secs(3);
/// How long a member is connected to before another is tried as well.
const MOMENT: Duration = Duration::from_millis(250);
const NOBODY: &str = "none of the members can be asked now";

/// How long one member is waited for, and whether one that lets us wait longer is shunned.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) within: Duration,
    pub(super) shuns: bool,
}

pub(super) struct Client {
    members: Vec<TlsClient>,
    current: Mutex<Current>,
    /// The newest revision that an answer told.
    seen: AtomicI64,
    set_back: AtomicBool,
}

#[derive(Default)]
struct Current {
    member: usize,
    channel: Option<Arc<Channel>>,
    /// That member, and since when.
    shunned: Option<(usize, Instant)>,
}

impl Current {
    fn shunned(&self) -> Option<usize> {
        self.shunned.filter(|(_, since)| since.elapsed() < SHUNNED_FOR).map(|(member, _)| member)
    }

    fn shun(&mut self, member: usize) {
        self.shunned = Some((member, Instant::now()));
    }

    /// The next request goes to another member.
    fn leave(&mut self, channel: &Arc<Channel>) {
        if self.channel.as_ref().is_some_and(|now| Arc::ptr_eq(now, channel)) {
            self.channel = None;
            self.member += 1;
        }
    }
}

impl Client {
    pub(super) fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        let unusable = |what: String| StoreError::Unavailable(format!("[store]: {what}"));
        let tls = client_config(&config.files, Profile::Front);
        let mut tls = Arc::unwrap_or_clone(tls.map_err(|e| unusable(e.to_string()))?);
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tls = Arc::new(tls);
        let member = |address: &String| TlsClient::new(address, None, tls.clone());
        let members = config.endpoints.iter().map(member).collect::<Result<Vec<_>, _>>();
        let members = members.map_err(|e| unusable(e.to_string()))?;
        Ok(Self {
            members,
            current: Mutex::default(),
            seen: AtomicI64::default(),
            set_back: AtomicBool::default(),
        })
    }

    pub(super) fn members(&self) -> &[TlsClient] {
        &self.members
    }

    /// The connection in use, or a new one to the next member that can be reached.
    pub(super) async fn channel(&self) -> Result<Arc<Channel>, CallError> {
        let mut current = self.current.lock().await;
        let usable = |channel: &&Arc<Channel>| !channel.is_over() && !channel.is_silent();
        if let Some(channel) = current.channel.as_ref().filter(usable) {
            return Ok(channel.clone());
        }
        let channel = self.connect(&mut current).await?;
        current.channel = Some(channel.clone());
        Ok(channel)
    }

    /// To the first that can be reached of the members in turn, the one that is shunned last of all. One that
    /// lets us wait is waited for beside the next, so that it holds nobody up.
    async fn connect(&self, current: &mut Current) -> Result<Arc<Channel>, CallError> {
        let count = self.members.len();
        let mut turns: VecDeque<usize> = (0..count).map(|n| (current.member + n) % count).collect();
        if let Some(at) = turns.iter().position(|at| current.shunned() == Some(*at)) {
            let shunned = turns.remove(at);
            turns.extend(shunned);
        }
        let mut trying = FuturesUnordered::new();
        let mut last = CallError::NotSent(NOBODY.into());
        loop {
            let begun = turns.pop_front();
            if let Some((at, member)) = begun.and_then(|at| Some((at, self.members.get(at)?))) {
                trying.push(async move { (at, Channel::connect(member).await) });
            }
            let moment = async {
                match turns.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(MOMENT).await,
                }
            };
            tokio::select! {
                biased;
                tried = trying.next() => match tried {
                    Some((at, Ok(channel))) => {
                        current.member = at;
                        current.shunned.take_if(|(shunned, _)| *shunned == at);
                        return Ok(channel);
                    }
                    Some((at, Err(error))) => {
                        current.shun(at);
                        last = error;
                    }
                    None => {
                        current.shunned = None;
                        return Err(last);
                    }
                },
                () = moment => begun.into_iter().for_each(|at| current.shun(at)),
            }
        }
    }

    /// Goes on with `channel`, to a member that leads: another would pass each request on to it.
    pub(super) async fn prefer(&self, member: usize, channel: Arc<Channel>) {
        let mut current = self.current.lock().await;
        if current.channel.is_none() || current.member % self.members.len() != member {
            (current.member, current.channel) = (member, Some(channel));
        }
    }

    /// `channel` is no good: the next request goes to another member.
    pub(super) async fn leave(&self, channel: &Arc<Channel>) {
        self.current.lock().await.leave(channel);
    }

    /// The member of `channel` did not answer in time: it is left, not connected to again for a while,
    /// and what it was asked before does not wait for it. Others may be silent because of it, so it is the
    /// first that counts.
    async fn shun(&self, channel: &Arc<Channel>) {
        let mut current = self.current.lock().await;
        current.leave(channel);
        if self.members.len() > 1 && current.shunned().is_none() {
            let at = self.members.iter().position(|member| member.address() == channel.address());
            at.into_iter().for_each(|at| current.shun(at));
            channel.found_silent();
        }
    }

    /// The member of `channel` answered with `error`: unless the others would say the same, the next request
    /// goes to one of them. What a member without a leader was asked before went to the leader that is lost,
    /// and may have been lost with it.
    pub(super) async fn failed(&self, channel: &Arc<Channel>, error: &CallError) {
        if is_verdict(error) {
            return;
        }
        self.leave(channel).await;
        if knows_no_leader(error) && self.members.len() > 1 {
            channel.found_silent();
        }
    }

    /// Asks one member once.
    pub(super) async fn try_once<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
        Patience { within, shuns }: Patience,
    ) -> Result<A, CallError> {
        let channel = self.channel().await?;
        let answer = tokio::select! {
            biased;
            answer = channel.unary(method, request) => answer,
            () = tokio::time::sleep(within) => {
                if shuns {
                    self.shun(&channel).await;
                }
                Err(CallError::Broken(format!("no answer within {within:?}")))
            }
            () = channel.fell_silent() => Err(CallError::Broken("its member says nothing".into())),
        };
        if let Err(error) = &answer {
            self.failed(&channel, error).await;
        }
        answer
    }

    /// Asks until there is an answer or a verdict. `repeatable`: also when a request before may
    /// have been carried out.
    pub(super) async fn call<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
        repeatable: bool,
    ) -> Result<A, CallError> {
        let until = Instant::now() + ALL_TRIES;
        if self.is_set_back() {
            return Err(CallError::SetBack);
        }
        loop {
            let error = match self.try_once(method, request, USUAL).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = match &error {
                error if is_verdict(error) => false,
                error if is_undone(error) => true,
                _ => repeatable,
            };
            if !again || Instant::now() >= until {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(super) async fn range(
        &self,
        request: &proto::RangeRequest,
    ) -> Result<proto::RangeResponse, StoreError> {
        self.read(request).await.map_err(refused)
    }

    /// As [`Client::range`], for whoever must know what kind of error it is.
    pub(super) async fn read(
        &self,
        request: &proto::RangeRequest,
    ) -> Result<proto::RangeResponse, CallError> {
        let seen = self.seen();
        let answer: proto::RangeResponse = self.call("KV/Range", request, true).await?;
        // Reading an old revision is answered with the newest one in the header.
        self.follow(seen, answer.header.as_ref())?;
        Ok(answer)
    }

    /// The newest revision known when a request is sent; see [`Client::follow`].
    pub(super) fn seen(&self) -> i64 {
        self.seen.load(SeqCst)
    }

    /// Whether the engine was seen in a state from before: an older copy of it was put back.
    pub(super) fn is_set_back(&self) -> bool {
        self.set_back.load(SeqCst)
    }

    /// What was answered to a request sent when `before` was known must not be older: the engine's
    /// answers are linearizable. If it is, nothing is asked of it any more.
    pub(super) fn follow(
        &self,
        before: i64,
        header: Option<&proto::ResponseHeader>,
    ) -> Result<(), CallError> {
        let revision = header.map_or(0, |header| header.revision);
        if revision >= before {
            self.seen.fetch_max(revision, SeqCst);
            return Ok(());
        }
        if !self.set_back.swap(true, SeqCst) {
            tracing::error!(
                revision,
                before,
                alarm = "store-set-back",
                "an older copy of etcd was put back; this key manager stops using it"
            );
        }
        Err(CallError::SetBack)
    }

    /// To be asked for as often as wanted.
    pub(super) async fn delete_range(
        &self,
        key: Vec<u8>,
        range_end: Vec<u8>,
    ) -> Result<proto::DeleteRangeResponse, StoreError> {
        let request = proto::DeleteRangeRequest { key, range_end };
        self.call("KV/DeleteRange", &request, true).await.map_err(refused)
    }
}

/// Whether every member would say the same.
pub(super) fn is_verdict(error: &CallError) -> bool {
    let (code, text) = match error {
        CallError::Status { code, text } => (code, text),
        CallError::SetBack => return true,
        _ => return false,
    };
    match *code {
        code::INVALID_ARGUMENT
        | code::NOT_FOUND
        | code::PERMISSION_DENIED
        | code::FAILED_PRECONDITION
        | code::OUT_OF_RANGE
        | code::UNAUTHENTICATED => true,
        code::RESOURCE_EXHAUSTED => text.contains("space exceeded"),
        _ => false,
    }
}

/// Whether nothing was done although it is no verdict.
fn is_undone(error: &CallError) -> bool {
    match error {
        CallError::NotSent(_) => true,
        CallError::SetBack => false,
        CallError::Broken(_) => false,
        // Said before the request is looked at.
        CallError::Status { text, .. } => {
            knows_no_leader(error) || text.contains("too many requests")
        }
    }
}

fn knows_no_leader(error: &CallError) -> bool {
    matches!(error, CallError::Status { text, .. } if text.contains("no leader"))
}

/// The error of a request that changed nothing, or may be repeated.
pub(super) fn refused(error: CallError) -> StoreError {
    match error {
        CallError::SetBack => StoreError::Damaged(SET_BACK.into()),
        CallError::NotSent(why) | CallError::Broken(why) => {
            StoreError::Unavailable(format!("etcd: {why}"))
        }
        CallError::Status { code: code::RESOURCE_EXHAUSTED, text } if text.contains("space") => {
            StoreError::Full(format!("{text}; compact and defragment it, or raise its quota"))
        }
        CallError::Status { code: code::INVALID_ARGUMENT, text } => StoreError::TooLarge(text),
        CallError::Status { code: code::PERMISSION_DENIED | code::UNAUTHENTICATED, text } => {
            StoreError::Unavailable(format!(
                "{text}; the user of our certificate must be allowed to read and write the prefix"
            ))
        }
        CallError::Status { text, .. } => StoreError::Unavailable(text),
    }
}

/// Whether a request that failed so may have been carried out.
pub(super) fn is_doubtful(error: &CallError) -> bool {
    !is_verdict(error) && !is_undone(error)
}
