//! The Internet checksum: one's complement of the one's complement sum of 16-bit words (RFC 1071).
//!
//! In one's complement the carry out of bit 15 is added back at bit 0. A 32-bit accumulator can
//! collect the carries and add them back once at the end: [`sum`] the parts, add the sums, then
//! [`finish`]. A part of odd length is padded with one zero byte (RFC 1071 section 1), so only the
//! last part of a message may be odd.

use super::bytes;

/// Sum of the big-endian 16-bit words of `bytes`, carries not yet folded.
///
/// Sums of several parts may be added as long as the parts have fewer than 2^17 bytes together.
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(N < 1 << 17, "the sum could exceed 32 bits") };
    let (words, last) = bytes.as_chunks::<2>();
    let mut total = 0;
    for word in words {
        total += u16::from_be_bytes(*word) as u32;
    }
    if let [byte] = last {
        total += (*byte as u32) << 8;
    }
    total
}

/// Adds the carries of `sum` back in: the 16-bit one's complement sum (RFC 1071 section 2(C)).
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    ((once >> 16) + once) as u16
}

/// The value for the checksum field, from the sum of everything else.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// The checksum after one 16-bit word of the message has changed from `old` to `new`
/// (RFC 1624 section 3, equation 3: `HC' = ~(~HC + ~m + m')`). All three in host byte order.
#[inline(always)]
pub const fn update(old_checksum: u16, old: u16, new: u16) -> u16 {
    finish(!old_checksum as u32 + !old as u32 + new as u32)
}

/// Sum of the IPv6 pseudo-header (RFC 8200 section 8.1); `length` is the upper-layer length in
/// bytes.
#[inline(always)]
pub fn pseudo_v6(source: &[u8; 16], destination: &[u8; 16], length: u16, next_header: u8) -> u32 {
    sum(source) + sum(destination) + length as u32 + next_header as u32
}

/// Sum of two IPv4 addresses.
#[inline(always)]
pub(super) const fn addresses_v4(source: &[u8; 4], destination: &[u8; 4]) -> u32 {
    bytes::be16::<0, _>(source) as u32
        + bytes::be16::<2, _>(source) as u32
        + bytes::be16::<0, _>(destination) as u32
        + bytes::be16::<2, _>(destination) as u32
}
