//! Tickets (2.0): what Login and Delegated Login give, and what a request with one may do. Enter
//! through [`Tickets`].
//!
//! They live in the memory of this process, for at most a day, and only their hashes do. A ticket
//! stands beside a certificate, never in its place: that of Login for the application that got it,
//! that of Delegated Login for whichever registered application holds it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use km_core::{ids::SaeId, objects::MAX_UID};
use kmip::{
    Field, SecretBytes,
    attribute::UniqueIdentifier,
    enums::{OperationCode, TicketType},
    message::Credential,
    op::{
        delegated_login::Right,
        login::{Lease, Ticket},
    },
    ttlv,
};

use crate::{context::Context, error::OpError, meta::sha256};

/// Most tickets of one application.
const MOST_OF_ONE: usize = 64;
/// Most tickets.
const MOST: usize = 4096;
/// Most rights in a ticket, and most entries in one.
const MOST_RIGHTS: usize = 32;
/// How long a ticket is good for when nobody says it, and at most, in seconds.
const LEASE: u32 = 3600;
const LONGEST: u32 = 86_400;
/// Bytes of a ticket.
const LENGTH: usize = 32;

/// What the holder of a ticket of Delegated Login may do.
#[derive(Debug)]
pub(crate) struct Rights(Vec<Allowed>);

#[derive(Debug)]
struct Allowed {
    operations: Option<Vec<OperationCode>>,
    objects: Option<Vec<String>>,
}

impl Rights {
    /// Reads rights as they are asked for.
    pub(crate) fn read(rights: Vec<Right>) -> Result<Self, OpError> {
        let too_many = || OpError::TooMuch(format!("a ticket has at most {MOST_RIGHTS} rights"));
        if rights.is_empty() {
            return Err(OpError::Missing("a ticket without a right is good for nothing"));
        }
        if rights.len() > MOST_RIGHTS {
            return Err(too_many());
        }
        let read = |right: Right| {
            let Right { usage_limits, operations, objects, groups } = right;
            if usage_limits.is_some() || groups.is_some() {
                return Err(OpError::Feature(
                    "rights name operations and objects here; usage and groups are not bounded by them",
                ));
            }
            let operations = operations.map(|operations| operations.list);
            let objects = objects.map(|objects| objects.list);
            if operations.as_ref().is_some_and(|list| list.len() > MOST_RIGHTS)
                || objects.as_ref().is_some_and(|list| list.len() > MOST_RIGHTS)
            {
                return Err(too_many());
            }
            let named = |id: UniqueIdentifier| {
                let named = id.as_text().filter(|id| id.len() <= MAX_UID).map(str::to_owned);
                named.ok_or_else(|| {
                    let text = "rights name objects by their identifiers, of at most";
                    OpError::Invalid(format!("{text} {MAX_UID} bytes"))
                })
            };
            let objects: Option<Result<Vec<_>, _>> =
                objects.map(|list| list.into_iter().map(named).collect());
            let bounded = objects.is_some();
            let unbounded = |code: &OperationCode| !names_its_object(*code);
            let bad = |list: &Vec<_>| list.iter().any(unbounded);
            if bounded && operations.as_ref().is_none_or(bad) {
                let text =
                    "a right to certain objects names operations too, each on a single object";
                return Err(OpError::Invalid(text.to_owned()));
            }
            Ok(Allowed { operations, objects: objects.transpose()? })
        };
        Ok(Self(rights.into_iter().map(read).collect::<Result<_, _>>()?))
    }

    /// Whether any right is to `operation`, on whichever object.
    pub(crate) fn allow(&self, operation: OperationCode) -> bool {
        self.0.iter().any(|right| right.has(operation))
    }

    /// Whether any right is to `operation` on the object `uid`.
    pub(crate) fn allow_on(&self, operation: OperationCode, uid: &str) -> bool {
        self.0.iter().any(|right| {
            right.has(operation)
                && right.objects.as_ref().is_none_or(|list| list.iter().any(|id| id == uid))
        })
    }
}

impl Allowed {
    fn has(&self, operation: OperationCode) -> bool {
        // Nobody passes on what was passed on to him.
        !matches!(operation, OperationCode::Login | OperationCode::DelegatedLogin)
            && self.operations.as_ref().is_none_or(|list| list.contains(&operation))
    }
}

/// Operations that reach no object but those they name.
fn names_its_object(code: OperationCode) -> bool {
    use OperationCode as O;
    matches!(
        code,
        O::Get
            | O::GetAttributes
            | O::GetAttributeList
            | O::Check
            | O::ObtainLease
            | O::GetUsageAllocation
            | O::Activate
            | O::Revoke
            | O::Destroy
            | O::Archive
            | O::Recover
            | O::AddAttribute
            | O::ModifyAttribute
            | O::DeleteAttribute
            | O::SetAttribute
            | O::AdjustAttribute
            | O::Encrypt
            | O::Decrypt
            | O::Sign
            | O::SignatureVerify
            | O::Mac
            | O::MacVerify
    )
}

struct Issued {
    by: SaeId,
    until: Instant,
    requests: Option<u32>,
    rights: Option<Arc<Rights>>,
}

/// What a ticket says of a request.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Who got the ticket.
    pub(crate) by: SaeId,
    /// What may be done with it; none where it is that of Login.
    pub(crate) rights: Option<Arc<Rights>>,
}

/// The tickets that are good.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<HashMap<[u8; 32], Issued>>);

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Issued>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new ticket of the caller's.
    pub(crate) async fn issue(
        &self,
        cx: &Context<'_>,
        lease: Option<Lease>,
        requests: Option<i32>,
        rights: Option<Rights>,
    ) -> Result<Ticket, OpError> {
        let bad = || OpError::Invalid("a Request Count is 1 or more".to_owned());
        let requests = requests.map(|count| u32::try_from(count).ok().filter(|count| *count > 0));
        let requests = requests.map(|count| count.ok_or_else(bad)).transpose()?;
        let lease = lease.map_or(LEASE, |lease| lease.seconds(cx.now)).min(LONGEST);
        let value = cx.objects().vault().random().bytes(LENGTH).await?;
        let value = value.expose(SecretBytes::copy_from);
        let by = cx.caller.application().clone();
        let until = Instant::now() + Duration::from_secs(lease.into());
        let issued = Issued { by, until, requests, rights: rights.map(Arc::new) };
        self.enter(value.expose(sha256), issued)?;
        Ok(Ticket { kind: TicketType::Login, value })
    }

    fn enter(&self, hash: [u8; 32], issued: Issued) -> Result<(), OpError> {
        let mut all = self.lock();
        let now = Instant::now();
        all.retain(|_, ticket| ticket.until > now);
        let own = all.values().filter(|ticket| ticket.by == issued.by).count();
        if own >= MOST_OF_ONE || all.len() >= MOST {
            return Err(OpError::TooMuch("too many tickets are out; log some out".to_owned()));
        }
        all.insert(hash, issued);
        Ok(())
    }

    /// Ends a ticket of the caller's.
    pub(crate) fn end(&self, cx: &Context<'_>, ticket: &Ticket) -> Result<(), OpError> {
        let hash = ticket.value.expose(sha256);
        let mut all = self.lock();
        match all.get(&hash) {
            Some(issued) if issued.by == *cx.caller.application() => {
                all.remove(&hash);
                Ok(())
            }
            _ => Err(OpError::Ticket),
        }
    }

    /// What the ticket among `credentials` says, and one request of it is used; `Err` when it is
    /// not good.
    pub(crate) fn show(&self, credentials: &[Credential]) -> Option<Result<Shown, ()>> {
        let mut tickets = credentials.iter().filter_map(ticket);
        let first = tickets.next()?;
        let ticket = match (first, tickets.next()) {
            (Ok(ticket), None) => ticket,
            _ => return Some(Err(())),
        };
        Some(self.use_up(&ticket.value.expose(sha256)).ok_or(()))
    }

    fn use_up(&self, hash: &[u8; 32]) -> Option<Shown> {
        let mut all = self.lock();
        let issued = all.get_mut(hash)?;
        let used_up = match &mut issued.requests {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if used_up || issued.until <= Instant::now() {
            all.remove(hash);
            return None;
        }
        Some(Shown { by: issued.by.clone(), rights: issued.rights.clone() })
    }
}

/// The ticket of a credential of that kind; `Err` when it cannot be read.
fn ticket(credential: &Credential) -> Option<Result<Ticket, ()>> {
    let Credential::Other { kind: kmip::enums::CredentialType::Ticket, content } = credential
    else {
        return None;
    };
    Some(content.expose(read).ok_or(()))
}

/// Reads a ticket out of the content of a Credential Value, with or without a structure of its own.
fn read(items: &[u8]) -> Option<Ticket> {
    let mut w = ttlv::Writer::default();
    w.structure(kmip::tag::Tag::CredentialValue, |w| w.encoded(items));
    let whole = w.finish();
    let value = ttlv::parse(&whole, &ttlv::Limits::default()).ok()?;
    match value.child(kmip::tag::Tag::Ticket).ok()? {
        Some(ticket) => Ticket::read(&ticket).ok(),
        None => Ticket::read(&value).ok(),
    }
}
