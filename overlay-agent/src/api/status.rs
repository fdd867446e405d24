//! How this node is: what an operator looks at first.

use std::net::IpAddr;

use overlay_cluster::id::ClusterId;
use overlay_ebpf::abi::PeerIndex;
use serde::{Deserialize, Serialize};

use super::{
    Time,
    keys::Phase,
    node::{Availability, NodeStatus},
};

/// `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of the agent.
    pub version: String,
    /// Of this API.
    pub api: u32,
    pub pid: u32,
}

/// This node's part in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    NoCluster,
    /// A manager whose state an operator must unlock.
    Locked,
    Joining,
    Member,
    /// It was removed; its encrypted networks are closed.
    Evicted,
    #[serde(other)]
    Unknown,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the agent.
    pub version: String,
    pub state: State,
    #[serde(default)]
    pub cluster: Option<ClusterId>,
    #[serde(default)]
    pub node: Option<SelfNode>,
    pub encryption: Encryption,
    #[serde(default)]
    pub epoch: Option<EpochStatus>,
    #[serde(default)]
    pub managers: Option<Managers>,
    #[serde(default)]
    pub nodes: Nodes,
    #[serde(default)]
    pub endpoints: Endpoints,
    /// Packets that were dropped since the data plane was loaded, by reason.
    pub drops: Vec<Drop>,
    pub problems: Vec<Problem>,
}

/// This node in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfNode {
    pub id: String,
    pub name: String,
    pub index: PeerIndex,
    pub role: overlay_cluster::identity::Role,
    pub availability: Availability,
}

/// Whether all that should be encrypted is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Encryption {
    /// Networks with endpoints on this node.
    pub encrypted_networks: usize,
    pub plain_networks: Vec<String>,
    /// Peers that share an encrypted network with this node, and those of them with live SAs.
    pub peers: usize,
    pub open: usize,
    /// The others: nothing of an encrypted network goes to them, also not in clear.
    pub closed: Vec<ClosedPeer>,
    /// Cleartext packets of encrypted networks that a barrier stopped, on the way out or in.
    pub cleartext_stopped: u64,
}

/// A peer without live SAs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedPeer {
    pub name: String,
    pub why: String,
}

/// The epoch that traffic belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStatus {
    pub number: u32,
    pub phase: Phase,
    pub age_seconds: u64,
    pub next_rotation: Time,
}

/// The managers, as this node sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managers {
    pub total: usize,
    pub reachable: usize,
    /// Of them all, those that have a vote: a new one gets the log first. `None` on a worker, which does
    /// not know.
    #[serde(default)]
    pub voters: Option<usize>,
    /// Whether more than half can be reached. Without it traffic goes on and nothing can be changed.
    pub quorum: bool,
    #[serde(default)]
    pub leader: Option<String>,
}

/// Nodes of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nodes {
    pub total: usize,
    pub ready: usize,
    pub down: usize,
    pub drained: usize,
}

/// Endpoints that this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Endpoints {
    pub local: usize,
    pub remote: usize,
}

/// Who dropped a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Our programs.
    Program,
    /// XFRM or the firewall.
    Kernel,
    /// The agent: datagrams of gossip, and records in them.
    Gossip,
    #[serde(other)]
    Unknown,
}

/// Dropped packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    pub layer: Layer,
    /// Name of a drop reason, or of a counter of the kernel.
    pub reason: String,
    /// Where in the path; empty for counters of the kernel.
    #[serde(default)]
    pub direction: String,
    pub packets: u64,
    #[serde(default)]
    pub bytes: Option<u64>,
    /// What the reason means.
    pub text: String,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing fails yet.
    Warning,
    /// Traffic or control fails.
    Error,
    /// A human must act: a clone, a restored state, an attack.
    Alarm,
    #[serde(other)]
    Unknown,
}

impl Severity {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Alarm => "alarm",
            Self::Unknown => "unknown",
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub severity: Severity,
    pub message: String,
    #[serde(default)]
    pub remedy: String,
}

impl Problem {
    /// A problem in this project's words: the text ends with a colon and the remedy, if it has one.
    pub fn new(severity: Severity, text: &impl std::fmt::Display) -> Self {
        let error = super::ApiError::from_error(super::Code::Internal, text);
        Self {
            severity,
            message: error.message,
            remedy: error.remedy,
        }
    }
}

/// `GET /v1/peers` lists them: the nodes that this one has tunnels with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub index: PeerIndex,
    pub name: String,
    pub status: NodeStatus,
    pub vtep: IpAddr,
    /// Device and MTU of the route to it.
    #[serde(default)]
    pub device: Option<String>,
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// The SAs that carry traffic to it; `None` if it shares no encrypted network with this node, or is
    /// closed.
    #[serde(default)]
    pub epoch: Option<u32>,
    #[serde(default)]
    pub slot: Option<u8>,
    #[serde(default)]
    pub lanes: u8,
    /// Why encrypted networks are closed to it.
    #[serde(default)]
    pub closed: Option<String>,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub rx_packets: u64,
    pub rx_bytes: u64,
}
