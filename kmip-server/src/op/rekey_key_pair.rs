//! Re-key Key Pair: a new pair with the attributes of an old one, linked with it. The names go over
//! to the new keys.

use km_core::{
    objects::{Object, Objects},
    store::Version,
    vault::SealedObject,
};
use kmip::{
    Interval,
    attribute::Attributes,
    enums::{LinkType, ObjectType, OperationCode},
    op::{
        create::ProtectionStorageMasks,
        rekey_key_pair::{Request, Response},
    },
};

use super::{
    create_key_pair::{MADE, Plan, curve, kind_of, merged},
    rekey::{check_dates, is_renamed, succeed, succession, superseded},
};
use crate::{
    context::Context,
    error::OpError,
    find, house,
    locks::Held,
    meta::{Meta, linked},
    qkd, storage, template,
    unit::Unit,
    wanted::Wanted,
};

pub(crate) async fn rekey_key_pair(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let Request { private_id, offset, changes } = request;
    let masks = [changes.common_masks, changes.private_masks, changes.public_masks];
    let common = template::expand(cx, changes.common).await?;
    let private = merged(&common, template::expand(cx, changes.private).await?);
    let public = merged(&common, template::expand(cx, changes.public).await?);
    check_dates(offset, &[&private, &public])?;
    let (found, _) = find::on_line(cx, private_id).await?;
    place(cx, &found, masks.each_ref().map(Option::as_ref))?;
    let unit = Unit::begin(cx);
    let done = replace(cx, unit.objects(), &found, offset, [&private, &public]).await;
    // Held until the new keys are there.
    let (private_id, public_id, _held) = unit.end(done).await?;
    cx.remember(OperationCode::ReKeyKeyPair, vec![private_id.clone()]);
    cx.public_of_rekeyed = Some(public_id.clone());
    Ok(Response { private_id, public_id, ..Response::default() })
}

/// Where the new keys are kept: where the old ones are, when nobody says and it may be asked for.
fn place(
    cx: &mut Context<'_>,
    private: &Object,
    masks: [Option<&ProtectionStorageMasks>; 3],
) -> Result<(), OpError> {
    let is = |is: fn(&SealedObject) -> bool| private.sealed.as_ref().is_some_and(is);
    if masks.iter().all(Option::is_none) && is(SealedObject::is_kept_in_token) {
        cx.keep_inside();
    }
    let meta = Meta::of(private)?;
    let is_secret = meta.sensitive || !meta.extractable;
    storage::choose_for_pair(cx, masks, is(SealedObject::is_only_in_token) || is_secret)
}

/// A key of the old pair, as it is read.
struct Old {
    object: Object,
    version: Version,
    meta: Meta,
    rest: Attributes,
}

impl Old {
    async fn read(
        cx: &Context<'_>,
        objects: &Objects,
        uid: &str,
        kind: ObjectType,
    ) -> Result<Self, OpError> {
        let (object, version) = objects.get(cx.caller.tenant(), uid).await?;
        let (meta, rest) = Meta::with_rest(&object)?;
        if meta.kind() != kind {
            let text = "Re-key Key Pair takes the private key of a pair whose public key is here";
            return Err(OpError::ObjectType(text.to_owned()));
        }
        if object.state.is_destroyed() {
            return Err(OpError::Destroyed(object.uid));
        }
        if meta.wrapping.is_some() {
            let text = "a pair of which a key was registered wrapped is not made again";
            return Err(OpError::Illegal(text.to_owned()));
        }
        Ok(Self { object, version, meta, rest })
    }

    /// What the new key asks for.
    async fn wanted(
        &self,
        cx: &Context<'_>,
        offset: Option<Interval>,
        changes: &Attributes,
    ) -> Result<Wanted, OpError> {
        let all = succession(&self.meta, &self.rest, cx.now, offset, changes);
        house::check(cx, &all, self.meta.kind(), None).await?;
        let mut wanted = Wanted::read(all, self.meta.kind())?;
        qkd::refuse_claims(&wanted)?;
        if wanted.algorithm != self.meta.algorithm() || wanted.length != self.meta.length {
            let text = "a pair is made again with its algorithm and length; use Create Key Pair";
            return Err(OpError::Invalid(text.to_owned()));
        }
        succeed(&mut wanted.rest, &self.object.uid, &self.rest, cx.now);
        Ok(wanted)
    }

    /// Names that come from the old key are free as soon as the new one is there.
    fn lets_go(&self, changes: &Attributes) -> Option<&str> {
        (!is_renamed(changes)).then_some(self.object.uid.as_str())
    }

    /// Writes the old key as it is from now on.
    async fn supersede(
        self,
        objects: &Objects,
        by: &str,
        changes: &Attributes,
        now: i64,
    ) -> Result<(), OpError> {
        let Self { object, version, meta, rest } = self;
        let changed = superseded(&object, meta, &rest, by, is_renamed(changes), now);
        Ok(objects.update(&object, version, &changed).await?)
    }
}

async fn replace(
    cx: &Context<'_>,
    objects: &Objects,
    private: &Object,
    offset: Option<Interval>,
    [private_changes, public_changes]: [&Attributes; 2],
) -> Result<(String, String, Option<Held>), OpError> {
    let private = Old::read(cx, objects, &private.uid, ObjectType::PrivateKey).await?;
    let text = "the private key has no link to its public key; add it, or use Create Key Pair";
    let other = linked(&private.rest, LinkType::PublicKeyLink);
    let other = other.ok_or_else(|| OpError::Illegal(text.to_owned()))?;
    let public = Old::read(cx, objects, other, ObjectType::PublicKey).await?;
    let wanted = private.wanted(cx, offset, private_changes).await?;
    let public_wanted = public.wanted(cx, offset, public_changes).await?;
    let algorithm = wanted.algorithm.ok_or(OpError::Missing("the pair has no algorithm"))?;
    let length = wanted.length;
    let kind = kind_of(algorithm, length, curve(&wanted).or(curve(&public_wanted)))
        .ok_or_else(|| OpError::Illegal("this server makes no such pairs".to_owned()))?;
    let only_inside = private.object.sealed.as_ref().is_some_and(SealedObject::is_only_in_token);
    if only_inside
        && (wanted.extractable == Some(true) || !matches!(wanted.format, None | Some(MADE)))
    {
        let text = "the old private key never leaves the token, and its successor does not either; \
                    ask for no other format, and not for one that is extractable";
        return Err(OpError::Denied(text.to_owned()));
    }
    let olds = [private.lets_go(private_changes), public.lets_go(public_changes)];
    let olds: Vec<_> = olds.into_iter().flatten().collect();
    let held = super::hold_names_of(cx, &[&wanted, &public_wanted], &olds).await?;
    let plan =
        Plan { algorithm, length, kind, private: wanted, public: public_wanted, only_inside };
    let (private_id, public_id) = plan.carry_out(cx, objects).await?;
    private.supersede(objects, &private_id, private_changes, cx.now).await?;
    public.supersede(objects, &public_id, public_changes, cx.now).await?;
    Ok((private_id, public_id, held))
}
