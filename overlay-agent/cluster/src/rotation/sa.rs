//! SAs of one peer as the kernel should hold them: the shape of the agent's desired data plane.

use overlay_ebpf::abi::{Epoch, Lane, Slot};

use crate::{id::Generation, secret::KeyMaterial};

/// Direction of an SA as this node sees it. Receive sorts, and is installed, before transmit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    In,
    Out,
}

/// Whether the key is handed out with the SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keying {
    /// To be installed with this key. It is handed out once, in this one answer.
    Keyed(KeyMaterial),
    /// Handed out before, by this agent or an earlier one: to be kept, never installed again.
    Adopted,
}

/// One SA of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sa {
    pub direction: Direction,
    pub epoch: Epoch,
    pub slot: Slot,
    pub lane: Lane,
    pub sender_generation: Generation,
    pub receiver_generation: Generation,
    pub keying: Keying,
}

/// Which outbound SAs carry the traffic to a peer: lanes 0 to `lanes - 1` of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    pub epoch: Epoch,
    pub slot: Slot,
    /// 1 to 16.
    pub lanes: u8,
}

/// All of one peer. Empty for a peer that is to be closed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerSas {
    /// `None` keeps encrypted networks to this peer closed.
    pub transmit: Option<Transmit>,
    /// In both directions, receive first.
    pub sas: Vec<Sa>,
}

/// An SA found in the kernel at the agent's start, from the map `sas`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdoptedSa {
    pub direction: Direction,
    pub epoch: Epoch,
    pub slot: Slot,
    pub lane: Lane,
    pub sender_generation: Generation,
    pub receiver_generation: Generation,
}

/// The SAs of one slot and direction of a peer: they come and go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    pub direction: Direction,
    pub slot: Slot,
}

/// What the executor did to a slot, or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KernelEvent {
    /// All lanes are installed.
    Installed,
    /// Not all lanes could be installed. Those that were are to be removed.
    Failed,
    /// All that was handed out and is not desired any more is gone.
    Removed,
    /// A lane is gone that was installed: by hand, or by its hard limit.
    Lost,
}
