//! Create Key Pair: RSA, ECDSA, ECDH, Ed25519, X25519 or ML-DSA. A private key that is never to leave is
//! made inside the token; others are made in this process, where the operator allows it.

use km_core::{
    hsm::HsmError,
    material::ClearBytes,
    objects::{ObjectError, Objects},
    provenance::Origin,
    usage::{Curve, KeyKind, RSA_BITS},
    vault::SealedObject,
};
use kmip::{
    attribute::{Attribute, AttributeKind, Attributes, Link, UniqueIdentifier},
    enums::{
        CryptographicAlgorithm as Algorithm, KeyFormatType, LinkType, ObjectType, OperationCode,
    },
    op::create_key_pair::{Request, Response},
};

use crate::{
    context::Context,
    error::OpError,
    formats, house,
    meta::{Form, Meta},
    qkd, storage, template, usage,
    wanted::Wanted,
};

pub(crate) async fn create_key_pair(
    cx: &mut Context<'_>,
    request: Request,
) -> Result<Response, OpError> {
    let masks = [request.common_masks, request.private_masks, request.public_masks];
    let common = template::expand(cx, request.common).await?;
    let private = template::expand(cx, request.private).await?;
    let public = template::expand(cx, request.public).await?;
    let private = read(cx, &common, private, ObjectType::PrivateKey).await?;
    let public = read(cx, &common, public, ObjectType::PublicKey).await?;
    let algorithm = agreed(private.algorithm, public.algorithm)?;
    let algorithm = algorithm.ok_or(OpError::Missing("Cryptographic Algorithm is missing"))?;
    let length = agreed(private.length, public.length)?;
    let curve = curve(&private).or(curve(&public));
    let bits = curve.map(curve_bits);
    let on_curves = matches!(algorithm, Algorithm::Ec | Algorithm::Ecdsa | Algorithm::Ecdh);
    if on_curves && length.is_some() && bits.is_some_and(|bits| Some(bits) != length) {
        let text = "it is not the length of the Recommended Curve, or pairs are not made on that";
        return Err(OpError::invalid(AttributeKind::CryptographicLength, text));
    }
    let length = length.or(bits).or(usual(algorithm));
    let kind = kind_of(algorithm, length, curve);
    // The algorithm alone says the parameter set.
    let kind = kind.filter(|kind| !matches!(kind, KeyKind::MlDsa(_)) || length == usual(algorithm));
    let kind = kind.ok_or_else(|| {
        let text = "pairs are made for RSA, ECDSA and ECDH on P-256, P-384 and P-521, Ed25519, \
                    ECDH on CURVE25519, and ML-DSA";
        OpError::invalid(AttributeKind::CryptographicAlgorithm, text)
    })?;
    if kind == KeyKind::Rsa
        && !RSA_BITS.iter().any(|bits| i64::from(*bits) == length.map_or(0, i64::from))
    {
        let text = "RSA keys are made with 2048, 3072 or 4096 bits";
        return Err(OpError::invalid(AttributeKind::CryptographicLength, text));
    }
    let _held = super::hold_names(cx, &[&private, &public]).await?;
    let plan = Plan { algorithm, length, kind, private, public, only_inside: false };
    storage::choose_for_pair(cx, masks.each_ref().map(Option::as_ref), plan.is_wrapped(cx))?;
    let (private_id, public_id) = plan.carry_out(cx, cx.objects()).await?;
    cx.remember(OperationCode::CreateKeyPair, vec![private_id.clone()]);
    cx.public_of_pair = Some(public_id.clone());
    Ok(Response { private_id, public_id, ..Response::default() })
}

/// What is wanted of one key: its own attributes, and the common ones it does not say itself.
async fn read(
    cx: &Context<'_>,
    common: &Attributes,
    own: Attributes,
    kind: ObjectType,
) -> Result<Wanted, OpError> {
    let wanted = house::wanted(cx, merged(common, own), kind, None).await?;
    qkd::refuse_claims(&wanted)?;
    wanted.usage_mask.ok_or(OpError::Missing("Cryptographic Usage Mask is missing"))?;
    Ok(wanted)
}

/// The attributes of one key of a pair: its own, and the common ones it does not say itself.
pub(super) fn merged(common: &Attributes, own: Attributes) -> Attributes {
    let mut all = own.clone();
    for instance in &common.list {
        let single = instance.attribute.kind().filter(|kind| !kind.is_multiple());
        if single.is_none_or(|single| !own.iter().any(|a| a.kind() == Some(single))) {
            all.list.push(instance.clone());
        }
    }
    all
}

/// Both keys of a pair say the same, or one of them does.
fn agreed<T: PartialEq>(one: Option<T>, other: Option<T>) -> Result<Option<T>, OpError> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => {
            let text = "the two keys of a pair have one algorithm and one length".to_owned();
            Err(OpError::Invalid(text))
        }
        (one, other) => Ok(one.or(other)),
    }
}

/// CURVE25519 among the curves of KMIP 2.1, 11.43.
const CURVE25519: u32 = 0x45;

/// What is made: for ECDH, X25519 where the curve is the one for it.
pub(super) fn kind_of(
    algorithm: Algorithm,
    length: Option<i32>,
    curve: Option<u32>,
) -> Option<KeyKind> {
    match (algorithm, curve) {
        (Algorithm::Ecdh, Some(CURVE25519)) => Some(KeyKind::X25519),
        (_, Some(CURVE25519)) if algorithm != Algorithm::Ed25519 => None,
        (Algorithm::Ecdh, _) => usage::pair_kind(Algorithm::Ec, length),
        _ => usage::pair_kind(algorithm, length),
    }
}

/// The curve that the domain parameters name, as KMIP numbers it (2.1, 11.43).
pub(super) fn curve(wanted: &Wanted) -> Option<u32> {
    wanted.rest.iter().find_map(|attribute| match attribute {
        Attribute::CryptographicDomainParameters(domain) => domain.recommended_curve.map(|it| it.0),
        _ => None,
    })
}

/// Bits of such a curve; none of those that pairs are not made on.
fn curve_bits(curve: u32) -> i32 {
    match curve {
        0x07 | CURVE25519 => 256,
        0x0A => 384,
        0x0D => 521,
        _ => 0,
    }
}

/// The length of keys whose length nobody says.
fn usual(algorithm: Algorithm) -> Option<i32> {
    match algorithm {
        Algorithm::Rsa => Some(3072),
        Algorithm::Ed25519 | Algorithm::Ec | Algorithm::Ecdsa | Algorithm::Ecdh => Some(256),
        // That of the public key.
        Algorithm::MlDsa44 => Some(8 * 1312),
        Algorithm::MlDsa65 => Some(8 * 1952),
        Algorithm::MlDsa87 => Some(8 * 2592),
        _ => None,
    }
}

/// A key in the form that is asked for, and its head.
fn in_form(
    made: ClearBytes,
    kind: ObjectType,
    is: KeyFormatType,
    asked: KeyFormatType,
    now: i64,
) -> Result<(ClearBytes, Meta), OpError> {
    let head = |clear: &ClearBytes, format| {
        let mut meta = clear.expose(|bytes| Meta::new(kind, Form::Bytes, bytes, now));
        meta.set_format(format);
        meta.dates.original = Some(now);
        meta
    };
    let meta = head(&made, is);
    if is == asked {
        return Ok((made, meta));
    }
    let clear = formats::recode(&meta, &made, asked)?;
    let meta = head(&clear, asked);
    Ok((clear, meta))
}

/// The form private keys are made in.
pub(super) const MADE: KeyFormatType = KeyFormatType::Pkcs8;

/// A pair that is to be made.
pub(super) struct Plan {
    pub(super) algorithm: Algorithm,
    pub(super) length: Option<i32>,
    pub(super) kind: KeyKind,
    pub(super) private: Wanted,
    pub(super) public: Wanted,
    /// Not outside the token, come what may.
    pub(super) only_inside: bool,
}

/// The two keys as they were made.
struct Made {
    private: SealedObject,
    private_meta: Meta,
    public: Vec<u8>,
    origin: Origin,
}

impl Plan {
    /// Makes the pair in `objects`: its private and its public key.
    pub(super) async fn carry_out(
        &self,
        cx: &Context<'_>,
        objects: &Objects,
    ) -> Result<(String, String), OpError> {
        let (private_id, public_id) = (Objects::fresh_uid(), Objects::fresh_uid());
        let made = self.make(cx, objects, &private_id).await?;
        let is = self.usual_public();
        let asked = self.public.format.unwrap_or(is);
        let clear = ClearBytes::from_vec(made.public);
        let (clear, public_meta) = in_form(clear, ObjectType::PublicKey, is, asked, cx.now)?;
        let private_meta = made.private_meta;
        let public = objects.seal(&public_id, cx.caller.tenant(), &clear).await?;
        let new = |mut meta: Meta, wanted: &Wanted, id: &str, other: &str, kind| {
            meta.set_algorithm(self.algorithm);
            meta.length = self.length;
            wanted.apply(&mut meta);
            let mut rest = wanted.rest.clone();
            let target = UniqueIdentifier::from(other);
            rest.push(Attribute::Link(Link { kind, target }));
            super::draft(cx, id.to_owned(), &meta, &rest, made.origin.clone())
        };
        let to_public = LinkType::PublicKeyLink;
        let to_private = LinkType::PrivateKeyLink;
        let private_new = new(private_meta, &self.private, &private_id, &public_id, to_public);
        let public_new = new(public_meta, &self.public, &public_id, &private_id, to_private);
        let both = vec![(private_new, made.private), (public_new, public)];
        objects.create_sealed(both).await?;
        Ok((private_id, public_id))
    }

    /// Whether the token is to make the private key, which never leaves it in clear.
    pub(super) fn is_wrapped(&self, cx: &Context<'_>) -> bool {
        let inside = self.private.is_secret()
            || (cx.objects().is_token_only() && !self.private.is_to_leave());
        self.only_inside || (inside && matches!(self.private.format, None | Some(MADE)))
    }

    async fn make(&self, cx: &Context<'_>, objects: &Objects, id: &str) -> Result<Made, OpError> {
        let owner = cx.caller.tenant().as_str();
        let bits = self.length.and_then(|bits| u32::try_from(bits).ok()).unwrap_or(0);
        if self.is_wrapped(cx) {
            match objects.make_in_token((id, owner), (self.kind, bits), None).await {
                Ok(made) => {
                    let public = made.public.ok_or_else(|| {
                        OpError::Internal("the token made a pair without a public key".to_owned())
                    })?;
                    let len = self.private_bytes();
                    let mut private_meta = Meta::unseen(ObjectType::PrivateKey, len, cx.now);
                    private_meta.set_format(MADE);
                    let (private, origin) = (made.sealed, Origin::HsmRng);
                    return Ok(Made { private, private_meta, public, origin });
                }
                Err(ObjectError::Hsm(HsmError::Unsupported(_))) if !self.only_inside => {}
                Err(error) => return Err(usage::used(error)),
            }
        }
        let made = objects.make_in_process(self.kind, bits).await;
        let (pair, origin) = made.map_err(usage::used)?;
        let asked = self.private.format.unwrap_or(self.usual_private());
        let kind = ObjectType::PrivateKey;
        let (clear, private_meta) = in_form(pair.private, kind, MADE, asked, cx.now)?;
        let private = objects.seal(id, cx.caller.tenant(), &clear).await?;
        Ok(Made { private, private_meta, public: pair.public, origin })
    }

    /// The form of a private key when nobody says it: that of the OASIS cases.
    fn usual_private(&self) -> KeyFormatType {
        match self.kind {
            KeyKind::Rsa => KeyFormatType::Pkcs1,
            _ => MADE,
        }
    }

    /// The form public keys are made in.
    fn usual_public(&self) -> KeyFormatType {
        match self.kind {
            KeyKind::Rsa => KeyFormatType::Pkcs1,
            _ => KeyFormatType::X509,
        }
    }

    /// About the bytes of the private key; of one in the token nobody else knows.
    fn private_bytes(&self) -> usize {
        match self.kind {
            KeyKind::Ec(Curve::P521) => 66,
            KeyKind::Ec(curve) => curve.bytes(),
            KeyKind::MlDsa(_) => 32,
            _ => self.length.and_then(|bits| usize::try_from(bits / 8).ok()).unwrap_or(0),
        }
    }
}
