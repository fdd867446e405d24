//! "Packet too big", back to a container whose packet does not fit the path
//! (RFC 1191 section 4, RFC 4443 section 3.2).

use super::{
    bytes, checksum, icmpv6_type, ip_protocol,
    ipv4::{self, Ipv4},
    ipv6::{self, Ipv6},
    ndp,
};

/// Bytes of the original packet quoted over IPv4: its header and 64 bits of its data (RFC 792).
pub const ORIGINAL_V4_LEN: usize = ipv4::HEADER_LEN + 8;
/// Bytes of the original packet quoted over IPv6: its header and as much data as over IPv4.
pub const ORIGINAL_V6_LEN: usize = ipv6::HEADER_LEN + 8;
/// Bytes of the IPv4 packet that [`too_big_v4`] makes.
pub const TOO_BIG_V4_LEN: usize = 28 + ORIGINAL_V4_LEN;
/// Bytes of the IPv6 packet that [`too_big_v6`] makes.
pub const TOO_BIG_V6_LEN: usize = 48 + ORIGINAL_V6_LEN;

const DESTINATION_UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
/// Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const CLASS_SELECTOR_6: u8 = 48;

/// The IPv4 packet that tells the sender of `original`: at most `mtu` bytes per IP packet
/// (destination unreachable, fragmentation needed: RFC 792, RFC 1191 section 4).
///
/// `original` is a packet without options; `source` speaks for the network, as its gateway does.
#[inline(always)]
pub fn too_big_v4(
    original: &[u8; ORIGINAL_V4_LEN],
    mtu: u16,
    source: [u8; 4],
) -> [u8; TOO_BIG_V4_LEN] {
    let words: [u16; 14] = bytemuck::cast(*original);
    let source = bytemuck::cast(source);
    quote(&too_big_v4_words(&words, mtu, &source), original)
}

/// What stands before `original` in [`too_big_v4`], in 16-bit words of memory order, as are the
/// arguments: a BPF program quotes by moving the packet, and only writes this.
#[inline(always)]
pub fn too_big_v4_words(original: &[u16; 14], mtu: u16, source: &[u16; 2]) -> [u16; 14] {
    let &[.., d0, d1, _, _, _, _, _, _] = original;
    let &[s0, s1] = source;
    let version = pair(0x45, CLASS_SELECTOR_6 << 2);
    let length = (TOO_BIG_V4_LEN as u16).to_be();
    let fragment = 0x4000u16.to_be();
    let ttl = pair(64, ip_protocol::ICMP);
    let kind = pair(DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED);
    // The one's complement sum does not depend on the byte order (RFC 1071 section 2(B)).
    let header = checksum::finish(word_sum(&[version, length, fragment, ttl, s0, s1, d0, d1]));
    let message = checksum::finish(word_sum(&[kind, mtu.to_be()]) + word_sum(original));
    [
        version,
        length,
        0,
        fragment,
        ttl,
        header,
        s0,
        s1,
        d0,
        d1,
        kind,
        message,
        0,
        mtu.to_be(),
    ]
}

/// The IPv6 packet that tells the sender of `original`: at most `mtu` bytes per IP packet
/// (RFC 4443 section 3.2).
#[inline(always)]
pub fn too_big_v6(
    original: &[u8; ORIGINAL_V6_LEN],
    mtu: u32,
    source: [u8; 16],
) -> [u8; TOO_BIG_V6_LEN] {
    let words: [u16; 24] = bytemuck::cast(*original);
    let source = bytemuck::cast(source);
    quote(&too_big_v6_words(&words, mtu, &source), original)
}

/// What stands before `original` in [`too_big_v6`], as [`too_big_v4_words`].
#[inline(always)]
pub fn too_big_v6_words(original: &[u16; 24], mtu: u32, source: &[u16; 8]) -> [u16; 24] {
    let &[_, _, _, _, d0, d1, d2, d3, d4, d5, d6, d7, ..] = original;
    let &[s0, s1, s2, s3, s4, s5, s6, s7] = source;
    let length = ((8 + ORIGINAL_V6_LEN) as u16).to_be();
    let kind = pair(icmpv6_type::PACKET_TOO_BIG, 0);
    let [m0, m1] = [((mtu >> 16) as u16).to_be(), (mtu as u16).to_be()];
    // With the pseudo-header of RFC 8200 section 8.1: addresses, length, next header.
    let message = checksum::finish(
        word_sum(source)
            + word_sum(&[d0, d1, d2, d3, d4, d5, d6, d7])
            + word_sum(&[length, pair(0, ip_protocol::ICMPV6), kind, m0, m1])
            + word_sum(original),
    );
    [
        pair(0x60, 0),
        0,
        length,
        pair(ip_protocol::ICMPV6, 64),
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        s7,
        d0,
        d1,
        d2,
        d3,
        d4,
        d5,
        d6,
        d7,
        kind,
        message,
        m0,
        m1,
    ]
}

/// Two bytes as the word they are in memory.
#[inline(always)]
const fn pair(first: u8, second: u8) -> u16 {
    u16::from_ne_bytes([first, second])
}

#[inline(always)]
fn word_sum<const N: usize>(words: &[u16; N]) -> u32 {
    let mut sum = 0;
    for word in words {
        sum += u32::from(*word);
    }
    sum
}

#[inline(always)]
fn quote<const WORDS: usize, const ORIGINAL: usize, const LEN: usize>(
    header: &[u16; WORDS],
    original: &[u8; ORIGINAL],
) -> [u8; LEN] {
    const { assert!(2 * WORDS + ORIGINAL == LEN) };
    let mut packet = [0; LEN];
    let (front, back) = packet.split_at_mut(2 * WORDS);
    front.copy_from_slice(bytemuck::bytes_of(header));
    back.copy_from_slice(original);
    packet
}

/// Whether an ICMP error may be sent about `original` (RFC 1122 section 3.2.2): not about an ICMP
/// error, a later fragment, a packet to many, or one whose source is no single host. Options are
/// refused too: with them, 28 bytes do not hold the data that an error must quote.
#[inline(always)]
pub const fn answerable_v4(original: &[u8; ORIGINAL_V4_LEN]) -> bool {
    let Ok(ip) = Ipv4::parse(&bytes::take::<0, 20, _>(original)) else {
        return false;
    };
    // Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
    let is_error = ip.protocol == ip_protocol::ICMP
        && matches!(bytes::byte::<20, _>(original), 3 | 4 | 5 | 11 | 12);
    // 224.0.0.0/4 is multicast; above it are the reserved class E and the limited broadcast.
    let [source, ..] = ip.source;
    let [destination, ..] = ip.destination;
    !ip.has_options()
        && ip.fragment_offset == 0
        && !is_error
        && source != 0
        && source != 127
        && source < 224
        && destination < 224
}

/// Whether a "packet too big" may be sent about `original` (RFC 4443 section 2.4 (e)): not about
/// an ICMPv6 error or redirect, nor to a source that is no single node. A multicast destination
/// does not forbid it.
#[inline(always)]
pub const fn answerable_v6(original: &[u8; ORIGINAL_V6_LEN]) -> bool {
    let Ok(ip) = Ipv6::parse(&bytes::take::<0, 40, _>(original)) else {
        return false;
    };
    let icmp_type = bytes::byte::<40, _>(original);
    let is_error = ip.next_header == ip_protocol::ICMPV6
        && (icmp_type < 128 || icmp_type == icmpv6_type::REDIRECT);
    !is_error && !ndp::is_unspecified(ip.source) && !ndp::is_multicast(ip.source)
}

#[cfg(test)]
mod tests {
    use etherparse::{
        Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, SlicedPacket, TransportSlice,
        icmpv4::DestUnreachableHeader,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::packet::captures;

    const GATEWAY_V4: [u8; 4] = [10, 0, 9, 1];
    const GATEWAY_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    fn original_v4() -> [u8; ORIGINAL_V4_LEN] {
        bytes::take::<14, 28, _>(&captures::VXLAN_V4)
    }

    fn original_v6() -> [u8; ORIGINAL_V6_LEN] {
        bytes::take::<14, 48, _>(&captures::VXLAN_V6)
    }

    #[test]
    fn too_big_v4_is_a_packet_that_another_implementation_reads() {
        let packet = too_big_v4(&original_v4(), 1416, GATEWAY_V4);
        let read = SlicedPacket::from_ip(&packet).unwrap();
        let ip = read.net.unwrap();
        let ip = ip.ipv4_ref().unwrap().header();
        assert_eq!(
            (ip.source(), ip.destination()),
            (GATEWAY_V4, [192, 0, 2, 10])
        );
        assert_eq!(ip.to_header().calc_header_checksum(), ip.header_checksum());
        assert_eq!((ip.ttl(), ip.dcp().value()), (64, CLASS_SELECTOR_6));
        assert_eq!(ip.total_len() as usize, packet.len());
        let Some(TransportSlice::Icmpv4(icmp)) = read.transport else {
            panic!("no ICMP: {:?}", read.transport);
        };
        assert_eq!(
            icmp.icmp_type(),
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu: 1416
            })
        );
        assert_eq!(icmp.payload(), original_v4());
    }

    #[test]
    fn too_big_v6_is_a_packet_that_another_implementation_reads() {
        let packet = too_big_v6(&original_v6(), 1396, GATEWAY_V6);
        let read = SlicedPacket::from_ip(&packet).unwrap();
        let ip = read.net.unwrap();
        let ip = ip.ipv6_ref().unwrap().header();
        assert_eq!(ip.source(), GATEWAY_V6);
        assert_eq!((ip.hop_limit(), ip.payload_length()), (64, 56));
        assert_eq!(
            ip.destination(),
            bytes::take::<22, 16, _>(&captures::VXLAN_V6)
        );
        let Some(TransportSlice::Icmpv6(icmp)) = read.transport else {
            panic!("no ICMPv6: {:?}", read.transport);
        };
        assert!(icmp.is_checksum_valid(ip.source(), ip.destination()));
        assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1396 });
        assert_eq!(icmp.payload(), original_v6());
    }

    #[test]
    fn no_error_about_an_error_nor_to_many_over_v4() {
        assert!(answerable_v4(&original_v4()));
        let with = |changes: &[(usize, u8)]| {
            let mut packet = original_v4();
            for &(at, value) in changes {
                packet[at] = value;
            }
            answerable_v4(&packet)
        };
        for icmp_type in [3, 4, 5, 11, 12] {
            assert!(!with(&[(9, 1), (20, icmp_type)]), "ICMP type {icmp_type}");
        }
        assert!(with(&[(9, 1), (20, 8)]), "echo request");
        assert!(with(&[(6, 0x20)]), "first fragment");
        assert!(!with(&[(7, 1)]), "later fragment");
        assert!(!with(&[(0, 0x46)]), "options");
        assert!(!with(&[(0, 0x60)]), "another version");
        for source in [0, 127, 224, 255] {
            assert!(!with(&[(12, source)]), "source {source}.0.2.10");
        }
        for destination in [224, 239, 255] {
            assert!(
                !with(&[(16, destination)]),
                "destination {destination}.0.2.11"
            );
        }
    }

    #[test]
    fn no_error_about_an_error_over_v6_but_multicast_is_answered() {
        assert!(answerable_v6(&original_v6()));
        let with = |changes: &[(usize, u8)]| {
            let mut packet = original_v6();
            for &(at, value) in changes {
                packet[at] = value;
            }
            answerable_v6(&packet)
        };
        for icmp_type in [1, 2, 3, 4, 127, icmpv6_type::REDIRECT] {
            assert!(
                !with(&[(6, 58), (40, icmp_type)]),
                "ICMPv6 type {icmp_type}"
            );
        }
        assert!(with(&[(6, 58), (40, icmpv6_type::ECHO_REQUEST)]));
        assert!(with(&[(24, 0xff)]), "multicast destination");
        assert!(!with(&[(8, 0xff)]), "multicast source");
        let mut unspecified = original_v6();
        unspecified[8..24].fill(0);
        assert!(!answerable_v6(&unspecified));
    }

    proptest! {
        #[test]
        fn checksums_are_right_for_any_original(
            v4: [u8; ORIGINAL_V4_LEN], v6: [u8; ORIGINAL_V6_LEN], mtu: u16,
            source_v4: [u8; 4], source_v6: [u8; 16],
        ) {
            let packet = too_big_v4(&v4, mtu, source_v4);
            prop_assert!(ipv4::checksum_ok(&bytes::take::<0, 20, _>(&packet)));
            let icmp = Icmpv4Slice::from_slice(&packet[20..]).unwrap();
            prop_assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
            prop_assert_eq!(&packet[16..20], &v4[12..16]);

            let packet = too_big_v6(&v6, mtu as u32, source_v6);
            let destination = bytes::take::<24, 16, _>(&packet);
            let icmp = Icmpv6Slice::from_slice(&packet[40..]).unwrap();
            prop_assert!(icmp.is_checksum_valid(source_v6, destination));
            prop_assert_eq!(&destination, &v6[8..24]);
        }

        #[test]
        fn parse_noise(v4: [u8; ORIGINAL_V4_LEN], v6: [u8; ORIGINAL_V6_LEN]) {
            answerable_v4(&v4);
            answerable_v6(&v6);
        }

        #[test]
        fn our_own_errors_are_never_answered(v4: [u8; ORIGINAL_V4_LEN], v6: [u8; ORIGINAL_V6_LEN]) {
            let packet = too_big_v4(&v4, 1416, GATEWAY_V4);
            prop_assert!(!answerable_v4(&bytes::take::<0, 28, _>(&packet)));
            let packet = too_big_v6(&v6, 1396, GATEWAY_V6);
            prop_assert!(!answerable_v6(&bytes::take::<0, 48, _>(&packet)));
        }
    }
}
