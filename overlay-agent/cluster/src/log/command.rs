//! What the managers' log may hold, and what a command gives.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_ebpf::abi::{PeerIndex, Vni};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    addresses::{Family, single},
    epochs::{NewEpoch, Readiness, Reason, RotationPolicy},
    member::{Availability, Contact, Role},
    names::{Labels, NodeName},
    networks::NetworkRequest,
    roster::{Admission, Applicant},
    settings::Settings,
    tokens::{Token, TokenHash, Tokens},
    wire::{self, DecodeError},
};
use crate::{
    id::{ClusterId, EpochName, NodeId},
    identity::{authority::Authority, trust::RootDigest},
};

/// A new cluster, with its first manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    pub cluster: ClusterId,
    /// What issues the cluster's certificates.
    pub authority: Authority,
    pub manager: Applicant,
    pub tokens: Tokens,
    /// Number 1 of incarnation 0.
    pub epoch: NewEpoch,
    pub policy: RotationPolicy,
    pub settings: Settings,
}

/// One entry of the log. Whoever proposes it has checked who asks for it; the log checks that it
/// fits the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command, and only that.
    Initialise(Box<Genesis>),
    /// After a backup was restored: the next incarnation. Tokens are new, because old ones may have
    /// been rotated since the backup. Nodes evicted since are members again: evict them again. Nodes
    /// claim the blocks that they hold before the older incarnation's epoch is retired.
    Restore {
        next: NewEpoch,
        tokens: Tokens,
    },

    /// Moves the time of the log to the proposer's clock, however far. The proposer has compared it
    /// with the clocks of the other managers, or an operator has.
    ConfirmTime,

    /// A node joins in the role that its token opens.
    Join {
        token: TokenHash,
        applicant: Applicant,
    },
    /// A node says how it is reached now.
    Renew {
        node: NodeId,
        contact: Contact,
    },
    Rename {
        node: NodeId,
        name: NodeName,
    },
    SetRole {
        node: NodeId,
        role: Role,
    },
    SetAvailability {
        node: NodeId,
        availability: Availability,
    },
    SetLabels {
        node: NodeId,
        labels: Labels,
    },
    Leave {
        node: NodeId,
    },
    /// Forgets a node that left, or that the proposer sees `down`. Keys change with the next
    /// rotation: a node that may be in other hands is evicted.
    Remove {
        node: NodeId,
        down: bool,
    },
    /// Removes a node whatever it does and keeps its key out for good. It knows tokens and secrets:
    /// the tokens are replaced by this command, the next epoch is due at once.
    Evict {
        node: NodeId,
        tokens: Tokens,
    },
    RotateToken {
        role: Role,
        token: Token,
    },

    /// Trusts one more root, whose key the managers have from now on. Compare-and-set: `expected`
    /// issues now.
    IntroduceRoot {
        expected: RootDigest,
        authority: Box<Authority>,
    },
    /// Lets a trusted root issue instead of `expected`. Tokens name the root, so they are replaced.
    PromoteRoot {
        expected: RootDigest,
        root: RootDigest,
        tokens: Tokens,
        /// Although nodes may not know the root yet.
        force: bool,
    },
    /// Trusts a root no more; its key is zeroized. `expected` issues now.
    RetireRoot {
        expected: RootDigest,
        root: RootDigest,
        /// Although nodes may have no certificate of another root yet: these join again.
        force: bool,
    },

    CreateNetwork(NetworkRequest),
    /// Removes a network that has no endpoints, as the proposer counts, and exactly `discard`
    /// address blocks.
    RemoveNetwork {
        vni: Vni,
        endpoints: u32,
        discard: u32,
    },
    /// Removes those of `candidates` that have no blocks. The proposer names networks without
    /// endpoints.
    PruneNetworks {
        candidates: Vec<Vni>,
    },

    /// Leases one more block to a node that knows of `known` blocks of its own.
    LeaseBlock {
        network: Vni,
        node: NodeId,
        family: Family,
        known: u32,
    },
    /// Leases exactly this block, or the block that covers it if it is the node's own.
    ClaimBlock {
        network: Vni,
        node: NodeId,
        block: IpNet,
    },
    ReturnBlock {
        network: Vni,
        node: NodeId,
        block: IpNet,
    },

    /// Compare-and-set from the current epoch to the next.
    StageEpoch {
        expected: EpochName,
        next: NewEpoch,
        reason: Reason,
    },
    /// All nodes send in the staged epoch.
    ActivateEpoch {
        expected: EpochName,
        readiness: Readiness,
    },
    /// Nobody receives in the epoch before any longer; its secrets are zeroized.
    RetireEpoch {
        expected: EpochName,
    },
    SetRotationPolicy(RotationPolicy),
    SetSettings(Settings),
}

impl Command {
    /// The version that [`Self::encode`] writes.
    pub const VERSION: u8 = 1;
    /// Bytes of an encoded command at the most.
    pub const MAX_LEN: usize = 256 * 1024;

    /// Asks for the address that a user names.
    pub fn claim_address(network: Vni, node: NodeId, address: IpAddr) -> Self {
        Self::ClaimBlock {
            network,
            node,
            block: single(address),
        }
    }

    /// [`Self::VERSION`] and postcard. It may hold secrets.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        wire::encode(Self::VERSION, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::decode("command", Self::VERSION, Self::MAX_LEN, bytes)
    }
}

/// What an accepted command gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is so now, or was so already.
    Done,
    Joined {
        node: NodeId,
        index: PeerIndex,
        role: Role,
        admission: Admission,
    },
    /// The next epoch is due: propose `StageEpoch` at once.
    Evicted {
        index: PeerIndex,
    },
    Created {
        vni: Vni,
    },
    Pruned {
        networks: Vec<Vni>,
    },
    /// All blocks that the node holds in the network and family, or the block claimed.
    Leased {
        blocks: Vec<IpNet>,
    },
}
