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

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040 section 4.2, figure 4. Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE.
    const FIGURE_4: [(u8, [Result<u8, Congestion>; 4]); 4] = [
        (
            NOT_ECT,
            [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), Err(Congestion)],
        ),
        (ECT_0, [Ok(ECT_0), Ok(ECT_0), Ok(ECT_1), Ok(CE)]),
        (ECT_1, [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)]),
        (CE, [Ok(CE), Ok(CE), Ok(CE), Ok(CE)]),
    ];

    #[test]
    fn decapsulation_follows_figure_4_whatever_the_dscp() {
        for (inner, row) in FIGURE_4 {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                for dscp in 0..64 {
                    let result = decapsulate(dscp << 2 | inner, !dscp << 2 | outer);
                    assert_eq!(result, expected, "inner {inner:02b}, outer {outer:02b}");
                }
            }
        }
    }

    #[test]
    fn what_goes_in_comes_out_when_no_router_marks() {
        for tos in 0..=255 {
            assert_eq!(outer_from_inner(tos), tos);
            assert_eq!(decapsulate(tos, outer_from_inner(tos)), Ok(tos & 3));
        }
    }

    #[test]
    fn congestion_has_its_drop_reason() {
        assert_eq!(DropReason::from(Congestion), DropReason::EcnCongestion);
    }
}
