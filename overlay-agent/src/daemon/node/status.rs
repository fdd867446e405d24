//! What a node knows of itself, for people.

use std::collections::{BTreeMap, BTreeSet};

use overlay_cluster::{
    gossip::engine::Counters,
    id::NodeId,
    log::view::{EpochsView, Version},
    rotation::status::PeerStatus,
    time::Timestamp,
};
use overlay_ebpf::abi::PeerIndex;

/// A node, at one moment.
#[derive(Debug, Clone)]
pub struct Status {
    pub node: NodeId,
    pub name: String,
    pub version: Version,
    /// The time of the log in that version.
    pub time: Timestamp,
    pub epochs: EpochsView,
    /// The other nodes that it shares an encrypted network with.
    pub peers: Vec<PeerStatus>,
    pub gossip: GossipStatus,
    pub kernel: KernelStatus,
    pub managers: ManagersStatus,
    /// Why it takes part no longer.
    pub put_out: Option<String>,
    /// States in which somebody must act.
    pub alarms: Vec<String>,
    /// What other nodes tell and is not believed now.
    pub doubts: Vec<String>,
    /// What the agent could not do.
    pub problems: BTreeSet<String>,
}

/// What gossip knows.
#[derive(Debug, Clone)]
pub struct GossipStatus {
    /// Members that are up, this one aside.
    pub up: BTreeSet<NodeId>,
    pub down: BTreeSet<NodeId>,
    /// Records held of all members.
    pub records: usize,
    pub refused: Counters,
    /// Datagrams that the socket did not take.
    pub unsent: u64,
}

/// What the kernel holds.
#[derive(Debug, Clone)]
pub struct KernelStatus {
    /// What is wanted, and what of it was tried last: equal at rest.
    pub wanted: u64,
    pub applied: u64,
    pub local_endpoints: usize,
    pub remote_endpoints: usize,
    /// SAs of each peer.
    pub sas: BTreeMap<PeerIndex, usize>,
    pub problems: BTreeSet<String>,
}

/// How it stands with the managers.
#[derive(Debug, Clone, Default)]
pub struct ManagersStatus {
    /// When one answered last.
    pub heard: Option<Timestamp>,
    /// Why none does now.
    pub error: Option<String>,
}
