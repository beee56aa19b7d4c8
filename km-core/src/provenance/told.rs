//! How a key came to be, in the words and under the names that applications see over every front (clause
//! 6.2c: announced in the metadata). Enter through [`Provenance::told`].

use super::{CombineMethod, Hop, HopCipher, Origin, Provenance};
use crate::usage::kem::KemSet;

/// Grade of the key's way here.
pub const GRADE: &str = "qkm-grade";
/// The QKD links its bits were born on.
pub const LINK: &str = "qkm-link";
/// The clusters it came over, each with the cipher of the hop to it.
pub const PATH: &str = "qkm-path";
/// What it was combined with on its way.
pub const COMBINED: &str = "qkm-combined";
/// Where this end did its part of that exchange.
pub const COMBINED_CUSTODY: &str = "qkm-combined-custody";

impl Provenance {
    /// Name and text of each that there is something to say of; nothing of a key made here.
    pub fn told(&self) -> Vec<(&'static str, String)> {
        let mut told = Vec::new();
        // Relayed keys too, whose bits were born elsewhere.
        if matches!(self.origin, Origin::Qkd(_)) || !self.path.is_empty() {
            told.push((GRADE, self.grade().as_str().to_owned()));
        }
        let links = links(self);
        if !links.is_empty() {
            told.push((LINK, links));
        }
        if !self.path.is_empty() {
            told.push((PATH, paths(self)));
        }
        if let Some(with) = &self.combined {
            let method = match with.method {
                CombineMethod::Xor => "xor",
                CombineMethod::CatKdf => "catkdf",
            };
            let kem = match with.kem {
                KemSet::MlKem768 => "ml-kem-768",
                KemSet::MlKem1024 => "ml-kem-1024",
            };
            told.push((COMBINED, format!("{kem} by {method}")));
            told.extend(with.custody.map(|at| (COMBINED_CUSTODY, at.name().to_owned())));
        }
        told
    }
}

/// The QKD links the bits were born on; those of a split key, each once, as in `l1; l2`.
fn links(way: &Provenance) -> String {
    let mut links: Vec<&str> = Vec::new();
    for origin in std::iter::once(&way.origin).chain(way.split.iter().map(|share| &share.origin)) {
        if let Origin::Qkd(link) = origin
            && !links.contains(&link.as_str())
        {
            links.push(link.as_str());
        }
    }
    links.join("; ")
}

/// Every way the bits came over: of a split key several, as in `west (otp), south (otp); east (otp), south
/// (otp)`.
fn paths(way: &Provenance) -> String {
    let others = way.split.iter().map(|share| path(&share.path));
    std::iter::once(path(&way.path)).chain(others).collect::<Vec<_>>().join("; ")
}

/// As in `west (otp), south (aes-256-gcm)`.
fn path(hops: &[Hop]) -> String {
    let hop = |hop: &Hop| {
        let cipher = match hop.cipher {
            HopCipher::Otp => "otp",
            HopCipher::Shared => "shared",
            HopCipher::OtpComputational => "otp-computational",
            HopCipher::Aes256Gcm => "aes-256-gcm",
            HopCipher::KmLink => "km-link",
        };
        format!("{} ({cipher})", hop.to)
    };
    hops.iter().map(hop).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::Custody;
    use crate::ids::{ClusterId, LinkId};
    use crate::provenance::Combination;

    #[test]
    fn a_way_is_told_hop_by_hop() {
        let hop = |to: &str, cipher| Hop { to: ClusterId::parse(to).unwrap(), cipher };
        let way = [hop("west", HopCipher::Shared), hop("south", HopCipher::Aes256Gcm)];
        assert_eq!(path(&way), "west (shared), south (aes-256-gcm)");
    }

    #[test]
    fn where_the_ml_kem_exchange_of_a_combined_key_was_is_told_where_it_is_known() {
        let mut way = Provenance::direct(LinkId::parse("l1").unwrap());
        way.tell_custody(Some(Custody::InToken));
        assert_eq!(way.told().last().unwrap().0, LINK, "nothing was combined");
        let (kem, method) = (KemSet::MlKem1024, CombineMethod::Xor);
        way.combined = Some(Combination { kem, method, custody: None });
        let combined = (COMBINED, "ml-kem-1024 by xor".to_owned());
        assert_eq!(way.told().last(), Some(&combined));
        for (custody, text) in
            [(Custody::InToken, "in-token"), (Custody::HostTransient, "host-transient")]
        {
            way.tell_custody(Some(custody));
            let expected = [combined.clone(), (COMBINED_CUSTODY, text.to_owned())];
            assert!(way.told().ends_with(&expected), "{:?}", way.told());
        }
    }

    #[test]
    fn of_a_split_key_every_way_is_told() {
        let hop = |to: &str| Hop { to: ClusterId::parse(to).unwrap(), cipher: HopCipher::Otp };
        let share = |link: &str, middle: &str| {
            let origin = Origin::Qkd(LinkId::parse(link).unwrap());
            Provenance::relayed(origin, vec![hop(middle), hop("south")])
        };
        let split = Provenance::split([share("l1", "west"), share("l2", "east")]).unwrap();
        assert_eq!(paths(&split), "west (otp), south (otp); east (otp), south (otp)");
        assert_eq!(links(&split), "l1; l2");
        assert_eq!(links(&share("l1", "west")), "l1");
    }
}
