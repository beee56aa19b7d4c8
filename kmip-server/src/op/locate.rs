//! Locate: the caller's objects that fit every filter; or fresh keys of a pool.
//!
//! The index narrows the search by its most selective term; the objects it leaves are read and
//! compared with all filters, the newest first (KMIP 1.3, 4.9). What fits all the while is found once,
//! whatever is made, changed or destroyed meanwhile: an object keeps its type and its place until it is
//! destroyed, also where Import replaces it. What Import puts in the place of a destroyed one is new.
//! Of several requests with Offset Items that cannot hold: each counts anew, so when an object that was passed
//! is destroyed, the next page leaves out another.

use km_core::{
    objects::{Object, ObjectError, Walk},
    store::MAX_RANGE,
};
use kmip::{
    DateTime, Field,
    attribute::{Attribute, AttributeKind, Attributes, Instance, Part},
    enums::{ObjectGroupMember, ObjectType, OperationCode},
    op::locate::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    house,
    meta::Meta,
    qkd::{self, Share},
    shown, terms,
    wanted::{MAX_WANTED, check_words},
};

/// Storage Status Mask.
const ON_LINE: i32 = 0x1;
const ARCHIVED: i32 = 0x2;
const DESTROYED: i32 = 0x4;
/// The Operation Policy Name of objects whose clients named none (KMIP 1.2, 3.18).
const POLICY: &str = "default";
/// Most fresh pool keys one Locate draws.
const MAX_FRESH: i32 = 16;
/// Objects that are always looked at, so that short lists have a total.
const COUNTED: usize = 1000;
/// Most objects a Locate opens to make their Digest.
const MOST_OPENED: usize = 100;
/// A page this short is not worth another question to the index.
const SHORT_PAGE: usize = 16;

pub(crate) async fn locate(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let found = match fresh_share(&request)? {
        Some(share) => draw(cx, &share, request).await?,
        None => search(cx, request).await?,
    };
    cx.remember(OperationCode::Locate, found.ids.clone());
    Ok(found)
}

/// The pool keys a Locate for fresh group members asks for.
fn fresh_share(request: &Request) -> Result<Option<Share>, OpError> {
    if request.object_group_member != Some(ObjectGroupMember::GroupMemberFresh) {
        return Ok(None);
    }
    Share::asked(request.attributes.iter())
}

async fn draw(cx: &Context<'_>, share: &Share, request: Request) -> Result<Response, OpError> {
    let count = request.maximum_items.unwrap_or(1);
    if !(1..=MAX_FRESH).contains(&count) {
        let text = format!("Maximum Items for fresh pool keys is from 1 to {MAX_FRESH}");
        return Err(OpError::Invalid(text));
    }
    if let Some(part) = request.parts.first() {
        let text = "a wish for a fresh pool key gives all fields";
        return Err(OpError::invalid(part.kind, text));
    }
    let wishes: Attributes = request
        .attributes
        .iter()
        .filter(|a| !matches!(a, Attribute::State(_) | Attribute::Fresh(_)))
        .cloned()
        .collect();
    let wanted = house::wanted(cx, wishes, ObjectType::SymmetricKey, None).await?;
    if wanted.names().next().is_some() {
        let text = "a fresh pool key has no name yet; use Create with a Name and the group";
        return Err(OpError::invalid(AttributeKind::Name, text));
    }
    let ids = qkd::draw(cx, share, &wanted, count.unsigned_abs()).await?;
    Ok(Response { located_items: None, ids })
}

struct Search<'a> {
    filters: Vec<&'a Attribute>,
    /// Filters of which some fields are given; what they leave open may be anything.
    parts: Vec<Part>,
    member: Option<ObjectGroupMember>,
    mask: i32,
    skip: usize,
    limit: usize,
    matched: usize,
    looked_at: usize,
    /// Opened for their Digest.
    opened: usize,
    ids: Vec<String>,
}

async fn search(cx: &mut Context<'_>, request: Request) -> Result<Response, OpError> {
    let mut request = request;
    request.attributes = cx.resolve_links(request.attributes)?;
    let mut search = Search::of(cx, &request)?;
    let whole = search.run(cx).await;
    cx.looked_at += search.looked_at;
    let whole = whole?;
    let paged = request.maximum_items.is_some() || request.offset_items.is_some();
    let total = i32::try_from(search.matched).ok();
    Ok(Response { located_items: total.filter(|_| whole && paged), ids: search.ids })
}

impl<'a> Search<'a> {
    fn of(cx: &Context<'_>, request: &'a Request) -> Result<Self, OpError> {
        let number = |value: Option<i32>, default: usize, what: &str| match value {
            None => Ok(default),
            Some(value) => usize::try_from(value)
                .map_err(|_| OpError::Invalid(format!("{what} shall not be negative"))),
        };
        let (open, filters): (Vec<_>, Vec<_>) =
            request.attributes.iter().partition(|filter| leaves_open(filter));
        let parts = open.into_iter().filter_map(Part::of).chain(request.parts.iter().cloned());
        if let Some(Attribute::Unknown(unknown)) =
            filters.iter().find(|filter| matches!(filter, Attribute::Unknown(_)))
        {
            return Err(OpError::UnknownAttribute(format!("{:?}", unknown.key)));
        }
        request.attributes.iter().try_for_each(check_words)?;
        if request.attributes.list.len() + request.parts.len() > MAX_WANTED {
            return Err(OpError::TooMuch(format!("a Locate has at most {MAX_WANTED} filters")));
        }
        let most = cx.server.limits.located;
        Ok(Self {
            filters,
            parts: parts.collect(),
            member: request.object_group_member,
            mask: request.storage_status_mask.unwrap_or(ON_LINE),
            skip: number(request.offset_items, 0, "Offset Items")?,
            limit: number(request.maximum_items, most, "Maximum Items")?.min(most),
            matched: 0,
            looked_at: 0,
            opened: 0,
            ids: Vec::new(),
        })
    }

    /// Looks at every object that may fit, the newest first; `false` when it stopped because enough were
    /// found.
    async fn run(&mut self, cx: &Context<'_>) -> Result<bool, OpError> {
        let terms = match narrowest(cx, self).await? {
            Some(term) => vec![term],
            None => terms::every_kind().collect(),
        };
        // In this order, for live objects may be destroyed meanwhile.
        let terms_of = |term: &String| {
            let here = (self.mask & (ON_LINE | ARCHIVED) != 0).then(|| term.clone());
            let gone = (self.mask & DESTROYED != 0).then(|| terms::gone(term));
            here.into_iter().chain(gone).collect()
        };
        let walk = |term| Walk::of(cx.caller.tenant().clone(), terms_of(term), MAX_RANGE);
        let mut heads: Vec<Head> =
            terms.iter().map(|term| Head { walk: walk(term), next: None }).collect();
        let mut last = String::new();
        loop {
            for head in &mut heads {
                head.go_on(cx).await?;
            }
            let newest = heads.iter_mut().max_by(|one, other| one.age().cmp(&other.age()));
            let Some(object) = newest.and_then(|head| head.next.take()) else { return Ok(true) };
            if self.ids.len() >= self.limit && self.looked_at >= COUNTED {
                return Ok(false);
            }
            // A KM of an older version may give an object another type, and both lists have it then, at one place.
            if object.uid != last {
                last.clone_from(&object.uid);
                self.look_at(cx, object).await?;
            }
        }
    }

    async fn look_at(&mut self, cx: &Context<'_>, object: Object) -> Result<(), OpError> {
        self.looked_at += 1;
        if cx.looked_at + self.looked_at > cx.server.limits.scanned {
            let most = cx.server.limits.scanned;
            let text = format!("more than {most} objects to look at; add a Name or Object Group");
            return Err(OpError::TooMuch(text));
        }
        if self.fits(cx, &object).await? {
            self.matched += 1;
            if self.matched > self.skip && self.ids.len() < self.limit {
                self.ids.push(object.uid);
            }
        }
        Ok(())
    }

    async fn fits(&mut self, cx: &Context<'_>, object: &Object) -> Result<bool, OpError> {
        let meta = Meta::of(object)?;
        let bit = match object.state.is_destroyed() {
            true => DESTROYED,
            false if meta.dates.archived.is_some() => ARCHIVED,
            false => ON_LINE,
        };
        // Of a type that the client's version does not have, it could do nothing with the identifier.
        if self.mask & bit == 0 || !meta.kind().known(cx.version) {
            return Ok(false);
        }
        if self.member == Some(ObjectGroupMember::GroupMemberFresh) && !meta.fresh {
            return Ok(false);
        }
        if self.filters.is_empty() && self.parts.is_empty() {
            return Ok(true);
        }
        let all = shown::all(object, cx.now)?;
        if !self.filters.iter().all(|filter| self.has(&all, filter)) {
            return Ok(false);
        }
        let digest = |part: &&Part| part.kind == AttributeKind::Digest;
        let (digests, parts): (Vec<_>, Vec<_>) = self.parts.iter().partition(digest);
        if !have(&all, &parts) {
            return Ok(false);
        }
        if have(&all, &digests) {
            return Ok(true);
        }
        // To be made of the bytes, which tells as much of them as Get Attributes does.
        let may_open = cx.may_itself(OperationCode::GetAttributes);
        if !may_open || !shown::has_digest_to_make(object, &meta) {
            return Ok(false);
        }
        self.opened += 1;
        if self.opened > MOST_OPENED {
            let text =
                format!("more than {MOST_OPENED} objects to open for a Digest; add a filter");
            return Err(OpError::TooMuch(text));
        }
        let all = Box::pin(shown::with_digest(cx, object)).await;
        Ok(all.is_ok_and(|all| have(&all, &digests)))
    }

    fn has(&self, all: &[Instance], filter: &Attribute) -> bool {
        let policy =
            |found: &Instance| matches!(found.attribute, Attribute::OperationPolicyName(_));
        if *filter == Attribute::OperationPolicyName(POLICY.to_owned()) && !all.iter().any(policy) {
            return true;
        }
        let range = self.range_of(filter);
        all.iter().any(|instance| match (&instance.attribute, filter) {
            // Every bit asked for; the object may allow more.
            (Attribute::CryptographicUsageMask(f), Attribute::CryptographicUsageMask(w)) => {
                f & w == *w
            }
            (found, filter) => match (range, date(found)) {
                (Some((low, high)), Some(at)) if found.kind() == filter.kind() => {
                    (low..=high).contains(&at)
                }
                _ => found == filter,
            },
        })
    }

    /// A date given twice is a range.
    fn range_of(&self, filter: &Attribute) -> Option<(DateTime, DateTime)> {
        date(filter)?;
        let same = |other: &&&Attribute| other.kind() == filter.kind();
        let dates: Vec<_> = self.filters.iter().filter(same).filter_map(|a| date(a)).collect();
        match dates.as_slice() {
            [one, other] => Some((*one.min(other), *one.max(other))),
            _ => None,
        }
    }
}

/// Whether these are attributes of `all`, in part.
fn have(all: &[Instance], parts: &[&Part]) -> bool {
    let is_asked = |found: &&Attribute| parts.iter().any(|part| found.kind() == Some(part.kind));
    let found = all.iter().map(|instance| &instance.attribute).filter(is_asked);
    let found: Vec<Part> = found.filter_map(Part::of).collect();
    parts.iter().all(|part| found.iter().any(|found| part.is_in(found)))
}

/// Whether a filter has fields that need not be given, and may be anything then.
fn leaves_open(filter: &Attribute) -> bool {
    match filter {
        Attribute::ApplicationSpecificInformation(info) => info.data.is_none(),
        Attribute::CertificateIdentifier(_)
        | Attribute::CertificateIssuer(_)
        | Attribute::CertificateSubject(_)
        | Attribute::CryptographicDomainParameters(_)
        | Attribute::CryptographicParameters(_)
        | Attribute::Digest(_)
        | Attribute::RandomNumberGenerator(_)
        | Attribute::RevocationReason(_)
        | Attribute::UsageLimits(_)
        | Attribute::X509CertificateIssuer(_)
        | Attribute::X509CertificateSubject(_) => true,
        _ => false,
    }
}

/// A walk and the object it stands at.
struct Head {
    walk: Walk,
    next: Option<Object>,
}

impl Head {
    /// When the object was made, as the index orders it.
    fn age(&self) -> Option<(u64, &str)> {
        self.next.as_ref().map(|object| (object.created_ms, object.uid.as_str()))
    }

    /// Reads the next object, unless it is read already.
    async fn go_on(&mut self, cx: &Context<'_>) -> Result<(), OpError> {
        if self.next.is_none() {
            self.next = self.walk.next(cx.objects()).await.map_err(ObjectError::from)?;
        }
        Ok(())
    }
}

fn date(attribute: &Attribute) -> Option<DateTime> {
    Some(match attribute {
        Attribute::InitialDate(date)
        | Attribute::ActivationDate(date)
        | Attribute::ProcessStartDate(date)
        | Attribute::ProtectStopDate(date)
        | Attribute::DeactivationDate(date)
        | Attribute::DestroyDate(date)
        | Attribute::CompromiseOccurrenceDate(date)
        | Attribute::CompromiseDate(date)
        | Attribute::ArchiveDate(date)
        | Attribute::LastChangeDate(date)
        | Attribute::OriginalCreationDate(date) => *date,
        _ => return None,
    })
}

/// The term of the filters that leaves the fewest objects; `None` when none is indexed.
async fn narrowest(cx: &Context<'_>, search: &Search<'_>) -> Result<Option<String>, OpError> {
    let whole = search.filters.iter().filter_map(|filter| terms::of_attribute(filter));
    let mut found: Vec<String> =
        whole.chain(search.parts.iter().filter_map(terms::of_part)).collect();
    if found.len() < 2 {
        return Ok(found.pop());
    }
    let mut best: Option<(usize, String)> = None;
    for term in found {
        let page = cx.objects().search(cx.caller.tenant(), &term, MAX_RANGE).await?;
        if best.as_ref().is_none_or(|(least, _)| page.len() < *least) {
            best = Some((page.len(), term));
        }
        if page.len() <= SHORT_PAGE {
            break;
        }
    }
    Ok(best.map(|(_, term)| term))
}
