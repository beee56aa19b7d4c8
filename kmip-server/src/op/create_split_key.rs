//! Create Split Key: a key of the caller, or a new one that nobody keeps, in parts.

use km_core::{
    material::ClearBytes,
    objects::Objects,
    provenance::Origin,
    store::{MAX_COMMIT_BYTES, MAX_OPS},
};
use kmip::{
    attribute::{AttributeKind, Attributes},
    enums::{KeyFormatType, ObjectType, OperationCode, SplitKeyMethod},
    op::create_split_key::{Request, Response},
};

use super::create::key_len;
use crate::{
    context::Context,
    error::OpError,
    find, house,
    meta::{Form, Meta, Part},
    qkd, split, storage, template, terms,
    wanted::Wanted,
};

/// Most parts of a key.
const MAX_PARTS: i32 = 32;

/// A key to be split.
struct Whole {
    meta: Meta,
    clear: std::sync::Arc<ClearBytes>,
    origin: Origin,
}

pub(crate) async fn create_split_key(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let plan = Plan::of(&request)?;
    storage::choose(cx, request.protection_storage_masks.as_ref(), false)?;
    let attributes = template::expand(cx, request.attributes).await?;
    let there = match request.id {
        Some(_) => Some(existing(cx, request.id, request.object_type).await?),
        None => None,
    };
    let like = there.as_ref().map(|whole| &whole.meta);
    let wanted = house::wanted(cx, attributes, ObjectType::SplitKey, like).await?;
    qkd::refuse_claims(&wanted)?;
    if wanted.names().next().is_some() {
        let text = "the parts cannot all have one name; leave it out";
        return Err(OpError::invalid(AttributeKind::Name, text));
    }
    let whole = match there {
        Some(whole) => whole,
        None => fresh(cx, &wanted, request.object_type).await?,
    };
    plan.check_room(terms::of(ObjectType::SplitKey, &wanted.rest).len(), whole.clear.len())?;
    let owner = cx.caller.tenant();
    cx.objects().check_room(owner, plan.parts.into())?;
    let (mut ids, mut new) = (Vec::new(), Vec::new());
    for (part, bytes) in (1..).zip(plan.split(cx, &whole.clear).await?) {
        let meta = plan.part(&whole.meta, &wanted, part, &bytes, cx.now);
        let uid = Objects::fresh_uid();
        let sealed = cx.objects().seal(&uid, owner, &bytes).await?;
        let draft = super::draft(cx, uid.clone(), &meta, &wanted.rest, whole.origin.clone());
        new.push((draft, sealed));
        ids.push(uid);
    }
    // All parts or none: some of them alone would be of no use.
    cx.objects().create_sealed(new).await?;
    // The placeholder is the first part.
    cx.remember(OperationCode::CreateSplitKey, ids.iter().take(1).cloned().collect());
    Ok(Response { ids, attributes: Attributes::default() })
}

async fn existing(
    cx: &Context<'_>,
    id: Option<kmip::attribute::UniqueIdentifier>,
    kind: ObjectType,
) -> Result<Whole, OpError> {
    let (object, _) = find::on_line(cx, id).await?;
    let meta = Meta::of(&object)?;
    if object.state.is_destroyed() {
        return Err(OpError::Destroyed(object.uid));
    }
    let splits = matches!(
        meta.kind(),
        ObjectType::SymmetricKey | ObjectType::PrivateKey | ObjectType::SecretData
    );
    if meta.kind() != kind || !splits {
        let text = "symmetric keys, private keys and secret data are split, each under its type";
        return Err(OpError::ObjectType(text.to_owned()));
    }
    if !meta.extractable {
        return Err(OpError::NotExtractable(object.uid));
    }
    if meta.sensitive {
        return Err(OpError::Sensitive(object.uid));
    }
    if meta.wrapping.is_some() || meta.form != Form::Bytes {
        let text = "wrapped and transparent keys are not split".to_owned();
        return Err(OpError::Illegal(text));
    }
    let clear = cx.objects().open(&object).await?;
    Ok(Whole { meta, clear, origin: object.provenance.origin })
}

async fn fresh(cx: &Context<'_>, wanted: &Wanted, kind: ObjectType) -> Result<Whole, OpError> {
    if kind != ObjectType::SymmetricKey {
        let text = "new keys that are split at once are symmetric; name the object to split";
        return Err(OpError::ObjectType(text.to_owned()));
    }
    let algorithm =
        wanted.algorithm.ok_or(OpError::Missing("Cryptographic Algorithm is missing"))?;
    let (len, bits) = key_len(algorithm, wanted.length)?;
    let random = cx.objects().vault().random();
    let clear = random.bytes(len).await?;
    let mut meta = clear.expose(|bytes| Meta::new(kind, Form::Bytes, bytes, cx.now));
    meta.set_format(KeyFormatType::Raw);
    meta.set_algorithm(algorithm);
    meta.length = Some(bits);
    Ok(Whole { meta, clear: clear.into(), origin: random.origin() })
}

/// How to split.
struct Plan {
    parts: u8,
    threshold: u8,
    method: SplitKeyMethod,
}

impl Plan {
    fn of(request: &Request) -> Result<Self, OpError> {
        let (parts, threshold) = (request.parts, request.threshold);
        if !(2..=MAX_PARTS).contains(&parts) || !(2..=parts).contains(&threshold) {
            let text = format!("a key has 2 to {MAX_PARTS} parts, of which 2 or more are needed");
            return Err(OpError::Invalid(text));
        }
        match request.method {
            SplitKeyMethod::Xor if threshold != parts => {
                let text = "exclusive or needs all parts: Split Key Threshold is Split Key Parts";
                return Err(OpError::Invalid(text.to_owned()));
            }
            SplitKeyMethod::Xor | SplitKeyMethod::PolynomialGf2_8 => {}
            _ => return Err(OpError::Feature("keys are split by XOR and in GF(2^8) only")),
        }
        let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        Ok(Self { parts: byte(parts), threshold: byte(threshold), method: request.method })
    }

    /// Refuses what one commit has no room for: of each part a check, the object and its terms.
    fn check_room(&self, terms: usize, len: usize) -> Result<(), OpError> {
        let parts = usize::from(self.parts);
        let (ops, bytes) = (parts * (2 + terms), parts * len);
        if ops <= MAX_OPS && bytes <= MAX_COMMIT_BYTES {
            return Ok(());
        }
        Err(OpError::TooMuch(format!(
            "all parts are stored at once: {ops} operations and more than {bytes} bytes, at most \
             {MAX_OPS} and {MAX_COMMIT_BYTES}; ask for fewer parts or searchable attributes"
        )))
    }

    async fn split(
        &self,
        cx: &Context<'_>,
        clear: &ClearBytes,
    ) -> Result<Vec<ClearBytes>, OpError> {
        let xor = self.method == SplitKeyMethod::Xor;
        let rows = usize::from(if xor { self.parts } else { self.threshold }) - 1;
        let random = cx.objects().vault().random().bytes(rows * clear.len()).await?;
        let parts = clear.expose(|secret| {
            random.expose(|random| match xor {
                true => split::split_xor(secret, usize::from(self.parts), random),
                false => split::split_gf256(secret, self.parts, random),
            })
        });
        Ok(parts.into_iter().map(ClearBytes::from).collect())
    }

    fn part(&self, whole: &Meta, wanted: &Wanted, part: i32, bytes: &ClearBytes, now: i64) -> Meta {
        let mut meta =
            bytes.expose(|bytes| Meta::new(ObjectType::SplitKey, Form::Bytes, bytes, now));
        meta.set_format(whole.format().unwrap_or(KeyFormatType::Raw));
        if let Some(algorithm) = whole.algorithm() {
            meta.set_algorithm(algorithm);
        }
        meta.length = whole.length;
        meta.usage_mask = whole.usage_mask;
        wanted.apply(&mut meta);
        meta.part = Some(Part {
            parts: i32::from(self.parts),
            part,
            threshold: i32::from(self.threshold),
            method: self.method.number(),
            prime: None,
        });
        meta
    }
}
