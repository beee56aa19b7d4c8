//! What must hold, looked at from outside of the code that is simulated. Keys are compared byte by
//! byte, grades with what was really done on each hop, accounts link by link.

use std::collections::BTreeMap;

use km_core::{
    ids::ClusterId,
    module::ModuleKey,
    provenance::{Grade, HopCipher, Origin},
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

    /// A batch arrived: both ends hold the same, it went the way they say, and they claim no more than is
    /// true, which is returned.
    pub(crate) fn arrived(
        &self,
        transfer: TransferId,
        ends: [&ModuleKey; 2],
        origin: &Origin,
    ) -> Result<Grade, String> {
        let truth = self.grade(transfer, origin);
        alike(ends, truth)?;
        let taken = self.0.get(&transfer).map_or(&[][..], Vec::as_slice);
        let went = taken.iter().map(|(to, _)| to);
        let said = ends[0].came.iter().flat_map(|came| &came.path).map(|hop| &hop.to);
        match said.eq(went) {
            true => Ok(truth),
            false => Err(format!("batch {transfer} did not go the way it claims")),
        }
    }
}

/// Both ends hold the same key, the one that says how it came is borne out by the other, and neither claims
/// more than `truth`.
pub(crate) fn alike([ours, theirs]: [&ModuleKey; 2], truth: Grade) -> Result<(), String> {
    let id = &ours.id;
    if ours.id != theirs.id || ours.bytes != theirs.bytes || ours.bytes.is_empty() {
        return Err(format!("key {id} differs between its ends"));
    }
    let (Some(said), Some(seen)) = (&ours.came, &theirs.came) else {
        return Err(format!("nobody says how key {id} came"));
    };
    if !said.borne_out_by(seen) {
        return Err(format!("the ends of key {id} say that it came {said:?} and {seen:?}"));
    }
    for claimed in [said.grade(), seen.grade()] {
        if claimed > truth {
            return Err(format!("key {id} claims {claimed:?}, it is {truth:?}"));
        }
    }
    Ok(())
}
