//! What the managers' log says, as one node needs it.

use std::collections::BTreeMap;

use overlay_ebpf::abi::PeerIndex;

use crate::id::{EpochName, NodeId};

/// What an epoch is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Traffic leaves it as soon as a peer is ready in the active one. No SA is made in it any more:
    /// its secrets are dropped.
    Retiring,
    /// SAs are made for it. Only a peer with no other SA is sent to in it.
    Staged,
    /// Traffic belongs here.
    Active,
}

/// A node of the roster with which we share an encrypted network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
}

/// The log at one revision. An epoch that it does not name has retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogView {
    /// Index of the log's last entry: an older view than the last one is ignored.
    pub revision: u64,
    /// At most [`Self::EPOCHS`].
    pub epochs: BTreeMap<EpochName, Role>,
    /// Whether this node is in the roster.
    pub member: bool,
    pub peers: BTreeMap<PeerIndex, Member>,
}

impl LogView {
    /// Epochs at one time: retiring, active, staged.
    pub const EPOCHS: usize = 3;
}
