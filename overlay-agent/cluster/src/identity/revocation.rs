//! Which certificates are good and refused all the same.
//!
//! There are no revocation lists. The roster, which the managers' log decides and every node has,
//! says who is a member; a certificate says only whose key it is. Whoever is evicted is refused
//! from the moment on at which a node learns of it. A role is the smaller of what the certificate
//! and the roster say: a manager that became a worker has no more rights than that, and a worker
//! that became a manager renews first.

use super::{Role, certificate::Identity};
use crate::id::NodeId;

/// What the roster says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A member, in this role.
    Member(Role),
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
        Standing::Member(role) => Ok(Admission {
            role: role.min(peer.role),
            renew: role != peer.role,
        }),
        Standing::Evicted => Err(Refusal::Evicted { node }),
        Standing::Unknown => Err(Refusal::Unknown { node }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::Pki;

    #[test]
    fn the_roster_overrules_the_certificate() {
        let pki = Pki::new(1);
        let mut peer = pki.identity(&pki.node_key(1));
        let node = peer.node;
        let says = |peer: &Identity, standing| admit(peer, &move |_: NodeId| standing);
        assert_eq!(
            says(&peer, Standing::Evicted),
            Err(Refusal::Evicted { node })
        );
        assert_eq!(
            says(&peer, Standing::Unknown),
            Err(Refusal::Unknown { node })
        );
        let (worker, manager) = (Role::Worker, Role::Manager);
        for (certificate, roster, role) in [
            (worker, worker, worker),
            (worker, manager, worker),
            (manager, worker, worker),
            (manager, manager, manager),
        ] {
            peer.role = certificate;
            let renew = certificate != roster;
            assert_eq!(
                says(&peer, Standing::Member(roster)),
                Ok(Admission { role, renew })
            );
        }
    }
}
