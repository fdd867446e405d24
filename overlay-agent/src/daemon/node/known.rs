//! What TLS asks of a node: whom it trusts and who is a member, by the view that it has.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use overlay_cluster::{
    id::NodeId,
    identity::{Role, revocation::Standing, trust::TrustBundle},
    log::view::View,
};

use crate::daemon::tls::Members;

/// The members of the cluster, as this node knows them.
#[derive(Debug)]
pub struct Known {
    trust: RwLock<Arc<TrustBundle>>,
    roles: RwLock<BTreeMap<NodeId, Role>>,
}

impl Known {
    pub fn new(trust: TrustBundle, view: &View) -> Arc<Self> {
        Arc::new(Self {
            trust: RwLock::new(Arc::new(trust)),
            roles: RwLock::new(roles(view)),
        })
    }

    /// Goes by this view from now on.
    pub fn follow(&self, view: &View) {
        let now = roles(view);
        *self.roles.write().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Trusts these roots from now on.
    pub fn set_trust(&self, trust: TrustBundle) {
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
    }

    /// The role of a member.
    pub fn role(&self, node: &NodeId) -> Option<Role> {
        let roles = self.roles.read().unwrap_or_else(PoisonError::into_inner);
        roles.get(node).copied()
    }
}

fn roles(view: &View) -> BTreeMap<NodeId, Role> {
    let peers = view.peers.iter();
    peers.map(|(id, peer)| (*id, peer.role)).collect()
}

impl Members for Known {
    fn trust(&self) -> Arc<TrustBundle> {
        let trust = self.trust.read().unwrap_or_else(PoisonError::into_inner);
        trust.clone()
    }

    /// Who is gone from the view has left or was put out: which, managers know.
    fn standing(&self, node: NodeId) -> Standing {
        self.role(&node).map_or(Standing::Unknown, Standing::Member)
    }
}
