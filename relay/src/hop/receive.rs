//! What an end of a hop makes of a frame. Without I/O. Enter through [`received`].

use km_core::{ids::ClusterId, material::ClearBytes, provenance::Origin};

use super::{
    message::{HopAnswer, HopFault, HopFrame, HopHead, Lock},
    pads_in::PadsIn,
    path::with_hop,
};
use crate::session::Feed;

/// Opens a frame that came to `here` from `peer` over a link whose pool `feed` fills: the head with this
/// hop on its path, and the batch.
///
/// # Errors
/// Why not, as it is to be answered. What the frame names is spent in any case, unless it cannot be meant
/// for this link.
pub fn received(
    pads: &mut PadsIn,
    feed: Option<&Feed>,
    [here, peer]: [&ClusterId; 2],
    frame: HopFrame,
) -> Result<(HopHead, ClearBytes), (HopFault, HopAnswer)> {
    let opened = match plausible(feed, peer, &frame) {
        true => pads.open(&frame),
        false => Err(HopFault::Refused),
    };
    let mut head = frame.head;
    match opened {
        Ok(opened) => {
            head.path = with_hop(head.path, here, opened.cipher);
            Ok((head, opened.material))
        }
        Err(why) => Err((why, HopAnswer::Failed { at: here.clone(), why })),
    }
}

/// Whether what the head says of the way here and of its beginning can be.
fn plausible(feed: Option<&Feed>, peer: &ClusterId, frame: &HopFrame) -> bool {
    let HopFrame { head, lock, .. } = frame;
    let last = head.path.last().map_or(&head.from, |hop| &hop.to);
    let born = match (feed, head.path.is_empty(), lock) {
        (Some(Feed::Qkd(links)), true, Lock::Given(_)) => {
            matches!(&head.origin, Origin::Qkd(link) if links.contains(link))
        }
        // What begins to fill the pool goes no further.
        (Some(Feed::KmLink), true, Lock::Link { .. }) if !head.route.is_empty() => false,
        (Some(Feed::KmLink), false, Lock::Link { .. }) => false,
        (Some(Feed::Qkd(_)), _, Lock::Link { .. }) => false,
        // Bits of a QKD link begin their way over that link, and nothing else does.
        (Some(Feed::Qkd(_) | Feed::KmLink), true, _) => !matches!(head.origin, Origin::Qkd(_)),
        (Some(Feed::Qkd(_) | Feed::KmLink), false, lock) => !matches!(lock, Lock::Given(_)),
        (Some(Feed::Relay) | None, ..) => false,
    };
    last == peer && born
}
