//! An authority: its key in the token, its certificate beside it in the store. Enter through
//! [`Authority::make`] and [`Authority::open`].

use std::{fmt, time::Duration};

use der::{Decode, Encode, asn1::BitString, pem::LineEnding};
use km_core::{
    ids::SaeId,
    material::ClearBytes,
    objects::{NewObject, Object, ObjectError, ObjectState, Objects},
    provenance::{Origin, Provenance},
    random::RandomError,
    usage::{Action, Curve, Hash, KeyKind, Scheme},
};
use x509_cert::{
    Certificate, TbsCertificate,
    builder::{self, Builder, CertificateBuilder, profile::BuilderProfile},
    ext::{
        Extension, ToExtension,
        pkix::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages,
            SubjectAltName, SubjectKeyIdentifier,
        },
    },
    name::Name,
    serial_number::SerialNumber,
    spki::{
        AlgorithmIdentifierOwned, Document, DynSignatureAlgorithmIdentifier, EncodePublicKey,
        SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef,
    },
    time::{Time, Validity},
};

use crate::{BadRequest, Leaf, Uses, leaf, signature};

/// Whose objects the keys of authorities are: a name no application may have ([`SaeId::is_reserved`]).
const OWNER: &str = "qkm.authority";
/// What their keys are, and how they sign.
const KIND: KeyKind = KeyKind::Ec(Curve::P256);
const BITS: u32 = 256;
const SIGN: Action = Action::Sign(Scheme::Ecdsa(Hash::Sha256));
/// Bytes of a serial number: random, so that nobody can foresee a certificate.
const SERIAL: usize = 16;
/// Longest name of an authority, in bytes.
const MAX_NAME: usize = 32;
/// Clocks that are behind by so much take a new certificate all the same.
const BACK: u64 = 300;

/// When a certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First moment.
    pub from: u64,
    /// Last moment.
    pub until: u64,
}

impl Span {
    /// From `now`, a little back because of clocks that differ, for `days`.
    pub fn days(now: u64, days: u32) -> Self {
        let until = now.saturating_add(u64::from(days) * 86_400);
        Self { from: now.saturating_sub(BACK), until }
    }

    fn validity(self) -> Option<Validity> {
        let time = |seconds| {
            Time::try_from(
                der::DateTime::from_unix_duration(Duration::from_secs(seconds))
                    .ok()?
                    .to_system_time(),
            )
            .ok()
        };
        Some(Validity::new(time(self.from)?, time(self.until)?))
    }
}

/// Why there is no authority, or no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// A name of an authority is short and plain.
    #[error("{0:?} is no name of an authority: 1 to 32 letters, digits and hyphens")]
    Name(String),
    /// There is one of the name.
    #[error("there is an authority {0} already; it is not made anew")]
    Exists(String),
    /// The request for a certificate is refused.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// Times no certificate can have, or which the authority's own does not cover.
    #[error("the certificate cannot be valid {0}")]
    Span(&'static str),
    /// The certificate could not be put together, or the stored one cannot be read.
    #[error("authority {0}: {1}")]
    Certificate(String, String),
    /// No random numbers for the serial number.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The token did not make the key or did not sign, or the store did not keep it.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// A certificate authority of this cluster.
#[derive(Clone)]
pub struct Authority {
    objects: Objects,
    name: String,
    /// DER.
    certificate: Vec<u8>,
    subject: Name,
    key: SubjectPublicKeyInfoOwned,
    valid: Span,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.name)
    }
}

impl Authority {
    /// Makes the authority `name` (1 to 32 letters, digits and hyphens): a P-256 key in the token,
    /// which never leaves it, and a certificate of `subject` signed by it. Durable on return.
    ///
    /// # Errors
    /// See [`AuthorityError`]; [`km_core::hsm::HsmError::Unsupported`] inside when the token makes no such keys.
    pub async fn make(
        objects: &Objects,
        name: &str,
        subject: &str,
        valid: Span,
    ) -> Result<Self, AuthorityError> {
        let uid = uid(name)?;
        let subject = leaf::name(subject)?;
        if subject.is_empty() {
            return Err(BadRequest::Name(String::new()).into());
        }
        if Self::open(objects, name).await?.is_some() {
            return Err(AuthorityError::Exists(name.to_owned()));
        }
        let made = objects.make_in_token((&uid, OWNER), (KIND, BITS), None).await?;
        let broken = |what: &str| AuthorityError::Certificate(name.to_owned(), what.to_owned());
        let key = made.public.as_deref().and_then(signature::read_key);
        let key = key.ok_or_else(|| broken("the token made a key without a public half"))?;
        let object = Object {
            uid: uid.clone(),
            owner: owner(),
            state: ObjectState::Active,
            sealed: Some(made.sealed.clone()),
            provenance: Provenance::local(Origin::HsmRng),
            created_ms: 0,
            attributes: Vec::new(),
            terms: Vec::new(),
        };
        let plan = Plan { issuer: subject.clone(), leaf: None };
        let signed = Signing { objects, object: &object, key: &key, name };
        let certificate = signed.issue(plan, key.clone(), valid).await?;
        let new = NewObject {
            uid,
            owner: owner(),
            state: ObjectState::Active,
            provenance: object.provenance.clone(),
            attributes: certificate.clone(),
            terms: Vec::new(),
        };
        match objects.create_sealed(vec![(new, made.sealed)]).await {
            Err(ObjectError::Exists(_)) => return Err(AuthorityError::Exists(name.to_owned())),
            done => done?,
        }
        let objects = objects.clone();
        Ok(Self { objects, name: name.to_owned(), certificate, subject, key, valid })
    }

    /// The authority `name`, if there is one.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`] when what is stored cannot be read.
    pub async fn open(objects: &Objects, name: &str) -> Result<Option<Self>, AuthorityError> {
        let object = match objects.get(&owner(), &uid(name)?).await {
            Err(ObjectError::NotFound(_)) => return Ok(None),
            found => found?.0,
        };
        let unreadable = |e: der::Error| {
            AuthorityError::Certificate(name.to_owned(), format!("its certificate is damaged: {e}"))
        };
        let certificate = Certificate::from_der(&object.attributes).map_err(unreadable)?;
        let tbs = certificate.tbs_certificate();
        let seconds = |time: &Time| time.to_unix_duration().as_secs();
        let valid = Span {
            from: seconds(&tbs.validity().not_before),
            until: seconds(&tbs.validity().not_after),
        };
        Ok(Some(Self {
            objects: objects.clone(),
            name: name.to_owned(),
            subject: tbs.subject().clone(),
            key: tbs.subject_public_key_info().clone(),
            certificate: object.attributes,
            valid,
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its certificate, in DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> String {
        pem(&self.certificate)
    }

    /// When its certificate is valid.
    pub fn valid(&self) -> Span {
        self.valid
    }

    /// A certificate for `leaf`, in DER. It ends no later than that of the authority.
    ///
    /// # Errors
    /// [`AuthorityError::Span`] when the two have no time in common, and what the token says.
    pub async fn issue(&self, leaf: &Leaf, valid: Span) -> Result<Vec<u8>, AuthorityError> {
        let until = valid.until.min(self.valid.until);
        let valid = Span { from: valid.from.max(self.valid.from), until };
        if valid.from >= valid.until {
            return Err(AuthorityError::Span("while the authority is: renew the authority"));
        }
        let (object, _) = self.objects.get(&owner(), &uid(&self.name)?).await?;
        let plan = Plan { issuer: self.subject.clone(), leaf: Some(leaf.clone()) };
        let (objects, key, name) = (&self.objects, &self.key, self.name.as_str());
        let signing = Signing { objects, object: &object, key, name };
        signing.issue(plan, leaf.key.clone(), valid).await
    }
}

/// A certificate that is DER, in PEM.
pub fn pem(certificate: &[u8]) -> String {
    let document = Document::try_from(certificate);
    let pem = document.and_then(|document| document.to_pem("CERTIFICATE", LineEnding::LF));
    // It was made or read here.
    pem.unwrap_or_default()
}

fn owner() -> SaeId {
    // A constant that is one.
    #[allow(clippy::expect_used, reason = "a name of the code, tested")]
    SaeId::parse(OWNER).expect("a name")
}

fn uid(name: &str) -> Result<String, AuthorityError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) {
        true => Ok(format!("authority/{name}")),
        false => Err(AuthorityError::Name(name.chars().take(MAX_NAME + 1).collect())),
    }
}

/// Whose certificate it will be: that of `leaf`, else the issuer's own.
struct Plan {
    issuer: Name,
    leaf: Option<Leaf>,
}

impl BuilderProfile for Plan {
    fn get_issuer(&self, _: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.leaf.as_ref().map_or(&self.issuer, |leaf| &leaf.subject).clone()
    }

    fn build_extensions(
        &self,
        key: SubjectPublicKeyInfoRef<'_>,
        issuer: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        let mut all: Vec<Extension> = Vec::new();
        let subject = tbs.subject();
        all.push(AuthorityKeyIdentifier::try_from(issuer)?.to_extension(subject, &all)?);
        all.push(SubjectKeyIdentifier::try_from(key)?.to_extension(subject, &all)?);
        let ca = self.leaf.is_none();
        let depth = ca.then_some(0);
        let constraints = BasicConstraints { ca, path_len_constraint: depth };
        all.push(constraints.to_extension(subject, &all)?);
        let usages = match ca {
            true => KeyUsages::KeyCertSign | KeyUsages::CRLSign,
            false => KeyUsages::DigitalSignature.into(),
        };
        all.push(KeyUsage(usages).to_extension(subject, &all)?);
        let Some(leaf) = &self.leaf else { return Ok(all) };
        if leaf.uses == Uses::Tls {
            let uses = ExtendedKeyUsage(vec![SERVER_AUTH, CLIENT_AUTH]);
            all.push(uses.to_extension(subject, &all)?);
        }
        if !leaf.names.is_empty() {
            all.push(SubjectAltName(leaf.names.clone()).to_extension(subject, &all)?);
        }
        Ok(all)
    }
}

const SERVER_AUTH: der::oid::ObjectIdentifier =
    der::oid::ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: der::oid::ObjectIdentifier =
    der::oid::ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");

/// The key of an authority at work.
struct Signing<'a> {
    objects: &'a Objects,
    object: &'a Object,
    key: &'a SubjectPublicKeyInfoOwned,
    name: &'a str,
}

impl Signing<'_> {
    async fn issue(
        &self,
        plan: Plan,
        key: SubjectPublicKeyInfoOwned,
        valid: Span,
    ) -> Result<Vec<u8>, AuthorityError> {
        let failed = |what: String| AuthorityError::Certificate(self.name.to_owned(), what);
        let validity = valid.validity().ok_or(AuthorityError::Span("then: X.509 ends in 9999"))?;
        let serial = self.objects.vault().random().bytes(SERIAL).await?;
        // Positive, and always of the same length.
        let serial = serial.expose(|bytes| {
            let mut bytes = bytes.to_vec();
            if let Some(first) = bytes.first_mut() {
                *first = *first & 0x3F | 0x40;
            }
            SerialNumber::new(&bytes)
        });
        let serial = serial.map_err(|e| failed(e.to_string()))?;
        let named = PublicHalf(self.key.clone());
        let builder = CertificateBuilder::new(plan, serial, validity, key);
        let mut builder = builder.map_err(|e| failed(e.to_string()))?;
        let signed = Builder::finalize(&mut builder, &named).map_err(|e| failed(e.to_string()))?;
        let hash = ClearBytes::from_vec(Hash::Sha256.of(&signed));
        let signature = self.objects.use_key(self.object, KIND, &SIGN, &hash).await?;
        let signature =
            signature.expose(BitString::from_bytes).map_err(|e| failed(e.to_string()))?;
        let certificate = Builder::assemble(builder, signature, &named);
        let certificate = certificate.map_err(|e| failed(e.to_string()))?;
        certificate.to_der().map_err(|e| failed(e.to_string()))
    }
}

/// What the builder must know of who signs.
#[derive(Clone)]
struct PublicHalf(SubjectPublicKeyInfoOwned);

impl x509_cert::spki::der::referenced::OwnedToRef for PublicHalf {
    type Borrowed<'a> = SubjectPublicKeyInfoRef<'a>;

    fn owned_to_ref(&self) -> Self::Borrowed<'_> {
        self.0.owned_to_ref()
    }
}

impl ::signature::Keypair for PublicHalf {
    type VerifyingKey = Self;

    fn verifying_key(&self) -> Self {
        self.clone()
    }
}

impl EncodePublicKey for PublicHalf {
    fn to_public_key_der(&self) -> x509_cert::spki::Result<Document> {
        Document::try_from(&self.0)
    }
}

impl DynSignatureAlgorithmIdentifier for PublicHalf {
    fn signature_algorithm_identifier(&self) -> x509_cert::spki::Result<AlgorithmIdentifierOwned> {
        Ok(AlgorithmIdentifierOwned { oid: signature::ECDSA_SHA256, parameters: None })
    }
}
