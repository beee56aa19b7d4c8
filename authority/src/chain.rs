//! Whether a chain of certificates holds. Enter through [`Chain::verdict`].

use std::time::Duration;

use der::{Decode, oid::AssociatedOid};
use x509_cert::{
    Certificate,
    ext::pkix::{
        AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName,
        SubjectKeyIdentifier,
    },
};

use crate::signature;

/// Most certificates in a chain.
const MOST: usize = 16;
/// Longest certificate, in bytes.
const LONGEST: usize = 64 << 10;

/// What became of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every certificate is signed by the next, and the last by one that signed itself.
    Valid,
    /// One is out of its time, not signed by the next, or may not sign.
    Invalid,
    /// It ends with one whose issuer is not there, or uses an algorithm that is not had, or says
    /// something critical that is not understood (name constraints, policies).
    Unknown,
}

/// Certificates that are to hold together, in any order.
#[derive(Debug, Default)]
pub struct Chain(Vec<Link>);

/// A certificate, read and as it came.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    read: Certificate,
    der: Vec<u8>,
}

impl Chain {
    /// Adds a certificate in DER; `false` when it cannot be read or is one too many.
    pub fn add(&mut self, der: &[u8]) -> bool {
        if self.0.len() >= MOST || der.len() > LONGEST {
            return false;
        }
        match Certificate::from_der(der) {
            Ok(read) => {
                let link = Link { read, der: der.to_vec() };
                if !self.0.contains(&link) {
                    self.0.push(link);
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Whether the chain holds at `at`, in seconds since 1970: from the one certificate that issued
    /// none of the others up to one that signed itself.
    pub fn verdict(&self, at: u64) -> Verdict {
        let Some(mut at_hand) = self.leaf() else { return Verdict::Unknown };
        for depth in 0..=self.0.len() {
            if !is_in_time(at_hand, at) {
                return Verdict::Invalid;
            }
            if !is_understood(at_hand) {
                return Verdict::Unknown;
            }
            let tbs = at_hand.read.tbs_certificate();
            let Some(issuer) =
                self.0.iter().find(|other| other.read.tbs_certificate().subject() == tbs.issuer())
            else {
                return Verdict::Unknown;
            };
            match is_signed_by(at_hand, issuer) {
                Some(true) => {}
                Some(false) => return Verdict::Invalid,
                None => return Verdict::Unknown,
            }
            if issuer == at_hand {
                let used = depth + 1 == self.0.len();
                return if used { Verdict::Valid } else { Verdict::Invalid };
            }
            if !may_sign(issuer, depth) {
                return Verdict::Invalid;
            }
            at_hand = issuer;
        }
        Verdict::Invalid
    }

    /// The one that issued none of the others.
    fn leaf(&self) -> Option<&Link> {
        let issued = |one: &Link| {
            self.0.iter().any(|other| {
                other != one
                    && other.read.tbs_certificate().issuer() == one.read.tbs_certificate().subject()
            })
        };
        self.0.iter().find(|certificate| !issued(certificate))
    }
}

/// Whether nothing critical in it is passed over (RFC 5280, 4.2).
fn is_understood(certificate: &Link) -> bool {
    let understood = [
        BasicConstraints::OID,
        KeyUsage::OID,
        ExtendedKeyUsage::OID,
        SubjectAltName::OID,
        SubjectKeyIdentifier::OID,
        AuthorityKeyIdentifier::OID,
    ];
    let extensions = certificate.read.tbs_certificate().extensions().into_iter().flatten();
    extensions.filter(|one| one.critical).all(|one| understood.contains(&one.extn_id))
}

fn is_in_time(certificate: &Link, at: u64) -> bool {
    let validity = certificate.read.tbs_certificate().validity();
    let at = Duration::from_secs(at);
    validity.not_before.to_unix_duration() <= at && at <= validity.not_after.to_unix_duration()
}

fn is_signed_by(certificate: &Link, issuer: &Link) -> Option<bool> {
    let tbs = certificate.read.tbs_certificate();
    if tbs.signature() != certificate.read.signature_algorithm() {
        return Some(false);
    }
    let signed = signature::signed_part(&certificate.der)?;
    let by = certificate.read.signature().as_bytes()?;
    let key = issuer.read.tbs_certificate().subject_public_key_info();
    signature::verify(key, certificate.read.signature_algorithm(), signed, by)
}

/// Whether `issuer` may sign a certificate with `depth` authorities below it.
fn may_sign(issuer: &Link, depth: usize) -> bool {
    let tbs = issuer.read.tbs_certificate();
    let constraints = tbs.get_extension::<BasicConstraints>().ok().flatten();
    let fits = constraints.is_some_and(|(_, found)| {
        found.ca && found.path_len_constraint.is_none_or(|most| depth <= usize::from(most))
    });
    let usage = tbs.get_extension::<KeyUsage>();
    fits && usage.is_ok_and(|usage| usage.is_none_or(|(_, usage)| usage.key_cert_sign()))
}
