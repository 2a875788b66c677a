//! Kills that hold on this edge before they are in the log, each held by the orders that asked for it.
//!
//! Two people may kill one thing at the same moment, and the log may take one order and refuse the other. So each order has a hold of
//! its own: what one lets go another may still hold.

use std::collections::{BTreeSet, HashMap};

use super::kills::Kills;
use super::target::Target;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Holds {
    orders: HashMap<Target, BTreeSet<u64>>,
    /// The targets, as look-ups read them.
    kills: Kills,
    last: u64,
}

/// One order's hold. It ends when it is let go, and not with this value: what is forgotten stays withheld.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub(super) struct Hold {
    pub(super) target: Target,
    number: u64,
}

impl Holds {
    pub(super) fn take(&mut self, target: &Target) -> Hold {
        self.last += 1;
        self.orders.entry(target.clone()).or_default().insert(self.last);
        self.kills.put(target, 0);
        Hold { target: target.clone(), number: self.last }
    }

    /// Whether it was the last hold of its target.
    pub(super) fn let_go(&mut self, hold: &Hold) -> bool {
        let Some(orders) = self.orders.get_mut(&hold.target) else { return false };
        orders.remove(&hold.number);
        if !orders.is_empty() {
            return false;
        }
        self.orders.remove(&hold.target);
        self.kills.remove(&hold.target);
        true
    }

    pub(super) const fn kills(&self) -> &Kills {
        &self.kills
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_withheld_until_its_last_order_lets_it_go() {
        let (mut holds, target) = (Holds::default(), "campaign:a".parse().unwrap());
        let (one, two) = (holds.take(&target), holds.take(&target));
        assert!(!holds.let_go(&one) && holds.kills().of(&target).is_some());
        assert!(!holds.let_go(&one), "a hold is let go once");
        assert!(holds.kills().of(&target).is_some());
        assert!(holds.let_go(&two) && holds.kills().is_empty());
        assert!(!holds.let_go(&two));
    }
}
