//! `[[relay]]`: pools between clusters without a QKD link, fed over others.

use km_core::{ids::ClusterId, route::Route};
use toml::Spanned;

use super::{
    Peer,
    check::Mistake,
    file::{self, Scheme},
};

/// Gives the peer of `entry` its relay.
pub(super) fn feed(
    here: &ClusterId,
    peers: &mut [Peer],
    entry: &Spanned<file::Relay>,
) -> Result<(), Mistake> {
    let file::Relay { to, via, cipher, scheme } = entry.get_ref();
    let route = match via {
        None => None,
        Some(via) => {
            let hops = via.iter().chain([to]).cloned().collect();
            let route = Route::new(hops, *cipher).map_err(|e| {
                Mistake::new(e.to_string(), "name each cluster between here and there once")
            });
            Some(route.map_err(|mistake| mistake.at(entry))?)
        }
    };
    if let Some(next) = route.as_ref().map(Route::next) {
        let linked = peers.iter().any(|peer| peer.cluster == *next && peer.qkd.is_some());
        if !linked || via.as_ref().is_some_and(|via| via.contains(here)) {
            let text = format!("the way to {to} cannot begin with {next}");
            let help = "begin `via` with a peer that has a [[qkd_link]] to this cluster";
            return Err(Mistake::new(text, help).at(entry));
        }
    }
    let Some(peer) = peers.iter_mut().find(|peer| peer.cluster == *to) else {
        let text = format!("the relay leads to {to}, which is no [[peer]]");
        return Err(Mistake::new(text, format!("add a [[peer]] with cluster = \"{to}\"")).at(entry));
    };
    if peer.qkd.is_some() || peer.relay.is_some() {
        let text = format!("the pool with {to} is fed already");
        return Err(
            Mistake::new(text, "keep one [[qkd_link]] or [[relay]] for each peer").at(entry)
        );
    }
    let scheme = match scheme {
        Scheme::FirstKey => relay::Scheme::FirstKey,
        Scheme::Random => relay::Scheme::Random,
    };
    peer.relay = Some(relay::RelayConfig { route, scheme });
    Ok(())
}
