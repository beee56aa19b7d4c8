//! What clients are told without asking (Notify, Put): changes of their tenant's objects that another
//! application made or a date brought, and objects that others made. Enter through [`Notices::note`]
//! and [`Notices::start`].
//!
//! | Module | What lives there |
//! |---|---|
//! | `due` | objects whose state a date will change |
//! | `lent` | connections of an application's own on which it answers |
//! | `line` | over which connection an application is told, and how often it is tried |
//! | `message` | a notice to the requests that say it |
//!
//! Telling is best effort. What waits to be told is in the memory of this process and goes with it, and
//! nothing is told of what happened while it was down: an application that was not told asks for the State
//! when it is back, as it must after its own absence anyway. Key bytes never wait: they are read when they are sent. With several KMs of a cluster each
//! tells what it did itself, and each what a date brought.

mod due;
mod lent;
mod line;
mod message;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use km_core::ids::SaeId;
use kmip::{Answer, Operation, attribute::AttributeRef};
use tokio::sync::{mpsc, watch};
use transport::ClientConfig;

use crate::{
    Counters, Server,
    caller::{Caller, Callers},
    policy::Endpoint,
};
use due::Due;
pub(crate) use lent::{Lent, Order};
pub(crate) use line::{ANSWER, is_taken};

/// Most notices that wait for one application; more are lost, which is counted.
const QUEUE: usize = 1024;

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It was made.
    Made,
    /// It took the place of another.
    Successor,
    /// Its state, its dates, or this attribute changed.
    Changed(Option<AttributeRef>),
}

/// Something that happened to the object `uid`.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    pub(crate) uid: String,
    pub(crate) what: What,
}

/// An application that is told.
struct Listener {
    caller: Arc<Caller>,
    endpoint: Endpoint,
    queue: mpsc::Sender<Notice>,
    /// Until it is read.
    inbox: Mutex<Option<mpsc::Receiver<Notice>>>,
    /// The newest connection on which it answers.
    lent: watch::Sender<Option<Arc<Lent>>>,
}

/// Who is told what.
pub(crate) struct Notices {
    /// By tenant.
    listeners: BTreeMap<SaeId, Vec<Listener>>,
    due: Due,
}

impl Notices {
    pub(crate) fn new(callers: &Callers) -> Self {
        let mut listeners: BTreeMap<SaeId, Vec<Listener>> = BTreeMap::new();
        for caller in callers.values() {
            let Some(endpoint) = caller.endpoint().cloned() else { continue };
            let (queue, inbox) = mpsc::channel(QUEUE);
            let (caller, inbox) = (caller.clone(), Mutex::new(Some(inbox)));
            let (tenant, lent) = (caller.tenant().clone(), watch::Sender::default());
            let listener = Listener { caller, endpoint, queue, inbox, lent };
            listeners.entry(tenant).or_default().push(listener);
        }
        Self { listeners, due: Due::default() }
    }

    /// Whether anybody is told of the objects of `tenant`.
    pub(crate) fn are_wanted(&self, tenant: &SaeId) -> bool {
        self.listeners.contains_key(tenant)
    }

    fn listener(&self, caller: &Caller) -> Option<&Listener> {
        let mut all = self.listeners.get(caller.tenant())?.iter();
        all.find(|one| one.caller.application() == caller.application())
    }

    /// Whether `caller` is told of anything.
    pub(crate) fn is_told(&self, caller: &Caller) -> bool {
        self.listener(caller).is_some()
    }

    /// From now on `caller` is told over `lent`, in place of other connections.
    pub(crate) fn lend(&self, caller: &Caller, lent: Lent) {
        if let Some(listener) = self.listener(caller) {
            listener.lent.send_replace(Some(Arc::new(lent)));
        }
    }

    /// From now on endpoints are connected to, with the certificate of `tls`.
    pub(crate) fn start(&self, server: &Weak<Server>, tls: &Arc<ClientConfig>) {
        for listener in self.listeners.values().flatten() {
            let inbox = listener.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(inbox) = inbox else { continue };
            let line = line::Line::new(listener.endpoint.clone(), tls, listener.lent.subscribe());
            let caller = listener.caller.clone();
            let line = line.inspect_err(|error| {
                let application = caller.application();
                tracing::error!(%application, %error, "nothing can be told to this application");
            });
            let Ok(line) = line else { continue };
            tokio::spawn(line::run(server.clone(), caller, line, inbox));
        }
        if !self.listeners.is_empty() {
            tokio::spawn(due::watch(server.clone()));
        }
    }

    /// Tells the applications of `tenant`, all but `except`, who did it.
    pub(crate) async fn note(
        &self,
        server: &Server,
        tenant: &SaeId,
        except: Option<&SaeId>,
        notices: Vec<Notice>,
    ) {
        let Some(listeners) = self.listeners.get(tenant) else { return };
        for notice in notices {
            self.due.expect_of(server, tenant, &notice.uid).await;
            for listener in listeners.iter().filter(|one| Some(one.caller.application()) != except)
            {
                if listener.queue.try_send(notice.clone()).is_err() {
                    Counters::add(&server.counters.untold);
                    tracing::warn!(application = %listener.caller.application(), object = notice.uid,
                        "too many notices wait for it; this one is lost");
                }
            }
        }
    }
}

/// The attribute that an operation is about to change, where it changes one.
pub(crate) fn attribute_of(operation: &Operation) -> Option<AttributeRef> {
    match operation {
        Operation::AddAttribute(r) => Some(r.attribute.attribute.key()),
        Operation::ModifyAttribute(r) => Some(r.new.attribute.key()),
        Operation::SetAttribute(r) => Some(r.new.key()),
        Operation::AdjustAttribute(r) => Some(r.name.clone()),
        Operation::DeleteAttribute(r) => {
            r.name.clone().or_else(|| r.current.as_ref().map(kmip::attribute::Attribute::key))
        }
        _ => None,
    }
}

/// What an operation did that was answered so.
pub(crate) fn of(answer: &Answer, attribute: Option<AttributeRef>) -> Vec<Notice> {
    let one = |uid: &String, what| vec![Notice { uid: uid.clone(), what }];
    let changed = |uid| one(uid, What::Changed(attribute.clone()));
    let pair = |private: &String, public: &String, what: What| {
        [private, public].map(|uid| Notice { uid: uid.clone(), what: what.clone() }).to_vec()
    };
    match answer {
        Answer::Activate(r) => changed(&r.id),
        Answer::Revoke(r) => changed(&r.id),
        Answer::Destroy(r) => changed(&r.id),
        Answer::Archive(r) => changed(&r.id),
        Answer::Recover(r) => changed(&r.id),
        Answer::AddAttribute(r) => changed(&r.id),
        Answer::ModifyAttribute(r) => changed(&r.id),
        Answer::DeleteAttribute(r) => changed(&r.id),
        Answer::SetAttribute(r) => changed(&r.id),
        Answer::AdjustAttribute(r) => changed(&r.id),
        Answer::ReKey(r) => one(&r.id, What::Successor),
        Answer::ReCertify(r) => one(&r.id, What::Successor),
        Answer::ReKeyKeyPair(r) => pair(&r.private_id, &r.public_id, What::Successor),
        Answer::Create(r) => one(&r.id, What::Made),
        Answer::CreateKeyPair(r) => pair(&r.private_id, &r.public_id, What::Made),
        Answer::CreateSplitKey(r) => r.ids.iter().flat_map(|id| one(id, What::Made)).collect(),
        Answer::Register(r) => one(&r.id, What::Made),
        Answer::Import(r) => one(&r.id, What::Made),
        Answer::DeriveKey(r) => one(&r.id, What::Made),
        Answer::JoinSplitKey(r) => one(&r.id, What::Made),
        Answer::Certify(r) => one(&r.id, What::Made),
        _ => Vec::new(),
    }
}
