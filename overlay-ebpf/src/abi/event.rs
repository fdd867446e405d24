//! `events`: sampled drops, in a ring buffer.

use bytemuck::{CheckedBitPattern, NoUninit};

use super::{Direction, DropReason};

/// One record of `events`. Carries addresses, never payload.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, NoUninit, CheckedBitPattern)]
pub struct DropEvent {
    /// Nanoseconds since boot (`bpf_ktime_get_ns`).
    pub time: u64,
    pub reason: DropReason,
    pub direction: Direction,
    /// Device on which the program ran.
    pub ifindex: u32,
    /// Length of the packet as the program saw it, bytes.
    pub length: u32,
    /// 0 where the packet did not get far enough to have one.
    pub vni: u32,
    /// 0 where it is not known.
    pub peer: u32,
    /// First 14 bytes: the outermost Ethernet header.
    pub ethernet: [u8; 14],
    pub reserved: [u8; 2],
}
