//! `[[relay]]`: pools between clusters without a QKD link, fed over others; or, with an empty `via`, over
//! their KM link.

use std::collections::BTreeSet;

use ::relay::combine::Combine;
use km_core::{
    feeding::{Mode, Written},
    ids::ClusterId,
    route::{CipherPolicy, Route},
    usage::kem::KemSet,
};
use toml::Spanned;

use super::{
    Peer,
    check::Mistake,
    file::{self, Scheme},
};

/// Gives the peers of `entries` their relay.
pub(super) fn feed_all(
    here: &ClusterId,
    peers: &mut [Peer],
    entries: &[Spanned<file::Relay>],
    controlled: bool,
) -> Result<(), Mistake> {
    let by_km_link = |entry: &&file::Relay| entry.via.as_ref().is_some_and(Vec::is_empty);
    let filled = entries.iter().map(Spanned::get_ref).filter(by_km_link);
    let filled: BTreeSet<&ClusterId> = filled.map(|entry| &entry.to).collect();
    entries.iter().try_for_each(|entry| feed(here, peers, &filled, entry))?;
    let wayless = |entry: &&Spanned<file::Relay>| entry.get_ref().via.is_none() && !controlled;
    if let Some(entry) = entries.iter().find(wayless) {
        let text = format!("nobody says which way keys for {} go", entry.get_ref().to);
        let help = "add [controller], which gives the ways, or name the clusters between in `via`";
        return Err(Mistake::new(text, help).at(entry));
    }
    let neighbours = peers.iter().filter(|peer| !peer.qkd.is_empty()).count();
    let narrow = |entry: &&Spanned<file::Relay>| {
        let ways = entry.get_ref().ways;
        ways > 1 && ways > neighbours
    };
    if let Some(entry) = entries.iter().find(narrow) {
        let text = format!("{} ways need as many QKD links to others", entry.get_ref().ways);
        let help =
            format!("{neighbours} peers have a [[qkd_link]]: add more, or ask for fewer ways");
        return Err(Mistake::new(text, help).at(entry));
    }
    Ok(())
}

fn feed(
    here: &ClusterId,
    peers: &mut [Peer],
    filled: &BTreeSet<&ClusterId>,
    entry: &Spanned<file::Relay>,
) -> Result<(), Mistake> {
    let file::Relay { to, via, cipher, scheme, .. } = entry.get_ref();
    let mode = mode(entry.get_ref())
        .map_err(|rule| Mistake::new(rule, "change it, or leave it out").at(entry))?;
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
        let qkd = peers.iter().any(|peer| peer.cluster == *next && !peer.qkd.is_empty());
        if !(qkd || filled.contains(next)) || via.as_ref().is_some_and(|via| via.contains(here)) {
            let text = format!("the way to {to} cannot begin with {next}");
            let help = "begin `via` with a peer that has a [[qkd_link]] here, or a [[relay]] with via = []";
            return Err(Mistake::new(text, help).at(entry));
        }
        if next == to && *cipher == CipherPolicy::OtpOnly {
            let text = format!("there is no one-time pad before the pool with {to} has keys");
            let help = "leave `cipher` out: what the KM link brings is computational";
            return Err(Mistake::new(text, help).at(entry));
        }
    }
    let Some(peer) = peers.iter_mut().find(|peer| peer.cluster == *to) else {
        let text = format!("the relay leads to {to}, which is no [[peer]]");
        return Err(Mistake::new(text, format!("add a [[peer]] with cluster = \"{to}\"")).at(entry));
    };
    if !peer.qkd.is_empty() || peer.relay.is_some() {
        let text = format!("the pool with {to} is fed already");
        return Err(
            Mistake::new(text, "keep one [[qkd_link]] or [[relay]] for each peer").at(entry)
        );
    }
    let ways = entry.get_ref().ways;
    if !(1..=3).contains(&ways) || (ways > 1 && via.is_some()) {
        let text = "ways must be 1 to 3; the ways of a split key come from the controller";
        return Err(Mistake::new(text, "change it, or leave out `via`").at(entry));
    }
    let scheme = match scheme {
        Scheme::FirstKey => relay::Scheme::FirstKey,
        Scheme::Random => relay::Scheme::Random,
        Scheme::Supplied => relay::Scheme::Supplied,
    };
    peer.relay = Some(relay::RelayConfig { route, cipher: *cipher, scheme, mode, ways });
    Ok(())
}

fn mode(entry: &file::Relay) -> Result<Mode, &'static str> {
    let file::Relay { mode, low_kib, high_kib, rate_bps, horizon_s, ref windows, .. } = *entry;
    let windows = windows.clone();
    Mode::try_from(Written { mode, low_kib, high_kib, rate_bps, horizon_s, windows })
}

/// How the blocks of a peer's pool are combined.
pub(super) fn combine(entry: &file::Peer) -> Option<Combine> {
    let required = match entry.combine {
        file::Combining::Off => return None,
        file::Combining::Optional => false,
        file::Combining::Required => true,
    };
    let set = match entry.kem {
        file::Kem::MlKem768 => KemSet::MlKem768,
        file::Kem::MlKem1024 => KemSet::MlKem1024,
    };
    Some(Combine { required, method: entry.combine_method, set })
}
