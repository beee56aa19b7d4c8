//! Who asks. A [`Client`] is whoever holds the other end of a connection, as its verified certificate
//! says; a [`Caller`] is an application registered at this cluster; [`Unchecked`] gives the items of
//! a request to nobody else.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use km_core::ids::SaeId;
use kmip::{
    RequestMessage, Version,
    enums::{BatchErrorContinuationOption, OperationCode},
    message::{Credential, RequestHeader, RequestItem, UsernameAndPassword},
};
use transport::PeerIdentity;

use crate::{
    Server,
    login::{Gate, Login, Refusal},
    pace::Pace,
    places::Places,
    policy::{Endpoint, Policies, Policy},
    tickets::{Rights, Shown},
    together,
};

/// An application that is registered at this cluster.
#[derive(Debug)]
pub(crate) struct Caller {
    application: SaeId,
    tenant: SaeId,
    policy: Policy,
    pace: Option<Pace>,
    /// Keys it uses at a time.
    places: Places,
    /// For certificates it is the first of that they may stand for.
    gate: Gate,
    /// Connections open now.
    connections: AtomicU32,
}

/// Every application a certificate may stand for.
pub(crate) type Callers = BTreeMap<SaeId, Arc<Caller>>;

impl Caller {
    /// All of `applications`, as `policies` say.
    pub(crate) fn all<'a>(
        applications: impl Iterator<Item = &'a SaeId>,
        policies: &Policies,
    ) -> Callers {
        let caller = |application: &SaeId| {
            let policy = policies.get(application).cloned().unwrap_or_default();
            let tenant = policy.tenant.clone().unwrap_or_else(|| application.clone());
            let pace = policy.operations_per_s.map(Pace::of);
            let (application, connections) = (application.clone(), AtomicU32::new(0));
            let (places, gate) = (Places::of_one(), Gate::default());
            Arc::new(Self { application, tenant, policy, pace, places, gate, connections })
        };
        applications.map(|application| (application.clone(), caller(application))).collect()
    }

    /// Its name: the end of pool keys, and what the log says.
    pub(crate) fn application(&self) -> &SaeId {
        &self.application
    }

    /// Whose managed objects it works with.
    pub(crate) fn tenant(&self) -> &SaeId {
        &self.tenant
    }

    /// Whether an operator wrote that it may ask for `operation`.
    pub(crate) fn is_named(&self, operation: OperationCode) -> bool {
        self.policy.names(operation)
    }

    /// Where it is told of changes.
    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.policy.endpoint.as_ref()
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Whether it may ask for `operation`.
    pub(crate) fn may(&self, operation: OperationCode) -> bool {
        self.policy.allows(operation)
    }

    /// Waits for its turn; `false` when that is too far away.
    async fn wait(&self, operations: usize) -> bool {
        match &self.pace {
            Some(pace) => pace.wait(operations).await,
            None => true,
        }
    }

    fn login(&self) -> Option<(&SaeId, &Login)> {
        Some((&self.application, self.policy.login.as_ref()?))
    }
}

/// An application that works for another one, with a ticket of that one's: it may do what all three
/// allow, the ticket, the entry of whose it is, and its own.
#[derive(Clone, Debug)]
pub(crate) struct Delegate {
    holder: Arc<Caller>,
    rights: Arc<Rights>,
}

impl Delegate {
    /// The application that asks.
    pub(crate) fn holder(&self) -> &Caller {
        &self.holder
    }

    /// Whether the holder and the ticket allow `operation`, on whichever object.
    pub(crate) fn may(&self, operation: OperationCode) -> bool {
        self.holder.may(operation) && self.rights.allow(operation)
    }

    /// Whether the ticket allows `operation` on the object `uid`.
    pub(crate) fn may_on(&self, operation: OperationCode, uid: &str) -> bool {
        self.rights.allow_on(operation, uid)
    }

    /// Whether both have the same ticket, or neither has one.
    pub(crate) fn is_same(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(&one.rights, &other.rights),
            _ => false,
        }
    }
}

/// One connection of an application; given back when dropped.
#[derive(Debug)]
struct Place(Arc<Caller>);

impl Place {
    fn take(caller: &Arc<Caller>) -> Option<Self> {
        let most = caller.policy.connections.map_or(u32::MAX, std::num::NonZero::get);
        let more = |open: u32| (open < most).then_some(open + 1);
        caller.connections.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Self(caller.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// Whoever holds the other end of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    /// Whom the certificate may stand for: several only where their logins tell them apart.
    may_be: Vec<Arc<Caller>>,
    /// Among the connections of whoever asked last.
    place: Mutex<Option<Place>>,
    /// Whether who asks and who answers may change.
    has_roles: bool,
}

/// Why a request is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nobody {
    Stranger,
    Login(Refusal),
    TooMany,
    Ticket,
    OtherTenant,
}

impl Nobody {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Stranger => "the client certificate belongs to no application registered here",
            Self::Login(refusal) => refusal.text(),
            Self::Ticket => {
                "the ticket is not good: it ended, was logged out, or is another client's; log in \
                 again"
            }
            Self::OtherTenant => {
                "the ticket is of another tenant, and whose it is may not pass on rights so far; its \
                 operator can allow it by naming DelegatedLogin"
            }
            Self::TooMany => "this client has as many connections open as it may; close one",
        }
    }
}

impl Client {
    /// Whom a certificate stands for. `None` when that is one application, which has as many
    /// connections as it may; where a password is needed too, they are counted once it came.
    pub(crate) fn find(server: &Server, peer: &PeerIdentity) -> Option<Self> {
        let here = server.supply.here();
        let found = server.applications.find_all(peer).into_iter();
        let here_too = found.filter(|sae| server.supply.registry().is_at(sae, here));
        let mut may_be: Vec<_> =
            here_too.filter_map(|sae| server.callers.get(sae)).cloned().collect();
        if may_be.len() > 1 && may_be.iter().any(|caller| caller.policy.login.is_none()) {
            tracing::warn!(client = %peer.address(), %peer,
                "the certificate stands for several applications, and not all of them log in");
            may_be.clear();
        }
        if may_be.is_empty() {
            tracing::info!(client = %peer.address(), %peer, issuer = peer.issuer(), kme = %here,
                "the certificate is of no application registered here; its requests are refused");
        }
        let address = peer.address();
        let client = Self { address, may_be, place: Mutex::default(), has_roles: false };
        if let [only] = client.may_be.as_slice()
            && only.policy.login.is_none()
            && !client.counts_as(only)
        {
            let most = only.policy.connections;
            tracing::info!(client = %peer.address(), application = %only.application, ?most,
                "one connection too many, closed");
            return None;
        }
        Some(client)
    }

    /// The application of this name, without a certificate.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn of(server: &Server, application: &SaeId) -> Option<Self> {
        let caller = server.callers.get(application)?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let (may_be, place) = (vec![caller.clone()], Mutex::default());
        Some(Self { address, may_be, place, has_roles: false })
    }

    /// On a connection that carries frames and nothing else.
    pub(crate) fn with_roles(self) -> Self {
        Self { has_roles: true, ..self }
    }

    pub(crate) fn has_roles(&self) -> bool {
        self.has_roles
    }

    /// Whether its requests are refused whatever they say.
    pub(crate) fn is_stranger(&self) -> bool {
        self.may_be.is_empty()
    }

    /// Whether its requests may have to wait for their turn: one after the other, so that a second does not
    /// wait for the turn of the first as well.
    pub(crate) fn is_paced(&self) -> bool {
        self.may_be.iter().any(|caller| caller.pace.is_some())
    }

    /// Counts the connection among those of `caller`; `false` when it has too many.
    fn counts_as(&self, caller: &Arc<Caller>) -> bool {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.as_ref().is_none_or(|place| !Arc::ptr_eq(&place.0, caller)) {
            *place = Place::take(caller);
        }
        place.is_some()
    }

    /// The application that a request with this header comes from.
    async fn caller(
        &self,
        server: &Server,
        header: &RequestHeader,
    ) -> Result<&Arc<Caller>, Nobody> {
        let caller = match self.may_be.as_slice() {
            [] => return Err(Nobody::Stranger),
            [only] if only.policy.login.is_none() => only,
            several @ [first, ..] => {
                let said = said(header).ok_or(Nobody::Login(Refusal::Missing))?;
                let login = self.login(server, several, said, &first.gate);
                login.await.map_err(Nobody::Login)?
            }
        };
        match self.counts_as(caller) {
            true => Ok(caller),
            false => Err(Nobody::TooMany),
        }
    }

    /// Who among `several` says this user name and password.
    async fn login<'a>(
        &self,
        server: &Server,
        several: &'a [Arc<Caller>],
        said: &UsernameAndPassword,
        gate: &Gate,
    ) -> Result<&'a Arc<Caller>, Refusal> {
        let is_named = |caller: &&Arc<Caller>| {
            caller.login().is_some_and(|(_, login)| login.username == said.username)
        };
        let named = several.iter().find(is_named);
        let checked = server.guard.check(named.and_then(|caller| caller.login()), said, gate).await;
        if let Err(refusal) = checked {
            // Not the user name: passwords are typed there too.
            let application = named.map(|caller| caller.application.as_str());
            tracing::warn!(client = %self.address, application, ?refusal, "login refused");
        }
        checked.and(named.ok_or(Refusal::Wrong))
    }
}

/// The user name and password in a header.
fn said(header: &RequestHeader) -> Option<&UsernameAndPassword> {
    let mut credentials = header.authentication.iter().flat_map(|all| &all.credentials);
    credentials.find_map(|credential| match credential {
        Credential::UsernameAndPassword(said) => Some(said),
        _ => None,
    })
}

/// A request of nobody yet: only what is needed to refuse it can be seen.
pub(crate) struct Unchecked(RequestMessage);

/// A request of a known application.
pub(crate) struct Authorized {
    pub(crate) caller: Arc<Caller>,
    /// Who asks in its name, where that is another application.
    pub(crate) delegate: Option<Delegate>,
    pub(crate) version: Version,
    pub(crate) header: RequestHeader,
    pub(crate) items: Vec<RequestItem>,
}

impl Authorized {
    /// Waits for the turn of whoever asks and of whose rights those are; `false` when either is too
    /// far away.
    pub(crate) async fn wait(&self) -> bool {
        let operations = self.items.len();
        let holder = self.delegate.as_ref().map(|delegate| &delegate.holder);
        let holder = holder.filter(|holder| !Arc::ptr_eq(holder, &self.caller));
        if let Some(holder) = holder
            && !holder.wait(operations).await
        {
            return false;
        }
        self.caller.wait(operations).await
    }
}

impl Unchecked {
    pub(crate) fn new(message: RequestMessage) -> Self {
        Self(message)
    }

    pub(crate) fn version(&self) -> Version {
        self.0.version
    }

    /// Whether it only uses keys, so that it may begin while another such request is under way: neither changes
    /// what the other sees, but for what is left of Usage Limits and whether a pool key was collected. Who shows
    /// credentials has each request judged before the next. More items than these keep the token busy alone, and
    /// the time a request may take is meant for one at a time.
    pub(crate) fn only_uses(&self) -> bool {
        let RequestMessage { header, items, .. } = &self.0;
        header.authentication.is_none()
            && header.asynchronous.is_none()
            && header.batch_error_continuation != Some(BatchErrorContinuationOption::Undo)
            && items.len() <= together::MOST
            && items.iter().all(together::may)
    }

    /// The one way to the items.
    pub(crate) async fn authorize(
        self,
        server: &Server,
        client: &Client,
    ) -> Result<Authorized, Nobody> {
        let RequestMessage { version, header, items } = self.0;
        let caller = client.caller(server, &header).await?;
        let credentials = header.authentication.as_ref().map_or(&[][..], |all| &all.credentials);
        let (caller, delegate) = match server.tickets.show(credentials) {
            None => (caller, None),
            Some(Err(())) => return Err(Nobody::Ticket),
            Some(Ok(Shown { by, rights: None })) if by == *caller.application() => (caller, None),
            Some(Ok(Shown { rights: None, .. })) => return Err(Nobody::Ticket),
            Some(Ok(Shown { by, rights: Some(rights) })) => {
                let by = server.callers.get(&by).ok_or(Nobody::Ticket)?;
                if by.tenant != caller.tenant && !by.is_named(OperationCode::DelegatedLogin) {
                    return Err(Nobody::OtherTenant);
                }
                tracing::debug!(holder = %caller.application(), by = %by.application(), "a ticket");
                (by, Some(Delegate { holder: caller.clone(), rights }))
            }
        };
        Ok(Authorized { caller: caller.clone(), delegate, version, header, items })
    }
}
