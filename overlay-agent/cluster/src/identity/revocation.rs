//! Which certificates are good and refused all the same.
//!
//! There are no revocation lists. The roster, which the managers' log decides and every node has,
//! says who is a member; a certificate says only whose key it is. Whoever is evicted is refused
//! from the moment on at which a node learns of it, and whoever left and came back needs a certificate
//! that was issued since. A role is the smaller of what the certificate
//! and the roster say: a manager that became a worker has no more rights than that, and a worker
//! that became a manager renews first.

use super::{Role, authority::void_before, certificate::Identity};
use crate::{id::NodeId, time::Timestamp};

/// What the roster says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A member.
    Member {
        role: Role,
        /// A certificate that was issued earlier is void.
        joined: Timestamp,
    },
    /// It took its leave, and may join again.
    Left,
    /// It was one, and was put out.
    Evicted,
    /// Never heard of. It may have joined a moment ago, on a node that has not learned of it.
    Unknown,
}

/// The members of the cluster, as far as this node knows them.
pub trait Roster {
    fn standing(&self, node: NodeId) -> Standing;
}

impl<F: Fn(NodeId) -> Standing> Roster for F {
    fn standing(&self, node: NodeId) -> Standing {
        self(node)
    }
}

/// A peer that may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// What it may do.
    pub role: Role,
    /// Whether its certificate names another role than the roster: its owner should renew it.
    pub renew: bool,
}

/// Why a peer with a good certificate is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Put out of the cluster.
    #[error(
        "node {node} was evicted from the cluster: to come back it needs a new key and a join token"
    )]
    Evicted {
        /// The peer.
        node: NodeId,
    },
    /// It has left.
    #[error("node {node} has left the cluster: to come back it joins again")]
    Left {
        /// The peer.
        node: NodeId,
    },
    /// Its certificate is of a membership that has ended.
    #[error(
        "the certificate of node {node} begins on {}, and the node joined on {}: it shows the one \
         of an earlier membership, and must show that of its last join",
        .begins, .joined
    )]
    Earlier {
        /// The peer.
        node: NodeId,
        /// When the certificate begins.
        begins: Timestamp,
        /// When the node joined, by the log.
        joined: Timestamp,
    },
    /// Not in the roster.
    #[error(
        "node {node} is not in the roster of this node: if it has just joined it is tried again, \
         else it must join"
    )]
    Unknown {
        /// The peer.
        node: NodeId,
    },
}

/// Whether the roster lets this peer in, and as what.
pub fn admit(peer: &Identity, roster: &impl Roster) -> Result<Admission, Refusal> {
    let node = peer.node;
    match roster.standing(node) {
        Standing::Member { joined, .. } if peer.not_before < void_before(joined) => {
            Err(Refusal::Earlier {
                node,
                begins: peer.not_before,
                joined,
            })
        }
        Standing::Member { role, .. } => Ok(Admission {
            role: role.min(peer.role),
            renew: role != peer.role,
        }),
        Standing::Left => Err(Refusal::Left { node }),
        Standing::Evicted => Err(Refusal::Evicted { node }),
        Standing::Unknown => Err(Refusal::Unknown { node }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::{
        certificate::CLOCK_TOLERANCE,
        testing::{NOW, Pki},
    };

    fn says(peer: &Identity, standing: Standing) -> Result<Admission, Refusal> {
        admit(peer, &move |_: NodeId| standing)
    }

    #[test]
    fn the_roster_overrules_the_certificate() {
        let pki = Pki::new(1);
        let mut peer = pki.identity(&pki.node_key(1));
        let node = peer.node;
        for (standing, refusal) in [
            (Standing::Evicted, Refusal::Evicted { node }),
            (Standing::Unknown, Refusal::Unknown { node }),
            (Standing::Left, Refusal::Left { node }),
        ] {
            assert_eq!(says(&peer, standing), Err(refusal));
        }
        let joined = peer.not_before;
        let (worker, manager) = (Role::Worker, Role::Manager);
        for (certificate, roster, role) in [
            (worker, worker, worker),
            (worker, manager, worker),
            (manager, worker, worker),
            (manager, manager, manager),
        ] {
            peer.role = certificate;
            let renew = certificate != roster;
            let standing = Standing::Member {
                role: roster,
                joined,
            };
            assert_eq!(says(&peer, standing), Ok(Admission { role, renew }));
        }
    }

    #[test]
    fn a_certificate_of_an_earlier_membership_is_void() {
        let pki = Pki::new(1);
        let peer = pki.identity(&pki.node_key(1));
        let admitted = |joined| {
            let role = Role::Worker;
            says(&peer, Standing::Member { role, joined })
        };
        let latest = peer.not_before.saturating_add(2 * CLOCK_TOLERANCE);
        // Certificates count in seconds, the log in milliseconds.
        assert!(admitted(latest.saturating_add(Duration::from_millis(999))).is_ok());
        let joined = latest.saturating_add(Duration::from_secs(1));
        let (node, begins) = (peer.node, peer.not_before);
        let earlier = Refusal::Earlier {
            node,
            begins,
            joined,
        };
        assert_eq!(admitted(joined), Err(earlier));
        // It was issued when it was good.
        assert!(joined < NOW);
    }
}
