//! Changes of attributes. Enter through [`change`]: it reads the object, lets the caller change a
//! [`Draft`] of it, and writes it back unless somebody else did meanwhile.

use km_core::{
    objects::{Object, ObjectError, ObjectState},
    store::Version,
};
use kmip::{
    DateTime,
    attribute::{
        Attribute, AttributeKind as Kind, AttributeRef, Attributes, Instance, UniqueIdentifier,
    },
};

use crate::{
    context::Context,
    error::OpError,
    find,
    house::House,
    meta::Meta,
    names, numbering, qkd,
    rules::{self, Rule},
    terms, usage_limits,
    wanted::{MAX_WANTED, called, check_value},
};

/// How often a change is tried again when others change the same object at the same time.
const TRIES: usize = 8;

/// Which instance of an attribute is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    /// By its index (1.x).
    Index(i32),
    /// By its value (2.x).
    Value(&'a Attribute),
    /// The only one there is.
    Only,
}

/// An object whose attributes are being changed.
pub(crate) struct Draft {
    pub(crate) meta: Meta,
    pub(crate) rest: Attributes,
    /// Its state now.
    state: ObjectState,
    now: i64,
}

/// Changes the object a request names. `claimed` are names it gets, or has already; `act` may be called
/// again.
/// Returns its identifier and what `act` gave; durable on return.
pub(crate) async fn change<T>(
    cx: &Context<'_>,
    id: Option<UniqueIdentifier>,
    claimed: &[&str],
    act: impl Fn(&mut Draft) -> Result<T, OpError>,
) -> Result<(String, T), OpError> {
    let (mut object, mut version) = find::object(cx, id).await?;
    let _held = names::hold(cx, claimed, &[&object.uid]).await?;
    for _ in 0..TRIES {
        match once(cx, &object, version, &act).await {
            Ok(given) => return Ok((object.uid, given)),
            Err(Failed::Conflict) => {
                (object, version) = cx.objects().get(cx.caller.tenant(), &object.uid).await?;
            }
            Err(Failed::Refused(error)) => return Err(error),
        }
    }
    Err(ObjectError::Conflict(object.uid).into())
}

enum Failed {
    Conflict,
    Refused(OpError),
}

impl<E: Into<OpError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

async fn once<T>(
    cx: &Context<'_>,
    object: &Object,
    version: Version,
    act: &impl Fn(&mut Draft) -> Result<T, OpError>,
) -> Result<T, Failed> {
    if object.state.is_destroyed() {
        return Err(OpError::Destroyed(object.uid.clone()).into());
    }
    let (meta, rest) = Meta::with_rest(object)?;
    let state = meta.state_at(object.state, cx.now);
    let mut draft = Draft { meta, rest, state, now: cx.now };
    let given = act(&mut draft)?;
    let Draft { mut meta, rest, .. } = draft;
    meta.dates.check()?;
    meta.dates.changed = cx.now;
    let mut changed = object.clone();
    // Dates that passed count before the change, and those the change brought after it.
    changed.state = meta.state_at(state, cx.now);
    changed.terms = terms::of(meta.kind(), &rest);
    changed.attributes = meta.encode(&rest);
    match cx.objects().update(object, version, &changed).await {
        Ok(()) => Ok(given),
        Err(ObjectError::Conflict(_)) => Err(Failed::Conflict),
        Err(error) => Err(error.into()),
    }
}

impl Draft {
    /// Adds an attribute, or one more instance of it; a mask that `house` allows.
    pub(crate) fn add(
        &mut self,
        attribute: &Attribute,
        house: &House,
    ) -> Result<Instance, OpError> {
        let key = attribute.key();
        check(attribute)?;
        let single = attribute.kind().is_some_and(|kind| !kind.is_multiple());
        let present = single && self.present(attribute);
        match rules::of(attribute) {
            Rule::Fixed => return Err(OpError::Unchangeable(called(&key))),
            _ if present => return Err(OpError::HasOne(called(&key))),
            Rule::Lock => self.lock(attribute)?,
            Rule::Date => self.date(attribute)?,
            Rule::Once if matches!(attribute, Attribute::CryptographicUsageMask(_)) => {
                house.check_mask(attribute, &self.rest, self.meta.kind())?;
                self.set_mask(attribute);
            }
            Rule::Once | Rule::Limits | Rule::Free => return self.push(attribute),
        }
        Ok(Instance { index: None, attribute: attribute.clone() })
    }

    /// Gives an attribute another value.
    pub(crate) fn modify(
        &mut self,
        which: Which<'_>,
        attribute: &Attribute,
    ) -> Result<Instance, OpError> {
        let key = attribute.key();
        check(attribute)?;
        if let Which::Value(current) = which
            && current.key() != key
        {
            return Err(OpError::NoInstance(called(&key)));
        }
        match rules::of(attribute) {
            Rule::Fixed | Rule::Once => return Err(OpError::Unchangeable(called(&key))),
            Rule::Lock | Rule::Date if !self.present(attribute) => {
                return Err(OpError::NoAttribute(called(&key)));
            }
            Rule::Lock => self.lock(attribute)?,
            Rule::Date => self.date(attribute)?,
            Rule::Limits | Rule::Free => {
                self.untouched(attribute)?;
                let at = self.find(&key, which)?;
                let other =
                    |(other, i): (usize, &Instance)| other != at && i.attribute == *attribute;
                if self.rest.list.iter().enumerate().any(other) {
                    return Err(has_it(attribute));
                }
                let Some(found) = self.rest.list.get_mut(at) else {
                    return Err(OpError::NoAttribute(called(&key)));
                };
                qkd::refuse_claim(&found.attribute)?;
                found.attribute = usage_limits::begun(attribute.clone());
                return Ok(numbering::told(found.clone()));
            }
        }
        Ok(Instance { index: None, attribute: attribute.clone() })
    }

    /// Takes an attribute away; without `which`, all its instances. Returns the last one.
    pub(crate) fn delete(
        &mut self,
        key: &AttributeRef,
        which: Option<Which<'_>>,
    ) -> Result<Instance, OpError> {
        let found: Vec<usize> = match which {
            Some(which) => vec![self.find(key, which)?],
            None => self.positions(key),
        };
        let Some(last) = found.last().and_then(|at| self.rest.list.get(*at)).cloned() else {
            return Err(absent(key));
        };
        self.untouched(&last.attribute)?;
        for at in found.into_iter().rev() {
            let attribute = self.rest.list.remove(at).attribute;
            qkd::refuse_claim(&attribute)?;
            if !matches!(rules::of(&attribute), Rule::Free | Rule::Limits) {
                return Err(OpError::Unchangeable(called(key)));
            }
        }
        Ok(numbering::told(last))
    }

    /// The value of an attribute that clients may change and that is there once.
    pub(crate) fn value(&self, key: &AttributeRef) -> Result<Attribute, OpError> {
        let (meta, dates) = (&self.meta, &self.meta.dates);
        let date = |at: Option<i64>, make: fn(DateTime) -> Attribute| at.map(DateTime).map(make);
        let found = match key {
            AttributeRef::Kind(Kind::ActivationDate) => {
                date(dates.activation, Attribute::ActivationDate)
            }
            AttributeRef::Kind(Kind::ProcessStartDate) => {
                date(dates.process_start, Attribute::ProcessStartDate)
            }
            AttributeRef::Kind(Kind::ProtectStopDate) => {
                date(dates.protect_stop, Attribute::ProtectStopDate)
            }
            AttributeRef::Kind(Kind::DeactivationDate) => {
                date(dates.deactivation, Attribute::DeactivationDate)
            }
            AttributeRef::Kind(Kind::Sensitive) => Some(Attribute::Sensitive(meta.sensitive)),
            AttributeRef::Kind(Kind::Extractable) => Some(Attribute::Extractable(meta.extractable)),
            key => {
                let at = self.find(key, Which::Only)?;
                self.rest.list.get(at).map(|instance| instance.attribute.clone())
            }
        };
        found.ok_or_else(|| OpError::NoAttribute(called(key)))
    }

    /// Whether the object has the attribute, with whatever value.
    pub(crate) fn present(&self, attribute: &Attribute) -> bool {
        let dates = &self.meta.dates;
        match attribute {
            Attribute::ActivationDate(_) => dates.activation.is_some(),
            Attribute::ProcessStartDate(_) => dates.process_start.is_some(),
            Attribute::ProtectStopDate(_) => dates.protect_stop.is_some(),
            Attribute::DeactivationDate(_) => dates.deactivation.is_some(),
            Attribute::Sensitive(_) | Attribute::Extractable(_) => true,
            Attribute::CryptographicUsageMask(_) => self.meta.usage_mask.is_some(),
            other => !self.positions(&other.key()).is_empty(),
        }
    }

    fn push(&mut self, attribute: &Attribute) -> Result<Instance, OpError> {
        if self.rest.list.len() >= MAX_WANTED {
            return Err(OpError::TooMuch(format!("an object has at most {MAX_WANTED} attributes")));
        }
        if self.rest.iter().any(|other| other == attribute) {
            return Err(has_it(attribute));
        }
        let index = Some(numbering::next(&self.rest, &attribute.key()));
        let added = Instance { index, attribute: usage_limits::begun(attribute.clone()) };
        self.rest.list.push(added.clone());
        Ok(numbering::told(added))
    }

    fn positions(&self, key: &AttributeRef) -> Vec<usize> {
        let has = |(at, i): (usize, &Instance)| (i.attribute.key() == *key).then_some(at);
        self.rest.list.iter().enumerate().filter_map(has).collect()
    }

    fn find(&self, key: &AttributeRef, which: Which<'_>) -> Result<usize, OpError> {
        let all = self.positions(key);
        if all.is_empty() {
            return Err(absent(key));
        }
        let is = |at: &&usize| match (self.rest.list.get(**at), which) {
            (Some(found), Which::Index(index)) => found.index.unwrap_or(0) == index,
            (Some(found), Which::Value(value)) => found.attribute == *value,
            (_, Which::Only) => all.len() == 1,
            (None, _) => false,
        };
        all.iter().find(is).copied().ok_or_else(|| OpError::NoInstance(called(key)))
    }

    /// Usage Limits stay as they are once something was used up.
    fn untouched(&self, attribute: &Attribute) -> Result<(), OpError> {
        let touched = usage_limits::of(&self.rest).is_some_and(usage_limits::is_touched);
        match attribute {
            Attribute::UsageLimits(_) if touched => {
                Err(OpError::Unchangeable("Usage Limits of which some is used up".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Sensitive is only switched on, Extractable only off.
    fn lock(&mut self, attribute: &Attribute) -> Result<(), OpError> {
        let meta = &mut self.meta;
        match attribute {
            Attribute::Sensitive(true) if !meta.sensitive => {
                (meta.sensitive, meta.locked_later.sensitive) = (true, true);
            }
            Attribute::Extractable(false) if meta.extractable => {
                (meta.extractable, meta.locked_later.not_extractable) = (false, true);
            }
            Attribute::Sensitive(value) if *value == meta.sensitive => {}
            Attribute::Extractable(value) if *value == meta.extractable => {}
            other => {
                let text = format!("{}: protection is only added", called(&other.key()));
                return Err(OpError::Denied(text));
            }
        }
        Ok(())
    }

    /// A date may be set while the object has not passed it.
    fn date(&mut self, attribute: &Attribute) -> Result<(), OpError> {
        let (state, now) = (self.state, self.now);
        let waiting = state == ObjectState::PreActive;
        let in_use = waiting || state == ObjectState::Active;
        let ahead = |date: Option<i64>| date.is_none_or(|date| date > now);
        let dates = &mut self.meta.dates;
        let (may, place, at) = match attribute {
            Attribute::ActivationDate(DateTime(at)) => (waiting, &mut dates.activation, at),
            Attribute::DeactivationDate(DateTime(at)) => (in_use, &mut dates.deactivation, at),
            Attribute::ProcessStartDate(DateTime(at)) => {
                (in_use && ahead(dates.process_start), &mut dates.process_start, at)
            }
            Attribute::ProtectStopDate(DateTime(at)) => {
                (in_use && ahead(dates.protect_stop), &mut dates.protect_stop, at)
            }
            other => return Err(OpError::Unchangeable(called(&other.key()))),
        };
        if !may {
            let what = called(&attribute.key());
            return Err(OpError::Lifecycle(format!("{what}: the object is {state:?} already")));
        }
        *place = Some(*at);
        Ok(())
    }

    fn set_mask(&mut self, attribute: &Attribute) {
        if let Attribute::CryptographicUsageMask(mask) = attribute {
            self.meta.usage_mask = Some(*mask);
        }
    }
}

/// Why an instance is not there twice.
fn has_it(attribute: &Attribute) -> OpError {
    match names::of(attribute) {
        Some(name) => OpError::NameTaken(name.to_owned()),
        None => OpError::HasOne(format!("{} of this value", called(&attribute.key()))),
    }
}

/// Why an attribute is not among those that can be changed one by one.
fn absent(key: &AttributeRef) -> OpError {
    match rules::of_key(key) {
        Rule::Free | Rule::Limits => OpError::NoAttribute(called(key)),
        _ => OpError::Unchangeable(called(key)),
    }
}

fn check(attribute: &Attribute) -> Result<(), OpError> {
    if let Attribute::Unknown(unknown) = attribute {
        return Err(OpError::UnknownAttribute(called(&unknown.key)));
    }
    check_value(attribute)?;
    qkd::refuse_claim(attribute)
}
