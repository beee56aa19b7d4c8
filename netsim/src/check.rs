//! What must hold, looked at from outside of the code that is simulated. Keys are compared byte by
//! byte, grades with what was really done on each hop, accounts link by link.

use std::collections::BTreeMap;

use km_core::{
    ids::ClusterId,
    material::ClearBytes,
    provenance::{Grade, Hop, HopCipher, Origin, Provenance},
};
use relay::hop::TransferId;

/// What the hops of one batch really were, as the wires saw it.
#[derive(Default)]
pub(crate) struct Truth(BTreeMap<TransferId, Vec<(ClusterId, HopCipher)>>);

impl Truth {
    pub(crate) fn hop(&mut self, transfer: TransferId, to: ClusterId, cipher: HopCipher) {
        self.0.entry(transfer).or_default().push((to, cipher));
    }

    pub(crate) fn forget(&mut self, transfer: TransferId) {
        self.0.remove(&transfer);
    }

    /// The best grade that may be claimed.
    fn grade(&self, transfer: TransferId, origin: &Origin) -> Grade {
        let good =
            |hop: &(ClusterId, HopCipher)| matches!(hop.1, HopCipher::Otp | HopCipher::Shared);
        let hops = self.0.get(&transfer).map_or(&[][..], Vec::as_slice);
        let its = matches!(origin, Origin::Qkd(_)) && !hops.is_empty() && hops.iter().all(good);
        if its { Grade::ItsRelay } else { Grade::Computational }
    }

    /// A batch arrived: both ends hold the same, went the same way, and claim no more than is true.
    pub(crate) fn arrived(
        &self,
        transfer: TransferId,
        [ours, theirs]: [&ClearBytes; 2],
        origin: &Origin,
        [path, seen]: [&[Hop]; 2],
    ) -> Result<Grade, String> {
        if ours != theirs || ours.is_empty() {
            return Err(format!("batch {transfer} differs between its ends"));
        }
        let truth = self.grade(transfer, origin);
        for claimed in [path, seen] {
            let way = Provenance::relayed(origin.clone(), claimed.to_vec());
            if way.grade() > truth {
                return Err(format!("batch {transfer} claims {:?}, it is {truth:?}", way.grade()));
            }
        }
        let taken = self.0.get(&transfer).map_or(&[][..], Vec::as_slice);
        match path.iter().map(|hop| &hop.to).eq(taken.iter().map(|(to, _)| to)) {
            true => Ok(truth),
            false => Err(format!("batch {transfer} did not go the way it claims")),
        }
    }
}
