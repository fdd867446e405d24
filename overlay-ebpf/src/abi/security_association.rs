//! `sas`: which SPI belongs to whom. Holds no secret.

use bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};

/// Key of `sas`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct SecurityAssociationKey {
    /// Host byte order.
    pub spi: u32,
    /// Receiver of the SA: SPIs are unique per sender, and a sender uses the same one to every peer.
    pub receiver: u32,
}

/// Direction of an SA as this node sees it.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, NoUninit, CheckedBitPattern)]
pub enum SaDirection {
    Out = 1,
    In = 2,
}

/// Value of `sas`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, NoUninit, CheckedBitPattern)]
pub struct SecurityAssociation {
    pub direction: SaDirection,
    /// The other node.
    pub peer: u32,
    pub epoch: u32,
    pub slot: u8,
    pub lane: u8,
    pub reserved: [u8; 2],
    /// Agent starts of the sender and the receiver that the key was agreed between.
    pub sender_generation: u64,
    pub receiver_generation: u64,
    /// First bytes of SHA-256 over the keying material: names a key, reveals nothing of it.
    pub key_id: [u8; 8],
}
