//! States in which the machine does what is safe, and a human must act.

use overlay_ebpf::abi::{PeerIndex, Slot};

use crate::{
    id::{EpochName, Generation},
    keys::PublicKey,
};

use super::sa::Direction;

/// Each kind is raised once per peer, until the peer has a new agent, or else until this agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Alarm {
    /// A record with our identity and our generation or a later one, but not our key.
    #[error(
        "another agent runs with this node's identity (generation {generation}): this disk was cloned, or two agents run; stop one and join it as a new node"
    )]
    Cloned { generation: Generation },
    /// The kernel or a peer has seen a later start of this node's agent than this one.
    #[error(
        "peers know generation {known} of this node, this agent is {ours}: an old state was restored; start the agent with a generation above {known}"
    )]
    GenerationBehind { ours: Generation, known: Generation },
    /// Two ephemeral keys of one peer, epoch and generation. The first is kept.
    #[error(
        "node {peer} published two keys {kept} and {refused} in one start of its agent: its disk was cloned; stop one of the two"
    )]
    PeerCloned {
        peer: PeerIndex,
        kept: PublicKey,
        refused: PublicKey,
    },
    /// Managers that were restored from a backup offer epochs of an older incarnation.
    #[error(
        "the managers offer epoch {offered:?}, but this node has seen incarnation {seen}: an old state of theirs was restored without advancing the incarnation"
    )]
    OldIncarnation { offered: EpochName, seen: u32 },
    /// Two epochs of one number differ in their secrets.
    #[error(
        "two different secrets for one epoch, {kept:?} and {refused:?}: two groups of managers run apart; stop one"
    )]
    TwoSecrets { kept: EpochName, refused: EpochName },
    /// The log names more epochs than can be live.
    #[error("the managers' log names {0} epochs at once: it is of another release")]
    TooManyEpochs(usize),
    /// A peer's ephemeral key is of small order.
    #[error("node {peer} published a broken ephemeral key {public}: it is hostile, evict it")]
    BrokenKey { peer: PeerIndex, public: PublicKey },
    /// The kernel refused SAs of a peer again and again.
    #[error(
        "the kernel refused SAs ({direction:?}, slot {slot}) of node {peer} {failures} times in a row: see the log of the data plane"
    )]
    KernelRefuses {
        peer: PeerIndex,
        direction: Direction,
        slot: Slot,
        failures: u32,
    },
    /// The log says that this node is no member.
    #[error(
        "this node was removed from the cluster: its encrypted networks are closed; join again"
    )]
    Evicted,
}

impl Alarm {
    /// The peer with which something is wrong.
    pub const fn peer(&self) -> Option<PeerIndex> {
        match self {
            Self::PeerCloned { peer, .. }
            | Self::BrokenKey { peer, .. }
            | Self::KernelRefuses { peer, .. } => Some(*peer),
            Self::Cloned { .. }
            | Self::GenerationBehind { .. }
            | Self::OldIncarnation { .. }
            | Self::TwoSecrets { .. }
            | Self::TooManyEpochs(_)
            | Self::Evicted => None,
        }
    }
}
