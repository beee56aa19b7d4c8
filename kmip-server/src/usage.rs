//! What the cryptographic operations share: the key of a request, fit for its use, and
//! cryptographic parameters to the domain's words. Enter through [`Subject::find`].

use km_core::{
    hsm::HsmError,
    material::ClearBytes,
    objects::{Object, ObjectError, ObjectState},
    usage::{Action, Curve, DsaSet, Hash, KeyKind, KeyUse, Scheme, local},
};
use kmip::{
    SecretBytes,
    attribute::{Attribute, CryptographicParameters, UniqueIdentifier},
    enums::{
        CryptographicAlgorithm as Algorithm, DigitalSignatureAlgorithm as Signature,
        HashingAlgorithm, KeyFormatType, ObjectType, PaddingMethod,
    },
};

use wiped::Wiped;

use crate::{
    context::Context,
    error::OpError,
    find,
    meta::{Form, Meta},
    places::Places,
    streams::Marks,
    usage_limits,
};

/// A use of a key: its bit in the Cryptographic Usage Mask, and whether it protects new data or
/// processes what was protected.
#[derive(Clone, Copy)]
pub(crate) struct Use {
    bit: i32,
    name: &'static str,
    protects: bool,
}

pub(crate) const SIGN: Use = Use { bit: 0x1, name: "Sign", protects: true };
pub(crate) const VERIFY: Use = Use { bit: 0x2, name: "Verify", protects: false };
pub(crate) const ENCRYPT: Use = Use { bit: 0x4, name: "Encrypt", protects: true };
pub(crate) const DECRYPT: Use = Use { bit: 0x8, name: "Decrypt", protects: false };
pub(crate) const MAC_GENERATE: Use = Use { bit: 0x80, name: "MAC Generate", protects: true };
pub(crate) const MAC_VERIFY: Use = Use { bit: 0x100, name: "MAC Verify", protects: false };
pub(crate) const DERIVE: Use = Use { bit: 0x200, name: "Derive Key", protects: true };

/// The key of a request, found fit for its use at this moment.
pub(crate) struct Subject {
    pub(crate) object: Object,
    pub(crate) meta: Meta,
    /// As the request says, else as the key's attribute does.
    pub(crate) parameters: CryptographicParameters,
}

impl Subject {
    /// The caller's key that a request names, if it may be used so now.
    pub(crate) async fn find(
        cx: &Context<'_>,
        id: Option<UniqueIdentifier>,
        parameters: Option<CryptographicParameters>,
        wanted: Use,
    ) -> Result<Self, OpError> {
        let (object, _) = find::on_line(cx, id).await?;
        Self::fit(cx, object, parameters, wanted)
    }

    /// As [`Subject::find`], for several items of a batch at once; `None` where each has to find it
    /// by itself: it is not there yet, may not be used so, or is used up by being used.
    pub(crate) async fn shared(
        cx: &Context<'_>,
        uid: &str,
        parameters: Option<CryptographicParameters>,
        wanted: Use,
    ) -> Option<Self> {
        let object = find::on_line_already(cx, uid).await?;
        let subject = Self::fit(cx, object, parameters, wanted).ok()?;
        (!subject.meta.limited).then_some(subject)
    }

    fn fit(
        cx: &Context<'_>,
        object: Object,
        parameters: Option<CryptographicParameters>,
        wanted: Use,
    ) -> Result<Self, OpError> {
        let (meta, parameters) = match parameters {
            Some(parameters) => (Meta::of(&object)?, parameters),
            None => {
                let (meta, rest) = Meta::with_rest(&object)?;
                let own = rest.iter().find_map(|attribute| match attribute {
                    Attribute::CryptographicParameters(own) => Some(own.clone()),
                    _ => None,
                });
                (meta, own.unwrap_or_default())
            }
        };
        let ahead = wanted.bit == DERIVE.bit && cx.server.limits.lenience.early_derivation;
        if !(ahead && meta.state_at(object.state, cx.now) == ObjectState::PreActive) {
            check_state(&object, &meta, wanted, cx.now)?;
        }
        if meta.usage_mask.unwrap_or(0) & wanted.bit == 0 {
            return Err(OpError::Mask(object.uid, wanted.name));
        }
        Ok(Self { object, meta, parameters })
    }

    /// Takes a protecting use of `bytes` bytes off the key's Usage Limits, if it has any.
    pub(crate) async fn spend(&self, cx: &Context<'_>, bytes: usize) -> Result<(), OpError> {
        match self.meta.limited {
            true => Box::pin(usage_limits::spend_use(cx, &self.object.uid, bytes)).await,
            false => Ok(()),
        }
    }

    /// What the key is, from its attributes.
    pub(crate) fn kind(&self) -> Result<KeyKind, OpError> {
        let raw = matches!(self.meta.format(), None | Some(KeyFormatType::Raw));
        let in_der = matches!(
            self.meta.format(),
            Some(
                KeyFormatType::Pkcs1
                    | KeyFormatType::Pkcs8
                    | KeyFormatType::X509
                    | KeyFormatType::EcPrivateKey
            )
        );
        if self.meta.form != Form::Bytes {
            return Err(self.unusable("it is in transparent form; register it in another"));
        }
        let kind = match (self.meta.kind(), self.meta.algorithm()) {
            (ObjectType::SymmetricKey, Some(Algorithm::Aes)) if raw => Some(KeyKind::Aes),
            (ObjectType::SymmetricKey, Some(Algorithm::ChaCha20 | Algorithm::ChaCha20Poly1305))
                if raw =>
            {
                Some(KeyKind::Local(local::Algorithm::ChaCha20))
            }
            (ObjectType::SymmetricKey, Some(Algorithm::Des3)) if raw => Some(KeyKind::TripleDes),
            (ObjectType::SymmetricKey, Some(Algorithm::Blowfish)) if raw => {
                Some(KeyKind::Local(local::Algorithm::Blowfish))
            }
            (ObjectType::SymmetricKey, Some(algorithm)) if raw => {
                hmac_hash(algorithm).map(|_| KeyKind::Hmac)
            }
            (ObjectType::SecretData, _) => Some(KeyKind::Hmac),
            (ObjectType::PrivateKey | ObjectType::PublicKey, Some(Algorithm::Ecdh)) => {
                let why = "an ECDH key is for Derive Key with Asymmetric Key and nothing else";
                return Err(self.unusable(why));
            }
            (ObjectType::PrivateKey | ObjectType::PublicKey, Some(algorithm)) if in_der => {
                pair_kind(algorithm, self.meta.length)
            }
            _ => None,
        };
        kind.ok_or_else(|| self.unusable("its type, algorithm or form is not for this operation"))
    }

    /// Does `action` with the key.
    pub(crate) async fn act(
        &self,
        cx: &Context<'_>,
        kind: KeyKind,
        action: &Action,
        input: &ClearBytes,
    ) -> Result<ClearBytes, OpError> {
        let _place = Places::take(cx, 1).await?;
        cx.objects().use_key(&self.object, kind, action, input).await.map_err(used)
    }

    /// Does each of `uses`, with one request to the token.
    pub(crate) async fn act_each(
        &self,
        cx: &Context<'_>,
        kind: KeyKind,
        uses: Vec<KeyUse>,
    ) -> Vec<Result<ClearBytes, OpError>> {
        let _places = match Places::take(cx, uses.len()).await {
            Ok(places) => places,
            Err(error) => return uses.iter().map(|_| Err(error.clone())).collect(),
        };
        let done = cx.objects().use_key_each(&self.object, kind, &uses.into()).await;
        done.into_iter().map(|done| done.map_err(used)).collect()
    }

    /// The bytes of a public key.
    pub(crate) async fn public_key(&self, cx: &Context<'_>) -> Result<Vec<u8>, OpError> {
        Ok(Box::pin(cx.objects().open(&self.object)).await?.expose(<[u8]>::to_vec))
    }

    /// Why the key cannot be used so.
    pub(crate) fn unusable(&self, why: &str) -> OpError {
        OpError::CannotUse(format!("object {}: {why}", self.object.uid))
    }

    /// The hash for HMAC: as asked, else that of the key's algorithm.
    pub(crate) fn mac_hash(&self) -> Result<Hash, OpError> {
        let asked = &self.parameters;
        if let Some(hash) = asked.hashing_algorithm {
            return hash_of(hash);
        }
        let algorithm = asked.cryptographic_algorithm.or(self.meta.algorithm());
        algorithm
            .and_then(hmac_hash)
            .ok_or(OpError::Missing("Cryptographic Parameters do not say which HMAC"))
    }

    /// The signature scheme: as asked, with PKCS #1 v1.5 and SHA-256 where nothing is said.
    pub(crate) fn scheme(&self, kind: KeyKind) -> Result<Scheme, OpError> {
        let asked = &self.parameters;
        let named = asked.digital_signature_algorithm.map(signature_hash).transpose()?.flatten();
        let hash = match (asked.hashing_algorithm, named) {
            (Some(hash), _) => hash_of(hash)?,
            (None, Some(hash)) => hash,
            (None, None) => Hash::Sha256,
        };
        let pss = asked.digital_signature_algorithm == Some(Signature::RsassaPss)
            || asked.padding_method == Some(PaddingMethod::Pss);
        match (kind, asked.padding_method) {
            (KeyKind::Rsa, _) if pss => {
                if asked
                    .mask_generator_hashing_algorithm
                    .is_some_and(|mask| hash_of(mask) != Ok(hash))
                {
                    return Err(OpError::CannotUse(
                        "PSS has one hash for both its uses".to_owned(),
                    ));
                }
                let salt = asked.salt_length.unwrap_or(i32::try_from(hash.len()).unwrap_or(0));
                let salt = u16::try_from(salt).map_err(|_| bad("Salt Length is out of range"))?;
                Ok(Scheme::RsaPss { hash, salt })
            }
            (KeyKind::Rsa, None | Some(PaddingMethod::Pkcs1V1_5)) => Ok(Scheme::RsaPkcs1(hash)),
            (KeyKind::Ec(_), None | Some(PaddingMethod::None)) => Ok(Scheme::Ecdsa(hash)),
            (KeyKind::Ed25519, None | Some(PaddingMethod::None)) => Ok(Scheme::Ed25519),
            (KeyKind::MlDsa(_), None | Some(PaddingMethod::None)) => Ok(Scheme::MlDsa),
            _ => Err(bad("the Padding Method is not one of this key")),
        }
    }
}

fn check_state(object: &Object, meta: &Meta, wanted: Use, now: i64) -> Result<(), OpError> {
    use ObjectState::{Active, Compromised, Deactivated, Destroyed, DestroyedCompromised};
    let state = meta.state_at(object.state, now);
    let late = meta.dates.protect_stop.is_some_and(|stop| stop <= now);
    let early = meta.dates.process_start.is_some_and(|start| start > now);
    let because = match state {
        Destroyed | DestroyedCompromised => return Err(OpError::Destroyed(object.uid.clone())),
        Active if wanted.protects && late => "its Protect Stop Date has passed",
        Active | Deactivated | Compromised if !wanted.protects && early => {
            "its Process Start Date has not come"
        }
        Active => return Ok(()),
        Deactivated | Compromised if !wanted.protects => return Ok(()),
        _ => "its state does not allow it",
    };
    Err(OpError::Lifecycle(format!("object {} cannot {}: {because}", object.uid, wanted.name)))
}

/// A refusal of the domain in the words of a client that uses a key.
pub(crate) fn used(error: ObjectError) -> OpError {
    match error {
        ObjectError::Hsm(error) => unfit(error),
        error => error.into(),
    }
}

/// As [`used`], of the HSM door alone.
pub(crate) fn unfit(error: HsmError) -> OpError {
    match error {
        HsmError::Input(why) => OpError::BadData(why),
        HsmError::Unsupported(why) => OpError::CannotUse(why),
        error => error.into(),
    }
}

pub(crate) fn bad(why: &str) -> OpError {
    OpError::BadParameters(why.to_owned())
}

/// The data of a request; the buffer itself changes hands.
pub(crate) fn clear(data: Option<SecretBytes>) -> Result<ClearBytes, OpError> {
    let data = data.ok_or(OpError::Missing("Data is missing"))?;
    Ok(data.into_inner().into())
}

/// The data of a request, or its hash in its place; a hash comes as data without bytes beside it.
#[allow(clippy::type_complexity, reason = "two callers that take it apart")]
pub(crate) fn data_or_digest(
    data: Option<SecretBytes>,
    digested: Option<Vec<u8>>,
    marks: &Marks,
) -> Result<(Option<Wiped>, Option<Vec<u8>>), OpError> {
    let in_parts =
        marks.correlation.is_some() || (marks.init == Some(true)) != (marks.last == Some(true));
    match (data, digested) {
        (Some(_), Some(_)) => Err(bad("send Data or Digested Data, not both")),
        (None, Some(_)) if in_parts => {
            Err(bad("Digested Data stands for the whole; send it in one part"))
        }
        (None, Some(digested)) => Ok((Some(Wiped::default()), Some(digested))),
        (data, None) => Ok((data.map(SecretBytes::into_inner), None)),
    }
}

/// What is signed or verified: the hash of the data or the one that was sent, or the data itself.
pub(crate) fn message(
    scheme: Scheme,
    data: ClearBytes,
    digested: Option<Vec<u8>>,
) -> Result<ClearBytes, OpError> {
    match (scheme.hash(), digested) {
        (Some(_), Some(_)) if !data.is_empty() => {
            Err(bad("Digested Data stands for the whole; send it in one part"))
        }
        (Some(hash), None) => Ok(ClearBytes::from_vec(data.expose(|data| hash.of(data)))),
        (Some(hash), Some(digested)) if digested.len() == hash.len() => {
            Ok(ClearBytes::from_vec(digested))
        }
        (Some(_), Some(_)) => Err(bad("Digested Data has not the length of the hash")),
        (None, None) => Ok(data),
        (None, Some(_)) => Err(bad("this signature takes Data, not Digested Data")),
    }
}

pub(crate) fn hash_of(hash: HashingAlgorithm) -> Result<Hash, OpError> {
    Ok(match hash {
        HashingAlgorithm::Sha1 => Hash::Sha1,
        HashingAlgorithm::Sha224 => Hash::Sha224,
        HashingAlgorithm::Sha256 => Hash::Sha256,
        HashingAlgorithm::Sha384 => Hash::Sha384,
        HashingAlgorithm::Sha512 => Hash::Sha512,
        HashingAlgorithm::Sha3_224 => Hash::Sha3_224,
        HashingAlgorithm::Sha3_256 => Hash::Sha3_256,
        HashingAlgorithm::Sha3_384 => Hash::Sha3_384,
        HashingAlgorithm::Sha3_512 => Hash::Sha3_512,
        _ => {
            let text = "this server has SHA-1, and SHA-2 and SHA-3 of 224 to 512 bits";
            return Err(OpError::CannotUse(text.to_owned()));
        }
    })
}

fn hmac_hash(algorithm: Algorithm) -> Option<Hash> {
    Some(match algorithm {
        Algorithm::HmacSha1 => Hash::Sha1,
        Algorithm::HmacSha224 => Hash::Sha224,
        Algorithm::HmacSha256 => Hash::Sha256,
        Algorithm::HmacSha384 => Hash::Sha384,
        Algorithm::HmacSha512 => Hash::Sha512,
        Algorithm::HmacSha3_224 => Hash::Sha3_224,
        Algorithm::HmacSha3_256 => Hash::Sha3_256,
        Algorithm::HmacSha3_384 => Hash::Sha3_384,
        Algorithm::HmacSha3_512 => Hash::Sha3_512,
        _ => return None,
    })
}

/// The hash a signature algorithm names; none where it names only the scheme.
fn signature_hash(signature: Signature) -> Result<Option<Hash>, OpError> {
    Ok(Some(match signature {
        Signature::Sha1WithRsa | Signature::EcdsaWithSha1 => Hash::Sha1,
        Signature::Sha224WithRsa | Signature::EcdsaWithSha224 => Hash::Sha224,
        Signature::Sha256WithRsa | Signature::EcdsaWithSha256 => Hash::Sha256,
        Signature::Sha384WithRsa | Signature::EcdsaWithSha384 => Hash::Sha384,
        Signature::Sha512WithRsa | Signature::EcdsaWithSha512 => Hash::Sha512,
        Signature::Sha3_256WithRsa => Hash::Sha3_256,
        Signature::Sha3_384WithRsa => Hash::Sha3_384,
        Signature::Sha3_512WithRsa => Hash::Sha3_512,
        Signature::RsassaPss => return Ok(None),
        _ => return Err(OpError::CannotUse("this signature algorithm is not had".to_owned())),
    }))
}

/// A kind of key pair.
pub(crate) fn pair_kind(algorithm: Algorithm, bits: Option<i32>) -> Option<KeyKind> {
    Some(match algorithm {
        Algorithm::Rsa => KeyKind::Rsa,
        Algorithm::Ecdsa | Algorithm::Ec => KeyKind::Ec(match bits? {
            256 => Curve::P256,
            384 => Curve::P384,
            521 => Curve::P521,
            _ => return None,
        }),
        Algorithm::Ed25519 => KeyKind::Ed25519,
        Algorithm::MlDsa44 => KeyKind::MlDsa(DsaSet::MlDsa44),
        Algorithm::MlDsa65 => KeyKind::MlDsa(DsaSet::MlDsa65),
        Algorithm::MlDsa87 => KeyKind::MlDsa(DsaSet::MlDsa87),
        _ => return None,
    })
}

/// A kind of secret key that tokens make and use, and what not every token does with it.
pub(crate) fn secret_kind(algorithm: Algorithm) -> Option<(KeyKind, Option<Action>)> {
    match algorithm {
        Algorithm::Aes => Some((KeyKind::Aes, None)),
        algorithm => hmac_hash(algorithm).map(|hash| (KeyKind::Hmac, Some(Action::Mac(hash)))),
    }
}
