//! Whom this node believes: [`Members`] as the newest view says, or on a manager the log.
//!
//! A view has the nodes that take part; the log also knows who left and who was evicted. A node that
//! is in neither is refused all the same.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use overlay_cluster::{
    id::{ClusterId, NodeId},
    identity::{Role, revocation::Standing, trust::TrustBundle},
    log::{
        state::Cluster,
        view::{Version, View},
    },
};

use super::tls::Members;

/// What is known at one version of the log.
#[derive(Debug)]
struct Known {
    version: Version,
    /// The log says more than the view of the same version.
    of_log: bool,
    trust: Arc<TrustBundle>,
    standings: HashMap<NodeId, Standing>,
}

/// The members of a cluster, as far as this node knows them now.
#[derive(Debug)]
pub struct LiveMembers {
    cluster: ClusterId,
    known: RwLock<Known>,
}

impl LiveMembers {
    /// As a view says: of a worker, and of a manager until it has its log.
    pub fn new(view: &View) -> Self {
        Self {
            cluster: view.cluster,
            known: RwLock::new(of_view(view)),
        }
    }

    /// Believes this view from now on. One of another cluster, or older than what is known, changes
    /// nothing. Whether it was taken.
    pub fn take_view(&self, view: &View) -> bool {
        view.cluster == self.cluster && self.take(view.version, || of_view(view))
    }

    /// Believes the managers' log from now on, under the same conditions.
    pub fn take_log(&self, log: &Cluster) -> bool {
        log.id() == self.cluster && self.take(log.version(), || of_log(log))
    }

    /// The role of a node that takes part.
    pub fn role(&self, node: &NodeId) -> Option<Role> {
        match self.standing(*node) {
            Standing::Member { role, .. } => Some(role),
            Standing::Left | Standing::Evicted | Standing::Unknown => None,
        }
    }

    /// The version that is believed.
    pub fn version(&self) -> Version {
        self.read(|known| known.version)
    }

    fn take(&self, version: Version, make: impl FnOnce() -> Known) -> bool {
        if version < self.version() {
            return false;
        }
        // Made before the lock is held: handshakes do not wait for it.
        let next = make();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let newer = (next.version, next.of_log) >= (known.version, known.of_log);
        if newer {
            *known = next;
        }
        newer
    }

    fn read<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Members for LiveMembers {
    fn trust(&self) -> Arc<TrustBundle> {
        self.read(|known| known.trust.clone())
    }

    fn standing(&self, node: NodeId) -> Standing {
        self.read(|known| known.standings.get(&node).copied())
            .unwrap_or(Standing::Unknown)
    }
}

fn of_view(view: &View) -> Known {
    let standing = |(node, peer): (&NodeId, &overlay_cluster::log::view::Peer)| {
        let (role, joined) = (peer.role, peer.joined);
        (*node, Standing::Member { role, joined })
    };
    Known {
        version: view.version,
        of_log: false,
        trust: Arc::new(view.trust.clone()),
        standings: view.peers.iter().map(standing).collect(),
    }
}

fn of_log(log: &Cluster) -> Known {
    let roster = log.roster();
    let members = roster.iter().map(|(node, _)| node);
    Known {
        version: log.version(),
        of_log: true,
        trust: Arc::new(log.trust().clone()),
        standings: members
            .chain(roster.evicted().keys())
            .map(|node| (*node, roster.standing(node)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use overlay_cluster::log::command::Command;

    use super::*;
    use crate::{
        daemon::testing::{apply, founded, join, node, tokens, view},
        plan::testing,
    };

    #[test]
    fn a_worker_goes_by_its_newest_view() {
        let mut view = testing::view();
        let members = LiveMembers::new(&view);
        let (role, joined) = (Role::Worker, testing::TIME);
        let standing = |n| members.standing(testing::id(n));
        assert_eq!(standing(2), Standing::Member { role, joined });
        assert_eq!(standing(9), Standing::Unknown);
        assert_eq!(*members.trust(), view.trust);

        view.version.revision += 1;
        view.peers.remove(&testing::id(2));
        assert!(members.take_view(&view));
        assert_eq!(standing(2), Standing::Unknown);
        // Out of order, or of another cluster.
        let mut older = testing::view();
        assert!(!members.take_view(&older));
        older.version.incarnation += 1;
        older.cluster = ClusterId::from_bytes([9; 16]);
        assert!(!members.take_view(&older));
        assert_eq!(standing(2), Standing::Unknown);
    }

    #[test]
    fn a_manager_knows_who_left_and_who_was_evicted() {
        let mut state = founded();
        join(&mut state, 2);
        join(&mut state, 3);
        let members = LiveMembers::new(&view(&state, 2));
        apply(&mut state, Command::Leave { node: node(3) });
        let tokens = tokens(9);
        let evict = Command::Evict {
            node: node(2),
            tokens,
        };
        apply(&mut state, evict);
        assert!(members.take_log(state.cluster().unwrap()));
        // Its own view says less.
        assert!(!members.take_view(&view(&state, 1)));
        assert_eq!(members.standing(node(2)), Standing::Evicted);
        assert_eq!(members.standing(node(3)), Standing::Left);
        assert!(matches!(
            members.standing(node(1)),
            Standing::Member {
                role: Role::Manager,
                ..
            }
        ));
    }
}
