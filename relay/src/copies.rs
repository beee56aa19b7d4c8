//! Objects that are named one by one and copied to the peer under their identifier (clause 9.3b).
//!
//! The relay brings a fresh batch of bits both ends then hold, hop by hop as for a pool: the *pad*. Its first
//! 32 bytes key a one-time tag over the offer, the rest hides the object, and the offer goes over the KM
//! link between the two ends. So a node between, which knows the pad, sees nothing of the object unless it
//! breaks that link's TLS as well, and changes nothing unseen. A pad serves once: the end that is offered an
//! object takes it out before it looks at anything. It stores the object before it answers; who heard no
//! answer asks again, with a new pad, and is told that the object is there.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use km_core::{
    copies::{CopyError, Leaving, ObjectCopy, Placed},
    material::ClearBytes,
    module::{ModuleError, ModuleKey, ModuleSource},
    objects::MAX_ATTRIBUTES,
    provenance::{Grade, Provenance},
    route::MAX_HOPS,
};
use serde::{Deserialize, Serialize};

use crate::{
    agreement::{self, Tag},
    frame::Frame,
    hop::{MAX_MATERIAL, source::RelayModule},
    peer::Peer,
    work::Done,
};

/// Bytes of the pad that key the tag.
const TAG_KEY: usize = 32;
/// Longest object, in bytes.
pub const MAX_OBJECT: usize = MAX_MATERIAL - TAG_KEY;
/// Longest name of a pad: those of the shares of a split one.
pub const MAX_PAD_NAME: usize = 512;

/// An object one end offers to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The pad: what the relay calls the batch.
    pub pad: String,
    /// The way the pad came.
    pub way: Provenance,
    /// What it is.
    pub copy: ObjectCopy,
    /// Its bytes, hidden.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    /// One-time tag over all of the above.
    pub tag: Tag,
}

impl Offer {
    /// Hides an object with a pad; `None` when the pad does not have the right length.
    pub fn seal(pad: &ModuleKey, copy: ObjectCopy, clear: &ClearBytes) -> Option<Self> {
        let way = pad.came.clone()?;
        let body = added(&pad.bytes, |pad| clear.expose(|clear| xor(clear, pad)))?;
        let mut offer = Self { pad: pad.id.clone(), way, copy, body, tag: Tag::default() };
        offer.tag = offer.tag_under(&pad.bytes)?;
        Some(offer).filter(|offer| offer.body.len() == clear.len())
    }

    /// The object, if the tag fits and the pad has the right length.
    pub fn open(&self, pad: &ClearBytes) -> Option<ClearBytes> {
        let tag = self.tag_under(pad).filter(|_| pad.len() == TAG_KEY + self.body.len())?;
        let fits = agreement::equal(&tag, &self.tag);
        fits.then(|| added(pad, |pad| ClearBytes::from_vec(xor(&self.body, pad)))).flatten()
    }

    fn tag_under(&self, pad: &ClearBytes) -> Option<Tag> {
        let parts = (&self.pad, &self.way, &self.copy);
        let mut message = postcard::to_extend(&parts, b"qkm copy 1\0".to_vec()).ok()?;
        message.extend_from_slice(&(message.len() as u64).to_be_bytes());
        message.extend_from_slice(&self.body);
        pad.expose(|pad| Some(agreement::one_time(pad.get(..TAG_KEY)?, &message)))
    }

    pub(crate) fn within_bounds(&self) -> bool {
        let ways = [&self.way, &self.copy.provenance];
        let short = |way: &&Provenance| way.hops().count() <= 8 * MAX_HOPS;
        (1..=MAX_PAD_NAME).contains(&self.pad.len())
            && (1..=MAX_OBJECT).contains(&self.body.len())
            && self.copy.attributes.len() <= MAX_ATTRIBUTES
            && ways.iter().all(short)
    }
}

fn added<T>(pad: &ClearBytes, hide: impl FnOnce(&[u8]) -> T) -> Option<T> {
    pad.expose(|pad| pad.get(TAG_KEY..).map(hide))
}

fn xor(bytes: &[u8], pad: &[u8]) -> Vec<u8> {
    bytes.iter().zip(pad).map(|(byte, pad)| byte ^ pad).collect()
}

impl Peer {
    /// Copies an object to the peer; durable there on return. And what its way there claims.
    pub(crate) async fn send_copy(
        self: &Arc<Self>,
        leaving: Leaving,
    ) -> Result<(Placed, Provenance), CopyError> {
        let Leaving { copy, clear, grade, .. } = leaving;
        let peer = &self.config.cluster;
        let source = self.pads.clone().ok_or_else(|| {
            let text = format!("nothing brings keys for {peer}: it has no QKD link and no relay");
            CopyError::Refused(text)
        })?;
        if !(1..=MAX_OBJECT).contains(&clear.len()) {
            let text = format!("object {} is longer than {MAX_OBJECT} bytes", copy.uid);
            return Err(CopyError::Refused(text));
        }
        let way = |error: ModuleError| {
            CopyError::Unavailable(format!("no bits with {peer} to hide it with: {error}"))
        };
        let len = TAG_KEY + clear.len();
        // What may claim more is not brought over a worse way while there is a better one.
        let pad = match source.pad(len, copy.provenance.grade().max(grade)).await {
            Err(_) if grade == Grade::Computational => source.pad(len, grade).await,
            pad => pad,
        };
        let pad = pad.map_err(way)?;
        let came = pad.came.as_ref().map(|came| copy.provenance.carried(came));
        let came = came.filter(|came| came.path.len() <= MAX_HOPS);
        let came =
            came.ok_or_else(|| CopyError::Refused("it came over too many hops".to_owned()))?;
        if came.grade() < grade {
            let text = format!("policy of the pair asks for grade {}", grade.as_str());
            return Err(CopyError::Refused(text));
        }
        let offer = Offer::seal(&pad, copy, &clear);
        let offer = offer.ok_or_else(|| {
            CopyError::Unavailable(format!("the bits with {peer} came in pieces"))
        })?;
        let placed = self.handle.offer(offer).await?;
        Ok((placed, came))
    }
}

/// Takes an object the peer offers: durable here before the peer hears of it.
pub(crate) async fn take(
    peer: Arc<Peer>,
    done: tokio::sync::mpsc::UnboundedSender<Done>,
    offer: Offer,
) {
    let pad = offer.pad.clone();
    let placed = placed(&peer, offer).await;
    if let Err(error) = &placed {
        tracing::warn!(peer = %peer.config.cluster, %error, "an object was not taken");
    }
    let _ = done.send(Done::Send(Frame::Placed { pad, placed }));
}

async fn placed(peer: &Peer, offer: Offer) -> Result<Placed, CopyError> {
    let refused = |text: &str| Err(CopyError::Refused(text.to_owned()));
    let (Some(source), Some(copies)) = (&peer.pads, &peer.copies) else {
        return refused("this key manager takes no objects from there");
    };
    let names = [offer.pad.clone()];
    let collected = RelayModule(source.clone()).collect(&names, &offer.way).await;
    let pad = collected.map_err(|error| CopyError::Unavailable(error.to_string()))?.pop();
    let Some(ModuleKey { bytes, came: Some(came), .. }) = pad else {
        return refused("the bits that hide it did not come");
    };
    let Some(clear) = offer.open(&bytes) else {
        peer.counters.tampered.fetch_add(1, Relaxed);
        tracing::error!(peer = %peer.config.cluster, alarm = "copy-tampered",
            "an offered object does not open: it or its pad was changed on the way");
        return refused("its tag does not fit");
    };
    if !offer.way.borne_out_by(&came) {
        tracing::error!(peer = %peer.config.cluster, alarm = "relay-path",
            "the ends were told different ways of relayed keys; a node on the way altered it");
        return refused("the bits that hide it did not come as announced");
    }
    let provenance = offer.copy.provenance.carried(&offer.way);
    if provenance.path.len() > MAX_HOPS {
        return refused("it came over too many hops");
    }
    let copy = ObjectCopy { provenance, ..offer.copy };
    copies.arrived(&peer.config.cluster, copy, clear).await
}

#[cfg(test)]
mod tests {
    use km_core::{
        ids::{LinkId, SaeId},
        objects::ObjectState,
        provenance::Origin,
    };

    use super::*;

    fn pad(len: usize) -> ModuleKey {
        let bytes = ClearBytes::from_vec((0..len).map(|at| (at * 7) as u8).collect());
        let came = Some(Provenance::direct(LinkId::parse("l1").unwrap()));
        ModuleKey { id: "pad".into(), bytes, came }
    }

    fn copy() -> ObjectCopy {
        let sae = |name| SaeId::parse(name).unwrap();
        let provenance = Provenance::local(Origin::HsmRng);
        let (from, to, state) = (sae("sae-a"), sae("sae-c"), ObjectState::Active);
        ObjectCopy { uid: "u".into(), from, to, state, provenance, attributes: vec![1, 2] }
    }

    #[test]
    fn an_offer_opens_whole_and_unchanged_or_not_at_all() {
        let (pad, clear) = (pad(TAG_KEY + 32), ClearBytes::from_vec(vec![9; 32]));
        let offer = Offer::seal(&pad, copy(), &clear).unwrap();
        let opened = offer.open(&pad.bytes).unwrap();
        assert!(opened.expose(|bytes| bytes == [9; 32]));
        type Change = fn(&mut Offer);
        let changes: [Change; 7] = [
            |offer| offer.body[31] ^= 1,
            |offer| offer.tag[0] ^= 1,
            |offer| offer.copy.uid.push('x'),
            |offer| offer.copy.to = SaeId::parse("sae-d").unwrap(),
            |offer| offer.copy.attributes[0] = 7,
            |offer| offer.copy.provenance.origin = Origin::Qrng,
            |offer| offer.way.origin = Origin::Qrng,
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = offer.clone();
            change(&mut changed);
            assert!(changed.open(&pad.bytes).is_none(), "{at}");
        }
        for len in [0, TAG_KEY, TAG_KEY + 31, TAG_KEY + 33] {
            let other = self::pad(len);
            assert!(offer.open(&other.bytes).is_none());
            assert!(len == TAG_KEY + 33 || Offer::seal(&other, copy(), &clear).is_none());
        }
    }
}
