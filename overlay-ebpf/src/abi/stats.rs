//! `drops`, `peer_stats`: per-CPU counters.

use bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};

use super::{Direction, DropReason};

/// Key of `drops`. `bpftool` prints both by name.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, NoUninit, CheckedBitPattern)]
pub struct CounterKey {
    pub reason: DropReason,
    pub direction: Direction,
}

/// Value of `drops`, one per CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PacketCount {
    pub packets: u64,
    pub bytes: u64,
}

/// Value of `peer_stats`, one per CPU. Bytes are of inner frames; a GSO packet counts as one.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PeerStats {
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub rx_packets: u64,
    pub rx_bytes: u64,
}
