//! `peers`, `vteps`: the other nodes and how to reach them.

use bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};

/// Key of `peers` and `peer_stats`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct PeerKey {
    /// Node index, 20 bits.
    pub peer: u32,
}

/// The transmit side of a peer. Eight aligned bytes: the programs read it with one load, so a
/// reader sees the state before a switch or after it, never a mixture.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct TxState {
    /// Epoch of the SAs of `slot`; shown, not used.
    pub epoch: u32,
    /// Slot that frames are sent in.
    pub slot: u8,
    /// Lanes of the slot, 1 to 16; 0 means that no outbound SA is live and encrypted frames drop.
    pub lanes: u8,
    pub reserved: [u8; 2],
}

/// Value of `peers`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Peer {
    pub tx: TxState,
    /// The peer's VTEP.
    pub vtep: [u8; 16],
    /// This node's VTEP of the same family: the outer source.
    pub local_vtep: [u8; 16],
    /// Device that plain frames to this peer leave through.
    pub underlay_ifindex: u32,
    /// Largest outer IP packet on the path, bytes.
    pub underlay_mtu: u32,
}

/// Key of `vteps`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct VtepKey {
    pub address: [u8; 16],
}

/// Whose VTEP an address is.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, NoUninit, CheckedBitPattern)]
pub enum VtepRole {
    Local = 1,
    Remote = 2,
}

/// Value of `vteps`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, NoUninit, CheckedBitPattern)]
pub struct Vtep {
    pub role: VtepRole,
    /// Node index, of this node too.
    pub peer: u32,
}
