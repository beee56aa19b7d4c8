//! What a certificate is asked for. Enter through [`Leaf`].

use std::str::FromStr;

use der::{Decode, Document, asn1::Ia5String};
use x509_cert::{
    Certificate,
    ext::{
        Extension,
        pkix::{SubjectAltName, name::GeneralName},
    },
    name::Name,
    request::{CertReq, ExtensionReq},
    spki::SubjectPublicKeyInfoOwned,
};

use crate::signature;

/// Longest request, in bytes.
const LONGEST: usize = 64 << 10;
/// Most alternative names in a certificate.
const MOST_NAMES: usize = 64;

/// What a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uses {
    /// TLS, on both sides: nodes and applications.
    Tls,
    /// Signatures, and nothing said about more: keys of a key manager's clients.
    Signing,
}

/// Why a request for a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The bytes are not what they should be.
    #[error("{0}")]
    Form(&'static str),
    /// The request is not signed with the key it is for.
    #[error("the certificate request is not signed with the key it is for")]
    Signature,
    /// A name that cannot stand in a certificate.
    #[error("{0:?} cannot stand in a certificate; write names as in CN=gate,O=Example,C=CH")]
    Name(String),
}

/// A certificate that is asked for; [`crate::Authority::issue`] makes it.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub(crate) subject: Name,
    pub(crate) key: SubjectPublicKeyInfoOwned,
    pub(crate) names: Vec<GeneralName>,
    pub(crate) uses: Uses,
}

impl Leaf {
    /// For `key` (SubjectPublicKeyInfo, or PKCS #1 for RSA, in DER) under the name `subject`, as in
    /// `CN=gate,O=Example`; it may be empty.
    ///
    /// # Errors
    /// [`BadRequest::Form`] when the key cannot be read, [`BadRequest::Name`].
    pub fn new(subject: &str, key: &[u8], uses: Uses) -> Result<Self, BadRequest> {
        let key = signature::read_key(key).ok_or(BadRequest::Form(
            "the public key is neither SubjectPublicKeyInfo nor PKCS #1",
        ))?;
        Ok(Self { subject: name(subject)?, key, names: Vec::new(), uses })
    }

    /// As the PKCS #10 request `der` says: its subject, key and alternative names. All else it asks
    /// for is passed over: the authority says what a certificate is good for.
    ///
    /// # Errors
    /// [`BadRequest::Form`] when it cannot be read, [`BadRequest::Signature`] when who made it does
    /// not hold the private key.
    pub fn of_request(der: &[u8], uses: Uses) -> Result<Self, BadRequest> {
        let unreadable = BadRequest::Form("the certificate request is no PKCS #10 in DER");
        if der.len() > LONGEST {
            return Err(BadRequest::Form("the certificate request has more than 64 KiB"));
        }
        let request = CertReq::from_der(der).map_err(|_| unreadable.clone())?;
        let signed = signature::signed_part(der).ok_or(unreadable.clone())?;
        let by = request.signature.as_bytes().ok_or(unreadable.clone())?;
        match signature::verify(&request.info.public_key, &request.algorithm, signed, by) {
            Some(true) => {}
            Some(false) => return Err(BadRequest::Signature),
            None => {
                return Err(BadRequest::Form(
                    "the request's key or signature is of a kind that \
                                                 is not had: RSA and ECDSA with SHA-2, Ed25519 and \
                                                 ML-DSA are",
                ));
            }
        }
        let names = asked_names(&request).ok_or(unreadable)?;
        if names.len() > MOST_NAMES {
            return Err(BadRequest::Form("the request has more than 64 alternative names"));
        }
        let CertReq { info, .. } = request;
        Ok(Self { subject: info.subject, key: info.public_key, names, uses })
    }

    /// As the PKCS #10 request in PEM says; see [`Leaf::of_request`].
    ///
    /// # Errors
    /// As [`Leaf::of_request`].
    pub fn of_pem_request(pem: &[u8], uses: Uses) -> Result<Self, BadRequest> {
        let unreadable = BadRequest::Form("the certificate request is no PKCS #10 in PEM");
        if pem.len() > LONGEST {
            return Err(BadRequest::Form("the certificate request has more than 64 KiB"));
        }
        let text = std::str::from_utf8(pem).map_err(|_| unreadable.clone())?;
        let (label, document) = Document::from_pem(text).map_err(|_| unreadable.clone())?;
        match label {
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
                Self::of_request(document.as_bytes(), uses)
            }
            _ => Err(unreadable),
        }
    }

    /// As the certificate `der` says: its subject, key and alternative names.
    ///
    /// # Errors
    /// [`BadRequest::Form`] when it cannot be read.
    pub fn of_certificate(der: &[u8], uses: Uses) -> Result<Self, BadRequest> {
        let unreadable = BadRequest::Form("the certificate is no X.509 in DER");
        if der.len() > LONGEST {
            return Err(unreadable);
        }
        let certificate = Certificate::from_der(der).map_err(|_| unreadable.clone())?;
        let tbs = certificate.tbs_certificate();
        let names = tbs.get_extension::<SubjectAltName>().map_err(|_| unreadable)?;
        let names = names.map_or_else(Vec::new, |(_, names)| names.0);
        let (subject, key) = (tbs.subject().clone(), tbs.subject_public_key_info().clone());
        Ok(Self { subject, key, names, uses })
    }

    /// Adds the host name `dns`.
    ///
    /// # Errors
    /// [`BadRequest::Name`] when it is not ASCII.
    pub fn dns(self, dns: &str) -> Result<Self, BadRequest> {
        let text = Ia5String::new(dns).map_err(|_| BadRequest::Name(dns.to_owned()))?;
        Ok(self.named(GeneralName::DnsName(text)))
    }

    /// Adds the name `uri`.
    ///
    /// # Errors
    /// [`BadRequest::Name`] when it is not ASCII.
    pub fn uri(self, uri: &str) -> Result<Self, BadRequest> {
        let text = Ia5String::new(uri).map_err(|_| BadRequest::Name(uri.to_owned()))?;
        Ok(self.named(GeneralName::UniformResourceIdentifier(text)))
    }

    /// Adds an address.
    pub fn address(self, address: std::net::IpAddr) -> Self {
        self.named(GeneralName::from(address))
    }

    fn named(mut self, name: GeneralName) -> Self {
        self.names.push(name);
        self
    }

    /// With another subject, and of its names only those of hosts: host names and addresses.
    ///
    /// # Errors
    /// [`BadRequest::Name`].
    pub fn hosts_only(mut self, subject: &str) -> Result<Self, BadRequest> {
        self.names
            .retain(|name| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_)));
        self.subject(subject)
    }

    /// With another subject, and without names.
    ///
    /// # Errors
    /// [`BadRequest::Name`].
    pub fn bare(self, subject: &str) -> Result<Self, BadRequest> {
        Self { names: Vec::new(), ..self }.subject(subject)
    }

    /// With another subject.
    ///
    /// # Errors
    /// [`BadRequest::Name`].
    pub fn subject(self, subject: &str) -> Result<Self, BadRequest> {
        Ok(Self { subject: name(subject)?, ..self })
    }

    /// With the subject `der`, a distinguished name as X.509 has it.
    ///
    /// # Errors
    /// [`BadRequest::Name`].
    pub fn subject_der(self, der: &[u8]) -> Result<Self, BadRequest> {
        let bad = |_| BadRequest::Name("the distinguished name of the request".to_owned());
        Ok(Self { subject: Name::from_der(der).map_err(bad)?, ..self })
    }

    /// Whether it has the key of `other`.
    pub fn has_key_of(&self, other: &Self) -> bool {
        self.key == other.key
    }

    /// The subject, as text.
    pub fn subject_text(&self) -> String {
        self.subject.to_string()
    }

    /// The alternative names that are URIs, in order.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
            _ => None,
        })
    }

    /// Whether it is for `key`, in one of the forms of [`Leaf::new`].
    pub fn is_for(&self, key: &[u8]) -> bool {
        signature::read_key(key).is_some_and(|key| key == self.key)
    }
}

/// Reads a distinguished name as people write it (RFC 4514).
pub(crate) fn name(text: &str) -> Result<Name, BadRequest> {
    let bad = || BadRequest::Name(text.chars().take(128).collect());
    if text.is_empty() {
        return Ok(Name::default());
    }
    if text.len() > 1024 {
        return Err(bad());
    }
    Name::from_str(text).map_err(|_| bad())
}

fn asked_names(request: &CertReq) -> Option<Vec<GeneralName>> {
    let mut names = Vec::new();
    for attribute in request.info.attributes.iter() {
        if attribute.oid != <ExtensionReq as der::oid::AssociatedOid>::OID {
            continue;
        }
        for value in attribute.values.iter() {
            let extensions = value.decode_as::<Vec<Extension>>().ok()?;
            let named = |extension: &&Extension| extension.extn_id == SAN;
            for extension in extensions.iter().filter(named) {
                names.extend(SubjectAltName::from_der(extension.extn_value.as_bytes()).ok()?.0);
            }
        }
    }
    Some(names)
}

const SAN: der::oid::ObjectIdentifier = <SubjectAltName as der::oid::AssociatedOid>::OID;
