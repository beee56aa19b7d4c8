//! What an X.509 certificate says about itself, as attributes. A certificate that cannot be read is
//! kept all the same, without them.

use kmip::{
    attribute::{
        Attribute, AttributeKind, Attributes, CertificateIdentifier, CertificateIssuer,
        CertificateSubject, X509CertificateIdentifier, X509CertificateIssuer,
        X509CertificateSubject,
    },
    enums::{CryptographicAlgorithm, DigitalSignatureAlgorithm},
};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, public_key::PublicKey, x509::X509Name,
};

use crate::meta::Meta;

/// Longest certificate that is looked into, in bytes.
const LONGEST: usize = 64 << 10;
/// Most parts of a name that become attributes of their own.
const MOST_PARTS: usize = 32;

type Make = fn(String) -> Attribute;

/// Parts of a name: object identifier, attribute of the subject, attribute of the issuer.
const PARTS: [(&str, Make, Make); 12] = [
    ("2.5.4.3", Attribute::CertificateSubjectCn, Attribute::CertificateIssuerCn),
    ("2.5.4.10", Attribute::CertificateSubjectO, Attribute::CertificateIssuerO),
    ("2.5.4.11", Attribute::CertificateSubjectOu, Attribute::CertificateIssuerOu),
    ("1.2.840.113549.1.9.1", Attribute::CertificateSubjectEmail, Attribute::CertificateIssuerEmail),
    ("2.5.4.6", Attribute::CertificateSubjectC, Attribute::CertificateIssuerC),
    ("2.5.4.8", Attribute::CertificateSubjectSt, Attribute::CertificateIssuerSt),
    ("2.5.4.7", Attribute::CertificateSubjectL, Attribute::CertificateIssuerL),
    (
        "0.9.2342.19200300.100.1.1",
        Attribute::CertificateSubjectUid,
        Attribute::CertificateIssuerUid,
    ),
    (
        "2.5.4.5",
        Attribute::CertificateSubjectSerialNumber,
        Attribute::CertificateIssuerSerialNumber,
    ),
    ("2.5.4.12", Attribute::CertificateSubjectTitle, Attribute::CertificateIssuerTitle),
    ("0.9.2342.19200300.100.1.25", Attribute::CertificateSubjectDc, Attribute::CertificateIssuerDc),
    ("2.5.4.46", Attribute::CertificateSubjectDnQualifier, Attribute::CertificateIssuerDnQualifier),
];

/// The attributes of the certificate `der`, and its public key's algorithm and length in the head.
pub(crate) fn attributes(der: &[u8], meta: &mut Meta) -> Vec<Attribute> {
    if der.len() > LONGEST {
        return Vec::new();
    }
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    if let Some((algorithm, bits)) = public_key(&certificate) {
        meta.set_algorithm(algorithm);
        meta.length = meta.length.or(i32::try_from(bits).ok());
    }
    let (subject, issuer) = (certificate.subject(), certificate.issuer());
    let serial = certificate.raw_serial();
    let mut list = vec![
        Attribute::CertificateIdentifier(CertificateIdentifier {
            issuer: issuer.to_string(),
            serial_number: Some(certificate.raw_serial_as_string()),
        }),
        Attribute::CertificateSubject(CertificateSubject {
            distinguished_name: subject.to_string(),
            alternative_names: Vec::new(),
        }),
        Attribute::CertificateIssuer(CertificateIssuer {
            distinguished_name: issuer.to_string(),
            alternative_names: Vec::new(),
        }),
        Attribute::X509CertificateIdentifier(X509CertificateIdentifier {
            issuer: issuer.as_raw().to_vec(),
            serial_number: serial.to_vec(),
        }),
        Attribute::X509CertificateSubject(X509CertificateSubject {
            distinguished_name: subject.as_raw().to_vec(),
            alternative_names: Vec::new(),
        }),
        Attribute::X509CertificateIssuer(X509CertificateIssuer {
            distinguished_name: issuer.as_raw().to_vec(),
            alternative_names: Vec::new(),
        }),
    ];
    let algorithm = signature(&certificate.signature_algorithm.algorithm.to_id_string());
    list.extend(algorithm.map(Attribute::DigitalSignatureAlgorithm));
    list.extend(parts(subject, |(_, subject, _)| subject));
    list.extend(parts(issuer, |(_, _, issuer)| issuer));
    list
}

/// The subject that attributes ask for part by part, as people write it; empty when none does.
pub(crate) fn subject_parts(attributes: &Attributes) -> String {
    const NAMES: [(AttributeKind, &str); 11] = [
        (AttributeKind::CertificateSubjectCn, "CN"),
        (AttributeKind::CertificateSubjectO, "O"),
        (AttributeKind::CertificateSubjectOu, "OU"),
        (AttributeKind::CertificateSubjectEmail, "emailAddress"),
        (AttributeKind::CertificateSubjectC, "C"),
        (AttributeKind::CertificateSubjectSt, "ST"),
        (AttributeKind::CertificateSubjectL, "L"),
        (AttributeKind::CertificateSubjectUid, "UID"),
        (AttributeKind::CertificateSubjectSerialNumber, "serialNumber"),
        (AttributeKind::CertificateSubjectTitle, "title"),
        (AttributeKind::CertificateSubjectDc, "DC"),
    ];
    let part = |attribute: &Attribute| {
        let kind = attribute.kind()?;
        let (_, name) = NAMES.iter().find(|(known, _)| *known == kind)?;
        Some(format!("{name}={}", escaped(text_of(attribute)?)))
    };
    attributes.iter().filter_map(part).collect::<Vec<_>>().join(",")
}

fn text_of(attribute: &Attribute) -> Option<&str> {
    use Attribute as A;
    match attribute {
        A::CertificateSubjectCn(text)
        | A::CertificateSubjectO(text)
        | A::CertificateSubjectOu(text)
        | A::CertificateSubjectEmail(text)
        | A::CertificateSubjectC(text)
        | A::CertificateSubjectSt(text)
        | A::CertificateSubjectL(text)
        | A::CertificateSubjectUid(text)
        | A::CertificateSubjectSerialNumber(text)
        | A::CertificateSubjectTitle(text)
        | A::CertificateSubjectDc(text) => Some(text),
        _ => None,
    }
}

/// A value in the text of a distinguished name (RFC 4514).
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for (at, c) in value.char_indices() {
        let at_end = at == 0 || at + c.len_utf8() == value.len();
        if "\"+,;<>\\=".contains(c) || (at_end && (c == ' ' || c == '#')) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Adds what a certificate says to what the client said about it; the certificate is right.
pub(crate) fn complete(rest: &mut Attributes, said: Vec<Attribute>) {
    rest.list.retain(|client| !said.iter().any(|own| own.key() == client.attribute.key()));
    said.into_iter().for_each(|attribute| rest.push(attribute));
}

fn parts(name: &X509Name<'_>, side: fn((&str, Make, Make)) -> Make) -> Vec<Attribute> {
    let part = |part: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let id = part.attr_type().to_id_string();
        let row = PARTS.into_iter().find(|(known, ..)| *known == id)?;
        Some(side(row)(part.as_str().ok()?.to_owned()))
    };
    name.iter_attributes().take(MOST_PARTS).filter_map(part).collect()
}

fn public_key(certificate: &X509Certificate<'_>) -> Option<(CryptographicAlgorithm, usize)> {
    match certificate.public_key().parsed().ok()? {
        PublicKey::RSA(key) => Some((CryptographicAlgorithm::Rsa, key.key_size())),
        PublicKey::EC(point) => Some((CryptographicAlgorithm::Ec, point.key_size())),
        _ => None,
    }
}

fn signature(id: &str) -> Option<DigitalSignatureAlgorithm> {
    use DigitalSignatureAlgorithm as Algorithm;
    Some(match id {
        "1.2.840.113549.1.1.5" => Algorithm::Sha1WithRsa,
        "1.2.840.113549.1.1.14" => Algorithm::Sha224WithRsa,
        "1.2.840.113549.1.1.11" => Algorithm::Sha256WithRsa,
        "1.2.840.113549.1.1.12" => Algorithm::Sha384WithRsa,
        "1.2.840.113549.1.1.13" => Algorithm::Sha512WithRsa,
        "1.2.840.113549.1.1.10" => Algorithm::RsassaPss,
        "1.2.840.10045.4.1" => Algorithm::EcdsaWithSha1,
        "1.2.840.10045.4.3.1" => Algorithm::EcdsaWithSha224,
        "1.2.840.10045.4.3.2" => Algorithm::EcdsaWithSha256,
        "1.2.840.10045.4.3.3" => Algorithm::EcdsaWithSha384,
        "1.2.840.10045.4.3.4" => Algorithm::EcdsaWithSha512,
        _ => return None,
    })
}
