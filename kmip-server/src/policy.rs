//! What an application may do here, beyond being known: [`Policy`].

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use km_core::ids::SaeId;
use kmip::{Version, enums::OperationCode};

use crate::login::Login;

/// Policies by application; those that are not named have the default.
pub type Policies = BTreeMap<SaeId, Policy>;

/// What one application may do. The default restricts nothing.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Whose objects it works with, together with others that name the same; absent: its own alone.
    pub tenant: Option<SaeId>,
    /// Operations it may ask for besides [`ALWAYS`]; absent: all but Set Defaults and Set Constraints,
    /// and what Delegated Login gives then holds in its own tenant alone.
    pub operations: Option<BTreeSet<OperationCode>>,
    /// What its requests must carry besides its certificate.
    pub login: Option<Login>,
    /// Operations a second; those beyond wait, see [`crate::pace`].
    pub operations_per_s: Option<NonZeroU32>,
    /// Connections open at once, over all KMIP fronts of this KM.
    pub connections: Option<NonZeroU32>,
    /// Where it is told of changes that it did not make itself.
    pub endpoint: Option<Endpoint>,
}

/// Where and how an application is told: over a connection of its own on which it answers (Set Endpoint
/// Role), else by a server of its own, which shows a certificate of that application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port` of that server; its certificate must carry the host.
    pub address: Option<String>,
    /// What that server understands.
    pub version: Version,
    /// The objects it is sent.
    pub sent: Sent,
}

/// Which objects of its tenant an application is sent (Put), as Get would give them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sent {
    /// None.
    #[default]
    Nothing,
    /// Those that others made in the place of another.
    Successors,
    /// All that others made.
    All,
}

/// What every application may ask: it tells nothing of any object.
pub const ALWAYS: [OperationCode; 3] =
    [OperationCode::DiscoverVersions, OperationCode::Query, OperationCode::Ping];

impl Policy {
    /// Whether it may ask for `operation`.
    pub(crate) fn allows(&self, operation: OperationCode) -> bool {
        let named = |operations: &BTreeSet<_>| operations.contains(&operation);
        self.operations.as_ref().is_none_or(named) || ALWAYS.contains(&operation)
    }

    /// Whether an operator wrote `operation` for it. Some are not for everybody: Set Defaults, Set
    /// Constraints, and Delegated Login where its tickets are to hold in other tenants too.
    pub(crate) fn names(&self, operation: OperationCode) -> bool {
        self.operations.as_ref().is_some_and(|operations| operations.contains(&operation))
    }
}
