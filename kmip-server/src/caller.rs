//! Who asks. [`Caller`] comes only from a verified certificate that stands for an application at
//! this cluster; [`Unchecked`] gives its items to nobody else.

use km_core::ids::SaeId;
use kmip::{
    RequestMessage, Version,
    message::{RequestHeader, RequestItem},
};
use transport::PeerIdentity;

use crate::Server;

/// An application that is registered at this cluster.
#[derive(Debug)]
pub(crate) struct Caller(SaeId);

impl Caller {
    /// The application a certificate stands for.
    pub(crate) fn find(server: &Server, peer: &PeerIdentity) -> Option<Self> {
        let here = server.supply.here();
        let sae = server.applications.find(peer);
        let registered = sae.filter(|sae| server.supply.registry().is_at(sae, here));
        if registered.is_none() {
            tracing::info!(client = %peer.address(), %peer, kme = %here,
                "the certificate is of no application registered here; its requests are refused");
        }
        registered.cloned().map(Self)
    }

    /// Its name.
    pub(crate) fn sae(&self) -> &SaeId {
        &self.0
    }
}

/// A request of nobody yet: only what is needed to refuse it can be seen.
pub(crate) struct Unchecked(RequestMessage);

/// A request of a known application.
pub(crate) struct Authorized<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) version: Version,
    pub(crate) header: RequestHeader,
    pub(crate) items: Vec<RequestItem>,
}

impl Unchecked {
    pub(crate) fn new(message: RequestMessage) -> Self {
        Self(message)
    }

    pub(crate) fn version(&self) -> Version {
        self.0.version
    }

    /// The one way to the items.
    pub(crate) fn authorize(self, caller: Option<&Caller>) -> Option<Authorized<'_>> {
        let RequestMessage { version, header, items } = self.0;
        caller.map(|caller| Authorized { caller, version, header, items })
    }
}
