//! Explicit congestion notification across the tunnel (RFC 6040), and the traffic class with it
//! (RFC 2983, uniform model: the code point is copied outwards, and not inwards).

use crate::abi::DropReason;

/// The transport does not understand ECN (RFC 3168 section 5).
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable transport, 1.
pub const ECT_1: u8 = 0b01;
/// ECN-capable transport, 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// A router marked congestion on a packet whose transport cannot understand it: the packet must be
/// dropped (RFC 6040 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Congestion;

impl From<Congestion> for DropReason {
    #[inline(always)]
    fn from(Congestion: Congestion) -> Self {
        Self::EcnCongestion
    }
}

/// The outer byte of DSCP and ECN for an inner one: a copy (RFC 6040 section 4.1, normal mode).
#[inline(always)]
pub const fn outer_from_inner(tos: u8) -> u8 {
    tos
}

/// The ECN field of the inner packet when it leaves the tunnel (RFC 6040 section 4.2, figure 4).
/// Only the lower two bits of either argument count.
#[inline(always)]
pub const fn decapsulate(inner_ecn: u8, outer_ecn: u8) -> Result<u8, Congestion> {
    match (inner_ecn & 3, outer_ecn & 3) {
        (NOT_ECT, CE) => Err(Congestion),
        (ECT_0 | ECT_1, CE) => Ok(CE),
        (ECT_0, ECT_1) => Ok(ECT_1),
        (inner, _) => Ok(inner),
    }
}
