//! With whom to run anti-entropy.

use rand::RngExt as _;
use rand::seq::IteratorRandom as _;

use super::Gossip;
use crate::{gossip::roster::Roster, id::NodeId};

/// One in so many exchanges goes to a manager, so that no two halves of a cluster stay apart.
const TO_MANAGERS: u32 = 8;

impl<R: Roster> Gossip<R> {
    /// Any member whose address is known, whatever membership believes of it: what was parted finds
    /// together again by this. A manager while no other is known.
    pub(super) fn choose_partner(&mut self) -> Option<NodeId> {
        let me = self.me;
        let manager = self
            .managers
            .iter()
            .copied()
            .filter(|node| *node != me && self.roster.key_of(*node).is_some())
            .choose(&mut self.rng);
        if manager.is_some() && self.rng.random_ratio(1, TO_MANAGERS) {
            return manager;
        }
        let store = &self.store;
        self.roster
            .members()
            .filter(|node| *node != me && store.node(*node).is_some())
            .choose(&mut self.rng)
            .or(manager)
    }
}
