//! An identifier to the caller's object. Every operation that names an object enters here.

use km_core::{
    key_id::KeyId,
    objects::{Object, ObjectError, ObjectStep},
    store::Version,
};
use kmip::attribute::UniqueIdentifier;

use crate::{context::Context, error::OpError, meta::Meta, qkd};

/// How often a change is tried again when others change the same object at the same time.
const TRIES: usize = 8;

/// The object a request names. A pool key that waits for the caller becomes an object by it.
pub(crate) async fn object(
    cx: &Context<'_>,
    id: Option<UniqueIdentifier>,
) -> Result<(Object, Version), OpError> {
    let uid = cx.resolve(id)?;
    cx.check_right(&uid)?;
    let Some(key) = KeyId::parse(&uid) else {
        return Ok(cx.objects().get(cx.caller.tenant(), &uid).await?);
    };
    let stored = key.to_string();
    match qkd::existing(cx.objects(), cx.caller.tenant(), &stored).await? {
        Some(found) => Ok(found),
        None => Box::pin(qkd::collect(cx, key)).await,
    }
}

/// As [`object`], when it is not in archival storage.
pub(crate) async fn on_line(
    cx: &Context<'_>,
    id: Option<UniqueIdentifier>,
) -> Result<(Object, Version), OpError> {
    let found = object(cx, id).await?;
    on_line_head(&found.0).map(|_| found)
}

/// The head of an object, when it is not in archival storage.
pub(crate) fn on_line_head(object: &Object) -> Result<Meta, OpError> {
    let meta = Meta::of(object)?;
    match meta.dates.archived {
        None => Ok(meta),
        Some(_) => Err(OpError::Archived(object.uid.clone())),
    }
}

/// As [`on_line`], only if it is the caller's object already, and no error.
pub(crate) async fn on_line_already(cx: &Context<'_>, uid: &str) -> Option<Object> {
    cx.check_right(uid).ok()?;
    let tenant = cx.caller.tenant();
    let found = match KeyId::parse(uid) {
        Some(key) => qkd::existing(cx.objects(), tenant, &key.to_string()).await.ok()??,
        None => cx.objects().get(tenant, uid).await.ok()?,
    };
    Meta::of(&found.0).ok()?.dates.archived.is_none().then_some(found.0)
}

/// Takes `step` on the object a request names, after the steps its dates have already taken.
/// `change` adjusts the head.
pub(crate) async fn step(
    cx: &Context<'_>,
    id: Option<UniqueIdentifier>,
    step: ObjectStep,
    change: impl Fn(&mut Meta),
) -> Result<Object, OpError> {
    let (mut object, _) = on_line(cx, id).await?;
    for _ in 0..TRIES {
        let due = due_step(&object, cx.now)?;
        let taken = match due {
            Some(due) => take(cx, &object, due, |_| {}).await,
            None => take(cx, &object, step, &change).await,
        };
        match (taken, due) {
            (Ok(changed), Some(_)) => object = changed,
            (Ok(changed), None) => return Ok(changed),
            (Err(ObjectError::Conflict(uid)), _) => {
                object = cx.objects().get(cx.caller.tenant(), &uid).await?.0;
            }
            (Err(error), _) => return Err(error.into()),
        }
    }
    Err(ObjectError::Conflict(object.uid).into())
}

/// Changes the head of `object`, again when others change the object at the same time; gives its
/// identifier.
pub(crate) async fn change(
    cx: &Context<'_>,
    object: Object,
    change: impl Fn(&mut Meta),
) -> Result<String, OpError> {
    let uid = object.uid;
    for _ in 0..TRIES {
        let (old, version) = cx.objects().get(cx.caller.tenant(), &uid).await?;
        if old.state.is_destroyed() {
            return Err(OpError::Destroyed(uid));
        }
        let mut new = old.clone();
        Meta::change(&mut new, |meta| {
            change(meta);
            meta.dates.changed = cx.now;
        });
        match cx.objects().update(&old, version, &new).await {
            Err(ObjectError::Conflict(_)) => {}
            done => return done.map(|()| uid).map_err(OpError::from),
        }
    }
    Err(ObjectError::Conflict(uid).into())
}

/// The step a date of the object has brought that nobody wrote down yet.
fn due_step(object: &Object, now: i64) -> Result<Option<ObjectStep>, OpError> {
    use km_core::objects::ObjectState::{Active, PreActive};
    let now = Meta::of(object)?.state_at(object.state, now);
    Ok(match object.state {
        state if state == now => None,
        PreActive => Some(ObjectStep::Activate),
        Active => Some(ObjectStep::Deactivate),
        _ => None,
    })
}

async fn take(
    cx: &Context<'_>,
    object: &Object,
    step: ObjectStep,
    change: impl Fn(&mut Meta),
) -> Result<Object, ObjectError> {
    let stepped = |object: &mut Object| {
        Meta::change(object, |meta| {
            change(meta);
            meta.dates.changed = cx.now;
        });
        if object.state.is_destroyed() {
            retire_terms(object);
        }
    };
    cx.objects().step(cx.caller.tenant(), &object.uid, step, stepped).await
}

/// Frees the names of a destroyed object; a search for destroyed objects still finds them.
fn retire_terms(object: &mut Object) {
    let gone = crate::terms::gone("");
    for term in object.terms.iter_mut().filter(|term| !term.starts_with(&gone)) {
        *term = crate::terms::gone(term);
    }
}
