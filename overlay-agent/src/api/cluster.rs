//! The cluster as a whole, and this node's part in it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use overlay_cluster::{
    id::{ClusterId, NodeId},
    identity::Role,
    log::names::{Labels, NodeName},
};
use overlay_ebpf::abi::PeerIndex;
use serde::{Deserialize, Serialize};

use super::{SecretText, Time, secret::Blob};

/// `POST /v1/cluster/init`: a new cluster, of which this node is the first manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// Addresses that the other nodes reach, at most one of each family: tunnels run between them. The
    /// control address is the first, with the port of `listen`.
    pub advertise: Vec<IpAddr>,
    /// Where the agent takes connections of other nodes; `None` is the first of `advertise` and
    /// [`DEFAULT_PORT`](super::DEFAULT_PORT).
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// `None` is the host's name.
    #[serde(default)]
    pub name: Option<NodeName>,
    #[serde(default)]
    pub labels: Labels,
    /// Whether an operator must unlock a manager after each start.
    #[serde(default)]
    pub autolock: bool,
    /// `None` is 12 hours.
    #[serde(default)]
    pub key_rotation_interval_seconds: Option<u64>,
    /// Where networks without a subnet get theirs from; none is 10.0.0.0/8 in parts of /24.
    #[serde(default)]
    pub subnet_pools: Vec<SubnetPool>,
}

/// A pool of subnets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetPool {
    pub net: IpNet,
    /// Prefix length of each subnet.
    pub prefix: u8,
}

impl From<SubnetPool> for overlay_cluster::log::settings::SubnetPool {
    fn from(pool: SubnetPool) -> Self {
        Self {
            net: pool.net,
            prefix: pool.prefix,
        }
    }
}

/// What a new cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialised {
    #[serde(flatten)]
    pub membership: Membership,
    /// Control addresses of managers, to join at.
    pub managers: Vec<SocketAddr>,
    pub worker_token: SecretText,
    /// With `autolock`.
    #[serde(default)]
    pub unlock_key: Option<SecretText>,
}

/// This node in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub name: NodeName,
    pub index: PeerIndex,
    pub role: Role,
}

/// `POST /v1/cluster/join`, answered by a [`Membership`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    pub token: SecretText,
    /// Control addresses of managers; the first that answers is taken.
    pub managers: Vec<SocketAddr>,
    /// Empty is the address that this host reaches the manager from.
    #[serde(default)]
    pub advertise: Vec<IpAddr>,
    /// As for [`InitRequest::listen`].
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// `None` is the host's name.
    #[serde(default)]
    pub name: Option<NodeName>,
    #[serde(default)]
    pub labels: Labels,
}

/// `POST /v1/cluster/leave`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveRequest {
    /// Also with endpoints attached, as a manager, or with no manager in reach.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/cluster/unlock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnlockRequest {
    pub key: SecretText,
}

/// `GET /v1/cluster/unlock-key`, `POST /v1/cluster/unlock-key/rotate`, and the answer of
/// `PUT /v1/cluster/autolock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlockKey {
    pub autolock: bool,
    /// `None` without autolock.
    #[serde(default)]
    pub key: Option<SecretText>,
}

/// `PUT /v1/cluster/autolock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutolockRequest {
    pub enabled: bool,
}

/// `GET /v1/cluster/tokens/{role}` and `POST /v1/cluster/tokens/{role}/rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    pub role: Role,
    pub token: SecretText,
    /// The first time at which it opens nothing; `None` is never.
    #[serde(default)]
    pub expires: Option<Time>,
    /// Control addresses of managers, to join at.
    pub managers: Vec<SocketAddr>,
}

/// `POST /v1/cluster/tokens/{role}/rotate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateToken {
    /// `None` is never.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
}

/// `POST /v1/cluster/ca/rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRotation {
    /// SHA-256 of the new root certificate, hexadecimal: new join tokens pin it.
    pub root: String,
    /// Until then nodes trust the old root too.
    #[serde(default)]
    pub old_until: Option<Time>,
}

/// `POST /v1/cluster/backup`: the managers' state, sealed under a key that is nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub backup: Blob,
    pub key: SecretText,
}

/// `POST /v1/cluster/restore`: this node becomes the first manager of the cluster that the backup is
/// of, under the next incarnation; answered by a [`Membership`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    pub backup: Blob,
    pub key: SecretText,
    /// Empty is what the backup says of this node.
    #[serde(default)]
    pub advertise: Vec<IpAddr>,
    /// As for [`InitRequest::listen`].
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}
