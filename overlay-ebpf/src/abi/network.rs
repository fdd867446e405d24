//! `networks`, `memberships`, `flood_lists`.

use bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};

use super::Location;

/// Key of `networks`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct NetworkKey {
    pub vni: u32,
}

/// Value of `networks`. A VNI without an entry is closed in both directions.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Network {
    /// [`NetworkFlags`].
    pub flags: u32,
    /// Largest inner IP packet, bytes.
    pub mtu: u32,
}

/// Bits of [`Network::flags`].
pub struct NetworkFlags;

impl NetworkFlags {
    /// Frames of the network leave as ESP only and are accepted only from IPsec.
    pub const ENCRYPTED: u32 = 1 << 0;
    /// Broadcast and multicast are replicated to every entry of `flood_lists`.
    pub const REPLICATE: u32 = 1 << 1;
}

/// Key of `memberships`: a peer that hosts endpoints of a network.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct MembershipKey {
    pub vni: u32,
    pub peer: u32,
}

/// Value of `memberships`: remote endpoints that the peer hosts there.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Membership {
    pub endpoints: u32,
}

/// Key of `flood_lists`: positions count from 0 without gaps.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FloodKey {
    pub vni: u32,
    pub position: u32,
}

/// Value of `flood_lists`. Local targets stand before remote ones.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, NoUninit, CheckedBitPattern)]
pub struct FloodTarget {
    pub location: Location,
    /// Host-side device of a local endpoint, else 0.
    pub ifindex: u32,
    /// Node index of a peer, else 0.
    pub peer: u32,
}

/// Targets of one flood list at the most: replication is a loop the verifier must bound.
pub const FLOOD_TARGETS_MAX: u32 = 64;
