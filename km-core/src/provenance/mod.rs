//! How key material came to be, and the one level that follows from it. Enter through
//! [`Provenance::grade`]; a grade is derived, never set.

pub mod told;

use serde::{Deserialize, Serialize};

use crate::{
    hsm::Custody,
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
    /// The generator of the cryptographic library in this process (RSA key pairs that are to leave).
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
    /// Where this end did its part of the exchange: worked with the private key, or made the secret for
    /// the other end's. `None` of what earlier versions stored. No header or message has it: each record
    /// adds it at its end ([`Provenance::tell_custody`]).
    #[serde(skip)]
    pub custody: Option<Custody>,
}

/// Most shares beside the first.
pub const MAX_SHARES: usize = 7;

/// One of the values whose exclusive or the bits are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Where it was born.
    pub origin: Origin,
    /// The relay path.
    pub path: Vec<Hop>,
}

impl Share {
    fn is_its(&self) -> bool {
        is_its(&self.origin, &self.path)
    }

    fn borne_out_by(&self, seen: &Self) -> bool {
        borne_out((&self.origin, &self.path), (&seen.origin, &seen.path))
    }
}

fn is_its(origin: &Origin, path: &[Hop]) -> bool {
    let its = |hop: &Hop| matches!(hop.cipher, HopCipher::Otp | HopCipher::Shared);
    matches!(origin, Origin::Qkd(_)) && path.iter().all(its)
}

fn borne_out(said: (&Origin, &[Hop]), seen: (&Origin, &[Hop])) -> bool {
    let same = |(said, seen): (&Hop, &Hop)| {
        let less = said.cipher == HopCipher::OtpComputational
            && matches!(seen.cipher, HopCipher::Otp | HopCipher::Shared);
        said.to == seen.to && (said.cipher == seen.cipher || less)
    };
    said.0 == seen.0 && said.1.len() == seen.1.len() && said.1.iter().zip(seen.1).all(same)
}

/// How material came to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Where the bits were born.
    pub origin: Origin,
    /// The relay path, empty for a direct link.
    pub path: Vec<Hop>,
    /// Where the bits are the exclusive or of several that came over ways without a common node: the
    /// others. No single node on the way knows the bits then.
    pub split: Vec<Share>,
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

impl Grade {
    /// All of them, the least first.
    pub const ALL: [Self; 2] = [Self::Computational, Self::ItsRelay];
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
        Self::relayed(Origin::Qkd(link), Vec::new())
    }
    /// Made by or brought to this KM alone.
    pub fn local(origin: Origin) -> Self {
        Self::relayed(origin, Vec::new())
    }
    /// Brought over a path.
    pub fn relayed(origin: Origin, path: Vec<Hop>) -> Self {
        Self { origin, path, split: Vec::new(), combined: None }
    }
    /// Whether the other end saw the same, or pad claimed for less than it saw.
    pub fn borne_out_by(&self, seen: &Self) -> bool {
        let own = borne_out((&self.origin, &self.path), (&seen.origin, &seen.path));
        let shares = self.split.iter().zip(&seen.split).all(|(said, seen)| said.borne_out_by(seen));
        own && self.split.len() == seen.split.len() && shares
    }
    /// The value of several, whose exclusive or the bits are; `None` for none, and for ways that share
    /// a node between their ends.
    pub fn split(shares: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut shares = shares.into_iter();
        let mut whole = shares.next()?;
        whole.split.extend(shares.map(|share| Share { origin: share.origin, path: share.path }));
        whole.is_apart().then_some(whole)
    }
    /// Whether no node between the ends is on two ways of a split key.
    pub fn is_apart(&self) -> bool {
        let between = |path: &[Hop]| {
            let middle = &path[..path.len().saturating_sub(1)];
            middle.iter().map(|hop| hop.to.clone()).collect::<Vec<_>>()
        };
        let ways = self.split.iter().map(|share| between(&share.path));
        let mut nodes: Vec<ClusterId> = ways.chain([between(&self.path)]).flatten().collect();
        let all = nodes.len();
        nodes.sort();
        nodes.dedup();
        nodes.len() == all
    }
    /// The ways the bits came over, of which each node knows one at most.
    pub fn ways(&self) -> usize {
        1 + self.split.len()
    }
    /// The value brought further, hidden by one-time pad that came over the way `pad`. It claims no more than
    /// either; of several shares only the first way is told, for the value itself is known where it began.
    pub fn carried(&self, pad: &Self) -> Self {
        let path = self.path.iter().chain(&pad.path).cloned().collect();
        let mut carried = Self::relayed(self.origin.clone(), path);
        let least = self.grade().min(pad.grade());
        if carried.grade() > least
            && let Some(hop) = carried.path.get_mut(self.path.len())
        {
            hop.cipher = HopCipher::OtpComputational;
        }
        carried
    }
    /// Where this end did its part of the exchange that the bits were combined with.
    pub fn custody(&self) -> Option<Custody> {
        self.combined?.custody
    }
    /// Puts back what [`Provenance::custody`] said where this was written.
    pub fn tell_custody(&mut self, custody: Option<Custody>) {
        if let Some(combined) = &mut self.combined {
            combined.custody = custody;
        }
    }
    /// Every hop of every way.
    pub fn hops(&self) -> impl Iterator<Item = &Hop> {
        self.path.iter().chain(self.split.iter().flat_map(|share| &share.path))
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
        let derived = self.combined.is_some_and(|with| with.method == CombineMethod::CatKdf);
        // One good share would do against who listens outside; nobody need rely on which.
        let its = is_its(&self.origin, &self.path) && self.split.iter().all(Share::is_its);
        if its && !derived { Grade::ItsRelay } else { Grade::Computational }
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

    #[test]
    fn what_is_carried_further_claims_no_more_than_its_beginning_and_its_way() {
        use HopCipher::{Aes256Gcm, Otp, OtpComputational, Shared};
        let link = || Origin::Qkd(LinkId::parse("l1").unwrap());
        let way = |origin, ciphers: &[HopCipher]| {
            let to = ClusterId::parse("west").unwrap();
            let hops = ciphers.iter().map(|cipher| Hop { to: to.clone(), cipher: *cipher });
            Provenance::relayed(origin, hops.collect())
        };
        let ciphers = |way: &Provenance| way.path.iter().map(|hop| hop.cipher).collect::<Vec<_>>();
        let (kem, method) = (KemSet::MlKem768, CombineMethod::CatKdf);
        let derived = Combination { kem, method, custody: None };
        for (value, pad, grade, expected) in [
            (way(link(), &[]), way(link(), &[Shared, Otp]), Grade::ItsRelay, vec![Shared, Otp]),
            (
                way(link(), &[Otp]),
                way(link(), &[Shared, Aes256Gcm]),
                Grade::Computational,
                vec![Otp, Shared, Aes256Gcm],
            ),
            // The pad is no better than the generator it came from, nor the value than its derivation.
            (
                way(link(), &[]),
                way(Origin::HsmRng, &[Otp, Otp]),
                Grade::Computational,
                vec![OtpComputational, Otp],
            ),
            (
                Provenance { combined: Some(derived), ..way(link(), &[]) },
                way(link(), &[Shared]),
                Grade::Computational,
                vec![OtpComputational],
            ),
            (way(Origin::HsmRng, &[]), way(link(), &[Shared]), Grade::Computational, vec![Shared]),
        ] {
            let carried = value.carried(&pad);
            assert_eq!((carried.grade(), ciphers(&carried)), (grade, expected));
        }
    }

    #[test]
    fn a_split_key_claims_what_its_worst_share_may_and_no_node_has_two() {
        let way = |middle: &str, cipher| {
            let hop = |to: &str, cipher| Hop { to: ClusterId::parse(to).unwrap(), cipher };
            let origin = Origin::Qkd(LinkId::parse("l1").unwrap());
            Provenance::relayed(origin, vec![hop(middle, HopCipher::Shared), hop("z", cipher)])
        };
        use HopCipher::{Aes256Gcm, Otp};
        let whole = |a, b| Provenance::split([way("b", a), way("c", b)]).unwrap();
        assert_eq!((whole(Otp, Otp).grade(), whole(Otp, Otp).ways()), (Grade::ItsRelay, 2));
        assert_eq!(whole(Otp, Aes256Gcm).grade(), Grade::Computational);
        assert!(whole(Otp, Otp).borne_out_by(&whole(Otp, Otp)));
        assert!(!whole(Otp, Otp).borne_out_by(&whole(Otp, Aes256Gcm)));
        assert!(!whole(Otp, Otp).borne_out_by(&way("b", Otp)), "nor is it one way");
        assert_eq!(Provenance::split([way("b", Otp), way("b", Otp)]), None);
    }
}
