//! House rules: what a tenant has set for its new objects with Set Defaults and Set Constraints. Enter
//! through [`wanted`].
//!
//! Defaults add what a request does not say. A constraint names attributes that new objects of its
//! types and groups must have, each with one of the values it names; of a Cryptographic Usage Mask,
//! no more than those bits, which holds for one that is added later too. Both hold where an object
//! comes into being by a request: keys that a partner drew from a pool come as they are.
//!
//! They are kept in the store, as an object of the server itself, and in this process for a moment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use km_core::{
    ids::SaeId,
    material::ClearBytes,
    objects::{NewObject, ObjectError, ObjectState, Objects},
    provenance::{Origin, Provenance},
};
use kmip::{
    Field, Version,
    attribute::{Attribute, AttributeKind, AttributeRef, Attributes},
    enums::{ObjectType, ResultReason},
    op::{
        delegated_login::ObjectGroups,
        set_constraints::{Constraint, Constraints},
        set_defaults::{DefaultsInformation, ObjectDefaults, ObjectTypes},
    },
    tag::Tag,
    ttlv::{self, Writer},
};

use crate::{
    context::Context,
    error::OpError,
    meta::{Meta, sha256},
    qkd,
    wanted::{Wanted, called, check_value, is_read_only, may_be_asked_for},
};

/// Whose objects the rules are kept as.
const OWNER: &str = "qkm.kmip";
/// Most bytes of the rules of one tenant.
const MOST_BYTES: usize = 16 << 10;
/// How long other KMs of the cluster may go by older rules.
const FRESH: Duration = Duration::from_secs(1);
/// How often they are written again when others change them at the same time.
const TRIES: usize = 4;

/// The rules of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct House {
    pub(crate) defaults: DefaultsInformation,
    pub(crate) constraints: Constraints,
}

/// Rules that were read a moment ago.
#[derive(Default)]
pub(crate) struct Houses(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    houses: HashMap<SaeId, (Instant, Arc<House>)>,
    /// How often some were changed here.
    changes: u64,
}

/// What a new object of `kind` is to be: as asked for, with the defaults, and as constraints want it.
/// `brought` is what an object says itself that the client brings.
pub(crate) async fn wanted(
    cx: &Context<'_>,
    mut attributes: Attributes,
    kind: ObjectType,
    brought: Option<&Meta>,
) -> Result<Wanted, OpError> {
    let house = of(cx).await?;
    house.complete(&mut attributes, kind, brought);
    house.check(&attributes, kind, brought)?;
    Wanted::read(attributes, kind)
}

/// Refuses a new object of `kind` with these attributes, where constraints do not allow it.
pub(crate) async fn check(
    cx: &Context<'_>,
    attributes: &Attributes,
    kind: ObjectType,
    brought: Option<&Meta>,
) -> Result<(), OpError> {
    of(cx).await?.check(attributes, kind, brought)
}

/// The rules that hold for an attribute of an object that is there already: those of its mask, which
/// clients may add later.
pub(crate) async fn of_added(
    cx: &Context<'_>,
    attribute: &Attribute,
) -> Result<Arc<House>, OpError> {
    match attribute {
        Attribute::CryptographicUsageMask(_) => of(cx).await,
        _ => Ok(Arc::default()),
    }
}

/// The rules of the caller's tenant.
pub(crate) async fn of(cx: &Context<'_>) -> Result<Arc<House>, OpError> {
    let (tenant, houses) = (cx.caller.tenant(), &cx.server.houses);
    if let Some(known) = houses.known(tenant) {
        return Ok(known);
    }
    let changes = houses.lock().changes;
    let house = match cx.server.objects.get(&owner()?, &uid(tenant)).await {
        Ok((object, _)) => {
            let clear = cx.server.objects.open(&object).await?;
            Arc::new(clear.expose(House::decode)?)
        }
        Err(ObjectError::NotFound(_)) => Arc::default(),
        Err(error) => return Err(error.into()),
    };
    houses.keep(tenant, &house, changes);
    Ok(house)
}

/// Changes the rules of the caller's tenant; durable on return.
pub(crate) async fn change(cx: &Context<'_>, change: impl Fn(&mut House)) -> Result<(), OpError> {
    let (tenant, objects) = (cx.caller.tenant(), &cx.server.objects);
    let uid = uid(tenant);
    for _ in 0..TRIES {
        let old = match objects.get(&owner()?, &uid).await {
            Ok(found) => Some(found),
            Err(ObjectError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let mut house = match &old {
            Some((object, _)) => objects.open(object).await?.expose(House::decode)?,
            None => House::default(),
        };
        change(&mut house);
        let bytes = house.encode();
        if bytes.len() > MOST_BYTES {
            let text = format!("defaults and constraints take at most {MOST_BYTES} bytes together");
            return Err(OpError::TooMuch(text));
        }
        match write(objects, &uid, &ClearBytes::copy_from(&bytes), old).await {
            Err(ObjectError::Conflict(_) | ObjectError::Exists(_)) => {}
            done => {
                cx.server.houses.forget(tenant);
                return Ok(done?);
            }
        }
    }
    Err(ObjectError::Conflict(uid).into())
}

async fn write(
    objects: &Objects,
    uid: &str,
    clear: &ClearBytes,
    old: Option<(km_core::objects::Object, km_core::store::Version)>,
) -> Result<(), ObjectError> {
    let new = NewObject {
        uid: uid.to_owned(),
        owner: owner()?,
        state: ObjectState::Active,
        provenance: Provenance::local(Origin::Registered),
        attributes: Vec::new(),
        terms: Vec::new(),
    };
    match old {
        Some((old, version)) => objects.replace(new, clear, (&old, version)).await.map(drop),
        None => objects.create(new, clear).await.map(drop),
    }
}

fn owner() -> Result<SaeId, ObjectError> {
    SaeId::parse(OWNER).map_err(|_| ObjectError::NotFound(OWNER.to_owned()))
}

/// Tenants may have longer names than identifiers are.
fn uid(tenant: &SaeId) -> String {
    let hash = sha256(tenant.as_str().as_bytes());
    format!("house/{}", hex::encode(hash.get(..28).unwrap_or(&hash)))
}

impl Houses {
    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, tenant: &SaeId) -> Option<Arc<House>> {
        let known = self.lock();
        let (since, house) = known.houses.get(tenant)?;
        (since.elapsed() < FRESH).then(|| house.clone())
    }

    /// Keeps what was read when there had been so many `changes`, unless there was another since.
    fn keep(&self, tenant: &SaeId, house: &Arc<House>, changes: u64) {
        let mut kept = self.lock();
        if kept.changes == changes {
            kept.houses.insert(tenant.clone(), (Instant::now(), house.clone()));
        }
    }

    fn forget(&self, tenant: &SaeId) {
        let mut kept = self.lock();
        kept.changes += 1;
        kept.houses.remove(tenant);
    }
}

impl House {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.structure(Tag::ServerInformation, |w| {
            self.defaults.write(w, Tag::DefaultsInformation, Version::V2_1);
            self.constraints.write(w, Tag::Constraints, Version::V2_1);
        });
        w.finish().to_vec()
    }

    fn decode(bytes: &[u8]) -> ttlv::Result<Self> {
        let all = ttlv::parse(bytes, &ttlv::Limits::default())?;
        Ok(Self {
            defaults: Field::read(&all.required(Tag::DefaultsInformation)?)?,
            constraints: Field::read(&all.required(Tag::Constraints)?)?,
        })
    }

    /// The defaults that hold for new objects in `groups`, and in no other; all of them without.
    pub(crate) fn defaults_in(&self, groups: Option<&ObjectGroups>) -> Vec<ObjectDefaults> {
        let named = |defaults: &ObjectGroups, asked: &ObjectGroups| {
            asked.list.iter().any(|group| defaults.list.contains(group))
        };
        let holds = |defaults: &&ObjectDefaults| match (&defaults.groups, groups) {
            (Some(defaults), Some(asked)) => named(defaults, asked),
            _ => true,
        };
        self.defaults.list.iter().filter(holds).cloned().collect()
    }

    /// Adds what the defaults say and the request does not, nor the object that came with it.
    pub(crate) fn complete(
        &self,
        asked: &mut Attributes,
        kind: ObjectType,
        brought: Option<&Meta>,
    ) {
        let fits = |defaults: &&ObjectDefaults| {
            has_type(defaults.object_type, defaults.object_types.as_ref(), kind)
                && in_groups(defaults.groups.as_ref(), asked)
        };
        let mut more = Vec::new();
        for defaults in self.defaults.list.iter().filter(fits) {
            for default in defaults.attributes.iter() {
                let key = default.key();
                let said = asked.iter().chain(&more).any(|attribute| attribute.key() == key);
                let own = brought.is_some() && is_of_the_object(default);
                if !said && !own && may_be_asked_for(default) {
                    more.push(default.clone());
                }
            }
        }
        more.into_iter().for_each(|attribute| asked.push(attribute));
    }

    pub(crate) fn check(
        &self,
        asked: &Attributes,
        kind: ObjectType,
        brought: Option<&Meta>,
    ) -> Result<(), OpError> {
        self.check_of(asked, kind, brought, |_| true)
    }

    /// Refuses a mask that an object of `kind` with the attributes `rest` gets later.
    pub(crate) fn check_mask(
        &self,
        mask: &Attribute,
        rest: &Attributes,
        kind: ObjectType,
    ) -> Result<(), OpError> {
        let mut all = rest.clone();
        all.push(mask.clone());
        self.check_of(&all, kind, None, |key| *key == mask.key())
    }

    /// [`House::check`], of those attributes alone that `looks` names.
    fn check_of(
        &self,
        asked: &Attributes,
        kind: ObjectType,
        brought: Option<&Meta>,
        looks: impl Fn(&AttributeRef) -> bool,
    ) -> Result<(), OpError> {
        let fits = |constraint: &&Constraint| {
            has_type(None, constraint.object_types.as_ref(), kind)
                && in_groups(constraint.groups.as_ref(), asked)
        };
        for constraint in self.constraints.list.iter().filter(fits) {
            let named: Vec<&Attribute> =
                constraint.attributes.iter().flat_map(Attributes::iter).collect();
            for one in named.iter().filter(|one| looks(&one.key())) {
                let allowed = named.iter().copied().filter(|other| other.key() == one.key());
                if !is_allowed(asked, brought, &one.key(), allowed.collect()) {
                    return Err(OpError::Constraint(called(&one.key())));
                }
            }
        }
        Ok(())
    }
}

/// Whether what is asked for under `key` is among `allowed`.
fn is_allowed(
    asked: &Attributes,
    brought: Option<&Meta>,
    key: &AttributeRef,
    allowed: Vec<&Attribute>,
) -> bool {
    let is_mask = *key == AttributeRef::Kind(AttributeKind::CryptographicUsageMask);
    let own = brought.map(|meta| {
        // Unlike the others it gives way to what is asked for.
        let says = is_mask && asked.iter().any(|attribute| attribute.key() == *key);
        let mask = meta.usage_mask.filter(|_| !says).map(Attribute::CryptographicUsageMask);
        let algorithm = meta.algorithm().map(Attribute::CryptographicAlgorithm);
        let length = meta.length.map(Attribute::CryptographicLength);
        [algorithm, length, mask].into_iter().flatten()
    });
    let own: Vec<Attribute> = own.into_iter().flatten().collect();
    let mut found = asked.iter().chain(&own).filter(|attribute| attribute.key() == *key).peekable();
    let mask = |attribute: &Attribute| match attribute {
        Attribute::CryptographicUsageMask(mask) => *mask,
        _ => 0,
    };
    let most = allowed.iter().fold(0, |all, attribute| all | mask(attribute));
    found.peek().is_some()
        && found.all(|attribute| match is_mask {
            true => mask(attribute) & !most == 0,
            false => allowed.contains(&attribute),
        })
}

/// Whether a key that is brought says it itself.
fn is_of_the_object(attribute: &Attribute) -> bool {
    matches!(
        attribute,
        Attribute::CryptographicAlgorithm(_)
            | Attribute::CryptographicLength(_)
            | Attribute::KeyFormatType(_)
    )
}

fn has_type(one: Option<ObjectType>, several: Option<&ObjectTypes>, kind: ObjectType) -> bool {
    one.is_none_or(|one| one == kind) && several.is_none_or(|types| types.list.contains(&kind))
}

fn in_groups(groups: Option<&ObjectGroups>, asked: &Attributes) -> bool {
    let named = |groups: &ObjectGroups| {
        asked.iter().any(|attribute| match attribute {
            Attribute::ObjectGroup(group) => groups.list.contains(group),
            _ => false,
        })
    };
    groups.is_none_or(named)
}

fn invalid(text: &str) -> OpError {
    OpError::Check(ResultReason::InvalidField, text.to_owned())
}

/// Refuses defaults that no object could have.
pub(crate) fn check_defaults(defaults: &DefaultsInformation) -> Result<(), OpError> {
    for one in &defaults.list {
        if one.object_type.is_some() == one.object_types.is_some() {
            return Err(invalid("Object Defaults name an Object Type or Object Types"));
        }
        for attribute in one.attributes.iter() {
            let of_one_object = matches!(
                attribute,
                Attribute::Name(_) | Attribute::ObjectType(_) | Attribute::Link(_)
            );
            if of_one_object || is_read_only(attribute) || is_unknown(attribute) {
                let what = called(&attribute.key());
                return Err(invalid(&format!("{what} has no default; leave it out")));
            }
            check_value(attribute)?;
            qkd::refuse_claim(attribute)?;
        }
    }
    Ok(())
}

/// Refuses constraints that could not be understood.
pub(crate) fn check_constraints(constraints: &Constraints) -> Result<(), OpError> {
    let attributes = constraints.list.iter().filter_map(|one| one.attributes.as_ref());
    match attributes.flat_map(Attributes::iter).find(|attribute| is_unknown(attribute)) {
        Some(unknown) => {
            let what = called(&unknown.key());
            Err(invalid(&format!("this server has no attribute {what}; leave it out")))
        }
        None => Ok(()),
    }
}

fn is_unknown(attribute: &Attribute) -> bool {
    matches!(attribute, Attribute::Unknown(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_were_read_before_a_change_are_not_kept_after_it() {
        let (houses, tenant) = (Houses::default(), SaeId::parse("bank").unwrap());
        let old = Arc::<House>::default();
        let before = houses.lock().changes;
        houses.forget(&tenant);
        houses.keep(&tenant, &old, before);
        assert_eq!(houses.known(&tenant), None);
        let now = houses.lock().changes;
        houses.keep(&tenant, &old, now);
        assert_eq!(houses.known(&tenant), Some(old));
    }
}
