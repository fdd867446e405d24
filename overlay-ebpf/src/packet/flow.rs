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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLOWS: u32 = 1 << 16;

    /// A name, and the hash of its flow of some number.
    type FlowSet = (&'static str, fn(u32) -> u32);

    /// Flow sets as they occur: one client port after another, one server port after another, one
    /// address after another, both families, and MACs that differ in the last bytes.
    fn flow_sets() -> [FlowSet; 6] {
        [
            ("source ports", |i| {
                hash_v4([10, 0, 9, 2], [10, 0, 9, 3], 6, (i & 0xffff) << 16 | 443)
            }),
            ("destination ports", |i| {
                hash_v4(
                    [10, 0, 9, 2],
                    [10, 0, 9, 3],
                    17,
                    40_000 << 16 | (i & 0xffff),
                )
            }),
            ("IPv4 addresses", |i| {
                let [.., high, low] = i.to_be_bytes();
                hash_v4([10, 0, 9, low], [10, 1, high, 3], 1, 0)
            }),
            ("IPv6 source ports", |i| {
                hash_v6([0xfd; 16], [0xfe; 16], 6, (i & 0xffff) << 16 | 443)
            }),
            ("IPv6 addresses", |i| {
                let [.., high, low] = i.to_be_bytes();
                let (mut source, mut destination) = ([0xfd; 16], [0xfd; 16]);
                source[15] = low;
                destination[7] = high;
                hash_v6(source, destination, 58, 0)
            }),
            ("MACs", |i| {
                let [.., high, low] = i.to_be_bytes();
                hash_ethernet(&[2, 0x42, 10, 0, 9, low, 2, 0x42, 10, 0, 9, high, 0x88, 0xcc])
            }),
        ]
    }

    /// Chi-square of the counts against an even spread, in standard deviations from its mean.
    fn deviation(counts: &[u32]) -> f64 {
        let total: u32 = counts.iter().sum();
        let expected = total as f64 / counts.len() as f64;
        let chi_square: f64 = counts
            .iter()
            .map(|count| (*count as f64 - expected).powi(2) / expected)
            .sum();
        let freedom = (counts.len() - 1) as f64;
        (chi_square - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn flows_spread_evenly_over_lanes() {
        for (name, hash) in flow_sets() {
            for lanes in 2..=16 {
                let mut counts = vec![0; lanes as usize];
                for i in 0..FLOWS {
                    counts[lane(hash(i), lanes) as usize] += 1;
                }
                let deviation = deviation(&counts);
                assert!(
                    deviation < 6.0,
                    "{name}, {lanes} lanes: {deviation:.1} {counts:?}"
                );
            }
        }
    }

    #[test]
    fn flows_spread_evenly_over_source_ports() {
        for (name, hash) in flow_sets() {
            let mut counts = vec![0; 1 << 14];
            for i in 0..FLOWS {
                counts[(source_port(hash(i)) - FIRST_SOURCE_PORT) as usize] += 1;
            }
            let deviation = deviation(&counts);
            assert!(deviation < 6.0, "{name}: {deviation:.1}");
        }
    }

    #[test]
    fn flows_of_one_lane_still_spread_over_source_ports() {
        for (name, hash) in flow_sets() {
            for chosen in 0..4 {
                let mut counts = vec![0; 256];
                for i in (0..FLOWS).filter(|i| lane(hash(*i), 4) == chosen) {
                    counts[(source_port(hash(i)) & 0xff) as usize] += 1;
                }
                let deviation = deviation(&counts);
                assert!(deviation < 6.0, "{name}, lane {chosen}: {deviation:.1}");
            }
        }
    }

    #[test]
    fn a_few_flows_do_not_pile_up_on_one_lane() {
        // Eight parallel streams, as a benchmark opens them, on four lanes.
        let lanes: std::collections::BTreeSet<_> = (0..8)
            .map(|i| {
                lane(
                    hash_v4(
                        [10, 0, 9, 2],
                        [10, 0, 9, 3],
                        6,
                        (40_000 + 2 * i) << 16 | 5201,
                    ),
                    4,
                )
            })
            .collect();
        assert!(lanes.len() >= 3, "{lanes:?}");
    }

    #[test]
    fn every_input_bit_changes_about_half_of_the_hash() {
        let base = [0x5a; 14];
        for bit in 0..14 * 8 {
            let mut flipped = 0;
            const SAMPLES: u32 = 1000;
            for i in 0..SAMPLES {
                let mut header = base;
                header[2..6].copy_from_slice(&i.wrapping_mul(0x9e37_79b9).to_be_bytes());
                let before = hash_ethernet(&header);
                header[bit / 8] ^= 1 << (bit % 8);
                flipped += (before ^ hash_ethernet(&header)).count_ones();
            }
            let average = flipped as f64 / SAMPLES as f64;
            assert!(
                (13.0..19.0).contains(&average),
                "bit {bit}: {average} of 32"
            );
        }
    }

    #[test]
    fn ports_and_lanes_stay_in_range_at_the_ends() {
        assert_eq!((source_port(0), source_port(u32::MAX)), (49_152, 65_535));
        for lanes in 1..=16 {
            assert_eq!((lane(0, lanes), lane(u32::MAX, lanes)), (0, lanes - 1));
        }
        assert_eq!(lane(u32::MAX, 0), 0);
    }

    proptest! {
        #[test]
        fn each_part_of_a_flow_counts(
            source: [u8; 16], destination: [u8; 16], protocol: u8, ports: u32, bit in 0u32..32,
        ) {
            let hash = hash_v6(source, destination, protocol, ports);
            prop_assert_eq!(hash, hash_v6(source, destination, protocol, ports));
            prop_assert!(source_port(hash) >= FIRST_SOURCE_PORT);
            prop_assert!(label(hash) < 1 << 20);
            for lanes in 1..=16 {
                prop_assert!(lane(hash, lanes) < lanes);
            }
            // A change may collide in 32 bits; two in a row practically never do.
            let other = |n: u32| hash_v6(source, destination, protocol, ports ^ 1 << ((bit + n) % 32));
            prop_assert!(other(0) != hash || other(1) != hash);
        }
    }
}
