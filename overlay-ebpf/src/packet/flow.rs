//! The hash of an inner flow, and what is chosen by it.
//!
//! All packets of a flow must take the same path, and different flows should spread evenly over
//! outer UDP source ports (RFC 7348 section 5), flow labels and lanes. [`source_port`] reads the
//! upper 14 bits of the hash and [`lane`] the lower 18: neither says anything about the other, so
//! the flows of one lane still spread over all ports.
//!
//! A datagram's first fragment has ports and the others have none: pass 0 for all of them.

/// Lowest port of the dynamic range (RFC 6335 section 6), which RFC 7348 section 5 recommends.
pub const FIRST_SOURCE_PORT: u16 = 49152;

/// Flow hash of an IPv4 packet. `ports` is source and destination port in any fixed order.
#[inline(always)]
pub const fn hash_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, ports: u32) -> u32 {
    let addresses =
        (u32::from_be_bytes(source) as u64) << 32 | u32::from_be_bytes(destination) as u64;
    finalize(absorb(absorb(SEED, addresses), layer_4(protocol, ports)))
}

/// Flow hash of an IPv6 packet. `ports` is source and destination port in any fixed order.
#[inline(always)]
pub const fn hash_v6(source: [u8; 16], destination: [u8; 16], protocol: u8, ports: u32) -> u32 {
    let [source_high, source_low] = halves(source);
    let [destination_high, destination_low] = halves(destination);
    let state = absorb(absorb(SEED, source_high), source_low);
    let state = absorb(absorb(state, destination_high), destination_low);
    finalize(absorb(state, layer_4(protocol, ports)))
}

/// Flow hash of a frame that is neither IPv4 nor IPv6: both MACs and the Ethertype.
#[inline(always)]
pub const fn hash_ethernet(header: &[u8; 14]) -> u32 {
    let first = u64::from_be_bytes(super::bytes::take::<0, 8, _>(header));
    let rest = (super::bytes::be32::<8, _>(header) as u64) << 16
        | super::bytes::be16::<12, _>(header) as u64;
    finalize(absorb(absorb(SEED, first), rest))
}

/// The outer UDP source port of a flow, 49152 to 65535 (RFC 7348 section 5).
#[inline(always)]
pub const fn source_port(hash: u32) -> u16 {
    FIRST_SOURCE_PORT | (hash >> 18) as u16
}

/// The outer IPv6 flow label of a flow, 20 bits (RFC 6438 section 2).
#[inline(always)]
pub const fn label(hash: u32) -> u32 {
    hash & 0xf_ffff
}

/// The lane of a flow, below `lanes`, which is 1 to 16 (0 counts as 1).
#[inline(always)]
pub const fn lane(hash: u32, lanes: u8) -> u8 {
    (((hash & 0x3_ffff) * lanes as u32) >> 18) as u8
}

/// Any odd constant with mixed bits does; this one is 2^64 divided by the golden ratio.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
const fn layer_4(protocol: u8, ports: u32) -> u64 {
    (protocol as u64) << 32 | ports as u64
}

/// Takes one word in. The multiplication is invertible, so two messages that differ in one word
/// have different states.
#[inline(always)]
const fn absorb(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ mixed >> 33
}

/// Last step of the finalizer of MurmurHash3 for 64 bits, whose upper half is the best mixed.
#[inline(always)]
const fn finalize(state: u64) -> u32 {
    (state.wrapping_mul(0xc4ce_b9fe_1a85_ec53) >> 32) as u32
}

#[inline(always)]
const fn halves(address: [u8; 16]) -> [u64; 2] {
    [
        u64::from_be_bytes(super::bytes::take::<0, 8, _>(&address)),
        u64::from_be_bytes(super::bytes::take::<8, 8, _>(&address)),
    ]
}
