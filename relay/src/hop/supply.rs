//! Supply of the exclusive or (clause 9.4): a trusted node that shares keys with two clusters supplies
//! `K1 ⊕ K2` when one of them asks, so that the other comes to hold K1 too. Enter through
//! [`Relay::supply`].
//!
//! It is the relay the other way round: who asks sends no key, and the node spends bytes that it assigns
//! from, those of both pools. It names its bytes of the asker's pool to the asker, and sends the other
//! end the same bytes under pad of theirs. Each of the two frames has its one-time tag.

use std::{sync::Arc, time::Instant};

use km_core::{ids::ClusterId, provenance::Hop};

use super::{
    engine::Relay,
    message::{HopFault, HopHead, SupplyAsk, TAG_KEY},
    seal::Given,
};

impl Relay {
    /// The neighbour `asker` asks for keys with the end of the ask's route.
    pub(crate) fn supply(self: &Arc<Self>, asker: ClusterId, ask: SupplyAsk) {
        let relay = self.clone();
        tokio::spawn(async move {
            let name = (asker.clone(), ask.transfer);
            let refused = relay.transfers().supply(&asker, &ask, Instant::now());
            if let Some(step) = refused {
                return relay.carry_out(step);
            }
            if let Err(why) = relay.supply_both(asker, ask).await {
                let step = relay.transfers().not_passed(name, why);
                step.into_iter().for_each(|step| relay.carry_out(step));
            }
        });
    }

    async fn supply_both(&self, asker: ClusterId, ask: SupplyAsk) -> Result<(), HopFault> {
        let SupplyAsk { transfer, route, policy, len } = ask;
        let len = len as usize;
        let qkd = |cluster| self.neighbour(cluster).filter(|n| n.link.is_some());
        let next = route.first().ok_or(HopFault::Refused)?;
        let (near, far) =
            (qkd(&asker).ok_or(HopFault::NoLink)?, qkd(next).ok_or(HopFault::NoLink)?);
        // What one of them lacks shall not cost the other its bytes, nor that it is away.
        if ![near, far].into_iter().all(|neighbour| neighbour.is_up()) {
            return Err(HopFault::NoLink);
        }
        if ![near, far].into_iter().all(|neighbour| neighbour.has(TAG_KEY + len)) {
            return Err(HopFault::NoPad);
        }
        let head = HopHead {
            transfer,
            from: self.here().clone(),
            route: Vec::new(),
            policy,
            origin: self.random_origin(),
            path: Vec::new(),
        };
        let Given { material, cipher, origin } = near.give(head, len).await?;
        let path = vec![Hop { to: self.here().clone(), cipher }];
        let head =
            HopHead { transfer, from: asker, route: route[1..].to_vec(), policy, origin, path };
        far.send(head, &material).await.map(drop)
    }
}
