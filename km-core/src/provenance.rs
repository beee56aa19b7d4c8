//! How key material came to be, and the one level that follows from it. Enter through
//! [`Provenance::grade`]; a grade is derived, never set.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{ClusterId, LinkId},
    usage::kem::KemSet,
};

/// Where the bits were born.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A QKD link.
    Qkd(LinkId),
    /// The token's random number generator.
    HsmRng,
    /// A quantum random number generator at this KM.
    Qrng,
    /// The exclusive or of both.
    HsmRngAndQrng,
    /// An application brought it (KMIP Register).
    Registered,
    /// The generator of the cryptographic library in this process (key pairs that are to leave).
    Library,
    /// Derived from other keys.
    Derived,
}

/// The cipher of one relay hop (clause 6.2c: announced in the metadata).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HopCipher {
    /// One-time pad with information-theoretic authentication.
    Otp,
    /// Nothing was sent: both ends of the hop hold it from their QKD link, and the way begins here.
    Shared,
    /// One-time pad, or bits both ends hold, which themselves rest on a computational assumption.
    OtpComputational,
    /// AES-256-GCM under a hop key.
    Aes256Gcm,
    /// AES-256-GCM under a key of the KM link's own TLS (X25519MLKEM768): no key of QKD hides it.
    KmLink,
}

/// One relay hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The cluster the hop leads to.
    pub to: ClusterId,
    /// Its cipher.
    pub cipher: HopCipher,
}

/// How bits were combined with the secret of another key exchange (clause 6.1.2b).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CombineMethod {
    /// Exclusive or: keeps what the bits may claim.
    Xor,
    /// A key derivation over both: computational, and secure if either is.
    CatKdf,
}

/// What bits were combined with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Combination {
    /// The exchange between the two ends.
    pub kem: KemSet,
    /// How.
    pub method: CombineMethod,
}

/// How material came to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Where the bits were born.
    pub origin: Origin,
    /// The relay path, empty for a direct link.
    pub path: Vec<Hop>,
    /// What the two ends combined the bits with, if they did.
    pub combined: Option<Combination>,
}

/// What may be claimed for the way the bits travelled. Sealing in the HSM and delivery over TLS
/// are computational in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// Rests on a computational assumption somewhere between the two ends.
    Computational,
    /// Only QKD and one-time pad with information-theoretic authentication on the way.
    ItsRelay,
}

/// What the tags were keyed with by which the two ends of a pool compared a block. The nodes between
/// them are trusted with the keys they relay; this says whether they could also have changed them, had
/// they broken the TLS between the two ends as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndTag {
    /// Bits of the QKD link between the two, which no other node holds.
    Qkd,
    /// Relayed bits and a secret of an ML-KEM exchange between the two, which no other node holds.
    MlKem,
    /// Relayed bits only: the two ends share no key that the nodes between them do not know.
    Relayed,
}

impl EndTag {
    /// The name in metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            EndTag::Qkd => "qkd",
            EndTag::MlKem => "ml-kem",
            EndTag::Relayed => "relayed",
        }
    }
}

impl Grade {
    /// The name in metadata, metrics and KMIP attributes.
    pub fn as_str(self) -> &'static str {
        match self {
            Grade::Computational => "computational",
            Grade::ItsRelay => "its-relay",
        }
    }
}

impl Provenance {
    /// Straight from a QKD link, no hop.
    pub fn direct(link: LinkId) -> Self {
        Self { origin: Origin::Qkd(link), path: Vec::new(), combined: None }
    }
    /// Made by or brought to this KM alone.
    pub fn local(origin: Origin) -> Self {
        Self { origin, path: Vec::new(), combined: None }
    }
    /// Brought over a path.
    pub fn relayed(origin: Origin, path: Vec<Hop>) -> Self {
        Self { origin, path, combined: None }
    }
    /// Whether the other end saw the same, or pad claimed for less than it saw.
    pub fn borne_out_by(&self, seen: &Self) -> bool {
        let same = |(said, seen): (&Hop, &Hop)| {
            let less = said.cipher == HopCipher::OtpComputational
                && matches!(seen.cipher, HopCipher::Otp | HopCipher::Shared);
            said.to == seen.to && (said.cipher == seen.cipher || less)
        };
        self.origin == seen.origin
            && self.path.len() == seen.path.len()
            && self.path.iter().zip(&seen.path).all(same)
    }
    /// What the two ends compared their bits under.
    pub fn end_tag(&self) -> EndTag {
        match (&self.combined, self.path.len()) {
            (Some(_), _) => EndTag::MlKem,
            (None, 0) => EndTag::Qkd,
            (None, _) => EndTag::Relayed,
        }
    }
    /// The level that follows.
    pub fn grade(&self) -> Grade {
        let its = |hop: &Hop| matches!(hop.cipher, HopCipher::Otp | HopCipher::Shared);
        let its_path = self.path.iter().all(its);
        let derived = self.combined.is_some_and(|with| with.method == CombineMethod::CatKdf);
        match self.origin {
            Origin::Qkd(_) if its_path && !derived => Grade::ItsRelay,
            _ => Grade::Computational,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_aes_hop_lowers_the_grade() {
        let mut way = Provenance::direct(LinkId::parse("l1").unwrap());
        assert_eq!(way.grade(), Grade::ItsRelay);
        let to = ClusterId::parse("west").unwrap();
        way.path.push(Hop { to: to.clone(), cipher: HopCipher::Otp });
        assert_eq!(way.grade(), Grade::ItsRelay);
        way.path.push(Hop { to, cipher: HopCipher::Aes256Gcm });
        assert_eq!(way.grade(), Grade::Computational);
    }

    #[test]
    fn no_hop_is_claimed_to_be_more_than_was_seen() {
        use HopCipher::{Aes256Gcm, Otp, OtpComputational, Shared};
        let way = |cipher| {
            let to = ClusterId::parse("west").unwrap();
            Provenance::relayed(Origin::HsmRng, vec![Hop { to, cipher }])
        };
        for (said, seen) in [(Otp, Aes256Gcm), (OtpComputational, Aes256Gcm), (Otp, Shared)] {
            assert!(!way(said).borne_out_by(&way(seen)), "{said:?} {seen:?}");
        }
        for (said, seen) in [(Aes256Gcm, Aes256Gcm), (OtpComputational, Otp)] {
            assert!(way(said).borne_out_by(&way(seen)), "{said:?} {seen:?}");
        }
        assert!(!way(Otp).borne_out_by(&Provenance::relayed(Origin::HsmRng, Vec::new())));
        assert!(!way(Otp).borne_out_by(&Provenance { origin: Origin::Qrng, ..way(Otp) }));
    }
}
