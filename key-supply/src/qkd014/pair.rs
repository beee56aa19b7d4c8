//! Who asks and with whom keys are shared. An operation takes a [`Master`] or a [`Slave`]; only
//! an allowed pair becomes one.

use km_core::{ids::SaeId, supply::Supply};

use super::answer::Refusal;

/// The caller asks as master for keys it may share with `slave`.
pub(super) struct Master<'a> {
    pub(super) caller: &'a SaeId,
    pub(super) slave: SaeId,
}

/// The caller asks as slave for keys of `master`, with whom it may share some.
pub(super) struct Slave<'a> {
    pub(super) caller: &'a SaeId,
    pub(super) master: SaeId,
}

impl<'a> Master<'a> {
    /// `named` is the SAE ID in the URL.
    pub(super) fn of(supply: &Supply, caller: &'a SaeId, named: &str) -> Result<Self, Refusal> {
        let slave = parse(named)?;
        let allowed = supply.registry().authorise(caller, &slave);
        if allowed { Ok(Self { caller, slave }) } else { Err(Refusal::Unauthorized) }
    }
}

impl<'a> Slave<'a> {
    /// `named` is the SAE ID in the URL.
    pub(super) fn of(supply: &Supply, caller: &'a SaeId, named: &str) -> Result<Self, Refusal> {
        let master = parse(named)?;
        let allowed = supply.registry().authorise(&master, caller);
        if allowed { Ok(Self { caller, master }) } else { Err(Refusal::Unauthorized) }
    }
}

/// What cannot be the name of a registered SAE is refused like the name of one that is not.
pub(super) fn parse(named: &str) -> Result<SaeId, Refusal> {
    SaeId::parse(named).map_err(|_| Refusal::Unauthorized)
}
