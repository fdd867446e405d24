//! Who belongs to the cluster, as the managers' log says.

use std::{collections::BTreeMap, sync::Arc};

use ed25519_dalek::VerifyingKey;

use crate::id::NodeId;

/// The members and their keys. Gossip never adds to it: it is passed in.
pub trait Roster {
    /// The key of a member; nothing for everybody else.
    fn key_of(&self, node: NodeId) -> Option<&VerifyingKey>;

    fn members(&self) -> impl Iterator<Item = NodeId>;

    fn len(&self) -> usize {
        self.members().count()
    }

    fn is_empty(&self) -> bool {
        self.members().next().is_none()
    }
}

impl Roster for BTreeMap<NodeId, VerifyingKey> {
    fn key_of(&self, node: NodeId) -> Option<&VerifyingKey> {
        self.get(&node)
    }

    fn members(&self) -> impl Iterator<Item = NodeId> {
        self.keys().copied()
    }

    fn len(&self) -> usize {
        Self::len(self)
    }
}

impl<R: Roster> Roster for Arc<R> {
    fn key_of(&self, node: NodeId) -> Option<&VerifyingKey> {
        R::key_of(self, node)
    }

    fn members(&self) -> impl Iterator<Item = NodeId> {
        R::members(self)
    }

    fn len(&self) -> usize {
        R::len(self)
    }
}
