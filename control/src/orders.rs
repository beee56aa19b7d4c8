//! What operators ordered while a controller runs, each with its time. Of two orders for the same the later
//! holds, so controllers that hear each other's orders come to the same ones. Enter through
//! [`Orders::merge`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    component::{Component, Out, Pair, State},
    policy::Pin,
};

/// Most orders, of parts and of pins each, that are taken from another controller.
pub const MAX_ORDERS: usize = 16_384;

/// All orders, those that ended included: an older one that another controller still has does not come
/// back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Orders {
    /// Parts that were suspended, reserved, or given back.
    pub parts: BTreeMap<Component, PartOrder>,
    /// Ways that were pinned, one between the same two clusters.
    pub pins: Vec<PinOrder>,
}

/// What a part was ordered to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartOrder {
    /// Suspended, reserved, or anything else: nothing is ordered any more.
    pub state: State,
    /// When, in milliseconds since the Unix epoch; later than every earlier order for the part.
    pub at_ms: u64,
}

/// A pin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PinOrder {
    /// The way.
    pub pin: Pin,
    /// Whether it was ended.
    pub ended: bool,
    /// When, as in [`PartOrder`].
    pub at_ms: u64,
}

/// Whether an operator holds a part in this state.
pub(crate) fn is_held(state: State) -> bool {
    matches!(state, State::Reserved | State::OutOfService(Out::Suspended))
}

impl Orders {
    /// What parts are held in.
    pub fn held(&self) -> BTreeMap<Component, State> {
        let held = self.parts.iter().filter(|(_, order)| is_held(order.state));
        held.map(|(component, order)| (component.clone(), order.state)).collect()
    }

    /// The pins in force.
    pub fn pinned(&self) -> impl Iterator<Item = &Pin> {
        self.pins.iter().filter(|order| !order.ended).map(|order| &order.pin)
    }

    /// An operator's step brought a part into `state`.
    pub(crate) fn part(&mut self, component: &Component, state: State, now: u64) {
        let before = self.parts.get(component);
        if before.is_some() || is_held(state) {
            let at_ms = before.map_or(now, |before| now.max(before.at_ms + 1));
            self.parts.insert(component.clone(), PartOrder { state, at_ms });
        }
    }

    /// Pins a way.
    pub(crate) fn pin(&mut self, pin: Pin, now: u64) {
        self.put(PinOrder { pin, ended: false, at_ms: now });
    }

    /// Ends the pin between two clusters. Whether there was one.
    pub(crate) fn unpin(&mut self, pair: &Pair, now: u64) -> bool {
        let found = self.pins.iter().find(|order| pair_of(order) == *pair && !order.ended);
        let Some(pin) = found.map(|order| order.pin.clone()) else { return false };
        self.put(PinOrder { pin, ended: true, at_ms: now });
        true
    }

    fn put(&mut self, order: PinOrder) {
        let pair = pair_of(&order);
        match self.pins.iter_mut().find(|before| pair_of(before) == pair) {
            Some(before) => {
                let at_ms = order.at_ms.max(before.at_ms + 1);
                *before = PinOrder { at_ms, ..order };
            }
            None => self.pins.push(order),
        }
    }

    /// Takes what another controller has later. Whether there was anything; nothing of too much is taken.
    pub(crate) fn merge(&mut self, others: Self) -> bool {
        if others.parts.len().max(others.pins.len()) > MAX_ORDERS {
            return false;
        }
        let mut changed = false;
        for (component, order) in others.parts {
            // Of two at once the one that takes out.
            let rank = |order: &PartOrder| (order.at_ms, is_held(order.state));
            if self.parts.get(&component).is_none_or(|ours| rank(ours) < rank(&order)) {
                self.parts.insert(component, order);
                changed = true;
            }
        }
        for order in others.pins {
            let pair = pair_of(&order);
            let rank = |order: &PinOrder| (order.at_ms, !order.ended, order.pin.via.clone());
            match self.pins.iter_mut().find(|ours| pair_of(ours) == pair) {
                Some(ours) if rank(ours) >= rank(&order) => continue,
                Some(ours) => *ours = order,
                None => self.pins.push(order),
            }
            changed = true;
        }
        changed
    }
}

fn pair_of(order: &PinOrder) -> Pair {
    Pair::new(&order.pin.between[0], &order.pin.between[1])
}

#[cfg(test)]
mod tests {
    use km_core::ids::ClusterId;

    use super::*;

    fn pin(via: &str) -> Pin {
        let name = |name| ClusterId::parse(name).unwrap();
        Pin { between: [name("a"), name("d")], via: vec![name(via)], strict: false }
    }

    #[test]
    fn two_controllers_come_to_the_later_orders_and_ended_ones_stay_ended() {
        let (mut one, mut other) = (Orders::default(), Orders::default());
        let part: Component = "km/b".parse().unwrap();
        let held = State::OutOfService(Out::Suspended);
        one.part(&part, held, 1000);
        one.pin(pin("b"), 1000);
        assert!(other.merge(one.clone()) && !other.merge(one.clone()));
        assert_eq!((other.held().len(), other.pinned().count()), (1, 1));
        // The other's clock is behind; its order is the later all the same.
        other.part(&part, State::Standby, 10);
        assert!(other.unpin(&Pair::new(&pin("b").between[1], &pin("b").between[0]), 10));
        assert!(!other.merge(one.clone()), "what was ended does not come back");
        assert!(one.merge(other.clone()));
        assert_eq!((one.held().len(), one.pinned().count()), (0, 0));
        assert_eq!(one, other);
        // At the same moment: both take out rather than give back, and pin the same way.
        one.part(&part, held, 5000);
        other.part(&part, State::Standby, 5000);
        one.pin(pin("b"), 5000);
        other.pin(pin("c"), 5000);
        let theirs = other.clone();
        other.merge(one.clone());
        one.merge(theirs);
        assert_eq!((one.held().len(), &one), (1, &other));
    }

    #[test]
    fn what_was_never_ordered_is_no_order() {
        let mut orders = Orders::default();
        orders.part(&"km/b".parse().unwrap(), State::Standby, 1);
        assert!(orders.parts.is_empty());
    }
}
