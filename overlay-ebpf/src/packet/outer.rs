//! The headers in front of an inner frame: outer Ethernet, IP, UDP and VXLAN (RFC 7348 section 5),
//! and behind them the inner Ethernet header, so that one write replaces all that moved.

use super::{
    ethernet::{self, ether_type},
    ip_protocol, ipv4, ipv6, udp, vxlan,
};

/// Bytes that encapsulation adds over IPv4: 14 + 20 + 8 + 8.
pub const OVERHEAD_V4: usize =
    ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN + vxlan::HEADER_LEN;
/// Bytes that encapsulation adds over IPv6: 14 + 40 + 8 + 8.
pub const OVERHEAD_V6: usize =
    ethernet::HEADER_LEN + ipv6::HEADER_LEN + udp::HEADER_LEN + vxlan::HEADER_LEN;
/// Bytes up to the end of the inner Ethernet header over IPv4.
pub const V4_LEN: usize = OVERHEAD_V4 + ethernet::HEADER_LEN;
/// Bytes up to the end of the inner Ethernet header over IPv6.
pub const V6_LEN: usize = OVERHEAD_V6 + ethernet::HEADER_LEN;

/// UDP and VXLAN header: what the UDP length counts beyond the inner frame.
const UDP_VXLAN_LEN: u16 = (udp::HEADER_LEN + vxlan::HEADER_LEN) as u16;
/// Longest inner frame whose outer IPv4 length fits 16 bits.
pub const MAX_INNER_LEN_V4: u16 = u16::MAX - ipv4::HEADER_LEN as u16 - UDP_VXLAN_LEN;
/// Longest inner frame whose outer IPv6 length fits 16 bits.
pub const MAX_INNER_LEN_V6: u16 = u16::MAX - UDP_VXLAN_LEN;

/// Time to live and hop limit of outer packets.
const HOP_LIMIT: u8 = 64;

/// Destination and source MAC as 16-bit words in memory order: half the registers of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Macs {
    pub destination: [u16; 3],
    pub source: [u16; 3],
}

impl Macs {
    pub const fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        Self {
            destination: mac_words(destination),
            source: mac_words(source),
        }
    }
}

/// What the outer headers of a frame say, apart from the addresses of the VTEPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    pub macs: Macs,
    /// DSCP and ECN, from [`ecn::outer_from_inner`](super::ecn::outer_from_inner).
    pub dscp_ecn: u8,
    /// From [`flow::source_port`](super::flow::source_port).
    pub source_port: u16,
    pub destination_port: u16,
    /// From [`flow::label`](super::flow::label); lower 20 bits, IPv6 only.
    pub flow_label: u32,
    /// 24 bits.
    pub vni: u32,
    /// Bytes of the inner frame with its 14-byte Ethernet header. Beyond [`MAX_INNER_LEN_V4`] or
    /// [`MAX_INNER_LEN_V6`] the length fields stay at their maximum; no such frame may be sent.
    pub inner_len: u16,
}

impl Outer {
    #[inline(always)]
    const fn udp_len(&self) -> u16 {
        self.inner_len.saturating_add(UDP_VXLAN_LEN)
    }

    /// UDP and VXLAN header. Without a checksum: RFC 7348 section 5, and RFC 6935 section 5 over
    /// IPv6, where the requirements of RFC 6936 section 4 hold: both ends check addresses, port and
    /// VNI, and the inner packet has a checksum of its own.
    #[inline(always)]
    pub const fn udp_vxlan(&self) -> [u16; 8] {
        let vni = self.vni << 8;
        [
            self.source_port.to_be(),
            self.destination_port.to_be(),
            self.udp_len().to_be(),
            0,
            pair(vxlan::FLAG_VNI, 0),
            0,
            ((vni >> 16) as u16).to_be(),
            (vni as u16).to_be(),
        ]
    }
}

/// Outer headers over IPv4 and the inner Ethernet header. "Don't fragment" is set, so the
/// identification means nothing and is 0 (RFC 6864 section 4.1).
#[inline(always)]
pub fn v4(
    outer: &Outer,
    source: [u8; 4],
    destination: [u8; 4],
    inner_ethernet: &[u8; ethernet::HEADER_LEN],
) -> [u8; V4_LEN] {
    whole(
        &v4_words(outer, bytemuck::cast(source), bytemuck::cast(destination)),
        inner_ethernet,
    )
}

/// The outer headers of [`v4`] as 16-bit words in memory order. Every field stands at an even
/// offset, and without unaligned access a BPF program writes words with half the instructions.
#[inline(always)]
pub fn v4_words(outer: &Outer, source: [u16; 2], destination: [u16; 2]) -> [u16; OVERHEAD_V4 / 2] {
    let Macs {
        destination: [d0, d1, d2],
        source: [s0, s1, s2],
    } = outer.macs;
    let [a0, a1] = source;
    let [b0, b1] = destination;
    let version = pair(0x45, outer.dscp_ecn);
    let length = outer
        .udp_len()
        .saturating_add(ipv4::HEADER_LEN as u16)
        .to_be();
    let fragment = 0x4000u16.to_be();
    let ttl = pair(HOP_LIMIT, ip_protocol::UDP);
    // The one's complement sum does not depend on the byte order (RFC 1071 section 2(B)).
    let checksum = super::checksum::finish(
        version as u32
            + length as u32
            + fragment as u32
            + ttl as u32
            + a0 as u32
            + a1 as u32
            + b0 as u32
            + b1 as u32,
    );
    let [u0, u1, u2, u3, v0, v1, v2, v3] = outer.udp_vxlan();
    [
        d0,
        d1,
        d2,
        s0,
        s1,
        s2,
        ether_type::IPV4.to_be(),
        version,
        length,
        0,
        fragment,
        ttl,
        checksum,
        a0,
        a1,
        b0,
        b1,
        u0,
        u1,
        u2,
        u3,
        v0,
        v1,
        v2,
        v3,
    ]
}

/// Outer headers over IPv6 and the inner Ethernet header.
#[inline(always)]
pub fn v6(
    outer: &Outer,
    source: [u8; 16],
    destination: [u8; 16],
    inner_ethernet: &[u8; ethernet::HEADER_LEN],
) -> [u8; V6_LEN] {
    let mut headers = [0u16; OVERHEAD_V6 / 2];
    headers[..11].copy_from_slice(&v6_words(outer));
    headers[11..19].copy_from_slice(&bytemuck::cast::<_, [u16; 8]>(source));
    headers[19..27].copy_from_slice(&bytemuck::cast::<_, [u16; 8]>(destination));
    headers[27..].copy_from_slice(&outer.udp_vxlan());
    whole(&headers, inner_ethernet)
}

/// Ethernet and IPv6 header of [`v6`] up to the addresses, as 16-bit words in memory order. The
/// addresses stand at byte [`V6_ADDRESSES`], the words of [`Outer::udp_vxlan`] behind them: a BPF
/// program that holds all at once runs out of registers.
#[inline(always)]
pub const fn v6_words(outer: &Outer) -> [u16; 11] {
    let Macs {
        destination: [d0, d1, d2],
        source: [s0, s1, s2],
    } = outer.macs;
    let version: u32 = 6 << 28 | (outer.dscp_ecn as u32) << 20 | outer.flow_label & 0x000f_ffff;
    [
        d0,
        d1,
        d2,
        s0,
        s1,
        s2,
        ether_type::IPV6.to_be(),
        ((version >> 16) as u16).to_be(),
        (version as u16).to_be(),
        outer.udp_len().to_be(),
        pair(ip_protocol::UDP, HOP_LIMIT),
    ]
}

/// Offset of the source address of [`v6`].
pub const V6_ADDRESSES: usize = ethernet::HEADER_LEN + 8;
/// Offset of the UDP header of [`v6`].
pub const V6_UDP: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN;

/// Two bytes as the word they are in memory.
#[inline(always)]
const fn pair(first: u8, second: u8) -> u16 {
    u16::from_ne_bytes([first, second])
}

#[inline(always)]
const fn mac_words(mac: [u8; 6]) -> [u16; 3] {
    [
        pair(mac[0], mac[1]),
        pair(mac[2], mac[3]),
        pair(mac[4], mac[5]),
    ]
}

/// Outer headers and the inner Ethernet header behind them.
#[inline(always)]
fn whole<const WORDS: usize, const LEN: usize>(
    outer: &[u16; WORDS],
    inner_ethernet: &[u8; ethernet::HEADER_LEN],
) -> [u8; LEN] {
    const { assert!(2 * WORDS + ethernet::HEADER_LEN == LEN) };
    let mut bytes = [0; LEN];
    let (headers, inner) = bytes.split_at_mut(2 * WORDS);
    headers.copy_from_slice(bytemuck::bytes_of(outer));
    inner.copy_from_slice(inner_ethernet);
    bytes
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{bytes, captures, checksum, ecn, flow};

    prop_compose! {
        fn outer()(
            source_mac: [u8; 6], destination_mac: [u8; 6], dscp_ecn: u8, hash: u32,
            destination_port: u16, vni in 1u32..1 << 24, inner_len in 14u16..=MAX_INNER_LEN_V4,
        ) -> Outer {
            Outer {
                macs: Macs::new(destination_mac, source_mac),
                dscp_ecn: ecn::outer_from_inner(dscp_ecn),
                source_port: flow::source_port(hash),
                destination_port,
                flow_label: flow::label(hash),
                vni,
                inner_len,
            }
        }
    }

    /// The headers of a capture up to and including the inner Ethernet header, built by us.
    fn like(source_port: u16, vni: u32) -> Outer {
        Outer {
            macs: Macs::new([2, 0, 0, 0, 0, 0x0b], [2, 0, 0, 0, 0, 0x0a]),
            dscp_ecn: 0,
            source_port,
            destination_port: 4789,
            flow_label: 0,
            vni,
            inner_len: 98,
        }
    }

    #[test]
    fn headers_over_v4_are_those_of_the_kernels_vxlan_device() {
        let mut expected = captures::VXLAN_V4;
        // The kernel counts identifications in spite of DF, and computes a UDP checksum over IPv4.
        let identification = bytes::be16::<18, _>(&expected);
        let checksum = checksum::update(bytes::be16::<24, _>(&expected), identification, 0);
        bytes::put::<18, _, _>(&mut expected, &[0, 0]);
        bytes::put::<24, _, _>(&mut expected, &checksum.to_be_bytes());
        bytes::put::<40, _, _>(&mut expected, &[0, 0]);
        let built = v4(
            &like(0xd03a, 4097),
            [192, 0, 2, 10],
            [192, 0, 2, 11],
            &bytes::take::<50, 14, _>(&expected),
        );
        assert_eq!(built, expected);
    }

    #[test]
    fn headers_over_v6_are_those_of_the_kernels_vxlan_device() {
        let expected = captures::VXLAN_V6;
        let built = v6(
            &like(0xeddc, 70_000),
            bytes::take::<22, 16, _>(&expected),
            bytes::take::<38, 16, _>(&expected),
            &bytes::take::<70, 14, _>(&expected),
        );
        assert_eq!(built, expected);
    }

    #[test]
    fn overheads_are_fifty_and_seventy_bytes() {
        assert_eq!((OVERHEAD_V4, OVERHEAD_V6, V4_LEN, V6_LEN), (50, 70, 64, 84));
        assert_eq!((MAX_INNER_LEN_V4, MAX_INNER_LEN_V6), (65_499, 65_519));
    }

    #[test]
    fn an_oversized_frame_never_wraps_a_length() {
        let outer = Outer {
            inner_len: u16::MAX,
            ..like(49_152, 4096)
        };
        let over_v4 = v4(&outer, [1; 4], [2; 4], &[0; 14]);
        assert_eq!(bytes::be16::<16, _>(&over_v4), u16::MAX);
        let over_v6 = v6(&outer, [1; 16], [2; 16], &[0; 14]);
        assert_eq!(bytes::be16::<18, _>(&over_v6), u16::MAX);
        let longest = Outer {
            inner_len: MAX_INNER_LEN_V4,
            ..outer
        };
        assert_eq!(
            bytes::be16::<16, _>(&v4(&longest, [1; 4], [2; 4], &[0; 14])),
            u16::MAX
        );
        let longest = Outer {
            inner_len: MAX_INNER_LEN_V6,
            ..outer
        };
        assert_eq!(
            bytes::be16::<18, _>(&v6(&longest, [1; 16], [2; 16], &[0; 14])),
            u16::MAX
        );
    }

    proptest! {
           #[test]
           fn v4_is_a_frame_that_another_implementation_reads(
               outer in outer(), source: [u8; 4], destination: [u8; 4], inner: [u8; 14],
           ) {
               let headers = v4(&outer, source, destination, &inner);
               let mut frame = headers.to_vec();
               frame.resize(OVERHEAD_V4 + outer.inner_len as usize, 0);
               let read = SlicedPacket::from_ethernet(&frame).unwrap();
               let ip = read.net.unwrap();
               let ip = ip.ipv4_ref().unwrap().header();
               prop_assert_eq!((ip.source(), ip.destination()), (source, destination));
               prop_assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
               prop_assert_eq!(ip.dcp().value() << 2 | ip.ecn().value(), outer.dscp_ecn);
               prop_assert_eq!(ip.total_len() as usize, frame.len() - 14);
               prop_assert!(ip.dont_fragment() && !ip.is_fragmenting_payload());
               let Some(TransportSlice::Udp(udp)) = read.transport else { panic!("no UDP") };
               prop_assert_eq!(udp.source_port(), outer.source_port);
               prop_assert_eq!(udp.destination_port(), outer.destination_port);
               prop_assert_eq!((udp.length() as usize, udp.checksum()), (frame.len() - 34, 0));
               prop_assert_eq!(vxlan::parse(&bytes::take::<42, 8, _>(&headers)), Ok(outer.vni));
               prop_assert_eq!(bytes::take::<50, 14, _>(&headers), inner);
           }

           #[test]
           fn v6_is_a_frame_that_another_implementation_reads(
               outer in outer(), source: [u8; 16], destination: [u8; 16], inner: [u8; 14],
           ) {
               let headers = v6(&outer, source, destination, &inner);
               let mut frame = headers.to_vec();
               frame.resize(OVERHEAD_V6 + outer.inner_len as usize, 0);
               let read = SlicedPacket::from_ethernet(&frame).unwrap();
               let ip = read.net.unwrap();
               let ip = ip.ipv6_ref().unwrap().header();
               prop_assert_eq!((ip.source(), ip.destination()), (source, destination));
               prop_assert_eq!(ip.traffic_class(), outer.dscp_ecn);
               prop_assert_eq!(ip.flow_label().value(), outer.flow_label);
               prop_assert_eq!(ip.payload_length() as usize, frame.len() - 54);
               let Some(TransportSlice::Udp(udp)) = read.transport else { panic!("no UDP") };
               prop_assert_eq!(udp.source_port(), outer.source_port);
               prop_assert_eq!(udp.destination_port(), outer.destination_port);
               prop_assert_eq!((udp.length() as usize, udp.checksum()), (frame.len() - 54, 0));
               prop_assert_eq!(vxlan::parse(&bytes::take::<62, 8, _>(&headers)), Ok(outer.vni));
               prop_assert_eq!(bytes::take::<70, 14, _>(&headers), inner);
           }

           #[test]
           fn v4_is_what_another_implementation_builds(
               outer in outer(), source: [u8; 4], destination: [u8; 4], inner: [u8; 14],
           ) {
               let payload = vec![0; outer.inner_len as usize + vxlan::HEADER_LEN];
               let mut expected = Vec::new();
               PacketBuilder::ethernet2(
    bytemuck::cast(outer.macs.source), bytemuck::cast(outer.macs.destination))
                   .ipv4(source, destination, HOP_LIMIT)
                   .udp(outer.source_port, outer.destination_port)
                   .write(&mut expected, &payload)
                   .unwrap();
               let headers = v4(&Outer { dscp_ecn: 0, ..outer }, source, destination, &inner);
               prop_assert_eq!(&headers[..40], &expected[..40]);
           }
       }
}
